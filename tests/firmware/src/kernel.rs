//! Rings in plain memory, and the part that KVM plays in them.

use core::cell::Cell;

use dirty_ring_core::backend::{Backend, Reset};
use dirty_ring_core::entry::{DirtyGfn, EntryFlags, EntryMemory, SlotId};
use dirty_ring_core::ring::Ring;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::slots::SlotTable;
use dirty_ring_core::time::Instant;

use crate::{RING_ENTRIES, RING_SIZE};

/// Rings, one for each vCPU of the trace.
pub(crate) const RINGS: usize = 2;

/// Pages that each vCPU writes round and round: more than fit in a ring.
const PAGES: u32 = 4000;

/// The entries of one ring.
#[derive(Debug)]
pub struct PlainMemory {
    flags: [Cell<EntryFlags>; RING_ENTRIES],
    gfns: [Cell<DirtyGfn>; RING_ENTRIES],
    /// Where KVM publishes next, free-running.
    published: Cell<u32>,
    /// Where KVM resets next, free-running.
    reset: Cell<u32>,
}

impl PlainMemory {
    fn new() -> Self {
        Self {
            flags: [const { Cell::new(EntryFlags::empty()) }; RING_ENTRIES],
            gfns: [const {
                Cell::new(DirtyGfn {
                    slot: SlotId(0),
                    offset: 0,
                })
            }; RING_ENTRIES],
            published: Cell::new(0),
            reset: Cell::new(0),
        }
    }

    /// Publishes an entry, unless the ring is full; returns whether it did.
    fn log(&self, gfn: DirtyGfn) -> bool {
        let index = self.published.get();
        if index.wrapping_sub(self.reset.get()) >= RING_SIZE.soft_limit() {
            return false;
        }
        if let Some(place) = self.gfns.get(masked(index)) {
            place.set(gfn);
        }
        self.store_flags(index, EntryFlags::DIRTY);
        self.published.set(index.wrapping_add(1));
        true
    }

    /// Resets what was harvested, in order; returns how many entries.
    fn reset(&self) -> u32 {
        let begin = self.reset.get();
        while self.load_flags(self.reset.get()) == EntryFlags::RESET {
            self.store_flags(self.reset.get(), EntryFlags::empty());
            self.reset.set(self.reset.get().wrapping_add(1));
        }
        self.reset.get().wrapping_sub(begin)
    }
}

fn masked(index: u32) -> usize {
    index as usize % RING_ENTRIES
}

impl EntryMemory for PlainMemory {
    fn size(&self) -> RingSize {
        RING_SIZE
    }

    fn load_flags(&self, index: u32) -> EntryFlags {
        let flags = self.flags.get(masked(index));
        flags.map_or(EntryFlags::empty(), Cell::get)
    }

    fn read(&self, index: u32) -> DirtyGfn {
        let gfn = self.gfns.get(masked(index));
        gfn.map_or(DirtyGfn::default(), Cell::get)
    }

    fn store_flags(&self, index: u32, flags: EntryFlags) {
        if let Some(place) = self.flags.get(masked(index)) {
            place.set(flags);
        }
    }

    fn replace_flags(&self, index: u32, old: EntryFlags, new: EntryFlags) {
        if self.load_flags(index) == old {
            self.store_flags(index, new);
        }
    }
}

/// What resets the entries and takes the pages.
#[derive(Debug)]
pub(crate) struct Kernel {
    rings: [Ring<PlainMemory>; RINGS],
    slots: SlotTable<RINGS>,
    /// The next page of each vCPU.
    next: [u32; RINGS],
    published: u64,
    /// Depends on every published page and on their order.
    checksum: u64,
}

/// A backend that never fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Never {}

impl Kernel {
    pub(crate) fn new(now: Instant) -> Self {
        let mut slots = SlotTable::new();
        for slot in 0..RINGS as u16 {
            // There is room for every slot.
            let _ = slots.insert(SlotId::new(0, slot), PAGES.into());
        }
        Self {
            rings: core::array::from_fn(|_| Ring::new(PlainMemory::new(), now)),
            slots,
            next: [0; RINGS],
            published: 0,
            checksum: 0,
        }
    }

    /// Lets vCPU `vcpu` write a page; returns whether its ring had room.
    pub(crate) fn write(&mut self, vcpu: usize) -> bool {
        let (Some(ring), Some(next)) = (self.rings.get(vcpu), self.next.get_mut(vcpu)) else {
            return true;
        };
        let page = DirtyGfn {
            slot: SlotId::new(0, vcpu as u16),
            offset: (*next).into(),
        };
        let had_room = ring.memory().log(page);
        if had_room {
            *next = next.saturating_add(1) % PAGES;
        }
        had_room
    }

    /// Returns how many pages were published.
    pub(crate) fn published(&self) -> u64 {
        self.published
    }

    /// Returns a number that depends on every published page and on their order.
    pub(crate) fn checksum(&self) -> u64 {
        self.checksum
    }
}

impl Backend for Kernel {
    type Memory = PlainMemory;
    type Error = Never;

    fn rings(&self) -> &[Ring<PlainMemory>] {
        &self.rings
    }

    fn rings_mut(&mut self) -> &mut [Ring<PlainMemory>] {
        &mut self.rings
    }

    fn is_registered(&self, gfn: &DirtyGfn) -> bool {
        self.slots.contains(gfn)
    }

    fn reset(&mut self) -> Result<Reset, Never> {
        let entries = self.rings.iter().map(|ring| ring.memory().reset());
        Ok(Reset::of(entries.fold(0, u32::saturating_add)))
    }

    fn publish(&mut self, pages: &[DirtyGfn]) -> Result<(), Never> {
        // FNV-1a, over words.
        const PRIME: u64 = 0x100_0000_01b3;
        for page in pages {
            self.published = self.published.saturating_add(1);
            for word in [page.slot.0.into(), page.offset] {
                self.checksum = (self.checksum ^ word).wrapping_mul(PRIME);
            }
        }
        Ok(())
    }

    fn publish_all(&mut self) -> Result<(), Never> {
        Ok(())
    }
}
