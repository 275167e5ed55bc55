//! What the host does to a VM, one thing after another.

use std::thread;
use std::time::Duration;

use super::copies::Mishap;
use super::dice::Dice;
use super::outcome::{Ended, Tally};
use super::vm::SoakVm;

/// Something that the host does to a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    Kick,
    Flush,
    Flushes,
    Checkpoint,
    PauseOne,
    PauseAll,
    Phases,
    Storm,
    Figures,
    Restart,
    RestartUnderFlush,
    ReaperOnOff,
    TrackingOnOff,
    LogAnew,
    Resync,
    MoveSlot,
    RenumberSlot,
    SinkFailure,
    SinkPanic,
}

/// How often each comes in the life of one VM.
const DECK: [(Doing, usize); 19] = [
    (Doing::Kick, 6),
    (Doing::Flush, 8),
    (Doing::Flushes, 2),
    (Doing::Checkpoint, 3),
    (Doing::PauseOne, 3),
    (Doing::PauseAll, 3),
    (Doing::Phases, 6),
    (Doing::Storm, 4),
    (Doing::Figures, 4),
    (Doing::Restart, 3),
    (Doing::RestartUnderFlush, 2),
    (Doing::ReaperOnOff, 4),
    (Doing::TrackingOnOff, 4),
    (Doing::LogAnew, 1),
    (Doing::Resync, 2),
    (Doing::MoveSlot, 6),
    (Doing::RenumberSlot, 2),
    (Doing::SinkFailure, 2),
    (Doing::SinkPanic, 1),
];

/// The names under which doings are counted, and what the vCPUs do by themselves.
pub(super) const NAMES: [&str; 25] = [
    "backlog_refusal",
    "checkpoint",
    "end",
    "figures",
    "flush",
    "flushes_at_once",
    "kick",
    "logging_anew",
    "pause_all",
    "pause_one",
    "phase",
    "reaper_restart_under_flush",
    "reaper_resume",
    "reaper_start",
    "reaper_stop",
    "resync",
    "ring_full_chunk",
    "ring_full_whole",
    "sink_failure",
    "slot_addition",
    "slot_removal",
    "slot_renumbering",
    "storm",
    "tracking_off",
    "tracking_on",
];

impl Doing {
    /// Returns all that is done to one VM, in random order.
    pub(super) fn deck(dice: &mut Dice) -> Vec<Self> {
        let cards = DECK
            .iter()
            .flat_map(|(doing, times)| std::iter::repeat_n(*doing, *times));
        let mut deck: Vec<Self> = cards.collect();
        dice.shuffle(&mut deck);
        deck
    }
}

impl SoakVm {
    /// Does something.
    pub(super) fn perform(
        &mut self,
        doing: Doing,
        dice: &mut Dice,
        tally: &mut Tally,
    ) -> Result<(), Ended> {
        if dice.once_in(3) {
            self.resume();
        }
        match doing {
            Doing::Kick => {
                if let Some(reaper) = &self.reaper {
                    tally.begin("kick");
                    reaper.kick();
                }
                Ok(())
            }
            Doing::Flush => {
                tally.begin("flush");
                self.checked(tally, |vm, tally| vm.flush_or_resync(tally).map(|_| ()))
            }
            Doing::Flushes => {
                tally.begin("flushes_at_once");
                self.checked(tally, Self::flush_at_once)
            }
            Doing::Checkpoint => {
                self.ensure_tracking(dice, tally)?;
                tally.begin("checkpoint");
                self.checkpoint(tally)
            }
            Doing::PauseOne => {
                let vcpu = dice.below(self.guest.params().len() as u64) as usize;
                tally.begin_with("pause_one", vcpu);
                self.pause = Some(self.running.pause_vcpu(vcpu)?);
                Ok(())
            }
            Doing::PauseAll => {
                tally.begin("pause_all");
                self.pause = Some(self.running.pause()?);
                Ok(())
            }
            Doing::Phases => self.begin_phases(dice, tally),
            Doing::Storm => self.storm(dice, tally),
            Doing::Figures => {
                tally.begin("figures");
                self.check_figures()
            }
            Doing::Restart => {
                self.ensure_tracking(dice, tally)?;
                self.checked(tally, |vm, tally| {
                    vm.stop_reaper(tally)?;
                    vm.start_reaper(dice, tally)?;
                    vm.flush_or_resync(tally).map(|_| ())
                })
            }
            Doing::RestartUnderFlush => {
                self.ensure_tracking(dice, tally)?;
                tally.begin("reaper_restart_under_flush");
                self.checked(tally, |vm, tally| vm.restart_under_flush(dice, tally))
            }
            Doing::ReaperOnOff => match self.reaper {
                Some(_) => self.stop_reaper(tally),
                None => self.start_reaper(dice, tally),
            },
            Doing::TrackingOnOff => match self.is_logging {
                true => self.switch_tracking_off(dice, tally),
                false => self.switch_tracking_on(dice, tally),
            },
            Doing::LogAnew => self.log_anew(tally),
            Doing::Resync => {
                tally.begin("resync");
                self.checked(tally, |vm, _| vm.resync())
            }
            Doing::MoveSlot => self.move_slot(dice, tally),
            Doing::RenumberSlot => self.renumber_slot(dice, tally),
            Doing::SinkFailure => self.checked_failure(Mishap::Error, dice, tally),
            Doing::SinkPanic => self.checked_failure(Mishap::Panic, dice, tally),
        }
    }

    fn checked_failure(
        &mut self,
        mishap: Mishap,
        dice: &mut Dice,
        tally: &mut Tally,
    ) -> Result<(), Ended> {
        self.ensure_tracking(dice, tally)?;
        self.checked(tally, |vm, tally| {
            vm.fail_sink(mishap, dice, tally)?;
            vm.flush_or_resync(tally).map(|_| ())
        })
    }
}

/// Lets some time go by, or none.
pub(super) fn rest(dice: &mut Dice) {
    let us = match dice.below(16) {
        0..6 => return,
        6..13 => dice.below(3_000),
        _ => dice.below(40_000),
    };
    thread::sleep(Duration::from_micros(us));
}
