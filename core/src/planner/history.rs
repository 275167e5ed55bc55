//! The last passes, for statistics and for a look after the fact.

use crate::controller::{Decision, Measurement};
use crate::time::Instant;

/// Passes that a planner remembers by default.
pub const DEFAULT_HISTORY: usize = 16;

/// One pass of the reaper: what it found and what was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassRecord {
    /// The number of the pass, from 1.
    pub number: u64,
    /// When it was over and the decision was made.
    pub now: Instant,
    /// What it found.
    pub measurement: Measurement,
    /// What was decided.
    pub decision: Decision,
}
