//! What a look costs, and which rings a wake reaps.

use super::*;

/// A rate so low that nothing but the occupancy counts.
fn unhurried() -> DeadlineConfig {
    STANDARD.assured(100, Micros(500), SIZE).unwrap()
}

#[test]
fn a_ring_that_stands_still_costs_two_loads_per_wake() {
    let bed = Bed::default();
    let mut vm = Vm::new(&bed, 3, unhurried());
    vm.log(1, 1007);
    vm.log(2, 3000);
    vm.pass(Instant(1000));
    for at in 1..100 {
        let before = [0, 1, 2].map(|ring| vm.loads(ring));
        vm.pass(Instant(1000 + at * 5000));
        let after = [0, 1, 2].map(|ring| vm.loads(ring));
        for (after, before) in after.into_iter().zip(before) {
            assert!(after - before <= 2, "{after} after {before}");
        }
        assert_eq!(vm.last_taken, [0, 0, 0]);
    }
}

#[test]
fn a_ring_is_left_while_a_quarter_of_its_time_remains() {
    let bed = Bed::default();
    // Full after 40320 us, reaped below 10080: 1008 pages and the one that makes it full.
    let config = STANDARD.assured(100_000, Micros::ZERO, SIZE).unwrap();
    for (pages, taken) in [(4032 - 1009, 0), (4032 - 1008, 3024)] {
        let mut vm = Vm::new(&bed, 1, config);
        vm.log(0, pages);
        let reasons = vm.pass(Instant(40_000));
        assert_eq!(vm.last_taken, [taken]);
        assert_eq!(reasons.contains(Reasons::HEADROOM), taken != 0);
    }
}

#[test]
fn a_ring_full_reaps_that_ring_and_leaves_one_with_headroom_alone() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 2);
    vm.log(0, SOFT_LIMIT.into());
    vm.log(1, 10);
    vm.now = Instant(5000);
    let mode = RingFullMode::default();
    vm.shared.ring_full(0, mode, vm.now).unwrap();
    vm.wake();
    assert!(vm.reasons().contains(Reasons::RING_FULL));
    assert_eq!(vm.last_taken, [4032 - 256, 0]);
    assert_eq!((vm.occupancy(0), vm.occupancy(1)), (0, 10));
}

#[test]
fn a_kick_reaps_all_rings() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 3);
    vm.log(0, 1);
    vm.log(2, 2000);
    let reasons = vm.kick(Instant(1));
    assert!(reasons.contains(Reasons::FRESHNESS));
    assert_eq!(vm.last_taken, [1, 0, 2000]);
}

#[test]
fn the_wait_is_the_least_that_is_left_of_any_ring() {
    let bed = Bed::default();
    let config = STANDARD.assured(100_000, Micros::ZERO, SIZE).unwrap();
    let mut vm = Vm::new(&bed, 3, config);
    vm.log(1, 2000);
    vm.log(2, 1000);
    vm.pass(Instant(5000));
    assert_eq!(vm.last_taken, [0, 0, 0]);
    assert_eq!(
        vm.until,
        Instant(5000) + Micros::of_entries(4032 - 2000 - 1, 100_000)
    );
}
