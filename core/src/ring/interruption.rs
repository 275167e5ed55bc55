//! Which entries an interrupted reset may have forgotten.
//!
//! `kvm_dirty_ring_reset` gathers neighbouring pages of one slot in a mask of 64 bits and
//! write-protects them together. Since Linux 6.17 it returns on a pending signal and leaves that mask
//! behind: its entries are counted, their pages are still writable, and writes to them are logged no
//! more. The pages of the mask are within 63 pages of the last entry that was reset.

use super::Ring;
use crate::entry::{DirtyGfn, EntryFlags, EntryMemory};

/// Pages on each side of the last entry that an interrupted reset may have forgotten: the bits of
/// KVM's mask, less one.
const MASK_REACH: u64 = 63;

/// Which harvested entries of a ring wait for their reset.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unreset {
    /// The collector's count of times when nothing waited in any ring; of an older one, nothing waits
    /// here.
    epoch: u64,
    /// Index of the oldest of them.
    from: u32,
    /// The last entry that the reset at hand got to.
    last: Option<LastReset>,
}

impl Unreset {
    pub(super) const NONE: Self = Self {
        epoch: 0,
        from: 0,
        last: None,
    };
}

/// The last entry of a ring that a reset got to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastReset {
    gfn: DirtyGfn,
}

impl LastReset {
    /// Returns whether the interrupted reset may have forgotten the page.
    pub(crate) const fn may_have_forgotten(&self, gfn: &DirtyGfn) -> bool {
        gfn.slot.0 == self.gfn.slot.0 && gfn.offset.abs_diff(self.gfn.offset) <= MASK_REACH
    }
}

impl<M: EntryMemory> Ring<M> {
    /// Notes that a harvest begins in `epoch`.
    pub(crate) fn note_unreset(&mut self, epoch: u64) {
        if self.unreset.epoch != epoch {
            self.unreset = Unreset {
                epoch,
                from: self.fetch,
                last: None,
            };
        }
    }

    /// Takes over the entries that an earlier reader harvested and KVM hasn't reset, at most `limit`;
    /// returns how many those are. `take` gets their pages.
    pub(crate) fn inherit(
        &mut self,
        epoch: u64,
        limit: u32,
        mut take: impl FnMut(DirtyGfn),
    ) -> u32 {
        let mut inherited = 0u32;
        // A ring is lost only after all of it was reset.
        let limit = if self.is_lost { 0 } else { limit };
        while inherited < limit && self.flags_behind(inherited) == EntryFlags::RESET {
            take(self.memory.read(self.index(behind(inherited))));
            inherited = inherited.saturating_add(1);
        }
        self.unreset = Unreset {
            epoch,
            from: self.fetch.wrapping_sub(inherited),
            last: None,
        };
        inherited
    }

    /// Returns whether more than `entries` wait for their reset.
    pub(crate) fn has_more_waiting(&self, entries: u32) -> bool {
        entries < self.size().entries() && self.flags_behind(entries) == EntryFlags::RESET
    }

    /// Finds out how far the reset of `epoch` came that just ended early; returns whether it stopped
    /// in the middle of this ring.
    pub(crate) fn find_last_reset(&mut self, epoch: u64) -> bool {
        if self.unreset.epoch != epoch {
            return false;
        }
        // KVM resets in order, so what is left is a run of RESET entries up to the fetch index.
        let waited = self.fetch.wrapping_sub(self.unreset.from);
        let mut left = 0u32;
        while left < waited && self.flags_behind(left) == EntryFlags::RESET {
            left = left.saturating_add(1);
        }
        if left == waited {
            return false;
        }
        self.unreset.from = self.fetch.wrapping_sub(left);
        self.unreset.last = Some(LastReset {
            // KVM publishes there again only after a whole round, which its reserve forbids.
            gfn: self.memory.read(self.index(behind(left))),
        });
        left != 0
    }

    /// Returns the last entry that the reset got to, if it got to any, and forgets it.
    pub(crate) fn take_last_reset(&mut self, epoch: u64) -> Option<LastReset> {
        let last = self.unreset.last.take();
        last.filter(|_| self.unreset.epoch == epoch)
    }

    /// Returns whether entries of `epoch` wait for their reset, as of the last early end of one.
    pub(crate) const fn has_waiting(&self, epoch: u64) -> bool {
        self.unreset.epoch == epoch && self.unreset.from != self.fetch
    }

    fn flags_behind(&self, entries: u32) -> EntryFlags {
        self.memory.load_flags(self.index(behind(entries)))
    }
}

/// Returns the distance, for [`Ring::index`], of the entry that was harvested `entries` before the
/// last one.
const fn behind(entries: u32) -> u32 {
    entries.wrapping_add(1).wrapping_neg()
}
