//! The last decisions, for statistics and for a look after the fact.

use crate::controller::{Decision, Measurement};

/// Decisions that a machine remembers by default.
pub const DEFAULT_HISTORY: usize = 16;

/// One pass of the reaper: what it found and what was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The number of the pass, from 1.
    pub iteration: u64,
    /// When the decision fell, in microseconds on the driver's clock.
    pub now_us: u64,
    /// What the pass found.
    pub measurement: Measurement,
    /// What was decided.
    pub decision: Decision,
}
