//! The pages that a reset write-protects together.

use dirty_ring_core::entry::{DirtyGfn, SlotId};

/// Bits of the mask (`BITS_PER_LONG`).
const BITS: u64 = u64::BITS as u64;

/// Up to 64 neighbouring pages of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mask {
    slot: SlotId,
    /// The page of bit 0, inside the slot.
    offset: u64,
    bits: u64,
}

impl Mask {
    /// Creates the mask of one page.
    pub(crate) fn of(gfn: &DirtyGfn) -> Self {
        Self {
            slot: gfn.slot,
            offset: gfn.offset,
            bits: 1,
        }
    }

    /// Adds a page, if the mask reaches it: forward from its first page, or backward where no page
    /// drops out at the other end.
    pub(crate) fn gather(&mut self, gfn: &DirtyGfn) -> bool {
        if gfn.slot != self.slot {
            return false;
        }
        let ahead = gfn.offset.wrapping_sub(self.offset);
        let behind = self.offset.wrapping_sub(gfn.offset);
        if ahead < BITS {
            self.bits |= 1 << ahead;
            true
        } else if behind < BITS && (self.bits << behind) >> behind == self.bits {
            self.offset = gfn.offset;
            self.bits = (self.bits << behind) | 1;
            true
        } else {
            false
        }
    }

    /// Returns the last page.
    pub(crate) fn last(&self) -> DirtyGfn {
        self.page(self.bits.ilog2().into())
    }

    /// Returns all pages.
    pub(crate) fn pages(&self) -> impl Iterator<Item = DirtyGfn> {
        let bits = (0..BITS).filter(|bit| self.bits >> bit & 1 != 0);
        bits.map(|bit| self.page(bit))
    }

    fn page(&self, bit: u64) -> DirtyGfn {
        DirtyGfn {
            slot: self.slot,
            offset: self.offset.wrapping_add(bit),
        }
    }
}
