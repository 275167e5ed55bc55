//! What a look costs, and which rings a wake reaps.

use super::*;

/// A rate so low that nothing but the occupancy counts.
fn unhurried() -> DeadlineConfig {
    DeadlineConfig::STANDARD.assured(100, 500, SIZE).unwrap()
}

/// A wake that wants nothing of any ring in particular, at whatever time.
const ANY: Wakes = Wakes::RING_FULL;

fn wake_with(vm: &mut Vm<'_>, now_us: u64, wakes: Wakes) -> Reasons {
    vm.now_us = now_us;
    vm.wake(wakes)
}

fn log(vm: &Vm<'_>, ring: usize, pages: u64) {
    vm.ring(ring, |ring| ring.memory().log_pages(0..pages));
}

#[test]
fn a_ring_that_is_far_from_full_costs_one_load_per_wake() {
    let bed = Bed::default();
    let mut vm = Vm::new(&bed, 2, unhurried());
    log(&vm, 1, 1007);
    for at in 1..100 {
        let before = [vm.loads(0), vm.loads(1)];
        // Until the pages are half as old as they may be.
        wake_with(&mut vm, at * 5000, ANY);
        assert_eq!([vm.loads(0), vm.loads(1)].map(|n| n - 1), before);
    }
}

#[test]
fn a_ring_that_is_no_more_far_from_full_costs_its_occupancy_as_well() {
    let bed = Bed::default();
    let mut vm = Vm::new(&bed, 1, unhurried());
    log(&vm, 0, 1008);
    let before = vm.loads(0);
    wake_with(&mut vm, 5000, ANY);
    assert_eq!(vm.last_taken, [0]);
    assert_eq!(vm.loads(0) - before, 1 + SIZE.entries().ilog2());
}

#[test]
fn a_ring_is_left_while_a_quarter_of_its_time_remains() {
    let bed = Bed::default();
    // Full after 40320 us, reaped below 10080: 1008 pages and the one that makes it full.
    let config = DeadlineConfig::STANDARD;
    let config = config.assured(100_000, 0, SIZE).unwrap();
    for (pages, taken) in [(4032 - 1009, 0), (4032 - 1008, 3024)] {
        let mut vm = Vm::new(&bed, 1, config);
        log(&vm, 0, pages);
        let reasons = wake_with(&mut vm, 40_000, ANY);
        assert_eq!(vm.last_taken, [taken]);
        assert_eq!(reasons.contains(Reasons::HEADROOM), taken != 0);
    }
}

#[test]
fn a_ring_full_reaps_that_ring_and_leaves_a_calm_one_alone() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 2);
    log(&vm, 0, SOFT_LIMIT.into());
    log(&vm, 1, 10);
    vm.now_us = 5000;
    let _ = vm
        .shared
        .ring_full(0, RingFullMode::default(), 5000)
        .unwrap();
    let reasons = vm.wake(Wakes::RING_FULL);
    assert!(reasons.contains(Reasons::RING_FULL));
    assert_eq!(vm.last_taken, [4032 - 256, 0]);
    assert_eq!((vm.occupancy(0), vm.occupancy(1)), (0, 10));
}

#[test]
fn a_kick_reaps_all_rings() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 3);
    log(&vm, 0, 1);
    log(&vm, 2, 2000);
    let reasons = wake_with(&mut vm, 1, Wakes::KICK);
    assert!(reasons.contains(Reasons::FRESHNESS));
    assert_eq!(vm.last_taken, [1, 0, 2000]);
}

#[test]
fn at_the_freshness_limit_each_ring_with_a_page_is_reaped() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 3);
    log(&vm, 0, 1);
    log(&vm, 2, 50);
    let early = wake_with(&mut vm, 500_000, ANY);
    assert_eq!(vm.last_taken, [0, 0, 0]);
    assert!(!early.contains(Reasons::FRESHNESS));
    let due = wake_with(&mut vm, SECOND_US, ANY);
    assert_eq!(vm.last_taken, [1, 0, 50]);
    assert!(due.contains(Reasons::FRESHNESS));
}

#[test]
fn a_wake_is_planned_for_the_time_at_which_the_oldest_page_is_due() {
    let bed = Bed::default();
    let mut vm = Vm::new(&bed, 2, unhurried());
    log(&vm, 0, 1);
    wake_with(&mut vm, 700_000, ANY);
    // Ring 1 was seen empty just now, ring 0 may have had its page from the start.
    assert_eq!((vm.last_taken[0], vm.until_us), (0, SECOND_US));
}
