//! The reaper: drives a [`Planner`] over a [`SharedCollector`], one short turn at a time.

#[cfg(test)]
mod tests;

use crate::backend::Backend;
use crate::collector::{CollectError, Collector};
use crate::controller::{Controller, Policy};
use crate::doorbell::{Doorbell, Seen, Wakes};
use crate::planner::{Action, DEFAULT_HISTORY, Phase, Planner};
use crate::shared::SharedCollector;
use crate::sync::{Lock, Park, SharedWord};
use crate::time::Instant;

/// What to do after a [`Reaper::turn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Turn {
    /// Work is left: take another turn at once.
    Again,
    /// Nothing to do until then, or until the doorbell rings.
    Wait {
        /// [`Instant::MAX`]: only the doorbell ends the wait.
        until: Instant,
    },
    /// Nothing any more: the rings were drained after a stop.
    Done,
}

/// Reaps the rings of one VM, as its controller plans.
///
/// A turn never blocks for longer than the lock is held elsewhere, and holds it for one batch at
/// most itself. So one loop serves a thread ([`run`](Self::run)), an event loop (a timer for
/// [`Turn::Wait`], the doorbell's [`Park`] as the event), one thread for many VMs, a simulator, and
/// a model checker.
#[derive(Clone, Debug)]
pub struct Reaper<C = Policy, const HISTORY: usize = DEFAULT_HISTORY> {
    planner: Planner<C, HISTORY>,
    seen: Seen,
    /// What ended the last [`sleep`](Self::sleep).
    woken: Wakes,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// No turn yet.
    NotStarted,
    /// Waiting, or about to look at the rings.
    Begin,
    /// In a pass.
    Batches,
    /// All batches were taken: the next turn's clock ends the pass.
    Over,
}

impl<C: Controller, const HISTORY: usize> Reaper<C, HISTORY> {
    /// Creates a reaper; its first turn starts it.
    pub fn new(planner: Planner<C, HISTORY>) -> Self {
        Self {
            planner,
            seen: Seen::default(),
            woken: Wakes::empty(),
            progress: Progress::NotStarted,
        }
    }

    /// Creates a reaper that follows another one at the same doorbell: `seen` is
    /// [`Doorbell::seen_now`](crate::doorbell::Doorbell::seen_now).
    pub fn following(planner: Planner<C, HISTORY>, seen: Seen) -> Self {
        Self {
            seen,
            ..Self::new(planner)
        }
    }

    /// Returns the planner: phase, history, state.
    pub const fn planner(&self) -> &Planner<C, HISTORY> {
        &self.planner
    }

    /// Returns what the doorbell has told so far.
    pub const fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Does the next piece of work, if there is any, and returns what to do after it. `now` is read
    /// from the clock just before.
    ///
    /// # Errors
    /// [`CollectError`] where the rings can't be reaped any more. What was harvested and not reset
    /// stays in the collector.
    pub fn turn<B, L, W, P, const BATCH: usize>(
        &mut self,
        shared: &SharedCollector<L, W, P>,
        now: Instant,
    ) -> Result<Turn, CollectError<B::Error>>
    where
        B: Backend,
        L: Lock<Guarded = Collector<B, BATCH>>,
        W: SharedWord,
        P: Park,
    {
        if self.progress == Progress::NotStarted {
            let _ = self.planner.start(now);
            self.progress = Progress::Begin;
        }
        // While reaping as well: what rings then shouldn't have to wait for the next sleep.
        let rung = shared.doorbell().poll(&mut self.seen) | core::mem::take(&mut self.woken);
        let was_reaping = self.planner.phase() == Phase::Reaping;
        let mut action = self.planner.on_wake(now, rung);
        if was_reaping {
            action = self.reap(shared, now, action)?;
        }
        Ok(match action {
            Action::Wait { until } => Turn::Wait { until },
            Action::Reap { .. } => Turn::Again,
            Action::Done => Turn::Done,
        })
    }

    /// Takes one batch of the pass, or ends it.
    fn reap<B, L, W, P, const BATCH: usize>(
        &mut self,
        shared: &SharedCollector<L, W, P>,
        now: Instant,
        action: Action,
    ) -> Result<Action, CollectError<B::Error>>
    where
        B: Backend,
        L: Lock<Guarded = Collector<B, BATCH>>,
        W: SharedWord,
        P: Park,
    {
        let Action::Reap { scope } = action else {
            return Ok(action);
        };
        if self.progress == Progress::Over {
            self.progress = Progress::Begin;
            let tally = shared.with(Collector::end_pass);
            return Ok(self.planner.on_reaped(now, &tally));
        }
        let reaped = shared.with(|collector| {
            if self.progress == Progress::Begin {
                collector.begin_pass(now, scope, |rings| self.planner.plan(now, rings));
            }
            collector.reap(now)
        })?;
        self.progress = if reaped.is_over {
            Progress::Over
        } else {
            Progress::Batches
        };
        Ok(action)
    }

    /// Sleeps at `doorbell` between two turns, until it rings or `until` passes.
    pub fn sleep<W: SharedWord, P: Park>(&mut self, doorbell: &Doorbell<W, P>, until: Instant) {
        self.woken |= doorbell.wait(&mut self.seen, until);
    }

    /// Takes turns until the reaper is done, with a whole pass that began after a stop.
    ///
    /// Blocks: give it a thread of its own. `clock` reads the clock that the doorbell's [`Park`]
    /// sleeps by; `watch` is called after each turn.
    ///
    /// # Errors
    /// Those of [`turn`](Self::turn).
    pub fn run<B, L, W, P, const BATCH: usize>(
        &mut self,
        shared: &SharedCollector<L, W, P>,
        clock: impl Fn() -> Instant,
        mut watch: impl FnMut(&Self, Turn),
    ) -> Result<(), CollectError<B::Error>>
    where
        B: Backend,
        L: Lock<Guarded = Collector<B, BATCH>>,
        W: SharedWord,
        P: Park,
    {
        loop {
            let turn = self.turn(shared, clock())?;
            watch(self, turn);
            match turn {
                Turn::Again => {}
                Turn::Wait { until } => self.sleep(shared.doorbell(), until),
                Turn::Done => return Ok(()),
            }
        }
    }
}
