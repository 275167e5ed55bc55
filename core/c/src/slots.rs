//! The registered memory slots.

use std::collections::BTreeMap;

use dirty_ring_core::entry::{DirtyGfn, SlotId};
use dirty_ring_core::slots::SlotError;

/// The slots of one VM with their pages; 0 for one that was removed and not added again.
#[derive(Debug, Default)]
pub(crate) struct Slots(BTreeMap<SlotId, u64>);

impl Slots {
    /// Adds `slot` with `pages` pages.
    pub(crate) fn insert(&mut self, slot: SlotId, pages: u64) -> Result<(), SlotError> {
        if pages == 0 {
            return Err(SlotError::Empty { slot });
        }
        if self.pages(slot) != 0 {
            return Err(SlotError::Duplicate { slot });
        }
        self.0.insert(slot, pages);
        Ok(())
    }

    /// Removes `slot`; returns whether it was there.
    pub(crate) fn remove(&mut self, slot: SlotId) -> bool {
        let pages = self.0.get_mut(&slot).map(std::mem::take);
        pages.is_some_and(|pages| pages != 0)
    }

    /// Returns whether `slot` was there once, and was removed.
    pub(crate) fn was_removed(&self, slot: SlotId) -> bool {
        self.0.get(&slot) == Some(&0)
    }

    /// Returns the pages of `slot`, 0 where it isn't there.
    pub(crate) fn pages(&self, slot: SlotId) -> u64 {
        self.0.get(&slot).copied().unwrap_or(0)
    }

    /// Returns whether `gfn` names a page of a registered slot.
    pub(crate) fn contains(&self, gfn: &DirtyGfn) -> bool {
        gfn.offset < self.pages(gfn.slot)
    }

    /// Returns the slots that are there, with their pages.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SlotId, u64)> {
        let slots = self.0.iter().map(|(slot, pages)| (*slot, *pages));
        slots.filter(|(_, pages)| *pages != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_known_until_it_is_removed_and_remembered_then() {
        let mut slots = Slots::default();
        let slot = SlotId::new(1, 7);
        let page = |offset| DirtyGfn { slot, offset };
        assert!(!slots.remove(slot) && !slots.was_removed(slot));
        assert_eq!(slots.insert(slot, 0), Err(SlotError::Empty { slot }));
        assert_eq!(slots.insert(slot, 3), Ok(()));
        assert_eq!(slots.insert(slot, 3), Err(SlotError::Duplicate { slot }));
        assert!(slots.contains(&page(2)) && !slots.contains(&page(3)));
        assert!(slots.remove(slot) && !slots.remove(slot));
        assert!(slots.was_removed(slot) && !slots.contains(&page(0)));
        assert_eq!(slots.iter().count(), 0);
        assert_eq!(slots.insert(slot, 4), Ok(()));
        assert!(!slots.was_removed(slot) && slots.contains(&page(3)));
    }
}
