//! Reapers and sinks that come and go, and logging that is switched off and on.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use dirty_ring_core::collector::CollectError;
use dirty_ring_kvm::{Error, MemoryUpdate};

use super::copies::{CopyingSink, Mishap};
use super::dice::Dice;
use super::doings;
use super::outage::is_publication;
use super::outcome::{Ended, Tally};
use super::vm::{SoakVm, wait_until};
use crate::error::CallbackError;
use crate::kick::VcpuKicker;

impl SoakVm {
    /// Starts a reaper with a policy of any kind, or the last one with its saved state.
    pub(super) fn start_reaper(&mut self, dice: &mut Dice, tally: &mut Tally) -> Result<(), Ended> {
        let (policy, goes_on) = (super::shape::policy(dice)?, dice.once_in(3));
        let saved = self.planner.take().filter(|_| goes_on);
        if saved.is_none() {
            self.policy = policy;
        }
        let doing = ["reaper_start", "reaper_resume"][usize::from(saved.is_some())];
        tally.begin_with(doing, self.policy);
        let controller = self.policy.build(self.size).map_err(CallbackError::from)?;
        let builder = self.tracker.reaper(CopyingSink(Arc::clone(&self.copies)));
        self.reaper = Some(match saved {
            Some(state) => builder.resume(controller, &state)?,
            None => builder.start(controller)?,
        });
        Ok(())
    }

    /// Stops the reaper.
    pub(super) fn stop_reaper(&mut self, tally: &mut Tally) -> Result<(), Ended> {
        let Some(reaper) = self.reaper.take() else {
            return Ok(());
        };
        tally.begin("reaper_stop");
        match reaper.stop() {
            Ok(stopped) => self.planner = Some(stopped.planner),
            // The next flush is told as well, and resyncs.
            Err(Error::Collect(CollectError::TooManySuspects { .. })) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Stops the reaper and starts another, while another thread flushes.
    pub(super) fn restart_under_flush(
        &mut self,
        dice: &mut Dice,
        tally: &mut Tally,
    ) -> Result<(), Ended> {
        let flush = self.flush_elsewhere();
        self.stop_reaper(tally)?;
        self.start_reaper(dice, tally)?;
        let flushed = joined(flush)?;
        self.resync_if_needed(flushed, tally)?;
        Ok(())
    }

    /// Flushes on two threads.
    pub(super) fn flush_at_once(&mut self, tally: &mut Tally) -> Result<(), Ended> {
        let other = self.flush_elsewhere();
        let mine = self.flush();
        for flushed in [mine, joined(other)?] {
            self.resync_if_needed(flushed, tally)?;
        }
        Ok(())
    }

    /// Flushes on a thread of its own.
    fn flush_elsewhere(&self) -> JoinHandle<Result<(), Error>> {
        let (tracker, kickers) = (self.tracker.clone(), self.running.kickers());
        let kick = move || kickers.iter().try_for_each(VcpuKicker::kick_and_wait);
        thread::spawn(move || tracker.flush(kick))
    }

    /// Switches logging of all slots on, starts a reaper and copies all pages, in an order that loses
    /// none: the copy comes when everything that is written is logged.
    pub(super) fn switch_tracking_on(
        &mut self,
        dice: &mut Dice,
        tally: &mut Tally,
    ) -> Result<(), Ended> {
        tally.begin("tracking_on");
        let order = dice.below(3);
        if order == 0 && self.reaper.is_none() {
            self.start_reaper(dice, tally)?;
        }
        self.set_logging(true)?;
        if order == 1 && self.reaper.is_none() {
            self.start_reaper(dice, tally)?;
        }
        self.copies.copy(self.pages())?;
        if self.reaper.is_none() {
            self.start_reaper(dice, tally)?;
        }
        Ok(())
    }

    /// Switches logging of all slots off and stops the reaper.
    pub(super) fn switch_tracking_off(
        &mut self,
        dice: &mut Dice,
        tally: &mut Tally,
    ) -> Result<(), Ended> {
        tally.begin("tracking_off");
        if dice.once_in(2) {
            self.stop_reaper(tally)?;
            self.set_logging(false)
        } else {
            self.set_logging(false)?;
            self.stop_reaper(tally)
        }
    }

    /// Switches on what is off.
    pub(super) fn ensure_tracking(
        &mut self,
        dice: &mut Dice,
        tally: &mut Tally,
    ) -> Result<(), Ended> {
        if !self.is_logging {
            self.switch_tracking_on(dice, tally)
        } else if self.reaper.is_none() {
            self.start_reaper(dice, tally)
        } else {
            Ok(())
        }
    }

    fn set_logging(&mut self, on: bool) -> Result<(), Ended> {
        self.tracker
            .update_memory(|memory| self.log_all(on, Some(memory)))?;
        self.is_logging = on;
        Ok(())
    }

    fn log_all(
        &self,
        on: bool,
        mut memory: Option<&mut MemoryUpdate<'_>>,
    ) -> Result<(), CallbackError> {
        for slot in self.slots.iter().filter(|slot| slot.is_present) {
            let set = || Ok::<_, CallbackError>(self.guest.set_slot_logging(&slot.slot, on)?);
            match &mut memory {
                Some(memory) => memory.set_logging(slot.memory_slot().id, on, |_, _| set())?,
                None => set()?,
            }
        }
        Ok(())
    }

    /// Switches logging off and on in one change, and copies all that was written in between.
    pub(super) fn log_anew(&mut self, tally: &mut Tally) -> Result<(), Ended> {
        if !self.is_logging {
            return Ok(());
        }
        tally.begin("logging_anew");
        self.set_logging(false)?;
        self.set_logging(true)?;
        self.copies.copy(self.pages())?;
        Ok(())
    }

    /// Has the rings back with all pages dirty.
    pub(super) fn resync(&self) -> Result<(), Ended> {
        self.tracker.resync(|| {
            if self.is_logging {
                self.log_all(false, None)?;
                self.log_all(true, None)?;
            }
            Ok::<_, CallbackError>(())
        })?;
        Ok(())
    }

    /// Resyncs where `flushed` says that too many resets were interrupted; returns whether it didn't.
    pub(super) fn resync_if_needed(
        &self,
        flushed: Result<(), Error>,
        tally: &mut Tally,
    ) -> Result<bool, Ended> {
        match flushed {
            Err(Error::Collect(CollectError::TooManySuspects { .. })) => {
                tally.begin("suspects_overflow");
                self.resync()?;
                Ok(false)
            }
            result => Ok(result.map(|()| true)?),
        }
    }

    /// Makes the sink fail once, and replaces it: the pages must be kept for the next one.
    pub(super) fn fail_sink(
        &mut self,
        mishap: Mishap,
        dice: &mut Dice,
        tally: &mut Tally,
    ) -> Result<(), Ended> {
        self.resume();
        self.ensure_tracking(dice, tally)?;
        // One vCPU at least writes, so there is something to publish.
        self.begin_phases(dice, tally)?;
        tally.begin_with("sink_failure", format_args!("{mishap:?}"));
        self.copies.let_sink_fail(mishap);
        wait_until("the sink to fail", || {
            match self.flush() {
                Err(error) if is_publication(&error) => {}
                flushed => _ = self.resync_if_needed(flushed, tally)?,
            }
            Ok(!self.copies.is_failure_to_come())
        })?;
        doings::rest(dice);
        let Err(told) = self.flush() else {
            return Err(failed("a flush succeeded without a sink"));
        };
        let stopped = self.reaper.take().map(|reaper| reaper.stop().map(|_| ()));
        if !is_publication(&told) || !matches!(&stopped, Some(Err(error)) if is_publication(error))
        {
            return Err(failed(format_args!(
                "the failure of the sink was not told: {told}; {stopped:?}"
            )));
        }
        self.outage.note_replacement();
        doings::rest(dice);
        if dice.once_in(2) {
            self.refuse_backlog(mishap, dice, tally)?;
        }
        self.start_reaper(dice, tally)
    }

    /// Starts a reaper whose sink fails with the first pages that were kept for it.
    fn refuse_backlog(
        &mut self,
        mishap: Mishap,
        dice: &mut Dice,
        tally: &mut Tally,
    ) -> Result<(), Ended> {
        let flushed = self.flush();
        self.resync_if_needed(flushed, tally)?;
        if self.tracker.stats()?.backlog == 0 {
            return Ok(());
        }
        tally.begin("backlog_refusal");
        self.copies.let_sink_fail(mishap);
        match self.start_reaper(dice, tally) {
            Err(Ended::Failed(error)) if error.downcast_ref().is_some_and(is_publication) => Ok(()),
            result => Err(failed(format_args!(
                "a sink that fails was set: {result:?}"
            ))),
        }
    }
}

fn joined<R>(thread: JoinHandle<R>) -> Result<R, Ended> {
    thread.join().map_err(|_| failed("a flush panicked"))
}

fn failed(what: impl std::fmt::Display) -> Ended {
    Ended::Failed(what.to_string().into())
}
