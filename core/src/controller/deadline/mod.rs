//! Waits as long as is safe and no longer.

mod config;
mod look;

pub use config::{DeadlineConfig, DeadlineError};

use look::Cause;

use super::{Controller, Decision, Measurement, Reasons, StateError};
use crate::doorbell::Wakes;
use crate::entry::EntryMemory;
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

/// The same where several rings fill at once: those that are half full are reaped with the first.
const ALONG_PARTS: u64 = 2;

/// A ring that behaved for some time is trusted to behave for this share of it.
const TRUST_PARTS: u64 = 32;

/// A ring that was full while it was trusted is trusted half as long the next time, and so on for
/// so many times: a guest that works in bursts is known for it after the first few.
const MOST_DISAPPOINTMENTS: u8 = 3;

/// After so long a calm, bursts are no more expected than from any other guest.
const FORGIVEN_AFTER_US: u64 = 10 * US_PER_S;

/// With each look the rate at which a ring grew lately fades by so many parts.
const RATE_FADE_PARTS: u64 = 4;

/// A working set that fits may be this share of the soft limit larger than it was measured.
const SLACK_PARTS: u32 = 64;

/// The shortest wait, in microseconds: a ring that needs less can't be saved from its vCPU, and
/// the reaper must leave the guest some CPU.
const SHORTEST_WAIT_US: u64 = 100;

/// The same where the bounds are assured: no wait is 0.
const SHORTEST_ASSURED_WAIT_US: u64 = 1;

/// Pages are reaped up to this share of the freshness limit before their time if there is a wake
/// anyway, or each ring would want a wake of its own.
const FRESHNESS_PARTS: u64 = 8;

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
/// planned wake (or the kick that came before it), no ring is ever full.*
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
///   second. Its first burst may find the ring full once, and ends the trust; the next calm earns
///   half as much of it, until there has been no burst for ten seconds.
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
    /// Rings that there were to look at in the last pass.
    rings: u32,
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
    /// Rings that were looked at.
    rings: u32,
    /// When the first of them may be full.
    due_us: u64,
    reasons: Reasons,
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
            rings: 0,
            survey: Survey {
                now_us: 0,
                wakes: Wakes::empty(),
                rings: 0,
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
            rings: 0,
            due_us: now_us.saturating_add(self.config.freshness_us),
            reasons: Reasons::empty(),
        };
    }

    fn looks(&self) -> bool {
        true
    }

    fn wants<M: EntryMemory>(&mut self, ring: &mut Ring<M>) -> bool {
        self.survey.rings = self.survey.rings.saturating_add(1);
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
        if self.survey.rings == 0 {
            self.survey.due_us = self.due_by_measurement(measurement);
        }
        self.survey
            .reasons
            .set(Reasons::RING_FULL, measurement.ring_fulls != 0);
        let over_us = self.survey.now_us.saturating_add(measurement.took_us);
        let wait_us = self.survey.due_us.saturating_sub(over_us);
        let shortest_us = match self.config.assured {
            Some(_) => SHORTEST_ASSURED_WAIT_US,
            None => SHORTEST_WAIT_US,
        };
        let wait_us = wait_us.min(self.config.freshness_us).max(shortest_us);
        let survey = core::mem::take(&mut self.survey);
        self.rings = survey.rings;
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

#[cfg(test)]
mod tests;
