//! The registered memory slots: which pages a ring entry may name.

use dirty_ring_core::entry::{DirtyGfn, SlotId};
use dirty_ring_core::slots::SlotError;

/// A memory slot of the VM, as it was given to `KVM_SET_USER_MEMORY_REGION` with
/// `KVM_MEM_LOG_DIRTY_PAGES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySlot {
    /// Slot and address space.
    pub id: SlotId,
    /// Guest physical address of its first page.
    pub address: u64,
    /// Pages.
    pub pages: u64,
}

impl MemorySlot {
    /// Creates a slot with the `slot` of `kvm_userspace_memory_region`: its number, and its address space
    /// in the upper 16 bits. It has `pages` pages from the guest physical address `address` on.
    pub const fn new(slot: u32, address: u64, pages: u64) -> Self {
        Self {
            id: SlotId(slot),
            address,
            pages,
        }
    }
}

/// The slots of one VM, by number.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slots {
    present: Vec<MemorySlot>,
    /// Numbers of slots that were removed and not added again, in order.
    removed: Vec<SlotId>,
}

impl Slots {
    /// Checks whether a slot can be inserted.
    pub(crate) fn check(&self, slot: &MemorySlot) -> Result<(), SlotError> {
        if slot.pages == 0 {
            return Err(SlotError::Empty { slot: slot.id });
        }
        self.place(slot).map(|_| ())
    }

    pub(crate) fn insert(&mut self, slot: MemorySlot) -> Result<(), SlotError> {
        self.check(&slot)?;
        let at = self.place(&slot)?;
        self.present.insert(at, slot);
        if let Ok(at) = self.removed.binary_search(&slot.id) {
            self.removed.remove(at);
        }
        Ok(())
    }

    fn place(&self, slot: &MemorySlot) -> Result<usize, SlotError> {
        match self.position(slot.id) {
            Ok(_) => Err(SlotError::Duplicate { slot: slot.id }),
            Err(at) => Ok(at),
        }
    }

    /// Removes a slot; returns whether it was there.
    pub(crate) fn remove(&mut self, slot: SlotId) -> bool {
        self.position(slot).is_ok_and(|at| {
            self.present.remove(at);
            if let Err(at) = self.removed.binary_search(&slot) {
                self.removed.insert(at, slot);
            }
            true
        })
    }

    /// Returns whether `slot` was there once, and was removed.
    pub(crate) fn was_removed(&self, slot: SlotId) -> bool {
        self.removed.binary_search(&slot).is_ok()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &MemorySlot> {
        self.present.iter()
    }

    pub(crate) fn get(&self, slot: SlotId) -> Option<&MemorySlot> {
        self.position(slot).ok().and_then(|at| self.present.get(at))
    }

    /// Returns whether `gfn` names a page of a registered slot.
    pub(crate) fn contains(&self, gfn: &DirtyGfn) -> bool {
        self.get(gfn.slot)
            .is_some_and(|slot| gfn.offset < slot.pages)
    }

    fn position(&self, slot: SlotId) -> Result<usize, usize> {
        self.present.binary_search_by_key(&slot, |slot| slot.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_slots_than_a_table_of_fixed_size_would_hold_are_known_by_number() {
        let mut slots = Slots::default();
        for number in (0..2000).rev() {
            let slot = MemorySlot::new(number, 0, 1 + u64::from(number));
            slots.insert(slot).unwrap();
        }
        let gfn = |slot, offset| DirtyGfn {
            slot: SlotId::new(0, slot),
            offset,
        };
        assert!(slots.contains(&gfn(1999, 1999)) && !slots.contains(&gfn(1999, 2000)));
        assert!(!slots.was_removed(SlotId::new(0, 1999)));
        assert!(slots.remove(SlotId::new(0, 1999)) && !slots.remove(SlotId::new(0, 1999)));
        assert!(slots.was_removed(SlotId::new(0, 1999)));
        assert!(!slots.contains(&gfn(1999, 0)) && slots.contains(&gfn(1998, 0)));
        slots.insert(MemorySlot::new(1999, 0, 1)).unwrap();
        assert!(!slots.was_removed(SlotId::new(0, 1999)));
    }

    #[test]
    fn a_slot_twice_or_without_pages_is_refused() {
        let mut slots = Slots::default();
        let slot = MemorySlot::new(3, 0, 5);
        slots.insert(slot).unwrap();
        assert_eq!(
            slots.insert(slot),
            Err(SlotError::Duplicate { slot: slot.id })
        );
        let empty = MemorySlot::new(4, 0, 0);
        assert_eq!(
            slots.insert(empty),
            Err(SlotError::Empty { slot: empty.id })
        );
    }
}
