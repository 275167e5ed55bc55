//! What it comes to under a load that goes on: few wakes, and no reaps that buy nothing.

use super::*;

#[test]
fn an_idle_guest_costs_eight_wakes_in_its_first_second_at_most_and_none_after() {
    for entries in [1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        let bed = Bed::default();
        let mut vm = Vm::sized(&bed, 2, STANDARD, ring_size(entries));
        let first = vm.wakes_in(SECOND);
        assert!(
            first <= 8,
            "{first} wakes in the first second, ring of {entries}"
        );
        assert_eq!(vm.wakes_in(SECOND * 600), 0, "ring of {entries}");
        assert!(vm.reasons().contains(Reasons::CALM));
        assert_eq!(vm.last_pass().decision.wait, LONGEST_WAIT);
    }
}

/// A working set of half the soft limit: dirtied once, then silent until its reset.
#[test]
fn a_hot_rings_wakes_thin_out() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 1);
    vm.vcpus[0].load = Load::RoundRobin(2016, 400_000);
    let first = vm.wakes_in(SECOND * 4);
    assert!(first <= 4 * 250, "{first} wakes in the first 4 s");
    vm.run(SECOND * 4);
    let after_8_s = vm.wakes_in(SECOND * 4);
    assert!(after_8_s <= 4 * 50, "{after_8_s} wakes in 4 s");
    vm.run(SECOND * 48);
    let after_60_s = vm.wakes_in(SECOND * 4);
    assert!(after_60_s <= 4 * 3, "{after_60_s} wakes in 4 s");
    assert_eq!(vm.ring_fulls(0), 0);
}

#[test]
fn a_working_set_that_fits_is_left_alone_after_it_is_believed() {
    for pages in [3024, 3500, 3800, 3951] {
        let bed = Bed::default();
        let mut vm = Vm::standard(&bed, 1);
        vm.vcpus[0].load = Load::RoundRobin(pages, 400_000);
        vm.run(SECOND);
        let harvested = vm.harvested()[0];
        let wakes = vm.wakes_in(SECOND * 60);
        assert_eq!(vm.harvested()[0], harvested, "{pages} pages");
        assert_eq!(u64::from(vm.occupancy(0)), pages);
        assert_eq!(vm.ring_fulls(0), 0, "{pages} pages");
        assert!(wakes <= 60 * 3, "{pages} pages: {wakes} wakes in a minute");
    }
}

#[test]
fn a_stream_is_reaped_before_the_ring_is_full_each_time() {
    let bed = Bed::default();
    for rate in [5_000, 50_000, 400_000, 900_000] {
        let mut vm = Vm::standard(&bed, 1);
        vm.vcpus[0].load = Load::Stream(rate);
        vm.run(SECOND);
        let (harvested, ring_fulls) = (vm.harvested()[0], vm.ring_fulls(0));
        let wakes = vm.wakes_in(SECOND);
        let pages = vm.harvested()[0] - harvested;
        assert_eq!(vm.ring_fulls(0), ring_fulls, "{rate}/s");
        assert!(pages >= rate / 2, "{rate}/s: {pages}");
        // Nor much more often than it takes.
        let fills = rate.div_ceil(SOFT_LIMIT.into()).max(3);
        assert!(u64::from(wakes) <= 12 * fills, "{rate}/s: {wakes} wakes");
    }
}

/// No page of a storm comes round within one ring, so an early reap costs nothing.
#[test]
fn a_storm_is_reaped_at_about_half_the_ring_once_it_is_believed_free() {
    for rate in [50_000, 400_000, 900_000] {
        let bed = Bed::default();
        let mut vm = Vm::standard(&bed, 1);
        vm.vcpus[0].load = Load::Stream(rate);
        vm.run(SECOND);
        assert!(vm.reasons().contains(Reasons::FREE), "{rate}/s");
        let mut reaps = 0;
        for _ in 0..20_000 {
            vm.run(STEP);
            let taken = core::mem::take(&mut vm.last_taken[0]);
            if taken != 0 {
                let half = u64::from(SOFT_LIMIT / 2);
                assert!(
                    (half * 3 / 4..=half * 5 / 4).contains(&taken),
                    "{rate}/s: {taken}"
                );
                reaps += 1;
            }
        }
        assert!(reaps > 10, "{rate}/s: {reaps}");
        assert_eq!(vm.ring_fulls(0), 0, "{rate}/s");
    }
}

/// The rate that it had is forgotten by halves: each look comes after about twice the time.
#[test]
fn after_a_storm_the_wakes_of_a_guest_that_sleeps_thin_out() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 2);
    vm.vcpus[0].load = Load::Stream(400_000);
    vm.run(SECOND);
    vm.vcpus[0].load = Load::Idle;
    let first = vm.wakes_in(SECOND * 10);
    assert!(first <= 40, "{first} wakes");
    let hours = vm.wakes_in(SECOND * 3600 * 3);
    assert!(hours <= 20, "{hours} wakes in three hours");
    assert_eq!(vm.last_pass().decision.wait, LONGEST_WAIT);
    assert_eq!(vm.ring_fulls(0), 0);
}
