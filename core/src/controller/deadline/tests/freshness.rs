//! The freshness limit, which is off by default.

use super::*;

fn fresh() -> DeadlineConfig {
    STANDARD.freshness(SECOND).unwrap()
}

#[test]
fn by_default_no_page_is_reaped_for_its_age() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 1);
    vm.log(0, 1);
    vm.run(SECOND * 100);
    assert_eq!((vm.occupancy(0), vm.harvested()[0]), (1, 0));
    assert!(!vm.reasons().contains(Reasons::FRESHNESS));
}

#[test]
fn at_the_freshness_limit_each_ring_with_a_page_is_reaped() {
    let bed = Bed::default();
    let mut vm = Vm::new(&bed, 3, fresh());
    vm.log(0, 1);
    vm.log(2, 50);
    let early = vm.pass(Instant(500_000));
    assert_eq!(vm.last_taken, [0, 0, 0]);
    assert!(!early.contains(Reasons::FRESHNESS));
    let due = vm.pass(Instant(0) + SECOND);
    assert_eq!(vm.last_taken, [1, 0, 50]);
    assert!(due.contains(Reasons::FRESHNESS));
}

#[test]
fn a_wake_is_planned_for_the_time_at_which_the_oldest_page_is_due() {
    let bed = Bed::default();
    let latency = Micros(500);
    let config = STANDARD.assured(100, latency, SIZE).unwrap();
    let mut vm = Vm::new(&bed, 2, config.freshness(SECOND).unwrap());
    vm.log(0, 1);
    vm.pass(Instant(700_000));
    // Ring 1 was seen empty just now, ring 0 may have had its page from the start. The reaction is
    // counted in.
    assert_eq!(
        (vm.last_taken[0], vm.until),
        (0, Instant(0) + SECOND - latency)
    );
}

#[test]
fn no_page_waits_for_longer_than_the_limit_and_a_wake_up() {
    for load in [
        Load::Stream(20),
        Load::Stream(1_000),
        Load::RoundRobin(100, 5_000),
    ] {
        let bed = Bed::default();
        let mut vm = Vm::new(&bed, 2, fresh());
        vm.vcpus[0].load = load;
        let mut oldest = Micros::ZERO;
        for _ in 0..10_000 {
            vm.run(Micros(1_000));
            if vm.occupancy(0) != 0 {
                let since = vm.ring(0, |ring| ring.growth().oldest_since());
                oldest = oldest.max(vm.now - since);
            }
        }
        assert!(oldest <= SECOND + STEP * 2, "{load:?}: {oldest}");
        assert!(oldest >= SECOND / 2, "{load:?}: {oldest}");
    }
}

#[test]
fn an_idle_guests_wakes_thin_out_to_the_freshness_limit() {
    let bed = Bed::default();
    let mut vm = Vm::new(&bed, 4, fresh());
    let first = vm.wakes_in(SECOND);
    vm.run(SECOND * 120);
    let settled = vm.wakes_in(SECOND * 20);
    assert!(settled <= 20 * 2, "{settled} wakes in 20 s");
    assert!(first > settled / 10, "{first} in the first second");
}

#[test]
fn a_working_set_that_fits_is_reaped_for_freshness_alone_once_it_is_known() {
    for percent in [75, 90, 95, 98] {
        let bed = Bed::default();
        let mut vm = Vm::new(&bed, 1, fresh());
        let pages = u64::from(SOFT_LIMIT) * percent / 100;
        vm.vcpus[0].load = Load::RoundRobin(pages, 400_000);
        vm.run(SECOND * 10);
        let (harvested, ring_fulls) = (vm.harvested()[0], vm.ring_fulls(0));
        vm.run(SECOND * 10);
        let reaps = (vm.harvested()[0] - harvested) / pages;
        assert!((10..=12).contains(&reaps), "{percent} %: {reaps} in 10 s");
        assert_eq!(vm.ring_fulls(0), ring_fulls, "{percent} %");
    }
}
