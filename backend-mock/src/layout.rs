//! Where a vCPU's pages are in guest memory.

use dirty_ring_core::entry::{DirtyGfn, SlotId};
use dirty_ring_core::slots::SlotTable;
use dirty_ring_workload::Workload;

use crate::kernel::Mask;
use crate::pages::WORD_PAGES;

/// The memory slots of the simulated VM. Not 0 and 1, so that a mistaken index shows.
const SLOTS: [SlotId; 2] = [SlotId::new(0, 3), SlotId::new(0, 7)];

/// A slot that the simulated VM doesn't have.
const UNKNOWN_SLOT: SlotId = SlotId::new(1, 99);

/// Pages that a reset write-protects together.
const MASK_PAGES: u64 = 64;

/// Guest memory: the regions of the vCPUs one after the other, cut in the middle into two slots.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    regions: Vec<Region>,
    /// The region of each word of pages.
    owners: Vec<u32>,
    map: SlotMap,
}

/// A vCPU's own pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// The first page, counted over all memory.
    pub(crate) first: usize,
    /// How many there are; at least one.
    pub(crate) pages: usize,
}

/// Which slot a page is in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotMap {
    /// Pages of the first slot.
    cut: usize,
    /// Pages of both.
    total: usize,
}

/// Returns the pages that each vCPU needs, rounded up so that each region has words of its own.
pub(crate) fn region_pages(workload: &Workload, vcpu: usize) -> usize {
    (workload.max_pages(vcpu) as usize)
        .max(1)
        .next_multiple_of(WORD_PAGES)
}

impl Layout {
    pub(crate) fn new(workload: &Workload, vcpus: usize) -> Self {
        let mut regions = Vec::with_capacity(vcpus);
        let mut owners = Vec::new();
        let mut first = 0;
        for vcpu in 0..vcpus {
            let pages = region_pages(workload, vcpu);
            regions.push(Region { first, pages });
            owners.resize(owners.len() + pages / WORD_PAGES, vcpu as u32);
            first += pages;
        }
        Self {
            regions,
            owners,
            map: SlotMap {
                cut: first / 2,
                total: first,
            },
        }
    }

    pub(crate) fn region(&self, vcpu: usize) -> Region {
        self.regions[vcpu]
    }

    pub(crate) fn slot_map(&self) -> SlotMap {
        self.map
    }

    /// Returns the vCPU whose page it is, and the page inside its region.
    pub(crate) fn owner(&self, page: usize) -> (usize, usize) {
        let vcpu = self.owners[page / WORD_PAGES] as usize;
        (vcpu, page - self.regions[vcpu].first)
    }
}

impl SlotMap {
    /// Returns the pages of all slots.
    pub(crate) fn total(self) -> usize {
        self.total
    }

    /// Returns the slots with their pages.
    pub(crate) fn slots(self) -> [(SlotId, usize); 2] {
        [(SLOTS[0], self.cut), (SLOTS[1], self.total - self.cut)]
    }

    /// Returns the slots for the collector to check entries against.
    pub(crate) fn table(self) -> SlotTable<3> {
        let mut table = SlotTable::new();
        for (slot, pages) in self.slots() {
            table
                .insert(slot, pages as u64)
                .expect("two slots with pages fit the table");
        }
        table
    }

    /// Returns the entry that names `page`.
    pub(crate) fn gfn(self, page: usize) -> DirtyGfn {
        let (slot, offset) = if page < self.cut {
            (SLOTS[0], page)
        } else {
            (SLOTS[1], page - self.cut)
        };
        DirtyGfn {
            slot,
            offset: offset as u64,
        }
    }

    /// Returns the pages that KVM write-protects for `mask` (`kvm_reset_dirty_gfn`): none, if the slot
    /// is unknown, or if one of them is beyond its end.
    pub(crate) fn protected_by(self, mask: &Mask) -> impl Iterator<Item = usize> {
        let is_inside = self.page(&mask.last()).is_some();
        let pages = mask.pages().filter_map(move |gfn| self.page(&gfn));
        pages.take_while(move |_| is_inside)
    }

    /// Returns an entry that names no page: an unknown slot, or an offset beyond its slot. Not within
    /// the mask of a sound page, or that one would stay writable.
    pub(crate) fn garbage(self, draw: u64) -> DirtyGfn {
        let [_, (slot, pages)] = self.slots();
        let beyond = MASK_PAGES + (draw >> 1 & 0xf_ffff);
        if draw & 1 == 0 {
            DirtyGfn {
                slot,
                offset: pages as u64 + beyond,
            }
        } else {
            DirtyGfn {
                slot: UNKNOWN_SLOT,
                offset: beyond,
            }
        }
    }

    /// Returns the page that an entry names, if there is one.
    pub(crate) fn page(self, gfn: &DirtyGfn) -> Option<usize> {
        let (first, pages) = if gfn.slot == SLOTS[0] {
            (0, self.cut)
        } else if gfn.slot == SLOTS[1] {
            (self.cut, self.total - self.cut)
        } else {
            return None;
        };
        let offset = usize::try_from(gfn.offset).ok()?;
        (offset < pages).then(|| first + offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_entries_name_each_other() {
        let workload: Workload = "pages=100,spin=0|pages=0,spin=0".parse().unwrap();
        let layout = Layout::new(&workload, 3);
        let map = layout.slot_map();
        assert_eq!(map.total(), 128 + 64 + 64);
        assert_eq!(layout.owner(127), (0, 127));
        assert_eq!(layout.owner(200), (2, 8));
        for page in 0..map.total() {
            let gfn = map.gfn(page);
            assert!(map.table().contains(&gfn));
            assert_eq!(map.page(&gfn), Some(page));
        }
        for (slot, pages) in map.slots() {
            let offset = pages as u64;
            assert_eq!(map.page(&DirtyGfn { slot, offset }), None);
        }
    }

    #[test]
    fn a_mask_that_reaches_beyond_its_slot_protects_nothing() {
        let layout = Layout::new(&"pages=128,spin=0".parse().unwrap(), 1);
        let map = layout.slot_map();
        let [(slot, pages), _] = map.slots();
        let gfn = |offset| DirtyGfn { slot, offset };
        let mut mask = Mask::of(&gfn(pages as u64 - 2));
        assert!(mask.gather(&gfn(pages as u64 - 1)));
        assert_eq!(map.protected_by(&mask).collect::<Vec<_>>(), [62, 63]);
        assert!(mask.gather(&gfn(pages as u64)));
        assert_eq!(map.protected_by(&mask).count(), 0);
        let unknown = DirtyGfn {
            slot: SlotId(1),
            offset: 0,
        };
        assert_eq!(map.protected_by(&Mask::of(&unknown)).count(), 0);
    }
}
