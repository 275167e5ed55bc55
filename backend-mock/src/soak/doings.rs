//! What is done to a VM while it runs.

use super::life::Life;
use super::outcome::SoakError;
use crate::faults::Dice;
use crate::machine::VirtualBackend;
use crate::vm::Vm;

/// Something that is done to a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// A reader takes all pages on its own thread.
    Flush,
    /// The reaper is asked for all pages.
    Kick,
    /// The vCPUs are held, and every page is compared.
    Checkpoint,
    /// The reaper ends in whatever it does, and another one starts, at once or later.
    NewReaper,
    /// Another collector goes on where this one is.
    Handover,
    /// Another collector goes on somewhere else.
    LostPosition,
    /// The rings are resynchronised without need.
    Resync,
    /// A vCPU overruns its ring.
    Overrun,
    /// The sink fails at one of its next publications.
    SinkFailure,
    /// Resets fail.
    ResetFailure,
    /// A ring gets an entry that names no page.
    Garbage,
    /// A memory slot is added, or removed.
    Slot,
    /// Signals and wake-ups come otherwise.
    Weather,
}

/// How often each comes.
const DECK: [(Doing, u64); 13] = [
    (Doing::Flush, 8),
    (Doing::Kick, 5),
    (Doing::Checkpoint, 6),
    (Doing::NewReaper, 4),
    (Doing::Handover, 4),
    (Doing::LostPosition, 2),
    (Doing::Resync, 2),
    (Doing::Overrun, 3),
    (Doing::SinkFailure, 2),
    (Doing::ResetFailure, 1),
    (Doing::Garbage, 1),
    (Doing::Slot, 3),
    (Doing::Weather, 2),
];

/// Publications that a failing sink takes first, at most.
const MOST_TAKEN: u64 = 4;

impl Doing {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let cards = DECK.iter().map(|(_, times)| times).sum();
        let mut card = dice.below(cards);
        for (doing, times) in DECK {
            match card.checked_sub(times) {
                None => return doing,
                Some(left) => card = left,
            }
        }
        Self::Flush
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Flush => "flush",
            Self::Kick => "kick",
            Self::Checkpoint => "checkpoint",
            Self::NewReaper => "new_reaper",
            Self::Handover => "handover",
            Self::LostPosition => "lost_position",
            Self::Resync => "resync",
            Self::Overrun => "overrun",
            Self::SinkFailure => "sink_failure",
            Self::ResetFailure => "reset_failure",
            Self::Garbage => "garbage",
            Self::Slot => "slot",
            Self::Weather => "weather",
        }
    }
}

impl<B: VirtualBackend> Life<B> {
    pub(super) fn perform(&mut self, doing: Doing) -> Result<(), SoakError> {
        match doing {
            Doing::Flush => self.read()?,
            Doing::Kick => self.machine.kick(),
            Doing::Checkpoint => self.checkpoint()?,
            Doing::NewReaper => {
                self.machine.drop_reaper();
                if self.dice.below(2) == 0 {
                    self.run()?;
                }
                self.start_any_reaper();
            }
            Doing::Handover => self.hand_over()?,
            Doing::LostPosition => self.lose_positions()?,
            Doing::Resync => self.resync()?,
            Doing::Overrun => {
                let vcpu = self.any_vcpu();
                let beyond = 1 + self.dice.below(2 * u64::from(self.ring.entries())) as u32;
                self.machine.vm(|vm| vm.overrun(vcpu, beyond));
                self.due.parted = true;
            }
            Doing::SinkFailure => {
                let taken = self.dice.below(MOST_TAKEN) as u32;
                self.machine.vm(|vm| vm.break_sink(taken));
                self.due.sink = true;
            }
            Doing::ResetFailure => {
                self.machine.vm(|vm: &mut Vm| vm.break_reset(true));
                self.due.reset = true;
            }
            Doing::Garbage => {
                let (vcpu, draw) = (self.any_vcpu(), self.dice.below(u64::MAX));
                self.due.garbage |= self.machine.vm(|vm| vm.log_garbage(vcpu, draw));
            }
            Doing::Slot => self.move_slot()?,
            Doing::Weather => self.change_weather(),
        }
        Ok(())
    }
}
