//! Signs that KVM's indices have parted from the fetch index.
//!
//! A ring overruns where a vCPU logs more than KVM keeps free, a position is wrong where it was
//! forgotten or belongs to another ring, and another reaper moves the entries under this one. In a
//! sound ring none of these signs can appear.

use super::{Ring, RingPosition};
use crate::entry::{DirtyGfn, EntryFlags, EntryMemory};

impl<M: EntryMemory> Ring<M> {
    /// Returns whether the entry before the next one to harvest is DIRTY. One load.
    ///
    /// That entry was harvested, or never used, and KVM publishes there again only when it has gone
    /// round the whole ring: its reserve forbids it. So it has lapped the reader, or the position is
    /// wrong.
    pub(crate) fn was_lapped(&self) -> bool {
        !self.is_lost && self.memory.load_flags(self.index(u32::MAX)) == EntryFlags::DIRTY
    }

    /// Returns whether the reader was lapped in the middle of the harvest that began at `position`. At most
    /// one load.
    ///
    /// KVM can't overwrite an entry that waits from there on without the one before it, which stays DIRTY
    /// unless a harvest of the whole ring has taken it.
    pub(crate) fn was_lapped_since(&self, position: RingPosition) -> bool {
        let taken = self.fetch.wrapping_sub(position.0);
        let before = position.0.wrapping_sub(1) & self.size().mask();
        taken != 0
            && (taken >= self.size().entries()
                || self.memory.load_flags(before) == EntryFlags::DIRTY)
    }

    /// Returns whether an entry is DIRTY somewhere while the next one to harvest isn't. Loads the
    /// flags of all entries.
    ///
    /// KVM publishes in order, so the entry at the fetch index is DIRTY before any other is. It is
    /// read once more at the end: KVM may have published both meanwhile.
    pub(crate) fn has_parted(&self) -> bool {
        if self.is_lost || self.is_at_least(1) {
            return false;
        }
        let entries = self.size().entries();
        let is_dirty_elsewhere =
            (0..entries).any(|index| self.memory.load_flags(index) == EntryFlags::DIRTY);
        is_dirty_elsewhere && !self.is_at_least(1)
    }

    /// Returns whether the memory can be that of a ring at this position. Loads all entries.
    ///
    /// From the position on, a run of DIRTY entries, then entries that are neither, and up to the
    /// position maybe a run of entries that wait for their reset.
    pub fn fits_position(&self) -> bool {
        let flags = |ahead| self.memory.load_flags(self.index(ahead));
        let entries = self.size().entries();
        let mut ahead = 0u32;
        while ahead < entries && flags(ahead) == EntryFlags::DIRTY {
            ahead = ahead.saturating_add(1);
        }
        while ahead < entries && flags(ahead).is_empty() {
            ahead = ahead.saturating_add(1);
        }
        while ahead < entries && flags(ahead) == EntryFlags::RESET {
            ahead = ahead.saturating_add(1);
        }
        ahead == entries
    }

    /// Returns whether the memory can be that of a ring that was never reaped: DIRTY entries from the
    /// first one on, and all others untouched. Loads all entries.
    ///
    /// A reset clears the flags of an entry and leaves its slot and offset behind
    /// (virt/kvm/dirty_ring.c, `kvm_dirty_gfn_set_invalid`). While the vCPU runs, a ring may not look
    /// fresh for a moment: KVM stores slot and offset before the flags.
    pub fn is_fresh(&self) -> bool {
        let entries = self.size().entries();
        let used = (0..entries)
            .position(|index| self.memory.load_flags(index) != EntryFlags::DIRTY)
            .and_then(|used| u32::try_from(used).ok())
            .unwrap_or(entries);
        let is_untouched = |index| {
            self.memory.load_flags(index).is_empty()
                && self.memory.read(index) == DirtyGfn::default()
        };
        used < entries && (used..entries).all(is_untouched)
    }
}
