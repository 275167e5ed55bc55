//! How a ring is had back whose position is unknown or whose indices have parted.
//!
//! Two numbers are lost: where KVM publishes next, and where its reset goes on. Neither can be read,
//! but the entries tell. A reset goes on over entries that are marked RESET and stops at the first that
//! isn't; and where a ring was empty, the first entry that turns DIRTY is where KVM publishes.
//!
//! 1. [`begin_clear`](Ring::begin_clear): every entry is taken out of the ring. With one DIRTY entry left as a
//!    barrier and all others marked RESET, a reset brings KVM's index to the barrier and no further, so
//!    it can't pass the index at which KVM publishes. The ring is *lost* now.
//! 2. When the vCPU has logged a page, [`find_run`](Ring::find_run) finds the run of DIRTY entries, and
//!    [`settle_at`](Ring::settle_at) brings KVM's reset index to its beginning, with that entry as the
//!    barrier. The ring is sound again, and no entry of the run is forgotten.
//! 3. A ring that is empty, yet full for KVM, gives way part by part:
//!    [`mark_part`](Ring::mark_part).
//!
//! All of it holds while the vCPU runs: marks are compared and exchanged, so an entry that KVM
//! publishes meanwhile stays DIRTY.
//!
//! Clearing forgets pages, and an overrun has overwritten entries. Those pages are writable and no
//! reset will ever protect them, so a resynchronisation has to switch logging off and on again, which
//! protects all memory, and count all memory as dirty.

use super::{AtRingFull, Ring, Unreset};
use crate::entry::{EntryFlags, EntryMemory};
use crate::growth::Growth;
use crate::time::Instant;

/// Parts of a ring of which one may be reset while KVM finds the ring full. A part is smaller than the
/// soft limit, whatever KVM keeps free.
pub(crate) const PARTS: u32 = 4;

impl<M: EntryMemory> Ring<M> {
    /// Returns whether the position is unknown, because of a resynchronisation.
    pub const fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Begins to take every entry out of the ring: marks all but one barrier, which it returns. A reset
    /// and [`end_clear`](Self::end_clear) have to follow. Without a barrier nothing is marked. `had_failed`:
    /// the reaping of the VM's rings had ended with a failure.
    pub(crate) fn begin_clear(&mut self, had_failed: bool) -> Option<u32> {
        // Of a sound ring KVM counts one entry at most when it is cleared.
        self.may_be_full |= had_failed || !(self.is_lost || self.fits_position());
        self.is_lost = true;
        self.unreset = Unreset::NONE;
        self.at_ring_full = AtRingFull {
            is_served: false,
            fruitless: 0,
        };
        self.unmark();
        // The end of a run is nearest to where KVM publishes.
        let barrier = self.end_of_run().or_else(|| self.dirty().next())?;
        // Backwards, against the vCPU that may publish behind the barrier meanwhile: what is left of that
        // is DIRTY from one entry on. Forwards, an entry that was marked could lie between two that KVM
        // published behind the search and ahead of it.
        for behind in 1..self.size().entries() {
            let index = barrier.wrapping_sub(behind) & self.size().mask();
            self.replace(index, EntryFlags::DIRTY, EntryFlags::RESET);
            self.replace(index, EntryFlags::empty(), EntryFlags::RESET);
        }
        Some(barrier)
    }

    /// Ends what [`begin_clear`](Self::begin_clear) began.
    pub(crate) fn end_clear(&mut self, barrier: Option<u32>) {
        self.unmark();
        if let Some(barrier) = barrier {
            self.replace(barrier, EntryFlags::DIRTY, EntryFlags::empty());
        }
    }

    /// Returns the beginning of the run of DIRTY entries, if the vCPU of a cleared ring has logged one.
    pub(crate) fn find_run(&self) -> Option<u32> {
        self.dirty()
            .find(|index| !self.is_dirty(index.wrapping_sub(1)))
    }

    /// Returns whether KVM may find the cleared ring full, because its indices had parted.
    pub(crate) const fn may_be_full(&self) -> bool {
        self.is_lost && self.may_be_full
    }

    /// Returns whether every entry is DIRTY: a cleared ring has overrun once more.
    pub(crate) fn is_all_dirty(&self) -> bool {
        (0..self.size().entries()).all(|index| self.is_dirty(index))
    }

    /// Marks every entry that isn't DIRTY, so that a reset brings KVM's index to the beginning of the
    /// run. [`settle_at`](Self::settle_at) has to follow.
    pub(crate) fn mark_empty(&self) {
        self.mark_range(0, self.size().entries());
    }

    /// Goes on at `run`, to which a reset has brought KVM's index.
    pub(crate) fn settle_at(&mut self, run: u32, now: Instant) {
        self.unmark();
        self.is_lost = false;
        self.may_be_full = false;
        self.fetch = run;
        // A harvest that found the ring lost has noted where it would have begun.
        self.unreset = Unreset::NONE;
        let published = run.wrapping_add(self.occupancy_from(0));
        self.growth = Growth::starting_at(now, published);
    }

    /// Marks part `part` of a cleared ring. A reset and [`unmark`](Self::unmark) have to follow.
    pub(crate) fn mark_part(&self, part: u32) {
        let length = self.size().entries() / PARTS;
        let begin = part.saturating_mul(length);
        self.mark_range(begin, begin.saturating_add(length));
    }

    /// Takes back the marks that no reset got to.
    pub(crate) fn unmark(&self) {
        for index in 0..self.size().entries() {
            self.replace(index, EntryFlags::RESET, EntryFlags::empty());
        }
    }

    fn mark_range(&self, begin: u32, end: u32) {
        for index in begin..end {
            self.replace(index, EntryFlags::empty(), EntryFlags::RESET);
        }
    }

    fn replace(&self, index: u32, old: EntryFlags, new: EntryFlags) {
        self.memory.replace_flags(index, old, new);
    }

    fn is_dirty(&self, index: u32) -> bool {
        self.memory.load_flags(index & self.size().mask()) == EntryFlags::DIRTY
    }

    fn dirty(&self) -> impl Iterator<Item = u32> {
        (0..self.size().entries()).filter(|index| self.is_dirty(*index))
    }

    fn end_of_run(&self) -> Option<u32> {
        self.dirty()
            .find(|index| !self.is_dirty(index.wrapping_add(1)))
    }
}
