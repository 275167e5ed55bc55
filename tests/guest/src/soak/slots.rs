//! Memory slots that go away and come back, and where the vCPUs write meanwhile.

use std::ops::Range;

use dirty_ring_kvm::MemorySlot;

use super::dice::Dice;
use super::outcome::{Ended, Tally};
use super::vm::{POLL, SoakVm, wait_until};
use crate::error::CallbackError;
use crate::layout::{GuestSlot, PAGE_BYTES};
use crate::machine::Guest;

/// Highest slot number, more than there are slots: a slot comes back under any that is free.
const HIGHEST_ID: u32 = 8;

/// Empty loop iterations between two writes: without any, a vCPU fills its ring.
const SPINS: [u64; 8] = [0, 0, 0, 0, 0, 30, 300, 3_000];

/// Polls of a storm for a full ring.
const STORM_POLLS: u32 = 50;

/// Writes after which a vCPU has certainly made its last write of an earlier phase: that which it was
/// about to make, and one more.
const WRITES_TO_BE_AWAY: u64 = 2;

/// A data slot.
#[derive(Debug, Clone)]
pub(super) struct SoakSlot {
    pub(super) slot: GuestSlot,
    /// Index of its first page in the data area.
    first_page: u64,
    pub(super) is_present: bool,
    /// Not all of its pages were published when it went away.
    must_be_copied: bool,
}

impl SoakSlot {
    pub(super) fn all(guest: &Guest) -> Vec<Self> {
        let begin = guest.layout().data_address(0);
        let slots = guest.data_slots().iter();
        slots
            .map(|slot| Self {
                slot: *slot,
                first_page: (slot.guest_address - begin) / PAGE_BYTES,
                is_present: true,
                must_be_copied: false,
            })
            .collect()
    }

    /// Returns the indices of its pages in the data area.
    pub(super) const fn pages(&self) -> Range<u64> {
        self.first_page..self.first_page + self.slot.pages
    }

    pub(super) const fn memory_slot(&self) -> MemorySlot {
        self.slot.memory_slot()
    }
}

impl SoakVm {
    /// Lets every vCPU write at random somewhere in the slots that are there; some idle instead.
    pub(super) fn begin_phases(&self, dice: &mut Dice, tally: &mut Tally) -> Result<(), Ended> {
        tally.begin("phase");
        for vcpu in 0..self.guest.params().len() {
            // vCPU 0 always writes.
            if vcpu != 0 && dice.once_in(8) {
                self.guest.params()[vcpu].set(0, 0)?;
            } else {
                self.begin_phase(vcpu, dice)?;
            }
        }
        Ok(())
    }

    fn begin_phase(&self, vcpu: usize, dice: &mut Dice) -> Result<(), Ended> {
        let run = dice.pick(&self.runs());
        let all = run.end - run.start;
        // All of them fill a ring, a few are written again and again.
        let pages = match dice.below(4) {
            0 => 1 + dice.below(all.min(100)),
            1 => 1 + dice.below(all),
            _ => all,
        };
        let first = run.start + dice.below(all - pages + 1);
        let (spin, seed) = (dice.pick(&SPINS), dice.bits());
        self.guest.params()[vcpu].set_random(first, pages, spin, seed)?;
        Ok(())
    }

    /// Lets every vCPU write as fast as it can, until a ring is full or some time has gone by.
    pub(super) fn storm(&mut self, dice: &mut Dice, tally: &mut Tally) -> Result<(), Ended> {
        tally.begin("storm");
        self.resume();
        for params in self.guest.params() {
            let run = dice.pick(&self.runs());
            params.set_random(run.start, run.end - run.start, 0, dice.bits())?;
        }
        let before = self.running.ring_fulls();
        for _ in 0..STORM_POLLS {
            std::thread::sleep(POLL);
            if self.running.ring_fulls() != before {
                break;
            }
        }
        Ok(())
    }

    /// Returns the pages of the slots that are there, neighbouring slots as one.
    fn runs(&self) -> Vec<Range<u64>> {
        let present = self.slots.iter().filter(|slot| slot.is_present);
        let mut runs: Vec<Range<u64>> = Vec::new();
        for pages in present.map(SoakSlot::pages) {
            match runs.last_mut().filter(|last| last.end == pages.start) {
                Some(last) => last.end = pages.end,
                None => runs.push(pages),
            }
        }
        runs
    }

    /// Makes all vCPUs write in the slots that are there, and waits until none can be at an earlier
    /// write.
    fn move_vcpus(&mut self, dice: &mut Dice) -> Result<(), Ended> {
        self.resume();
        for vcpu in 0..self.guest.params().len() {
            self.begin_phase(vcpu, dice)?;
        }
        let before = self.running.page_writes()?;
        wait_until("the vCPUs to write elsewhere", || {
            let now = self.running.page_writes()?;
            let mut writes = before.iter().zip(now);
            Ok(writes.all(|(before, now)| now - before >= WRITES_TO_BE_AWAY))
        })
    }

    /// Removes a slot, or adds one that is missing, with vCPUs running elsewhere.
    pub(super) fn move_slot(&mut self, dice: &mut Dice, tally: &mut Tally) -> Result<(), Ended> {
        let (present, missing): (Vec<usize>, Vec<usize>) =
            (0..self.slots.len()).partition(|at| self.slots[*at].is_present);
        let may_remove = present.len() > 1;
        if missing.is_empty() || may_remove && dice.once_in(2) {
            self.remove_slot(dice.pick(&present), dice, tally)
        } else {
            self.add_slot(dice.pick(&missing), dice, tally)
        }
    }

    fn remove_slot(&mut self, at: usize, dice: &mut Dice, tally: &mut Tally) -> Result<(), Ended> {
        let removed = self.slots[at].clone();
        tally.begin_with("slot_removal", removed.slot.id);
        self.slots[at].is_present = false;
        self.move_vcpus(dice)?;
        self.tracker.update_memory(|memory| {
            self.guest.remove_slot(&removed.slot)?;
            memory.remove(removed.memory_slot().id);
            Ok::<_, CallbackError>(())
        })?;
        // Without a reaper, what was written goes with the slot.
        let is_copied = self.is_tracked() && self.flush_or_resync(tally)?;
        self.slots[at].must_be_copied = !is_copied;
        if is_copied {
            self.compare(removed.pages(), tally)?;
        }
        Ok(())
    }

    fn add_slot(&mut self, at: usize, dice: &mut Dice, tally: &mut Tally) -> Result<(), Ended> {
        let id = self.free_id(dice);
        tally.begin_with("slot_addition", id);
        self.slots[at].slot.id = id;
        let added = &self.slots[at];
        self.tracker.update_memory(|memory| {
            self.guest.set_slot_logging(&added.slot, self.is_logging)?;
            Ok::<_, CallbackError>(memory.add(added.memory_slot())?)
        })?;
        self.slots[at].is_present = true;
        if std::mem::take(&mut self.slots[at].must_be_copied) && self.is_logging {
            self.copies.copy(self.slots[at].pages())?;
        }
        self.begin_phases(dice, tally)
    }

    /// Adds all slots that are missing.
    pub(super) fn add_missing_slots(
        &mut self,
        dice: &mut Dice,
        tally: &mut Tally,
    ) -> Result<(), Ended> {
        for at in 0..self.slots.len() {
            if !self.slots[at].is_present {
                self.add_slot(at, dice, tally)?;
            }
        }
        Ok(())
    }

    /// Removes a slot and adds it again under another number, while vCPUs that write to it are paused.
    pub(super) fn renumber_slot(
        &mut self,
        dice: &mut Dice,
        tally: &mut Tally,
    ) -> Result<(), Ended> {
        let present = (0..self.slots.len()).filter(|at| self.slots[*at].is_present);
        let at = dice.pick(&present.collect::<Vec<_>>());
        let (before, id) = (self.slots[at].clone(), self.free_id(dice));
        tally.begin_with("slot_renumbering", format_args!("{}-{id}", before.slot.id));
        self.slots[at].slot.id = id;
        let after = self.slots[at].clone();
        let pause = self.running.pause()?;
        self.tracker.update_memory(|memory| {
            self.guest.remove_slot(&before.slot)?;
            memory.remove(before.memory_slot().id);
            self.guest.set_slot_logging(&after.slot, self.is_logging)?;
            Ok::<_, CallbackError>(memory.add(after.memory_slot())?)
        })?;
        if self.is_tracked() && self.flush_or_resync(tally)? {
            self.compare(after.pages(), tally)?;
        } else if self.is_logging {
            self.copies.copy(after.pages())?;
        }
        pause.resume();
        Ok(())
    }

    fn free_id(&self, dice: &mut Dice) -> u32 {
        let is_free = |id: &u32| {
            let mut present = self.slots.iter().filter(|slot| slot.is_present);
            !present.any(|slot| slot.slot.id == *id)
        };
        dice.pick(&(1..=HIGHEST_ID).filter(is_free).collect::<Vec<_>>())
    }
}
