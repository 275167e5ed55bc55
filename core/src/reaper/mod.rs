//! The reaper machine: events and `now` go in, an action with a deadline comes out.
//!
//! ```text
//!          start               timer, kick, ring-full, stop          harvested
//!  NONE ----------> WAIT -----------------------------> REAPING --------------+
//!   ^                ^          Harvest{begin}             |  ^  Reset        |
//!   |                +-------------------------------------+  +---------------+
//!   |                     Wait (the pass is over)          |     reset: Harvest again while more
//!   +------------------------------------------------------+
//!                 Done (a whole pass after the stop)
//! ```
//!
//! The driver (a thread, a unikernel's main loop, a simulator) does what the [`Action`] says and
//! reports with the method that fits; [`drive`] is the loop of a driver that may block. The machine is never wrong to call: a report that doesn't
//! fit the state changes nothing and gets the current action again.

mod drive;
mod events;
mod history;
#[cfg(test)]
mod tests;

pub use drive::{Moment, drive};
pub use events::{Events, NoEvents};
pub use history::{DEFAULT_HISTORY, Step};

use heapless::HistoryBuf;

use crate::collector::{Backend, Collector, PassTally};
use crate::controller::{Controller, Decision, Measurement, Policy, StateError};
use crate::counter::Watermark;
use crate::doorbell::Wakes;
use crate::handoff::{Handoff, ReaperHarvest, ReaperReset};
use crate::sync::{Lock, Park, SharedWord};

/// Where the reaper is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not started, or done.
    #[default]
    None,
    /// Waiting for the next reap.
    Wait,
    /// Harvesting and resetting.
    Reaping,
}

/// What the driver has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Wait until `until_us` or until somebody rings, then call [`Reaper::on_wake`].
    Wait {
        /// On the clock of the `now_us` arguments, in microseconds.
        until_us: u64,
    },
    /// Harvest ([`Reaper::harvest`]), then call [`Reaper::on_harvested`].
    Harvest {
        /// This begins a pass; otherwise it goes on with one.
        begin: bool,
    },
    /// Reset what was harvested and publish it, then call [`Reaper::on_reset`].
    Reset,
    /// Nothing, for ever: the final drain is done.
    Done,
}

/// The machine. `C` decides how long to wait; `HISTORY` decisions are remembered.
#[derive(Clone, Debug)]
pub struct Reaper<C = Policy, const HISTORY: usize = DEFAULT_HISTORY> {
    controller: C,
    state: State,
    action: Action,
    iterations: u64,
    ring_fulls: Watermark,
    /// When the last pass began (or the machine started).
    last_pass_us: u64,
    pass: Pass,
    /// Causes that came while reaping: they want a pass of their own.
    pending: Wakes,
    history: HistoryBuf<Step, HISTORY>,
}

/// The pass in progress.
#[derive(Clone, Copy, Debug, Default)]
struct Pass {
    begun_us: u64,
    late_us: u64,
    wakes: Wakes,
    /// Harvested so far, and whether the batch was full.
    tally: PassTally,
    more: bool,
    ring_fulls: u32,
}

/// What has to be saved to go on elsewhere: after a live update, or from a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaperState<S> {
    /// The controller's state.
    pub controller: S,
    /// Passes so far.
    pub iterations: u64,
}

impl<C: Controller, const HISTORY: usize> Reaper<C, HISTORY> {
    /// A machine that was not started, over a ring-full count that stands at 0.
    pub const fn new(controller: C) -> Self {
        Self {
            controller,
            state: State::None,
            action: Action::Done,
            iterations: 0,
            ring_fulls: Watermark::at(0),
            last_pass_us: 0,
            pass: Pass {
                begun_us: 0,
                late_us: 0,
                wakes: Wakes::empty(),
                tally: PassTally {
                    harvested: 0,
                    ring_full_harvested: 0,
                    fullest: 0,
                },
                more: false,
                ring_fulls: 0,
            },
            pending: Wakes::empty(),
            history: HistoryBuf::new(),
        }
    }

    /// A machine that goes on from a saved state, with the controller's configuration given anew.
    /// `ring_fulls` is what the count of ring-fulls stands at: all of it counts as seen.
    ///
    /// # Errors
    /// [`StateError`] where the state doesn't fit `controller`.
    pub fn from_state(
        mut controller: C,
        state: &ReaperState<C::State>,
        ring_fulls: u32,
    ) -> Result<Self, StateError> {
        controller.restore(&state.controller)?;
        let mut reaper = Self::new(controller);
        reaper.iterations = state.iterations;
        reaper.ring_fulls = Watermark::at(ring_fulls);
        Ok(reaper)
    }

    /// What to save.
    pub fn state(&self) -> ReaperState<C::State> {
        ReaperState {
            controller: self.controller.state(),
            iterations: self.iterations,
        }
    }

    /// Where the machine is.
    pub const fn phase(&self) -> State {
        self.state
    }

    /// The action that the driver was told last.
    pub const fn action(&self) -> Action {
        self.action
    }

    /// Passes so far.
    pub const fn iterations(&self) -> u64 {
        self.iterations
    }

    /// The controller.
    pub const fn controller(&self) -> &C {
        &self.controller
    }

    /// The last decisions, oldest first.
    pub fn history(&self) -> impl Iterator<Item = &Step> {
        self.history.oldest_ordered()
    }

    /// The last decision with what led to it.
    pub fn last_step(&self) -> Option<&Step> {
        self.history.recent()
    }

    /// The driver starts at `now_us`. Only in [`State::None`].
    pub fn start(&mut self, now_us: u64) -> Action {
        if self.state != State::None {
            return self.action;
        }
        self.pending = Wakes::empty();
        self.last_pass_us = now_us;
        let wait_us = self.controller.current().wait_us;
        self.wait_until(now_us.saturating_add(wait_us))
    }

    /// The wait ended at `now_us`, because of `wakes`. While reaping it may be called as well (a
    /// stop must not wait for the pass): the causes are kept until the pass is over.
    pub fn on_wake(&mut self, now_us: u64, wakes: Wakes) -> Action {
        match self.state {
            State::None => self.action,
            State::Reaping => {
                self.pending |= wakes.difference(Wakes::TIMER);
                self.action
            }
            State::Wait => {
                let early = matches!(self.action, Action::Wait { until_us } if now_us < until_us);
                if wakes.is_empty() || (wakes == Wakes::TIMER && early) {
                    return self.action;
                }
                // A kick at the last moment hides that the wait was over as well: the clock knows.
                let mut wakes = wakes;
                wakes.set(Wakes::TIMER, !early);
                self.begin_pass(now_us, wakes)
            }
        }
    }

    /// For [`Action::Harvest`]: lets `handoff` harvest what the controller wants, or all rings
    /// after a kick or a stop.
    pub fn harvest<B, L, W, P, const BATCH: usize>(
        &mut self,
        handoff: &Handoff<L, W, P>,
        now_us: u64,
        begin: bool,
    ) -> ReaperHarvest
    where
        B: Backend,
        L: Lock<Guarded = Collector<B, BATCH>>,
        W: SharedWord,
        P: Park,
    {
        let all = self.takes_all();
        if self.controller.looks() {
            return handoff.harvest_where(now_us, begin, |ring| self.controller.wants(ring) || all);
        }
        handoff.harvest(now_us, begin)
    }

    /// Does the present pass take every page of every ring? Who kicked wants every page, and the
    /// final drain leaves none behind, whatever the controller thinks of it.
    pub fn takes_all(&self) -> bool {
        !self.controller.looks() || self.pass.wakes.intersects(Wakes::KICK | Wakes::STOP)
    }

    /// The driver harvested.
    pub fn on_harvested(&mut self, harvest: &ReaperHarvest) -> Action {
        if !matches!(self.action, Action::Harvest { .. }) {
            return self.action;
        }
        self.pass.tally = harvest.harvested.tally;
        self.pass.more = harvest.harvested.more;
        if matches!(self.action, Action::Harvest { begin: true }) {
            self.pass.ring_fulls = self.ring_fulls.advance(harvest.ring_fulls);
        }
        // Even a harvest of nothing resets: a deficit may have been left by somebody else. It
        // costs no system call where there is none.
        self.reap(Action::Reset)
    }

    /// The driver reset and published.
    pub fn on_reset(&mut self, now_us: u64, reset: &ReaperReset) -> Action {
        if self.action != Action::Reset || !reset.settled {
            return self.action;
        }
        if self.pass.more {
            return self.reap(Action::Harvest { begin: false });
        }
        self.end_pass(now_us)
    }

    fn wait_until(&mut self, until_us: u64) -> Action {
        self.state = State::Wait;
        self.action = Action::Wait { until_us };
        self.action
    }

    fn reap(&mut self, action: Action) -> Action {
        self.state = State::Reaping;
        self.action = action;
        self.action
    }

    fn begin_pass(&mut self, now_us: u64, wakes: Wakes) -> Action {
        let late_us = match self.action {
            Action::Wait { until_us } => now_us.saturating_sub(until_us),
            _ => 0,
        };
        self.controller.on_wake(now_us, wakes);
        self.pass = Pass {
            begun_us: now_us,
            late_us,
            wakes,
            ..Pass::default()
        };
        self.reap(Action::Harvest { begin: true })
    }

    fn end_pass(&mut self, now_us: u64) -> Action {
        let measurement = Measurement {
            elapsed_us: self.pass.begun_us.saturating_sub(self.last_pass_us),
            harvested: self.pass.tally.harvested,
            ring_full_harvested: self.pass.tally.ring_full_harvested,
            fullest: self.pass.tally.fullest,
            ring_fulls: self.pass.ring_fulls,
            wakes: self.pass.wakes,
            late_us: self.pass.late_us,
            took_us: now_us.saturating_sub(self.pass.begun_us),
        };
        let decision = self.controller.on_reaped(&measurement);
        self.last_pass_us = self.pass.begun_us;
        self.iterations = self.iterations.saturating_add(1);
        self.history.write(Step {
            iteration: self.iterations,
            now_us,
            measurement,
            decision,
        });
        self.after_pass(now_us, decision)
    }

    fn after_pass(&mut self, now_us: u64, decision: Decision) -> Action {
        if self.pass.wakes.contains(Wakes::STOP) {
            // This pass began after the stop: it was the final drain.
            self.state = State::None;
            self.action = Action::Done;
            return self.action;
        }
        let pending = core::mem::take(&mut self.pending);
        if !pending.is_empty() {
            return self.begin_pass(now_us, pending);
        }
        self.wait_until(now_us.saturating_add(decision.wait_us))
    }
}
