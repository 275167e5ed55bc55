//! The look at one ring: is it to be reaped now, and how long can it be left?

use super::{
    ALONG_PARTS, Deadline, FAR_FROM_FULL_PARTS, FORGIVEN_AFTER_US, FRESHNESS_PARTS,
    MOST_DISAPPOINTMENTS, RATE_FADE_PARTS, SLACK_PARTS, TRUST_PARTS, US_PER_S, USEFUL_PARTS, fade,
    time_for,
};
use crate::controller::Reasons;
use crate::doorbell::Wakes;
use crate::entry::EntryMemory;
use crate::outlook::Outlook;
use crate::ring::Ring;

/// Why a ring is reaped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// It was full.
    RingFull,
    /// It would be full too soon.
    Headroom,
    /// Its pages have waited long enough, or somebody wants them.
    Freshness,
}

/// How long a ring can be left.
#[derive(Clone, Copy)]
struct Left {
    us: u64,
    /// Longer than its headroom is certain to last.
    on_trust: bool,
}

impl Deadline {
    /// Looks at a ring; returns whether to reap it, and for how many microseconds it can be left
    /// after that.
    pub(super) fn look<M: EntryMemory>(&mut self, ring: &mut Ring<M>) -> (Option<Cause>, u64) {
        let now_us = self.survey.now_us;
        let mut outlook = ring.outlook;
        let mark = (self.soft_limit / FAR_FROM_FULL_PARTS).max(1);
        let near = ring.is_at_least(mark);
        let occupancy = if near { ring.occupancy() } else { mark };
        let published = ring.published(occupancy);
        let elapsed_us = now_us.saturating_sub(outlook.seen_us);
        // Where the last look knew only an upper bound, this is a lower bound of the growth, or
        // less than nothing. It may be more than the ring: its vCPU has made room meanwhile.
        let growth = published.wrapping_sub(outlook.seen_published);
        outlook.still_us = if near && growth == 0 { elapsed_us } else { 0 };
        if near && growth.cast_signed() >= 0 {
            self.measure(growth, elapsed_us);
            outlook.grew(growth, occupancy, elapsed_us);
        }
        outlook.seen_us = now_us;
        outlook.seen_published = published;
        if now_us.saturating_sub(outlook.calm_since_us) > FORGIVEN_AFTER_US {
            outlook.disappointments = 0;
        }

        let ring_fulls = ring.stats().ring_fulls;
        let was_full = ring_fulls != outlook.ring_fulls;
        outlook.ring_fulls = ring_fulls;
        if was_full {
            self.learn_from_ring_full(&mut outlook, now_us);
            ring.recurrence.ring_full();
        }

        let mut left = self.left(ring, &outlook, occupancy);
        if self.is_older(&outlook, self.config.freshness_us / 2) && !ring.is_at_least(1) {
            // Nothing in it has waited. At half the age, so that all rings of an idle guest come
            // to be due at the same wake.
            outlook.emptied_us = now_us;
        }
        let cause = self.cause(ring, &outlook, was_full, left);
        if let Some(cause) = cause {
            outlook.emptied_us = now_us;
            outlook.level = match cause {
                // What was there will be there again: no news.
                Cause::Freshness => {
                    ring.recurrence.interrupt();
                    occupancy
                }
                Cause::Headroom | Cause::RingFull => 0,
            };
            left = self.left(ring, &outlook, 0);
        }
        outlook.is_trusted = left.on_trust;
        if left.on_trust {
            self.survey.reasons |= Reasons::TRUST;
        }
        let stale_us = outlook.emptied_us.saturating_add(self.config.freshness_us);
        ring.outlook = outlook;
        (cause, left.us.min(stale_us.saturating_sub(now_us)))
    }

    fn learn_from_ring_full(&mut self, outlook: &mut Outlook, now_us: u64) {
        if outlook.is_trusted {
            let known = outlook.disappointments.saturating_add(1);
            outlook.disappointments = known.min(MOST_DISAPPOINTMENTS);
        } else if self.config.assured.is_none() {
            // It wasn't left longer than the highest rate allowed, so that rate is too low (or
            // this wake was late, which the reaction learns).
            let highest = self.highest_rate_per_s();
            self.state.learned_per_s = self.state.learned_per_s.max(highest);
        }
        outlook.calm_since_us = now_us;
        outlook.rate_per_s = outlook.rate_per_s.max(self.highest_rate_per_s());
        outlook.level = 0;
    }

    fn cause<M: EntryMemory>(
        &self,
        ring: &Ring<M>,
        outlook: &Outlook,
        was_full: bool,
        left: Left,
    ) -> Option<Cause> {
        if was_full {
            return Some(Cause::RingFull);
        }
        let enough_us = match self.goes_along(ring, outlook) {
            true => self.full_us() / ALONG_PARTS,
            false => self.full_us() / USEFUL_PARTS,
        };
        if left.us < enough_us {
            return Some(Cause::Headroom);
        }
        let wanted = self.survey.wakes.intersects(Wakes::KICK | Wakes::STOP);
        let freshness_us = self.config.freshness_us;
        // A wake that is planned from here on may be late as well.
        let soon_us = self.in_time(freshness_us.saturating_sub(freshness_us / FRESHNESS_PARTS));
        let due = wanted || self.is_older(outlook, soon_us);
        (due && ring.is_at_least(1)).then_some(Cause::Freshness)
    }

    /// May there be pages that have waited for `us` microseconds?
    fn is_older(&self, outlook: &Outlook, us: u64) -> bool {
        self.survey.now_us.saturating_sub(outlook.emptied_us) >= us
    }

    /// How long a ring with `occupancy` entries in it can be left.
    fn left<M: EntryMemory>(&self, ring: &Ring<M>, outlook: &Outlook, occupancy: u32) -> Left {
        let certain_us = self.certain_us(self.soft_limit.saturating_sub(occupancy));
        if self.config.assured.is_some() {
            return Left {
                us: certain_us,
                on_trust: false,
            };
        }
        let headroom = self.soft_limit.saturating_sub(occupancy.max(outlook.level));
        let lasts_us = time_for(headroom, outlook.rate_per_s.saturating_mul(2));
        let calm_us = self.survey.now_us.saturating_sub(outlook.calm_since_us);
        let trust_us = (calm_us / TRUST_PARTS) >> outlook.disappointments;
        let mut trusted_us = trust_us.min(self.in_time(lasts_us));
        // A ring that stands still isn't reaped because the last wake was late: it is looked at
        // again after as long as it has stood still.
        let useful_us = self.full_us() / USEFUL_PARTS;
        trusted_us = trusted_us.max(outlook.still_us.min(useful_us));
        if self.fits(ring, occupancy) {
            trusted_us = trusted_us.max(useful_us);
        }
        Left {
            us: certain_us.max(trusted_us),
            on_trust: trusted_us > certain_us,
        }
    }

    /// Is the ring one of several that fill about as fast as can be? Then it is reaped along with
    /// the first of them: its pages fault again whenever that is, and a pass for each ring would
    /// cost every vCPU a flush of its TLB for each.
    fn goes_along<M: EntryMemory>(&self, ring: &Ring<M>, outlook: &Outlook) -> bool {
        self.rings > 1
            && outlook.still_us == 0
            && outlook.rate_per_s.saturating_mul(2) >= self.highest_rate_per_s()
            && ring.recurrence.fitting_set().is_none()
    }

    /// Is it known that the ring's working set has room in it?
    fn fits<M: EntryMemory>(&self, ring: &Ring<M>, occupancy: u32) -> bool {
        let slack = self.soft_limit / SLACK_PARTS;
        let fitting_set = ring.recurrence.fitting_set();
        fitting_set.is_some_and(|pages| occupancy <= pages.saturating_add(slack))
    }
}

impl Outlook {
    /// The ring grew by `growth` to `occupancy`, in the last `elapsed_us`.
    fn grew(&mut self, growth: u32, occupancy: u32, elapsed_us: u64) {
        let news = occupancy.saturating_sub(self.level).min(growth);
        let rate = u64::from(news)
            .saturating_mul(US_PER_S)
            .checked_div(elapsed_us)
            .unwrap_or(0);
        if rate > self.rate_per_s.saturating_mul(2) {
            self.calm_since_us = self.seen_us.saturating_add(elapsed_us);
        }
        self.rate_per_s = fade(self.rate_per_s, RATE_FADE_PARTS).max(rate);
        self.level = self.level.max(occupancy);
    }
}
