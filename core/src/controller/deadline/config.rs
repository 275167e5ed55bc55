//! The limits and bounds that the deadline controller keeps to.

use core::fmt;

use super::QUARTER;
use crate::planner::SHORTEST_WAIT;
use crate::size::RingSize;
use crate::time::Micros;

/// The limits and bounds that [`Deadline`](super::Deadline) keeps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadlineConfig {
    pub(super) freshness: Option<Micros>,
    pub(super) assured: Option<Assured>,
}

/// The bounds under which no ring-full is a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Assured {
    pub(super) rate_per_s: u64,
    pub(super) latency: Micros,
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
    /// Pages are reaped when a ring can't wait or all are asked for; everything else is learned.
    pub const STANDARD: Self = Self {
        freshness: None,
        assured: None,
    };

    /// Limits how long a page waits for its reap, to `limit` and the latency of one pass. A limit
    /// shorter than that latency can't be kept.
    ///
    /// This has a cost: a guest faults again for each page of its working set, once per limit,
    /// whether or not a consumer reads that often. An idle guest costs one wake-up per limit.
    ///
    /// # Errors
    /// [`DeadlineError::ZeroFreshness`].
    pub const fn freshness(mut self, limit: Micros) -> Result<Self, DeadlineError> {
        if limit.is_zero() {
            return Err(DeadlineError::ZeroFreshness);
        }
        self.freshness = Some(limit);
        Ok(self)
    }

    /// Assures the controller that no ring of `size` fills faster than `rate_per_s` pages per
    /// second, and that no pass is over later than `latency` after its planned wake (or, if a kick
    /// came first, after the kick). Under these bounds there is no ring-full, from the first page
    /// on; nothing is learned.
    ///
    /// # Errors
    /// [`DeadlineError::ZeroRate`], [`DeadlineError::RingTooSmall`].
    pub const fn assured(
        mut self,
        rate_per_s: u64,
        latency: Micros,
        size: RingSize,
    ) -> Result<Self, DeadlineError> {
        if rate_per_s == 0 {
            return Err(DeadlineError::ZeroRate);
        }
        // A ring is left alone only if a quarter of its time remains, so that quarter must outlast
        // the reaction and the shortest wait.
        let reaction = Micros(latency.0.saturating_add(SHORTEST_WAIT.0));
        let needed = reaction
            .entries_at(rate_per_s)
            .saturating_add(1)
            .saturating_mul(QUARTER);
        if needed > size.soft_limit() as u64 {
            return Err(DeadlineError::RingTooSmall {
                needed,
                soft_limit: size.soft_limit(),
            });
        }
        self.assured = Some(Assured {
            rate_per_s,
            latency,
        });
        Ok(self)
    }
}
