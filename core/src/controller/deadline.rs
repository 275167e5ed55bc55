//! Waits as long as is safe and no longer.

use core::fmt;

use super::{Controller, Decision, Measurement, Reasons, StateError};
use crate::doorbell::Wakes;
use crate::entry::EntryMemory;
use crate::outlook::Outlook;
use crate::ring::Ring;
use crate::size::RingSize;

const US_PER_S: u64 = 1_000_000;

/// Pages per second that a ring is taken to reach before any has been measured: a write-protect
/// fault takes a microsecond at the least.
const ASSUMED_PER_S: u64 = 1_000_000;

/// With each measurement the assumption fades by so many parts.
const ASSUMED_FADE_PARTS: u64 = 8;

/// The highest rate measured counts for an eighth more: it was a mean over its interval.
const MARGIN_PARTS: u64 = 8;

/// With each measurement the highest rate measured fades by so many parts: one odd measurement is
/// forgotten within seconds of a storm, and a quiet guest forgets nothing.
const FADE_PARTS: u64 = 256;

/// A rate is measured over this growth or more (a share of the soft limit), and over this time or
/// more: less is noise.
const MEASURABLE_GROWTH_PARTS: u32 = 8;
const MEASURABLE_US: u64 = 200;

/// The reaction time that is assumed before any was seen, in microseconds.
const ASSUMED_REACTION_US: u64 = 500;

/// With each pass the longest reaction fades by so many parts.
const REACTION_FADE_PARTS: u64 = 64;

/// A reaction counts for this share of the time that an empty ring lasts at the most: a smaller
/// ring can't be saved from it, and to spin instead would help nobody.
const REACTION_PARTS: u64 = 2;

/// A ring below this share of its soft limit is far from full: one load says so, and no more is
/// asked.
const FAR_FROM_FULL_PARTS: u32 = 4;

/// A wake is useful that comes after this share of the time that an empty ring lasts. A ring whose
/// headroom doesn't last until then is reaped now.
const USEFUL_PARTS: u64 = 4;

/// A ring that behaved for some time is trusted to behave for this share of it.
const TRUST_PARTS: u64 = 32;

/// With each look the rate at which a ring grew lately fades by so many parts.
const RATE_FADE_PARTS: u64 = 4;

/// A working set that fits may be this share of the soft limit larger than it was measured.
const SLACK_PARTS: u32 = 64;

/// The shortest wait, in microseconds: a ring that needs less can't be saved from its vCPU, and
/// the reaper must leave the guest some CPU.
const SHORTEST_WAIT_US: u64 = 100;

/// What [`Deadline`] is to keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadlineConfig {
    freshness_us: u64,
    assured: Option<Assured>,
}

/// The bounds under which no ring-full is a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Assured {
    rate_per_s: u64,
    latency_us: u64,
}

/// Why a [`DeadlineConfig`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeadlineError {
    /// A freshness limit of 0: the reaper would spin.
    ZeroFreshness,
    /// An assured rate of 0 assures nothing.
    ZeroRate,
    /// At that rate the ring is full before the reaper has reacted.
    RingTooSmall {
        /// The soft limit that is needed, in entries.
        needed: u64,
        /// The soft limit that the ring has, in entries.
        soft_limit: u32,
    },
}

impl fmt::Display for DeadlineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroFreshness => f.write_str(
                "a freshness limit of 0 us would make the reaper spin: give it a length",
            ),
            Self::ZeroRate => {
                f.write_str("an assured rate of 0 pages/s assures nothing: give the highest rate")
            }
            Self::RingTooSmall { needed, soft_limit } => write!(
                f,
                "a ring that is full at {soft_limit} entries is too small for that rate and \
                 latency: it takes one that is full at {needed} or later"
            ),
        }
    }
}

impl core::error::Error for DeadlineError {}

impl DeadlineConfig {
    /// Every page is reaped within a second, all else is learned.
    pub const STANDARD: Self = match Self::new(US_PER_S) {
        Ok(config) => config,
        Err(_) => panic!("a second is a length"),
    };

    /// No page waits longer than `freshness_us` microseconds (and a wake-up) for its reap.
    ///
    /// # Errors
    /// [`DeadlineError::ZeroFreshness`].
    pub const fn new(freshness_us: u64) -> Result<Self, DeadlineError> {
        if freshness_us == 0 {
            return Err(DeadlineError::ZeroFreshness);
        }
        Ok(Self {
            freshness_us,
            assured: None,
        })
    }

    /// Assures it that no ring of `size` fills faster than `rate_per_s` pages per second, and that
    /// no pass is over later than `latency_us` microseconds after the wake that was planned. Under
    /// these bounds there is no ring-full, from the first page on; nothing is taken on trust.
    ///
    /// # Errors
    /// [`DeadlineError::ZeroRate`], [`DeadlineError::RingTooSmall`].
    pub const fn assured(
        mut self,
        rate_per_s: u64,
        latency_us: u64,
        size: RingSize,
    ) -> Result<Self, DeadlineError> {
        if rate_per_s == 0 {
            return Err(DeadlineError::ZeroRate);
        }
        // A ring is left only if a quarter of its time remains, so that quarter must outlast the
        // reaction too.
        let reaction = pages_in(latency_us, rate_per_s).saturating_add(1);
        let needed = reaction.saturating_mul(USEFUL_PARTS);
        if needed > size.soft_limit() as u64 {
            return Err(DeadlineError::RingTooSmall {
                needed,
                soft_limit: size.soft_limit(),
            });
        }
        self.assured = Some(Assured {
            rate_per_s,
            latency_us,
        });
        Ok(self)
    }
}

/// The pages that come in `us` microseconds at `rate_per_s`, rounded up.
const fn pages_in(us: u64, rate_per_s: u64) -> u64 {
    let pages = (us as u128)
        .saturating_mul(rate_per_s as u128)
        .div_ceil(US_PER_S as u128);
    if pages > u64::MAX as u128 {
        u64::MAX
    } else {
        pages as u64
    }
}

/// Microseconds in which `entries` come at `rate_per_s`, rounded down; for ever at 0.
fn time_for(entries: u32, rate_per_s: u64) -> u64 {
    u64::from(entries)
        .saturating_mul(US_PER_S)
        .checked_div(rate_per_s)
        .unwrap_or(u64::MAX)
}

/// Looks before it reaps.
///
/// A look at a ring is free for the guest ([`Ring::occupancy`]); a reap is not: each page that is
/// still in use costs a fault again. So on each wake it looks at all rings, reaps only those that
/// could be full before the next wake that is worth it, and leaves the others alone. Then it
/// sleeps until the first ring's headroom may be used up, less the time that it takes to react.
///
/// # The promise
///
/// *If no ring fills faster than `r_max` and no pass is over later than `latency` after its
/// planned wake, no ring is ever full.*
///
/// With [`DeadlineConfig::assured`] both bounds are given, and the promise holds from the first
/// page on. Without, they are learned:
///
/// * `r_max` is the highest rate that any ring has shown, plus an eighth; until one was measured,
///   a million pages a second. It fades slowly, and only while there are others to measure. A ring
///   that fills faster than any before may be full once; its rate is known then.
/// * `latency` is the longest reaction (lateness of the wake, and the pass itself) of the last
///   passes; until one was seen, half a millisecond.
/// * A ring that hasn't grown faster than lately for some time is *trusted* to go on like that for
///   1/32 of that time, even if its headroom wouldn't last at `r_max`: a guest that sleeps, or
///   goes round in a working set that the ring holds already, isn't looked at hundreds of times a
///   second. Its first burst may find the ring full once, and ends the trust.
/// * A ring in which the same pages come round and fit isn't reaped for being nearly full: that
///   would buy faults, not headroom. If it is full all the same, it takes twice as long to be
///   believed the next time.
///
/// Each ring-full is noticed, and costs a vCPU the exit and one chunk
/// ([`RingFullMode::Chunk`](crate::collector::RingFullMode)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    config: DeadlineConfig,
    soft_limit: u32,
    state: DeadlineState,
    survey: Survey,
}

const _: () = assert!(size_of::<Deadline>() <= 128, "a controller is a few words");

/// What [`Deadline`] has learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadlineState {
    /// The highest rate of any ring, in pages per second.
    pub learned_per_s: u64,
    /// What is still assumed of it, in pages per second.
    pub assumed_per_s: u64,
    /// The longest reaction, in microseconds.
    pub reaction_us: u64,
}

/// The present pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Survey {
    now_us: u64,
    wakes: Wakes,
    /// Rings were looked at.
    looked: bool,
    /// When the first of them may be full.
    due_us: u64,
    reasons: Reasons,
}

/// Why a ring is reaped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// It was full.
    RingFull,
    /// It would be full too soon.
    Headroom,
    /// Its pages have waited long enough, or somebody wants them.
    Freshness,
}

impl Deadline {
    /// The controller for rings of `size`.
    pub const fn new(config: DeadlineConfig, size: RingSize) -> Self {
        Self {
            config,
            soft_limit: size.soft_limit(),
            state: DeadlineState {
                learned_per_s: 0,
                assumed_per_s: ASSUMED_PER_S,
                reaction_us: ASSUMED_REACTION_US,
            },
            survey: Survey {
                now_us: 0,
                wakes: Wakes::empty(),
                looked: false,
                due_us: 0,
                reasons: Reasons::empty(),
            },
        }
    }

    /// The rate that a ring may reach, in pages per second.
    pub fn highest_rate_per_s(&self) -> u64 {
        if let Some(assured) = self.config.assured {
            return assured.rate_per_s;
        }
        let learned = self.state.learned_per_s;
        let margin = learned.checked_div(MARGIN_PARTS).unwrap_or(0);
        learned
            .saturating_add(margin)
            .max(self.state.assumed_per_s)
            .max(1)
    }

    /// How long a ring with `headroom` can be left, for certain.
    fn certain_us(&self, headroom: u32) -> u64 {
        // The last page of it is the one that makes the ring full.
        let headroom = headroom.saturating_sub(1);
        self.in_time(time_for(headroom, self.highest_rate_per_s()))
    }

    /// When to wake for something that happens in `us` microseconds.
    fn in_time(&self, us: u64) -> u64 {
        let reaction_us = match self.config.assured {
            Some(assured) => assured.latency_us,
            None => self.state.reaction_us.min(self.full_us() / REACTION_PARTS),
        };
        us.saturating_sub(reaction_us)
    }

    /// How long it takes at the least to fill an empty ring.
    fn full_us(&self) -> u64 {
        time_for(self.soft_limit, self.highest_rate_per_s())
    }

    /// A ring grew by `entries` in `elapsed_us`.
    fn measure(&mut self, entries: u32, elapsed_us: u64) {
        if entries < self.soft_limit / MEASURABLE_GROWTH_PARTS || elapsed_us < MEASURABLE_US {
            return;
        }
        let rate = u64::from(entries)
            .saturating_mul(US_PER_S)
            .checked_div(elapsed_us);
        let faded = fade(self.state.learned_per_s, FADE_PARTS);
        self.state.learned_per_s = faded.max(rate.unwrap_or(0));
        self.state.assumed_per_s = fade(self.state.assumed_per_s, ASSUMED_FADE_PARTS);
    }

    /// Looks at a ring; returns whether to reap it, and how long it can be left after that.
    fn look<M: EntryMemory>(&mut self, ring: &mut Ring<M>) -> (Option<Cause>, u64) {
        let now_us = self.survey.now_us;
        let mut outlook = ring.outlook;
        let mark = (self.soft_limit / FAR_FROM_FULL_PARTS).max(1);
        let near = ring.is_at_least(mark);
        let occupancy = if near { ring.occupancy() } else { mark };
        let published = ring.published(occupancy);
        let elapsed_us = now_us.saturating_sub(outlook.seen_us);
        if near {
            // Where the last look knew only an upper bound, this is a lower bound of the growth.
            let growth = published.wrapping_sub(outlook.seen_published);
            if growth <= ring.size().entries() {
                self.measure(growth, elapsed_us);
                outlook.grew(growth, occupancy, elapsed_us);
            }
        }
        outlook.seen_us = now_us;
        outlook.seen_published = published;

        let ring_fulls = ring.stats().ring_fulls;
        let was_full = ring_fulls != outlook.ring_fulls;
        outlook.ring_fulls = ring_fulls;
        if was_full {
            self.learn_from_ring_full(&mut outlook, now_us);
            ring.recurrence.ring_full();
        }
        let cause = self.cause(ring, &outlook, occupancy, was_full);
        let left_us = self.left_us(ring, &mut outlook, occupancy, cause);
        ring.outlook = outlook;
        (cause, left_us)
    }

    fn learn_from_ring_full(&mut self, outlook: &mut Outlook, now_us: u64) {
        if !outlook.is_trusted && self.config.assured.is_none() {
            // It wasn't left longer than the highest rate allowed, so that rate is too low (or
            // this wake was late, which the reaction learns).
            let margin = self.state.learned_per_s / MARGIN_PARTS;
            self.state.learned_per_s = self.state.learned_per_s.saturating_add(margin);
        }
        outlook.calm_since_us = now_us;
        outlook.rate_per_s = outlook.rate_per_s.max(self.highest_rate_per_s());
        outlook.level = 0;
    }

    fn cause<M: EntryMemory>(
        &self,
        ring: &Ring<M>,
        outlook: &Outlook,
        occupancy: u32,
        was_full: bool,
    ) -> Option<Cause> {
        if was_full {
            return Some(Cause::RingFull);
        }
        let headroom = self.soft_limit.saturating_sub(occupancy);
        let useful_us = self.full_us() / USEFUL_PARTS;
        if self.certain_us(headroom) < useful_us && !self.fits(ring, occupancy) {
            return Some(Cause::Headroom);
        }
        let age_us = self.survey.now_us.saturating_sub(outlook.emptied_us);
        let wanted = self.survey.wakes.intersects(Wakes::KICK | Wakes::STOP);
        let stale = age_us >= self.config.freshness_us;
        ((wanted || stale) && ring.is_at_least(1)).then_some(Cause::Freshness)
    }

    /// Does the ring hold a working set that it has room for?
    fn fits<M: EntryMemory>(&self, ring: &Ring<M>, occupancy: u32) -> bool {
        let slack = self.soft_limit / SLACK_PARTS;
        self.config.assured.is_none()
            && ring
                .recurrence
                .fitting_set()
                .is_some_and(|pages| occupancy <= pages.saturating_add(slack))
    }

    /// How long the ring can be left, once `cause` has been followed.
    fn left_us<M: EntryMemory>(
        &mut self,
        ring: &mut Ring<M>,
        outlook: &mut Outlook,
        occupancy: u32,
        cause: Option<Cause>,
    ) -> u64 {
        let now_us = self.survey.now_us;
        let mut occupied = occupancy;
        if let Some(cause) = cause {
            occupied = 0;
            outlook.emptied_us = now_us;
            outlook.level = match cause {
                // What was there will be there again: no news.
                Cause::Freshness => {
                    ring.recurrence.interrupt();
                    occupancy
                }
                Cause::Headroom | Cause::RingFull => 0,
            };
        }
        let certain_us = self.certain_us(self.soft_limit.saturating_sub(occupied));
        if self.config.assured.is_some() {
            return certain_us;
        }
        let headroom = self.soft_limit.saturating_sub(occupied.max(outlook.level));
        let calm_us = now_us.saturating_sub(outlook.calm_since_us);
        let rate_per_s = outlook.rate_per_s.saturating_mul(2);
        let lasts_us = self.in_time(time_for(headroom, rate_per_s));
        let mut trusted_us = (calm_us / TRUST_PARTS).min(lasts_us);
        if cause.is_none() && self.fits(ring, occupied) {
            trusted_us = trusted_us.max(self.full_us() / USEFUL_PARTS);
        }
        outlook.is_trusted = trusted_us > certain_us;
        if outlook.is_trusted {
            self.survey.reasons |= Reasons::TRUST;
        }
        certain_us.max(trusted_us)
    }

    /// A wait where no ring was looked at: the measurement is all there is (a replay).
    fn due_by_measurement(&mut self, measurement: &Measurement) -> u64 {
        self.measure(measurement.fullest, measurement.elapsed_us);
        self.survey.reasons |= Reasons::HEADROOM;
        let left_us = self.certain_us(self.soft_limit);
        self.survey.now_us.saturating_add(left_us)
    }

    fn decision(&self, wait_us: u64, reasons: Reasons) -> Decision {
        Decision {
            wait_us,
            level: None,
            reasons,
        }
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

/// `value` less one of so many `parts`, and never stuck.
fn fade(value: u64, parts: u64) -> u64 {
    value.saturating_sub(value.div_ceil(parts.max(1)))
}

impl Controller for Deadline {
    type State = DeadlineState;

    fn current(&self) -> Decision {
        let wait_us = self
            .certain_us(self.soft_limit)
            .min(self.config.freshness_us);
        self.decision(wait_us.max(1), Reasons::START)
    }

    fn on_wake(&mut self, now_us: u64, wakes: Wakes) {
        self.survey = Survey {
            now_us,
            wakes,
            looked: false,
            due_us: now_us.saturating_add(self.config.freshness_us),
            reasons: Reasons::empty(),
        };
    }

    fn looks(&self) -> bool {
        true
    }

    fn wants<M: EntryMemory>(&mut self, ring: &mut Ring<M>) -> bool {
        self.survey.looked = true;
        let (cause, left_us) = self.look(ring);
        if let Some(cause) = cause {
            self.survey.reasons |= match cause {
                Cause::RingFull => Reasons::RING_FULL,
                Cause::Headroom => Reasons::HEADROOM,
                Cause::Freshness => Reasons::FRESHNESS,
            };
        }
        let due_us = self.survey.now_us.saturating_add(left_us);
        self.survey.due_us = self.survey.due_us.min(due_us);
        cause.is_some()
    }

    fn on_reaped(&mut self, measurement: &Measurement) -> Decision {
        let reaction_us = measurement.late_us.saturating_add(measurement.took_us);
        self.state.reaction_us = fade(self.state.reaction_us, REACTION_FADE_PARTS).max(reaction_us);
        if !self.survey.looked {
            self.survey.due_us = self.due_by_measurement(measurement);
        }
        self.survey
            .reasons
            .set(Reasons::RING_FULL, measurement.ring_fulls != 0);
        let over_us = self.survey.now_us.saturating_add(measurement.took_us);
        let wait_us = self.survey.due_us.saturating_sub(over_us);
        let shortest_us = match self.config.assured {
            Some(_) => 1,
            None => SHORTEST_WAIT_US,
        };
        let wait_us = wait_us.min(self.config.freshness_us).max(shortest_us);
        let survey = core::mem::take(&mut self.survey);
        self.decision(wait_us, survey.reasons)
    }

    fn state(&self) -> DeadlineState {
        self.state
    }

    fn restore(&mut self, state: &DeadlineState) -> Result<(), StateError> {
        self.state = *state;
        Ok(())
    }
}
