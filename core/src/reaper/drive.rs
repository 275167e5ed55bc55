//! A reaper's whole life, for a driver with a thread to give to it.

use super::{Action, Reaper};
use crate::collector::{Backend, CollectError, Collector};
use crate::controller::Controller;
use crate::doorbell::Seen;
use crate::handoff::Handoff;
use crate::sync::{Lock, Park, SharedWord};

/// Where a driven reaper is, for those who watch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// About to wait.
    Waiting,
    /// The wait is over.
    Woken,
    /// About to harvest.
    Harvesting {
        /// This begins a pass.
        begin: bool,
        /// The pass takes every page of every ring, and none is left alone.
        all: bool,
    },
    /// About to reset and publish.
    Resetting,
    /// A pass is over and the next wait decided: see [`Reaper::last_step`].
    Decided,
}

/// Does what `reaper` says until it is done: after a stop, and a pass that began after the stop.
/// Returns what the doorbell has told.
///
/// Blocks: give it a thread (or a core) of its own. `now_us` reads the clock that `handoff`'s
/// [`Park`] sleeps by, in microseconds; `watch` is called on the way.
///
/// # Errors
/// [`CollectError`] where the rings can't be reaped any more. What was harvested and not reset
/// stays in the collector.
pub fn drive<B, C, L, W, P, const BATCH: usize, const HISTORY: usize>(
    reaper: &mut Reaper<C, HISTORY>,
    handoff: &Handoff<L, W, P>,
    now_us: impl Fn() -> u64,
    mut watch: impl FnMut(Moment, &Reaper<C, HISTORY>),
) -> Result<Seen, CollectError<B::Error>>
where
    B: Backend,
    C: Controller,
    L: Lock<Guarded = Collector<B, BATCH>>,
    W: SharedWord,
    P: Park,
{
    let mut seen = Seen::default();
    let mut iterations = reaper.iterations();
    let mut action = reaper.start(now_us());
    loop {
        action = match action {
            Action::Wait { until_us } => {
                watch(Moment::Waiting, reaper);
                let wakes = handoff.wait(&mut seen, until_us);
                watch(Moment::Woken, reaper);
                reaper.on_wake(now_us(), wakes)
            }
            Action::Harvest { begin } => {
                let all = reaper.takes_all();
                watch(Moment::Harvesting { begin, all }, reaper);
                let harvest = reaper.harvest(handoff, now_us(), begin);
                reaper.on_harvested(&harvest)
            }
            Action::Reset => {
                watch(Moment::Resetting, reaper);
                let reset = handoff.reset()?;
                // Who rings while we reap shouldn't have to wait for the next sleep.
                let rung = handoff.doorbell().poll(&mut seen);
                let now_us = now_us();
                let _ = reaper.on_wake(now_us, rung);
                reaper.on_reset(now_us, &reset)
            }
            Action::Done => return Ok(seen),
        };
        if reaper.iterations() != iterations {
            iterations = reaper.iterations();
            watch(Moment::Decided, reaper);
        }
    }
}
