//! What it comes to under a load that goes on: few wakes, and no reaps that buy nothing.

use super::*;

#[test]
fn an_idle_guests_wakes_thin_out_to_the_freshness_limit() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 4);
    let first = vm.wakes_in(SECOND_US);
    vm.run(120 * SECOND_US);
    let settled = vm.wakes_in(20 * SECOND_US);
    assert!(settled <= 20 * 2, "{settled} wakes in 20 s");
    assert!(first > settled / 10, "{first} in the first second");
}

/// A working set of half the soft limit: dirtied once, then silent until its reset. How fast it was
/// dirtied is forgotten by and by, and the trust grows with the time.
#[test]
fn a_hot_rings_wakes_thin_out() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 1);
    vm.vcpus[0].load = Load::RoundRobin(2016, 400_000);
    let first = vm.wakes_in(4 * SECOND_US);
    assert!(first <= 4 * 250, "{first} wakes in the first 4 s");
    vm.run(4 * SECOND_US);
    let after_8_s = vm.wakes_in(4 * SECOND_US);
    assert!(after_8_s <= 4 * 50, "{after_8_s} wakes in 4 s");
    vm.run(48 * SECOND_US);
    let after_60_s = vm.wakes_in(4 * SECOND_US);
    assert!(after_60_s <= 4 * 3, "{after_60_s} wakes in 4 s");
    assert_eq!(vm.ring_fulls(0), 0);
}

#[test]
fn a_working_set_that_fits_is_reaped_for_freshness_alone_once_it_is_known() {
    for percent in [75, 90, 95, 98] {
        let bed = Bed::default();
        let mut vm = Vm::standard(&bed, 1);
        let pages = u64::from(SOFT_LIMIT) * percent / 100;
        vm.vcpus[0].load = Load::RoundRobin(pages, 400_000);
        vm.run(10 * SECOND_US);
        let (harvested, ring_fulls) = (vm.harvested()[0], vm.ring_fulls(0));
        vm.run(10 * SECOND_US);
        let reaps = (vm.harvested()[0] - harvested) / pages;
        assert!((10..=12).contains(&reaps), "{percent} %: {reaps} in 10 s");
        assert_eq!(vm.ring_fulls(0), ring_fulls, "{percent} %");
    }
}

#[test]
fn a_stream_is_reaped_before_the_ring_is_full_each_time() {
    let bed = Bed::default();
    for rate in [5_000, 50_000, 400_000] {
        let mut vm = Vm::standard(&bed, 1);
        vm.vcpus[0].load = Load::Stream(rate);
        vm.run(SECOND_US);
        let (harvested, ring_fulls) = (vm.harvested()[0], vm.ring_fulls(0));
        let wakes = vm.wakes_in(SECOND_US);
        let pages = vm.harvested()[0] - harvested;
        assert_eq!(vm.ring_fulls(0), ring_fulls, "{rate}/s");
        assert!(pages >= rate / 2, "{rate}/s: {pages}");
        // Nor much more often than it takes.
        let fills = rate.div_ceil(SOFT_LIMIT.into()).max(3);
        assert!(u64::from(wakes) <= 12 * fills, "{rate}/s: {wakes} wakes");
    }
}

#[test]
fn a_ring_that_has_been_calm_is_trusted_for_a_thirty_second_of_that_time() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 1);
    vm.run(60 * SECOND_US);
    let step = vm.reaper.last_step().unwrap();
    let trusted = step.decision.reasons.contains(Reasons::TRUST);
    assert!(trusted, "{step:?}");
    // Never longer than 1/32 of a minute, but for what is certain.
    assert!(step.decision.wait_us <= SECOND_US);
    let mut vm = Vm::standard(&bed, 1);
    vm.run(16 * SECOND_US);
    let step = vm.reaper.last_step().unwrap();
    let half_us = SECOND_US / 2;
    let wait_us = step.decision.wait_us;
    assert!((half_us - 100_000..=half_us).contains(&wait_us), "{step:?}");
}
