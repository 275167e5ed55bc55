//! The ring protocol against an array that plays KVM.

use core::cell::Cell;
use std::vec::Vec;

use super::*;
use crate::entry::SlotId;

const SIZE: RingSize = match RingSize::new(256, 4096, 0) {
    Ok(size) => size,
    Err(_) => panic!("256 entries are a ring"),
};

/// Entries in cells; the test is the kernel.
struct Cells {
    flags: Vec<Cell<u32>>,
    offsets: Vec<Cell<u64>>,
    loads: Cell<u32>,
}

impl Cells {
    fn new() -> Self {
        Self {
            flags: (0..256).map(|_| Cell::new(0)).collect(),
            offsets: (0..256).map(|_| Cell::new(0)).collect(),
            loads: Cell::new(0),
        }
    }

    fn push(&self, index: u64) {
        self.offsets[index as usize % 256].set(index);
        self.flags[index as usize % 256].set(EntryFlags::DIRTY.bits());
    }

    fn reset(&self, index: u64) {
        assert_eq!(self.flags[index as usize % 256].get(), 2);
        self.flags[index as usize % 256].set(0);
    }
}

impl EntryMemory for Cells {
    fn size(&self) -> RingSize {
        SIZE
    }
    fn load_flags(&self, index: u32) -> EntryFlags {
        self.loads.set(self.loads.get() + 1);
        EntryFlags::from_bits_retain(self.flags[index as usize].get())
    }
    fn read(&self, index: u32) -> DirtyGfn {
        DirtyGfn {
            slot: SlotId(0),
            offset: self.offsets[index as usize].get(),
        }
    }
    fn store_flags(&self, index: u32, flags: EntryFlags) {
        self.flags[index as usize].set(flags.bits());
    }
}

fn harvest(ring: &mut Ring<Cells>, limit: u32) -> Vec<u64> {
    let mut taken = Vec::new();
    let count = ring.harvest(limit, |gfn| taken.push(gfn.offset));
    assert_eq!(count as usize, taken.len());
    taken
}

#[test]
fn harvest_is_in_order_bounded_and_goes_on_where_it_stopped() {
    let mut ring = Ring::new(Cells::new(), 0);
    (0..10).for_each(|i| ring.memory.push(i));
    assert_eq!(harvest(&mut ring, 4), [0, 1, 2, 3]);
    assert_eq!(harvest(&mut ring, 0), []);
    assert_eq!(harvest(&mut ring, 100), [4, 5, 6, 7, 8, 9]);
    assert_eq!(harvest(&mut ring, 100), []);
    assert_eq!(ring.stats().harvested, 10);
}

#[test]
fn harvest_wraps_around_the_ring_and_around_u32() {
    let mut ring = Ring::new(Cells::new(), 0);
    let start = u64::from(u32::MAX) - 99;
    ring.fetch = start as u32;
    for round in 0..4 {
        let range = start + round * 200..start + (round + 1) * 200;
        range.clone().for_each(|i| ring.memory.push(i));
        assert_eq!(ring.occupancy(), 200);
        assert_eq!(harvest(&mut ring, 256), range.clone().collect::<Vec<_>>());
        range.for_each(|i| ring.memory.reset(i));
    }
    assert_eq!(ring.fetch, 700);
}

#[test]
fn only_exactly_dirty_is_harvested_and_reset_replaces_the_flags() {
    for flags in [0, 2, 3, 5, 1 << 31 | 1] {
        let mut ring = Ring::new(Cells::new(), 0);
        (0..2).for_each(|i| ring.memory.push(i));
        ring.memory.flags[0].set(flags);
        assert_eq!(harvest(&mut ring, 8), [], "flags {flags:#x}");
        assert_eq!(ring.memory.flags[0].get(), flags);
    }
    let mut ring = Ring::new(Cells::new(), 0);
    ring.memory.push(0);
    harvest(&mut ring, 1);
    assert_eq!(ring.memory.flags[0].get(), EntryFlags::RESET.bits());
}

#[test]
fn an_entry_is_not_harvested_twice_before_its_reset() {
    let mut ring = Ring::new(Cells::new(), 0);
    (0..256).for_each(|i| ring.memory.push(i));
    assert_eq!(harvest(&mut ring, u32::MAX).len(), 256);
    assert_eq!(harvest(&mut ring, u32::MAX), []);
}

#[test]
fn peek_finds_every_occupancy_at_every_place_in_at_most_log2_loads() {
    for start in [0u64, 1, 100, 255] {
        for occupancy in 0..256u64 {
            let mut ring = Ring::new(Cells::new(), 0);
            ring.fetch = start as u32;
            (start..start + occupancy).for_each(|i| ring.memory.push(i));
            assert_eq!(u64::from(ring.occupancy()), occupancy);
            assert!(ring.memory.loads.get() <= 8, "log2 of 256 entries");
            for entries in [0, occupancy, occupancy + 1, 257, u64::from(u32::MAX)] {
                assert_eq!(ring.is_at_least(entries as u32), entries <= occupancy);
            }
        }
    }
}

#[test]
fn peek_changes_nothing_and_ignores_harvested_entries() {
    let mut ring = Ring::new(Cells::new(), 0);
    (0..50).for_each(|i| ring.memory.push(i));
    harvest(&mut ring, 20);
    assert_eq!(ring.occupancy(), 30);
    assert_eq!(harvest(&mut ring, 256).len(), 30);
    assert_eq!(ring.occupancy(), 0);
}

#[test]
fn a_run_of_fruitless_exits_is_an_overrun_and_any_entry_ends_the_run() {
    let mut ring = Ring::new(Cells::new(), 0);
    assert!((1..OVERRUN_EXITS).all(|_| !ring.note_fruitless_exit()));
    ring.memory.push(0);
    harvest(&mut ring, 1);
    assert!((1..OVERRUN_EXITS).all(|_| !ring.note_fruitless_exit()));
    assert!(ring.note_fruitless_exit());
}
