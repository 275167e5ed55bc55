//! The registered memory: which slots a ring entry may name, and how many pages each has.

use core::fmt;

use heapless::Vec;

use crate::bounded;
use crate::entry::{DirtyGfn, SlotId};

/// Slots, by number, with their sizes; at most `N` of them.
///
/// A ring is memory that a guest's host kernel writes and a bug may corrupt: an entry is checked
/// against this table before it is followed.
#[derive(Clone, Debug, Default)]
pub struct SlotTable<const N: usize> {
    slots: Vec<(SlotId, u64), N>,
}

/// Why a slot was not added. All sizes are pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlotError {
    /// The table holds as many slots as it can.
    TableFull {
        /// How many that is.
        capacity: usize,
    },
    /// The slot is there already.
    Duplicate {
        /// The slot.
        slot: SlotId,
    },
    /// A slot has to have at least one page.
    Empty {
        /// The slot.
        slot: SlotId,
    },
}

impl fmt::Display for SlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TableFull { capacity } => {
                write!(
                    f,
                    "no room for another memory slot: the table holds {capacity}"
                )
            }
            Self::Duplicate { slot } => write!(
                f,
                "memory slot {} of address space {} is registered already: remove it first",
                slot.slot(),
                slot.address_space()
            ),
            Self::Empty { slot } => write!(
                f,
                "memory slot {} of address space {} has no pages",
                slot.slot(),
                slot.address_space()
            ),
        }
    }
}

impl core::error::Error for SlotError {}

impl<const N: usize> SlotTable<N> {
    /// Creates an empty table.
    pub const fn new() -> Self {
        Self { slots: Vec::new() }
    }

    /// Adds `slot` with `pages` pages.
    ///
    /// # Errors
    /// [`SlotError`], and the table is as it was.
    pub fn insert(&mut self, slot: SlotId, pages: u64) -> Result<(), SlotError> {
        if pages == 0 {
            return Err(SlotError::Empty { slot });
        }
        match self.position(slot) {
            Ok(_) => Err(SlotError::Duplicate { slot }),
            Err(at) => bounded::insert(&mut self.slots, at, (slot, pages))
                .map_err(|_| SlotError::TableFull { capacity: N }),
        }
    }

    /// Removes `slot` and returns its pages, or `None` if it isn't there. Reset the rings first:
    /// an entry that still names the slot would be refused (or worse, name its successor).
    pub fn remove(&mut self, slot: SlotId) -> Option<u64> {
        let at = self.position(slot).ok()?;
        bounded::remove(&mut self.slots, at).map(|(_, pages)| pages)
    }

    /// Returns the pages of `slot`, or `None` if it isn't there.
    pub fn pages(&self, slot: SlotId) -> Option<u64> {
        let at = self.position(slot).ok()?;
        self.slots.get(at).map(|&(_, pages)| pages)
    }

    /// Returns whether `gfn` names a page of a registered slot.
    pub fn contains(&self, gfn: &DirtyGfn) -> bool {
        self.pages(gfn.slot).is_some_and(|pages| gfn.offset < pages)
    }

    fn position(&self, slot: SlotId) -> Result<usize, usize> {
        self.slots.binary_search_by_key(&slot, |&(id, _)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_registered_slots_are_contained() {
        let mut table = SlotTable::<4>::new();
        table.insert(SlotId::new(0, 7), 10).unwrap();
        table.insert(SlotId::new(1, 2), 1).unwrap();
        let gfn = |slot, offset| DirtyGfn { slot, offset };
        assert!(table.contains(&gfn(SlotId::new(0, 7), 9)));
        assert!(!table.contains(&gfn(SlotId::new(0, 7), 10)));
        assert!(!table.contains(&gfn(SlotId::new(0, 2), 0)));
        assert!(!table.contains(&gfn(SlotId::new(1, 2), u64::MAX)));
        assert_eq!(table.remove(SlotId::new(0, 7)), Some(10));
        assert!(!table.contains(&gfn(SlotId::new(0, 7), 9)));
        assert_eq!(table.remove(SlotId::new(0, 7)), None);
    }

    #[test]
    fn wrong_slots_are_refused_and_change_nothing() {
        let mut table = SlotTable::<1>::new();
        let (first, second) = (SlotId::new(0, 0), SlotId::new(0, 1));
        assert_eq!(
            table.insert(first, 0),
            Err(SlotError::Empty { slot: first })
        );
        table.insert(first, 5).unwrap();
        assert_eq!(
            table.insert(first, 6),
            Err(SlotError::Duplicate { slot: first })
        );
        assert_eq!(
            table.insert(second, 6),
            Err(SlotError::TableFull { capacity: 1 })
        );
        assert_eq!(table.pages(first), Some(5));
    }
}
