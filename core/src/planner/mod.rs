//! The planner: a machine that decides when to reap and what. Events and the time go in, an action
//! with a deadline comes out; it owns no clock, lock or ring.
//!
//! ```text
//!           start                 timer, kick, ring-full, stop
//!  Idle ------------> Waiting --------------------------------> Reaping
//!   ^                    ^                                       |   |
//!   |                    +---------------------------------------+   |
//!   |                              the pass is over                  |
//!   +----------------------------------------------------------------+
//!                      a whole pass after the stop is over
//! ```
//!
//! [`Reaper`](crate::reaper::Reaper) drives it over real rings. A call that doesn't fit the phase
//! changes nothing and returns the current action again.

mod events;
mod history;
#[cfg(test)]
mod tests;

pub use events::{Events, NoEvents};
pub use history::{DEFAULT_HISTORY, PassRecord};

use heapless::Deque;

use crate::bounded::push_recent;
use crate::collector::{PassRings, PassTally, Scope};
use crate::controller::{Controller, Decision, Measurement, Policy, StateError};
use crate::doorbell::Wakes;
use crate::entry::EntryMemory;
use crate::time::{Instant, Micros};

/// The shortest wait between two passes. A controller that asks for less gets this: the reaper must
/// leave the guest some CPU, and a ring that fills faster can't be saved from its vCPU.
pub const SHORTEST_WAIT: Micros = Micros(100);

/// Where a planner is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Not started, or done.
    #[default]
    Idle,
    /// Waiting for the next pass.
    Waiting,
    /// In a pass.
    Reaping,
}

/// What the driver has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Wait until then or until the doorbell rings, then call [`Planner::on_wake`].
    Wait {
        /// [`Instant::MAX`]: only the doorbell ends the wait.
        until: Instant,
    },
    /// Reap, with [`Planner::plan`] at the beginning, then call [`Planner::on_reaped`].
    Reap {
        /// Which rings the pass takes.
        scope: Scope,
    },
    /// Nothing any more: the last pass after the stop is done.
    Done,
}

/// The machine. `C` decides how long to wait; `HISTORY` passes are remembered.
#[derive(Clone, Debug)]
pub struct Planner<C = Policy, const HISTORY: usize = DEFAULT_HISTORY> {
    controller: C,
    phase: Phase,
    action: Action,
    passes: u64,
    /// It goes on from a saved state, and what is in the rings is unknown.
    is_resumed: bool,
    /// When the last pass began, or the machine started.
    last_pass: Instant,
    pass: Pass,
    /// Causes that came while reaping: they get a pass of their own.
    pending: Wakes,
    history: Deque<PassRecord, HISTORY>,
}

/// The pass in progress.
#[derive(Clone, Copy, Debug, Default)]
struct Pass {
    begun: Instant,
    late: Micros,
    wakes: Wakes,
}

/// What has to be saved to go on elsewhere: after a live update, or from a snapshot. The rings'
/// states belong to it: see [`Ring::state`](crate::ring::Ring::state).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannerState<S> {
    /// The controller's state.
    pub controller: S,
    /// Passes so far.
    pub passes: u64,
}

impl<C: Controller, const HISTORY: usize> Planner<C, HISTORY> {
    /// Creates a machine that was not started.
    pub const fn new(controller: C) -> Self {
        Self {
            controller,
            phase: Phase::Idle,
            action: Action::Done,
            passes: 0,
            is_resumed: false,
            last_pass: Instant(0),
            pass: Pass {
                begun: Instant(0),
                late: Micros::ZERO,
                wakes: Wakes::empty(),
            },
            pending: Wakes::empty(),
            history: Deque::new(),
        }
    }

    /// Creates a machine that goes on from a saved state, with the controller's configuration given
    /// anew.
    ///
    /// # Errors
    /// [`StateError`] where the state doesn't fit `controller`.
    pub fn from_state(
        mut controller: C,
        state: &PlannerState<C::State>,
    ) -> Result<Self, StateError> {
        controller.restore(&state.controller)?;
        let mut planner = Self::new(controller);
        planner.passes = state.passes;
        planner.is_resumed = true;
        Ok(planner)
    }

    /// Returns what to save.
    pub fn state(&self) -> PlannerState<C::State> {
        PlannerState {
            controller: self.controller.state(),
            passes: self.passes,
        }
    }

    /// Returns where the machine is.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns the action that the driver was told last.
    pub const fn action(&self) -> Action {
        self.action
    }

    /// Returns the passes so far.
    pub const fn passes(&self) -> u64 {
        self.passes
    }

    /// Returns the controller.
    pub const fn controller(&self) -> &C {
        &self.controller
    }

    /// Returns the last passes, oldest first.
    pub fn history(&self) -> impl Iterator<Item = &PassRecord> {
        self.history.iter()
    }

    /// Returns the last pass.
    pub fn last_pass(&self) -> Option<&PassRecord> {
        self.history.back()
    }

    /// Starts at `now`; only in [`Phase::Idle`]. The first pass of a resumed machine comes at once:
    /// rings may be nearly full.
    pub fn start(&mut self, now: Instant) -> Action {
        if self.phase != Phase::Idle {
            return self.action;
        }
        self.pending = Wakes::empty();
        self.last_pass = now;
        if core::mem::take(&mut self.is_resumed) {
            self.phase = Phase::Waiting;
            self.action = Action::Wait { until: now };
            return self.action;
        }
        let decision = self.controller.current();
        self.wait(now, decision)
    }

    /// Begins a pass where the wait ended at `now`, because of `wakes`. May be called while reaping
    /// as well: the causes are then kept until the pass is over.
    pub fn on_wake(&mut self, now: Instant, wakes: Wakes) -> Action {
        let Action::Wait { until } = self.action else {
            if self.phase == Phase::Reaping {
                self.pending |= wakes.difference(Wakes::TIMER);
            }
            return self.action;
        };
        // A kick at the last moment hides that the wait was over as well: the clock knows.
        let mut wakes = wakes;
        wakes.set(Wakes::TIMER, now >= until);
        if wakes.is_empty() {
            return self.action;
        }
        self.begin_pass(now, wakes)
    }

    /// Lets the controller leave alone what can wait, at the beginning of a pass and after a look
    /// at every ring.
    pub fn plan<M: EntryMemory>(&mut self, now: Instant, rings: &mut PassRings<'_, M>) {
        if self.phase == Phase::Reaping {
            self.controller.plan(now, rings);
        }
    }

    /// Ends the pass, which was over at `now` and found `tally`.
    pub fn on_reaped(&mut self, now: Instant, tally: &PassTally) -> Action {
        if self.phase != Phase::Reaping {
            return self.action;
        }
        let measurement = Measurement {
            elapsed: self.pass.begun - self.last_pass,
            harvested: tally.harvested,
            ring_full_harvested: tally.ring_full_harvested,
            fullest: tally.fullest,
            ring_fulls: tally.ring_fulls,
            wakes: self.pass.wakes,
            late: self.pass.late,
            took: now - self.pass.begun,
        };
        let mut decision = self.controller.on_reaped(&measurement);
        decision.wait = decision.wait.max(SHORTEST_WAIT);
        self.last_pass = self.pass.begun;
        self.passes = self.passes.saturating_add(1);
        let record = PassRecord {
            number: self.passes,
            now,
            measurement,
            decision,
        };
        push_recent(&mut self.history, record);
        if self.pass.wakes.contains(Wakes::STOP) {
            // This pass began after the stop: it was the final drain.
            self.phase = Phase::Idle;
            self.action = Action::Done;
            return self.action;
        }
        let pending = core::mem::take(&mut self.pending);
        if pending.is_empty() {
            self.wait(now, decision)
        } else {
            self.begin_pass(now, pending)
        }
    }

    fn wait(&mut self, now: Instant, decision: Decision) -> Action {
        self.phase = Phase::Waiting;
        self.action = Action::Wait {
            until: now + decision.wait.max(SHORTEST_WAIT),
        };
        self.action
    }

    fn begin_pass(&mut self, now: Instant, wakes: Wakes) -> Action {
        let late = match self.action {
            Action::Wait { until } => now - until,
            _ => Micros::ZERO,
        };
        self.pass = Pass {
            begun: now,
            late,
            wakes,
        };
        // A kick asks for every page, and the final drain leaves none behind, whatever the
        // controller makes of it.
        let scope = if wakes.intersects(Wakes::KICK | Wakes::STOP) {
            Scope::All
        } else {
            Scope::Planned
        };
        self.phase = Phase::Reaping;
        self.action = Action::Reap { scope };
        self.action
    }
}
