//! Waits as long as is safe and no longer.

mod config;

pub use config::{DeadlineConfig, DeadlineError};

use super::{
    Argument, Controller, Decision, Measurement, PolicyError, Reasons, Registered, StateError,
};
use crate::collector::{PassRings, RingView, Scope};
use crate::entry::EntryMemory;
use crate::growth::fade;
use crate::planner::SHORTEST_WAIT;
use crate::size::RingSize;
use crate::time::{Instant, Micros};

/// Pages per second that a ring is assumed to reach before any rate was measured: a write-protect
/// fault takes a microsecond at the least.
const UNKNOWN_PEAK_PER_S: u64 = 1_000_000;
/// A rate counts for an eighth more than was measured: that was a mean between two looks.
const MARGIN_PARTS: u64 = 8;
/// The reaction that is assumed before any was seen.
const UNKNOWN_REACTION: Micros = Micros(500);
/// Entries that a pass is assumed to take in a microsecond, for all rings that grow and until a
/// pass was seen to be slower: harvest, reset and publication of one entry take some 30 ns.
const ENTRIES_PER_US: u64 = 32;
/// With each pass the longest reaction fades by so many parts.
const REACTION_FADE_PARTS: u64 = 64;
/// A pass or a look is worth its wake-up if the ring filled by a quarter since the last.
const QUARTER: u64 = 4;
/// Time without any growth after which a ring is idle: longer than a vCPU of a loaded host waits
/// for its CPU.
const IDLE_AFTER: Micros = Micros::from_millis(15);
/// Time after a ring-full in which the ring isn't calm: a guest that works in bursts is looked at.
const CAREFUL: Micros = Micros::from_secs(10);
/// A reap that costs nothing is done at this share of the soft limit: the other half is for late
/// wake-ups.
const HALF: u32 = 2;
/// Pages are reaped up to this share of the freshness limit before their time if the reaper is
/// awake anyway, or each ring would need a wake-up of its own.
const FRESHNESS_PARTS: u64 = 8;

/// The longest wait: one look an hour costs nothing.
const LONGEST_WAIT: Micros = Micros::from_secs(3600);

/// Weighs what an early reap costs against what a late one risks.
///
/// An early reap costs the pages that would have come round again before the ring was full: each is
/// one more fault. A late one risks a ring-full. A look costs a wake-up. So each ring has a *mark*,
/// the occupancy at which it is to be reaped, and a *speed* at which it may get there:
///
/// | what is known of the ring | mark | speed |
/// |---|---|---|
/// | nothing yet, or its pages come round within one ring | soft limit, less the reaction | peak |
/// | no page comes round within one ring: an early reap is free | half the soft limit | peak |
/// | calm: one of the two is known or it doesn't grow, it was watched for as long as an empty ring lasts at the peak, and it wasn't full lately | as above | its rate, a maximum that fades |
///
/// *Left* is the time from here to the mark at that speed. A pass takes the rings whose left is less
/// than a quarter of a ring's time, and the wait is the least that is left of any ring. A ring whose
/// working set fits is not reaped for being nearly full: that would buy faults, not headroom.
///
/// A rate is relied on for no longer than the ring was watched, so the distance between the first
/// looks doubles. A ring that doesn't grow at all is then left alone. No timer looks for its next
/// burst, except one an hour: that burst may fill the ring once, and the ring-full wakes the reaper.
/// For ten seconds after a ring-full that ring isn't calm.
///
/// # The promise
///
/// *If no ring fills faster than `r_max` and no pass is over later than `latency` after its planned
/// wake (or the kick that came before it), no ring is ever full.*
///
/// With [`DeadlineConfig::assured`] both bounds are given, nothing is calm, and the promise holds
/// from the first page on. Without, they are learned: `r_max` is the highest peak of any ring plus an
/// eighth, `latency` the longest reaction (lateness of the wake, and the pass itself) of the last
/// passes. A vCPU that does what it has not done before may find its ring full once.
///
/// # What each rule buys
///
/// The table shows what changes in the simulator where one rule is taken out (`cargo run --release
/// -p dirty-ring-mock --example weigh`). Speed is the guest's, in per cent of no logging, as a
/// geometric mean over a group of guests; fulls are the ring-fulls of the whole group.
///
/// | without | costs |
/// |---|---|
/// | working sets that fit | speed of sets that fit 98.5 % -> 35.9 %, of those that are read ten times a second 73.8 % -> 18.3 % |
/// | the reaction | fulls of 64 vCPUs 0 -> 839, in bursts 11 -> 48, in storms 0 -> 19 |
/// | the pass estimate | fulls of 64 vCPUs 0 -> 463 |
/// | care after a ring-full | fulls in bursts 11 -> 80 (it buys them with twice the wake-ups: 379 instead of 180 a second) |
/// | the margin of an eighth | fulls in bursts 11 -> 71 |
/// | a ring-full's word on working sets | fulls in bursts 11 -> 56 |
/// | free reaps | fulls in bursts 11 -> 26; in return half the wake-ups in storms |
/// | calm | wake-ups of an idle guest 6 -> 455 a second, of sets that fit 7 -> 235 |
/// | the rate's fading | wake-ups of sets that fit 7 -> 232 a second |
/// | the peak's fading | wake-ups in bursts 379 -> 453 a second |
/// | idleness | wake-ups of an idle guest 6 -> 10 in its first second, and more ever after |
///
/// Three rules buy nothing there and stay for what the simulator doesn't have. The reaction fades,
/// or one stall of the host would count forever. A rate is relied on for no longer than the ring
/// was watched. That of a growing ring is relied on only once its pages are known. The last two are
/// there because vCPUs of a loaded host stand still for some milliseconds, and then run twice as
/// fast as they seemed to.
///
/// Each ring-full is noticed, and costs a vCPU the exit and one chunk
/// ([`RingFullMode::Chunk`](crate::collector::RingFullMode)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    config: DeadlineConfig,
    size: RingSize,
    state: DeadlineState,
    /// What a pass over all rings that grow takes, as of the last plan.
    pass: Micros,
    /// What the plan of the present pass found, until its end.
    plan: Option<Plan>,
}

/// What [`Deadline`] has learned, beside what the rings know of themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadlineState {
    /// The highest peak of any ring, in pages per second; 0 before any was measured.
    pub peak_per_s: u64,
    /// The longest reaction.
    pub reaction: Micros,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    /// The least that is left of any ring.
    left: Micros,
    reasons: Reasons,
}

/// How long a ring can be left.
#[derive(Clone, Copy, Debug)]
struct Left {
    left: Micros,
    /// When to look again, at the latest.
    wait: Micros,
    /// The time in which the ring fills by a quarter.
    quarter: Micros,
    reasons: Reasons,
}

impl Deadline {
    /// Creates the controller for rings of `size`.
    pub const fn new(config: DeadlineConfig, size: RingSize) -> Self {
        Self {
            config,
            size,
            state: DeadlineState {
                peak_per_s: 0,
                reaction: UNKNOWN_REACTION,
            },
            pass: Micros::ZERO,
            plan: None,
        }
    }

    /// Returns the rate that a ring may reach, in pages per second.
    pub fn peak_per_s(&self) -> u64 {
        match (self.config.assured, self.state.peak_per_s) {
            (Some(assured), _) => assured.rate_per_s,
            (None, 0) => UNKNOWN_PEAK_PER_S,
            (None, peak) => with_margin(peak),
        }
    }

    /// Returns the time between a planned wake and the end of its pass.
    fn reaction(&self) -> Micros {
        match self.config.assured {
            Some(assured) => assured.latency,
            None => self.state.reaction.max(self.pass),
        }
    }

    /// Returns how long a ring can be left with `occupancy` entries in it.
    fn left(&self, now: Instant, ring: &RingView<'_>, occupancy: u32) -> Left {
        let soft_limit = ring.size.soft_limit();
        let peak = self.peak_per_s();
        let full = Micros::of_entries(soft_limit.into(), peak);
        // The last entry of the headroom is the one that makes the ring full.
        let headroom = u64::from(soft_limit.saturating_sub(occupancy).saturating_sub(1));
        if self.config.assured.is_some() {
            let left = Micros::of_entries(headroom, peak) - self.reaction();
            return Left {
                left,
                wait: left,
                quarter: full / QUARTER,
                reasons: Reasons::empty(),
            };
        }
        let growth = ring.growth;
        let recurrence = growth.recurrence();
        let was_full = growth.full_at().is_some_and(|at| now - at < CAREFUL);
        let watched = growth
            .watched_since()
            .map_or(Micros::ZERO, |since| now - since);
        let is_free = recurrence.is_stream();
        let working_set = recurrence.working_set();
        let fits = working_set.is_some_and(|pages| occupancy <= pages);
        // Of a ring that grows and whose pages may come round or not, only the peak is sure.
        let is_known = is_free || working_set.is_some() || growth.grown() == 0;
        let is_calm = is_known && watched >= full && !was_full;
        let speed = if is_calm {
            with_margin(growth.rate_per_s()).min(peak)
        } else {
            peak
        };
        let quarter = Micros::of_entries(soft_limit.into(), speed) / QUARTER;
        let left = if is_free {
            let half = soft_limit.checked_div(HALF).unwrap_or(0);
            Micros::of_entries(half.saturating_sub(occupancy).into(), speed)
        } else {
            Micros::of_entries(headroom, speed) - self.reaction()
        };
        let left = if fits { left.max(quarter) } else { left };
        let is_idle = growth.rate_per_s() == 0 && watched >= IDLE_AFTER;
        let mut reasons = Reasons::empty();
        reasons.set(Reasons::CALM, is_calm);
        reasons.set(Reasons::FREE, is_free);
        Left {
            left,
            wait: if is_calm && !is_idle {
                left.min(watched)
            } else if occupancy == 0 {
                // Where the reaction is longer than the ring takes to fill, no wait is short enough: one that
                // lets an empty ring fill by a quarter costs a fraction of the wakes.
                left.max(quarter)
            } else {
                left
            },
            quarter,
            reasons,
        }
    }

    /// Returns whether the oldest page of a ring has waited long enough, and how long it may wait
    /// still.
    fn freshness(&self, now: Instant, ring: &RingView<'_>) -> (bool, Micros) {
        let Some(limit) = self.config.freshness else {
            return (false, Micros::MAX);
        };
        let reaction = self.reaction();
        let waited = now - ring.growth.oldest_since();
        let soon = limit - limit / FRESHNESS_PARTS;
        // A page that is left now, or comes right after the look, is left until the next pass is over.
        let is_due = waited >= soon || waited + reaction + SHORTEST_WAIT >= limit;
        (is_due, limit - waited - reaction)
    }

    fn decision(&self, wait: Micros, reasons: Reasons) -> Decision {
        Decision {
            // The planner has a floor of its own; this one is the trait's.
            wait: wait.clamp(Micros(1), LONGEST_WAIT),
            level: None,
            reasons,
        }
    }
}

/// Returns a measured rate with its margin: the rate that it may reach at times.
fn with_margin(per_s: u64) -> u64 {
    per_s.saturating_add(per_s.checked_div(MARGIN_PARTS).unwrap_or(0))
}

impl Controller for Deadline {
    type State = DeadlineState;

    fn current(&self) -> Decision {
        let soft_limit = u64::from(self.size.soft_limit());
        let headroom = Micros::of_entries(soft_limit.saturating_sub(1), self.peak_per_s());
        let wait = headroom - self.reaction();
        let freshness = self.config.freshness.unwrap_or(Micros::MAX);
        self.decision(wait.min(freshness), Reasons::START)
    }

    fn plan<M: EntryMemory>(&mut self, now: Instant, rings: &mut PassRings<'_, M>) {
        let mut growing = 0u64;
        self.state.peak_per_s = 0;
        for ring in (0..rings.len()).filter_map(|ring| rings.get(ring)) {
            self.state.peak_per_s = self.state.peak_per_s.max(ring.growth.peak_per_s());
            if ring.growth.grown() != 0 {
                growing = growing.saturating_add(ring.size.soft_limit().into());
            }
        }
        self.pass = Micros(growing) / ENTRIES_PER_US;
        let mut plan = Plan {
            left: Micros::MAX,
            reasons: Reasons::empty(),
        };
        let all = rings.scope() == Scope::All;
        for index in 0..rings.len() {
            let Some(ring) = rings.get(index) else {
                continue;
            };
            let mut next = self.left(now, &ring, ring.occupancy);
            let (is_due, mut fresh_for) = self.freshness(now, &ring);
            let has_no_headroom = next.left < next.quarter;
            if (all || is_due) && ring.occupancy != 0 {
                plan.reasons |= Reasons::FRESHNESS;
            }
            if has_no_headroom {
                plan.reasons |= Reasons::HEADROOM;
            }
            if has_no_headroom || is_due || all {
                next = self.left(now, &ring, 0);
                fresh_for = self.config.freshness.unwrap_or(Micros::MAX);
            } else {
                rings.leave(index);
            }
            plan.reasons |= next.reasons;
            plan.left = plan.left.min(next.wait).min(fresh_for);
        }
        self.plan = Some(plan);
    }

    fn on_reaped(&mut self, measurement: &Measurement) -> Decision {
        let reaction = measurement.late + measurement.took;
        let faded = fade(self.state.reaction.0, REACTION_FADE_PARTS);
        self.state.reaction = Micros(faded).max(reaction);
        let (mut reasons, wait) = match self.plan.take() {
            Some(plan) => (plan.reasons, plan.left - measurement.took),
            // No rings were there to look at, as in a replay: the measurement is all there is.
            None => {
                let rate = measurement.elapsed.rate_of(measurement.fullest.into());
                self.state.peak_per_s = self.state.peak_per_s.max(rate);
                (Reasons::HEADROOM, self.current().wait)
            }
        };
        reasons.set(Reasons::RING_FULL, measurement.ring_fulls != 0);
        self.decision(wait, reasons)
    }

    fn state(&self) -> DeadlineState {
        self.state
    }

    fn restore(&mut self, state: &DeadlineState) -> Result<(), StateError> {
        self.state = *state;
        self.plan = None;
        Ok(())
    }
}

impl Registered for Deadline {
    const NAME: &'static str = "deadline";
    const ARGUMENT: Argument = Argument::Optional;

    fn build(argument: Option<Micros>, size: RingSize) -> Result<Self, PolicyError> {
        let mut config = DeadlineConfig::STANDARD;
        if let Some(limit) = argument {
            config = config.freshness(limit).map_err(|_| PolicyError::Refused {
                name: Self::NAME,
                why: "a freshness limit of no length would make the reaper spin: give it a \
                          length",
            })?;
        }
        Ok(Self::new(config, size))
    }
}

#[cfg(test)]
mod tests;
