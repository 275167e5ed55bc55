//! Controllers: how long to wait until the next pass, and which rings it takes.
//!
//! A controller hears of each pass of the reaper and answers with the next wait. It knows no clock
//! and no KVM, and none of its decisions can fail. Its configuration is checked once, by
//! `const` constructors, so a wrong constant doesn't compile.
//!
//! | policy | what it is |
//! |---|---|
//! | [`Fixed`] | one interval, as QEMU's second |
//! | [`Seed`] | the run levels proposed for QEMU in 2022, as meant |
//! | [`Ladder`] | the same idea with its defects mended |
//! | [`Halving`] | the counter-proposal from that patch's review |
//! | [`Deadline`] | looks at the rings and waits as long as is safe |
//!
//! How [`Seed`] and [`Ladder`] differ, point by point, is in the documentation of [`Ladder`].
//!
//! To add one: implement [`Controller`] in a file of its own, run [`check`] on it, and, to make it
//! known by name, implement [`Registered`] and add its line to the registry in `policy.rs`.

mod checks;
mod deadline;
mod fixed;
mod halving;
mod ladder;
mod level;
mod policy;
mod seed;

pub use checks::{Violation, check};
pub use deadline::{Deadline, DeadlineConfig, DeadlineError, DeadlineState};
pub use fixed::{Fixed, FixedError};
pub use halving::{Halving, HalvingConfig, HalvingError, HalvingState};
pub use ladder::{Ladder, LadderTable, LadderTableError};
pub use level::{LEVELS, LevelState, RunLevel, Waits, WaitsError};
pub use policy::{Argument, Policy, PolicyError, PolicyNames, PolicySpec, PolicyState, Registered};
pub use seed::{LevelTable, LevelTableError, Seed};

use core::fmt;

use bitflags::bitflags;

use crate::collector::PassRings;
use crate::doorbell::Wakes;
use crate::entry::EntryMemory;
use crate::time::{Instant, Micros};

/// What one pass of the reaper found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measurement {
    /// From the beginning of the last pass (or from the start) to that of this one.
    pub elapsed: Micros,
    /// Pages that the reaper's own harvest found, all rings.
    pub harvested: u64,
    /// Pages that the ring-full path took since the last pass, all rings.
    pub ring_full_harvested: u64,
    /// The most entries that one ring gave since the last pass, by whatever path.
    pub fullest: u32,
    /// Ring-fulls since the last pass.
    pub ring_fulls: u32,
    /// What woke the reaper for this pass.
    pub wakes: Wakes,
    /// From the planned wake to the real one; 0 if something came before the time.
    pub late: Micros,
    /// How long the pass took: looks, harvests, resets and publications.
    pub took: Micros,
}

bitflags! {
    /// Why a controller decided as it did.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Reasons: u16 {
        /// No measurement yet: where the policy begins.
        const START = 1 << 0;
        /// A ring was full since the last decision.
        const RING_FULL = 1 << 1;
        /// The rings ask for a shorter wait, and get it.
        const FASTER = 1 << 2;
        /// The rings ask for a longer wait, and get it.
        const SLOWER = 1 << 3;
        /// The rings ask for a longer wait; not yet (the speed-down filter counts).
        const FILTERED = 1 << 4;
        /// The rings ask for what they have.
        const KEEP = 1 << 5;
        /// The shortest wait of the policy holds already: it can't go faster.
        const AT_FASTEST = 1 << 6;
        /// The longest wait of the policy holds already: it can't go slower.
        const AT_SLOWEST = 1 << 7;
        /// A ring would have been full before the next useful wake-up.
        const HEADROOM = 1 << 8;
        /// Pages had waited for as long as they may, or were asked for.
        const FRESHNESS = 1 << 9;
        /// A ring is left alone for as long as its recent rate allows; its peak would allow less.
        const CALM = 1 << 10;
        /// No page of a ring comes round within one ring: to reap it early costs nothing.
        const FREE = 1 << 11;
    }
}

/// A controller's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// How long to wait until the next pass. [`Micros::MAX`]: until the doorbell rings. The planner
    /// makes at least [`SHORTEST_WAIT`](crate::planner::SHORTEST_WAIT) of it.
    pub wait: Micros,
    /// The run level, for a policy that has levels.
    pub level: Option<RunLevel>,
    /// Why.
    pub reasons: Reasons,
}

/// A controller: one method per event.
///
/// # What an implementer MUST give
///
/// [`check`] checks these on any controller.
///
/// * Decisions are pure: the same controller, rings and measurement give the same decision.
/// * No ring and no measurement may make it panic, divide by zero or overflow: zero times, zero
///   pages and `MAX` of everything included.
/// * `wait` is never 0.
/// * [`restore`](Self::restore) of what [`state`](Self::state) gave, with the rings restored from
///   their states, makes a controller that goes on as the first one would have.
pub trait Controller {
    /// What has to be saved to go on elsewhere: plain data, without the configuration.
    type State: Copy + fmt::Debug + PartialEq;

    /// Returns the decision that holds before the first pass, or, restored, before the next.
    fn current(&self) -> Decision;

    /// Leaves alone the rings that can wait, when a pass begins at `now` and after a look at each.
    /// By default it leaves none alone.
    fn plan<M: EntryMemory>(&mut self, now: Instant, rings: &mut PassRings<'_, M>) {
        let _ = (now, rings);
    }

    /// Decides on the next wait, when a pass is over.
    fn on_reaped(&mut self, measurement: &Measurement) -> Decision;

    /// Returns the state, to be saved between two passes.
    fn state(&self) -> Self::State;

    /// Goes on from a saved state.
    ///
    /// # Errors
    /// [`StateError`] where the state is not one that this configuration could be in; the
    /// controller is unchanged.
    fn restore(&mut self, state: &Self::State) -> Result<(), StateError>;
}

/// Why a saved state was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateError {
    /// It was saved by another policy.
    OtherPolicy,
    /// A wait or a count in it is outside what the configuration allows.
    OutOfRange,
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherPolicy => {
                "the saved state belongs to another policy: restore it under that one, \
                 or start afresh"
            }
            Self::OutOfRange => {
                "the saved state doesn't fit this policy's configuration: restore it under the \
                 configuration that it was saved under, or start afresh"
            }
        })
    }
}

impl core::error::Error for StateError {}

/// Returns pages over entries, in per mille, rounded down; a ring of no entries counts as full.
pub(crate) const fn permille(pages: u64, entries: u32) -> u64 {
    match pages.saturating_mul(1000).checked_div(entries as u64) {
        Some(permille) => permille,
        None => u64::MAX,
    }
}

#[cfg(test)]
mod differences;
#[cfg(test)]
mod seed_matrix;
#[cfg(test)]
mod settling;
#[cfg(test)]
mod tests;
