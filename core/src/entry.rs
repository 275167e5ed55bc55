//! Entries of a dirty ring (`struct kvm_dirty_gfn`) and the memory that holds them.

use bitflags::bitflags;

use crate::size::RingSize;

bitflags! {
    /// The `flags` word of a ring entry (api.rst 8.29).
    ///
    /// KVM publishes an entry with [`DIRTY`](Self::DIRTY), userspace answers with
    /// [`RESET`](Self::RESET), and KVM's reset makes the word 0 again.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct EntryFlags: u32 {
        /// The entry holds a dirty page that was not harvested yet.
        const DIRTY = 1 << 0;
        /// The entry was harvested and waits for KVM's reset.
        const RESET = 1 << 1;
    }
}

/// A memory slot as a ring entry names it: address space in the upper, slot in the lower 16 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u32);

impl SlotId {
    /// Creates the id of slot `slot` in `address_space` (0, or 1 for x86's SMM).
    pub const fn new(address_space: u16, slot: u16) -> Self {
        Self(((address_space as u32) << 16) | slot as u32)
    }

    /// Returns the address space.
    pub const fn address_space(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Returns the slot's number inside its address space.
    pub const fn slot(self) -> u16 {
        self.0 as u16
    }
}

/// A dirty page as KVM logs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirtyGfn {
    /// The memory slot.
    pub slot: SlotId,
    /// The page inside the slot, in pages.
    pub offset: u64,
}

/// The memory of one dirty ring, shared with the kernel (or with something that plays its part).
///
/// Indices are below [`size`](Self::size)`().entries()`; callers keep to that, and an implementer
/// may mask.
///
/// # What an implementer MUST give
///
/// * [`load_flags`](Self::load_flags) is an *acquire* load: what KVM wrote before it published the
///   entry is visible after it (api.rst 8.29, `KVM_CAP_DIRTY_LOG_RING_ACQ_REL`).
/// * [`store_flags`](Self::store_flags) is a *release* store that replaces the whole word: the
///   reads of the entry come before it.
/// * [`read`](Self::read) reads `slot` and `offset` and nothing else; it is only called between
///   the two above, and on entries that KVM has reset or never used.
/// * [`replace_flags`](Self::replace_flags) is one atomic compare-and-exchange of the whole word, with
///   acquire and release ordering. Only a resynchronisation calls it.
/// * No method blocks, and none panics.
pub trait EntryMemory {
    /// Returns the ring's size, which MUST NOT change.
    fn size(&self) -> RingSize;
    /// Acquire-loads the flags of entry `index`.
    fn load_flags(&self, index: u32) -> EntryFlags;
    /// Reads slot and offset of entry `index`, which was published.
    fn read(&self, index: u32) -> DirtyGfn;
    /// Release-stores the flags of entry `index`.
    fn store_flags(&self, index: u32, flags: EntryFlags);
    /// Stores `new` in the flags of entry `index` if they are `old`.
    fn replace_flags(&self, index: u32, old: EntryFlags, new: EntryFlags);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_id_is_address_space_and_slot() {
        let id = SlotId::new(1, 0xfffe);
        assert_eq!(id.0, 0x1_fffe);
        assert_eq!((id.address_space(), id.slot()), (1, 0xfffe));
    }
}
