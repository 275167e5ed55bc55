//! What the deadline controller is to keep to.

use core::fmt;

use super::{SHORTEST_ASSURED_WAIT_US, US_PER_S, USEFUL_PARTS, pages_in};
use crate::size::RingSize;

/// What [`Deadline`](super::Deadline) is to keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadlineConfig {
    pub(super) freshness_us: u64,
    pub(super) assured: Option<Assured>,
}

/// The bounds under which no ring-full is a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Assured {
    pub(super) rate_per_s: u64,
    pub(super) latency_us: u64,
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
    /// no pass is over later than `latency_us` microseconds after the wake that was planned (or, if
    /// it was kicked before that, after the kick). Under these bounds there is no ring-full, from
    /// the first page on; nothing is taken on trust.
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
        // reaction and the shortest wait too.
        let left_us = latency_us.saturating_add(SHORTEST_ASSURED_WAIT_US);
        let reaction = pages_in(left_us, rate_per_s).saturating_add(1);
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
