//! How a ring grows: a policy-neutral estimator that every ring carries and any controller reads.
//!
//! It learns from *looks*: at some time, KVM's index stood there. A look costs the guest nothing
//! (see [`Ring::occupancy`](crate::ring::Ring::occupancy)), and because KVM's index runs freely,
//! harvests in between don't matter.
//!
//! | question | answer |
//! |---|---|
//! | How fast may it fill? | [`peak_per_s`](Growth::peak_per_s), a maximum that fades |
//! | How fast does it fill lately? | [`rate_per_s`](Growth::rate_per_s) |
//! | Was it full lately? | [`full_at`](Growth::full_at) |
//! | Does it grow at all? | [`grown`](Growth::grown) |
//! | Do its pages come round again within one ring? | [`recurrence`](Growth::recurrence) |
//! | How long may its oldest entry have waited? | [`oldest_since`](Growth::oldest_since) |

mod meter;
mod recurrence;

pub use meter::{RateMeter, WINDOW};
pub use recurrence::Recurrence;

use crate::time::{Instant, Micros};

/// The peak is measured over this share of the soft limit or more: less is noise.
const MEASURABLE_PARTS: u32 = 32;
/// With each measurement the peak fades by so many parts: one odd measurement is forgotten within
/// seconds of a storm, and a quiet guest forgets nothing.
const PEAK_FADE_PARTS: u64 = 64;
/// With each look that finds less, the rate fades by so many parts.
const RATE_FADE_PARTS: u64 = 2;

/// What is known of how one ring grows. Plain data: a copy of it is its saved state.
#[derive(Clone, Debug)]
pub struct Growth {
    /// The last look, and KVM's free-running index then.
    looked: Instant,
    published: u32,
    /// Entries that came between the last look and the one before.
    grown: u32,
    /// Where the present measurement of the peak began.
    measured: Measured,
    peak_per_s: u64,
    rate_per_s: u64,
    watched_since: Option<Instant>,
    oldest_since: Instant,
    full: Option<Instant>,
    recurrence: Recurrence,
    meter: RateMeter,
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    at: Instant,
    published: u32,
}

/// What has to be saved of a [`Growth`], with times as ages: clocks differ between processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrowthState {
    /// [`Growth::peak_per_s`].
    pub peak_per_s: u64,
    /// How long its present measurement has taken.
    pub measured_for: Micros,
    /// Entries that came in that time.
    pub measured: u32,
    /// [`Growth::rate_per_s`].
    pub rate_per_s: u64,
    /// [`Growth::grown`].
    pub grown: u32,
    /// How long it has been watched, if it was looked at at all.
    pub watched_for: Option<Micros>,
    /// How long its oldest entry may have waited.
    pub oldest_for: Micros,
    /// How long ago it was full, if it ever was.
    pub full_for: Option<Micros>,
    /// [`Growth::recurrence`].
    pub recurrence: Recurrence,
}

impl Growth {
    /// Creates the estimator of a ring whose KVM index stands at `published`.
    pub(crate) const fn starting_at(now: Instant, published: u32) -> Self {
        Self {
            looked: now,
            published,
            grown: 0,
            measured: Measured { at: now, published },
            peak_per_s: 0,
            rate_per_s: 0,
            watched_since: None,
            oldest_since: now,
            full: None,
            recurrence: Recurrence::new(),
            meter: RateMeter::new(),
        }
    }

    /// Goes on from a saved state.
    pub(crate) fn restore(&mut self, state: &GrowthState, now: Instant) {
        self.peak_per_s = state.peak_per_s;
        self.measured = Measured {
            at: now - state.measured_for,
            published: self.published.wrapping_sub(state.measured),
        };
        self.rate_per_s = state.rate_per_s;
        self.grown = state.grown;
        self.watched_since = state.watched_for.map(|length| now - length);
        self.oldest_since = now - state.oldest_for;
        self.full = state.full_for.map(|ago| now - ago);
        self.recurrence = state.recurrence;
    }

    /// Returns what to save at `now`.
    pub fn state(&self, now: Instant) -> GrowthState {
        GrowthState {
            peak_per_s: self.peak_per_s,
            measured_for: now - self.measured.at,
            measured: self.published.wrapping_sub(self.measured.published),
            rate_per_s: self.rate_per_s,
            grown: self.grown,
            watched_for: self.watched_since.map(|since| now - since),
            oldest_for: now - self.oldest_since,
            full_for: self.full.map(|full| now - full),
            recurrence: self.recurrence,
        }
    }

    /// Returns the highest rate seen, in pages per second: measured over 1/32 of the ring each
    /// time, while the ring grew from look to look; a maximum that fades by 1/64 with each
    /// measurement. 0 before the first.
    pub const fn peak_per_s(&self) -> u64 {
        self.peak_per_s
    }

    /// Returns the rate at which it has grown lately, in pages per second: a maximum that halves with
    /// each look that finds less.
    pub const fn rate_per_s(&self) -> u64 {
        self.rate_per_s
    }

    /// Returns when the ring was first looked at.
    pub const fn watched_since(&self) -> Option<Instant> {
        self.watched_since
    }

    /// Returns the entries that came between the last look and the one before.
    pub const fn grown(&self) -> u32 {
        self.grown
    }

    /// Returns since when the oldest entry in it may have waited.
    pub const fn oldest_since(&self) -> Instant {
        self.oldest_since
    }

    /// Returns when it was full last.
    pub const fn full_at(&self) -> Option<Instant> {
        self.full
    }

    /// Returns whether, and at what distance, its pages come round again.
    pub const fn recurrence(&self) -> &Recurrence {
        &self.recurrence
    }

    /// Returns the dirty rates of the last looks, for figures.
    pub const fn meter(&self) -> &RateMeter {
        &self.meter
    }

    /// Returns KVM's free-running index at the last look.
    pub(crate) const fn published(&self) -> u32 {
        self.published
    }

    pub(crate) const fn recurrence_mut(&mut self) -> &mut Recurrence {
        &mut self.recurrence
    }

    /// Notes that at `now` KVM's index stood at `published`, and `occupancy` entries waited.
    pub(crate) fn look(&mut self, now: Instant, published: u32, occupancy: u32, soft_limit: u32) {
        self.watched_since = self.watched_since.or(Some(now));
        if occupancy == 0 {
            self.oldest_since = now;
        }
        if now < self.looked {
            // A clock that went back: nothing can be measured across it.
            self.looked = now;
            self.published = published;
            self.measured = Measured { at: now, published };
            return;
        }
        let elapsed = now - self.looked;
        if elapsed.is_zero() {
            // The next look measures this one's growth as well.
            return;
        }
        let grown = published.wrapping_sub(self.published);
        self.looked = now;
        self.published = published;
        self.meter.record(elapsed, grown.into());
        self.measure_peak(now, published, grown, soft_limit);
        let rate = elapsed.rate_of(grown.into());
        self.rate_per_s = fade(self.rate_per_s, RATE_FADE_PARTS).max(rate);
        self.grown = grown;
    }

    /// Measures the peak over as many looks as it takes, while the ring grows all the time.
    fn measure_peak(&mut self, now: Instant, published: u32, grown: u32, soft_limit: u32) {
        // Where this look or the one before found no growth, it stood still for a part of the time.
        let stood_still = grown == 0 || self.grown == 0;
        let measured = published.wrapping_sub(self.measured.published);
        if !stood_still && measured < soft_limit / MEASURABLE_PARTS {
            return;
        }
        if !stood_still {
            let rate = (now - self.measured.at).rate_of(measured.into());
            self.peak_per_s = fade(self.peak_per_s, PEAK_FADE_PARTS).max(rate);
        }
        self.measured = Measured { at: now, published };
    }

    /// Notes that the ring was full and its vCPU left guest mode.
    pub(crate) fn ring_full(&mut self, now: Instant) {
        self.full = Some(now);
        self.recurrence.ring_full();
    }

    /// Notes that a pass or a drain takes what is in the ring at `now`.
    pub(crate) fn taken(&mut self, now: Instant) {
        self.oldest_since = now;
    }
}

/// Returns `value` less one of `parts` equal parts, and less 1 at least: it reaches 0.
pub(crate) const fn fade(value: u64, parts: u64) -> u64 {
    match value.checked_div(parts) {
        Some(part) if part != 0 => value.saturating_sub(part),
        _ => value.saturating_sub(1),
    }
}

#[cfg(test)]
mod tests;
