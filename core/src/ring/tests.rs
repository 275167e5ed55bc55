//! The ring protocol against an array that plays KVM.

use std::vec::Vec;

use super::*;
use crate::testing::{Cells, page, ring_size};

fn ring() -> Ring<Cells> {
    ring_at(0)
}

/// A ring whose fetch index, and KVM's indices, stand at `index`.
fn ring_at(index: u32) -> Ring<Cells> {
    let memory = Cells::starting_at(ring_size(256), index);
    let state = RingPosition::from_index(index).into();
    Ring::from_state(memory, &state, Instant(0))
}

fn harvest(ring: &mut Ring<Cells>, limit: u32) -> Vec<u64> {
    let mut taken = Vec::new();
    let count = ring.harvest_without_reset(limit, |gfn| taken.push(gfn.offset));
    assert_eq!(count as usize, taken.len());
    taken
}

#[test]
fn harvest_is_in_order_bounded_and_goes_on_where_it_stopped() {
    let mut ring = ring();
    ring.memory.log_pages(0..10);
    assert_eq!(harvest(&mut ring, 4), [0, 1, 2, 3]);
    assert_eq!(harvest(&mut ring, 0), []);
    assert_eq!(harvest(&mut ring, 100), [4, 5, 6, 7, 8, 9]);
    assert_eq!(harvest(&mut ring, 100), []);
    assert_eq!(ring.stats().harvested, 10);
}

#[test]
fn harvest_wraps_around_the_ring_and_around_u32() {
    let start = u64::from(u32::MAX) - 99;
    let mut ring = ring_at(start as u32);
    for round in 0..4 {
        let range = start + round * 200..start + (round + 1) * 200;
        ring.memory.log_pages(range.clone());
        assert_eq!(ring.occupancy(), 200);
        assert_eq!(harvest(&mut ring, 256), range.clone().collect::<Vec<_>>());
        assert!(
            range
                .map(page)
                .all(|gfn| ring.memory.reset_one() == Some(gfn))
        );
        assert_eq!(ring.memory.reset_one(), None);
    }
    assert_eq!(ring.fetch, 700);
}

#[test]
fn only_exactly_dirty_is_harvested_and_reset_replaces_the_flags() {
    for flags in [0, 2, 3, 5, 1 << 31 | 1] {
        let mut ring = ring();
        ring.memory.log_pages(0..2);
        ring.memory.set_flags(0, flags);
        assert_eq!(harvest(&mut ring, 8), [], "flags {flags:#x}");
        assert_eq!(ring.memory.flags(0), flags);
    }
    let mut ring = ring();
    ring.memory.log(page(0));
    harvest(&mut ring, 1);
    assert_eq!(ring.memory.flags(0), EntryFlags::RESET.bits());
}

#[test]
fn an_entry_is_not_harvested_twice_before_its_reset() {
    let mut ring = ring();
    ring.memory.log_pages(0..256);
    assert_eq!(harvest(&mut ring, u32::MAX).len(), 256);
    assert_eq!(harvest(&mut ring, u32::MAX), []);
}

#[test]
fn peek_finds_every_occupancy_at_every_place_in_at_most_log2_loads() {
    for start in [0, 1, 100, 255] {
        for occupancy in 0..256u64 {
            let ring = ring_at(start);
            ring.memory.log_pages(0..occupancy);
            let before = ring.memory.loads();
            assert_eq!(u64::from(ring.occupancy()), occupancy);
            assert!(ring.memory.loads() - before <= 8, "log2 of 256 entries");
            for entries in [0, occupancy, occupancy + 1, 257, u64::from(u32::MAX)] {
                assert_eq!(ring.is_at_least(entries as u32), entries <= occupancy);
            }
        }
    }
}

#[test]
fn peek_changes_nothing_and_ignores_harvested_entries() {
    let mut ring = ring();
    ring.memory.log_pages(0..50);
    harvest(&mut ring, 20);
    assert_eq!(ring.occupancy(), 30);
    assert_eq!(harvest(&mut ring, 256).len(), 30);
    assert_eq!(ring.occupancy(), 0);
}

#[test]
fn fruitless_exits_are_counted_and_any_entry_ends_their_run() {
    let mut ring = ring();
    for exits in 1..OVERRUN_EXITS {
        assert_eq!(ring.note_fruitless_exit(), exits);
    }
    ring.memory.log(page(0));
    harvest(&mut ring, 1);
    assert_eq!(ring.note_fruitless_exit(), 1);
}

#[test]
fn a_look_finds_what_occupancy_finds_whatever_the_last_look_found() {
    for start in [0, 100, u32::MAX - 50] {
        for (first, taken, more) in [
            (0, 0, 0),
            (0, 0, 255),
            (1, 1, 0),
            (1, 0, 1),
            (64, 64, 64),
            (100, 30, 120),
            (254, 0, 1),
            (200, 200, 3),
        ] {
            let mut ring = ring_at(start);
            ring.memory.log_pages(0..first);
            assert_eq!(u64::from(ring.look(Instant(10))), first);
            assert_eq!(u64::from(ring.occupancy_seen()), first);
            harvest(&mut ring, taken);
            while ring.memory.reset_one().is_some() {}
            ring.memory.log_pages(1000..1000 + more);
            assert_eq!(
                ring.occupancy_seen(),
                first as u32 - taken,
                "no news without a look"
            );
            let expected = ring.occupancy();
            assert_eq!(u64::from(expected), first - u64::from(taken) + more);
            assert_eq!(ring.look(Instant(20)), expected);
            assert_eq!(ring.occupancy_seen(), expected);
        }
    }
}

#[test]
fn a_harvest_beyond_the_last_look_leaves_nothing_seen() {
    let mut ring = ring();
    ring.memory.log_pages(0..10);
    ring.look(Instant(10));
    ring.memory.log_pages(10..50);
    harvest(&mut ring, 40);
    assert_eq!(ring.occupancy_seen(), 0);
    assert_eq!(ring.look(Instant(20)), 10);
}

#[test]
fn a_look_at_a_ring_that_stands_still_costs_two_loads_and_one_that_grows_some_more() {
    for occupancy in [0, 1, 100, 191, 192] {
        let mut ring = ring();
        ring.memory.log_pages(0..occupancy);
        ring.look(Instant(10));
        let before = ring.memory.loads();
        ring.look(Instant(20));
        assert!(ring.memory.loads() - before <= 2, "{occupancy}");
    }
    for (occupancy, grown) in [(0, 1), (0, 200), (100, 3), (100, 60), (191, 1)] {
        let mut ring = ring();
        ring.memory.log_pages(0..occupancy);
        ring.look(Instant(10));
        let before = ring.memory.loads();
        ring.memory.log_pages(0..grown);
        ring.look(Instant(20));
        let loads = ring.memory.loads() - before;
        assert!(
            loads <= 2 * grown.ilog2() + 3,
            "{occupancy} + {grown}: {loads}"
        );
    }
}

#[test]
fn a_ring_that_is_still_to_be_found_after_a_resync_is_so_where_it_is_restored() {
    let mut first = ring_at(300);
    first.memory.log_pages(0..20);
    let barrier = first.begin_clear(false);
    while first.memory.reset_one().is_some() {}
    first.end_clear(barrier);
    let state = first.state(Instant(1));
    let mut restored = Ring::from_state(first.memory, &state, Instant(2));
    restored.memory.log_pages(20..25);
    assert!(restored.is_lost(), "its saved position means nothing");
    assert!(!restored.has_parted() && !restored.was_lapped());
    let run = restored.find_run().unwrap();
    restored.mark_empty();
    while restored.memory.reset_one().is_some() {}
    restored.settle_at(run, Instant(3));
    assert_eq!(harvest(&mut restored, 256), [20, 21, 22, 23, 24]);
    assert!(!restored.state(Instant(4)).is_lost);
}

#[test]
fn a_restored_ring_goes_on_where_the_first_stopped() {
    let mut first = ring_at(u32::MAX - 20);
    first.memory.log_pages(0..100);
    first.look(Instant(5_000));
    harvest(&mut first, 60);
    let state = first.state(Instant(6_000));
    let taken = first.position();
    // Pages that come meanwhile are in the ring, and no growth of the restored one.
    first.memory.log_pages(100..130);
    let mut restored = Ring::from_state(first.memory, &state, Instant(900_000));
    assert_eq!(restored.position(), taken);
    assert_eq!(restored.state(Instant(900_000)), state);
    assert_eq!(restored.look(Instant(901_000)), 70);
    assert_eq!(restored.growth().meter().max_per_s(), 0);
    assert_eq!(harvest(&mut restored, 256), (60..130).collect::<Vec<_>>());
}

#[test]
fn a_fresh_ring_has_entries_from_the_first_one_on_and_was_never_reset() {
    for waiting in [0, 1, 100, 255] {
        let mut ring = ring();
        ring.memory.log_pages(1..1 + waiting);
        assert!(ring.is_fresh(), "{waiting}");
        // A reset clears the flags and leaves the page behind.
        harvest(&mut ring, 256);
        while ring.memory.reset_one().is_some() {}
        assert_eq!(ring.is_fresh(), waiting == 0, "{waiting}");
    }
    let ring = ring_at(50);
    ring.memory.log_pages(1..3);
    assert!(!ring.is_fresh(), "it doesn't begin at the first entry");
}

#[test]
fn a_position_fits_where_one_run_begins_at_it() {
    for (start, harvested, waiting) in [(0, 0, 0), (0, 30, 100), (200, 30, 100), (255, 1, 190)] {
        let mut sound = ring_at(start);
        sound.memory.log_pages(0..harvested + waiting);
        harvest(&mut sound, harvested as u32);
        assert!(sound.fits_position());
        let position = sound.position().index();
        for wrong in (0..256).filter(|at| *at != position % 256) {
            let state = RingPosition::from_index(wrong).into();
            let ring = Ring::from_state(sound.memory, &state, Instant(0));
            // Where nothing is in the ring, any position may be right.
            assert_eq!(ring.fits_position(), harvested + waiting == 0, "{wrong}");
            sound.memory = ring.memory;
        }
    }
}

#[test]
fn a_lapped_ring_and_one_that_parted_are_known_by_their_entries() {
    let ring = ring_at(20);
    ring.memory.log_pages(0..255);
    assert!(!ring.was_lapped() && !ring.has_parted());
    ring.memory.log(page(255));
    assert!(ring.was_lapped());
    let mut ahead = ring_at(20);
    harvest(&mut ahead, 256);
    (0..5).for_each(|_| ahead.fetch += 1);
    assert!(!ahead.has_parted(), "there is nothing in it");
    ahead.memory.log(page(0));
    assert!(ahead.has_parted());
    (0..5).for_each(|_| ahead.fetch -= 1);
    assert!(!ahead.has_parted());
}
