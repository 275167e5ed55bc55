//! What a guest that does something new costs.

use super::*;

#[test]
fn the_first_burst_makes_each_ring_full_once_at_the_most() {
    // The first look at the burst finds a ring that filled in some part of 30 seconds: that is not the
    // peak.
    for rate in [100_000, 400_000, 900_000] {
        let bed = Bed::default();
        let mut vm = Vm::standard(&bed, 3);
        vm.run(SECOND * 30);
        vm.vcpus
            .iter_mut()
            .for_each(|vcpu| vcpu.load = Load::Stream(rate));
        vm.run(Micros(100_000));
        let ring_fulls = [0, 1, 2].map(|ring| vm.ring_fulls(ring));
        assert!(
            ring_fulls.into_iter().all(|fulls| fulls <= 1),
            "{rate}/s: {ring_fulls:?}"
        );
    }
}

/// The same in a guest that was busy before: its peak is known.
#[test]
fn a_burst_after_a_calm_makes_a_ring_full_once_at_the_most() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 1);
    vm.vcpus[0].load = Load::Stream(400_000);
    vm.run(SECOND);
    vm.vcpus[0].load = Load::Idle;
    vm.run(SECOND * 30);
    assert!(vm.reasons().contains(Reasons::CALM));
    assert_eq!(vm.ring_fulls(0), 0);
    vm.vcpus[0].load = Load::Stream(400_000);
    vm.run(SECOND);
    assert!(vm.ring_fulls(0) <= 1, "{}", vm.ring_fulls(0));
}

/// A ring lasts for 10 ms at that rate.
#[test]
fn bursts_with_short_pauses_are_known_after_the_first() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 1);
    for burst in 0..20 {
        vm.vcpus[0].load = Load::Stream(400_000);
        vm.run(Micros(30_000));
        vm.vcpus[0].load = Load::Idle;
        vm.run(Micros(200_000));
        assert!(vm.ring_fulls(0) <= 1, "burst {burst}");
    }
}

#[test]
fn after_a_ring_full_the_ring_is_not_calm_for_ten_seconds() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 1);
    vm.run(SECOND * 60);
    assert!(vm.reasons().contains(Reasons::CALM));
    vm.vcpus[0].load = Load::Stream(400_000);
    while vm.ring_fulls(0) == 0 {
        vm.run(STEP);
    }
    let full = vm.ring(0, |ring| ring.growth().full_at()).unwrap();
    vm.vcpus[0].load = Load::Idle;
    while vm.now - full < SECOND * 10 {
        assert!(
            !vm.reasons().contains(Reasons::CALM),
            "at {:?}",
            vm.now - full
        );
        assert!(vm.until <= full + SECOND * 11, "it is looked at");
        vm.run(Micros(1_000));
    }
    vm.run(SECOND);
    assert!(vm.reasons().contains(Reasons::CALM));
}

#[test]
fn a_late_pass_is_counted_in_and_fades() {
    let mut deadline = Deadline::new(STANDARD, SIZE);
    let pass = |late| Measurement {
        late: Micros(late),
        ..Measurement::default()
    };
    let prompt = deadline.on_reaped(&pass(0)).wait;
    let late = deadline.on_reaped(&pass(1500)).wait;
    assert!(late + Micros(900) < prompt, "{late} and {prompt}");
    for _ in 0..1000 {
        let _ = deadline.on_reaped(&pass(0));
    }
    assert_eq!(deadline.state().reaction, Micros::ZERO);
}

/// A guest that works in bursts is looked at.
#[test]
fn bursts_with_long_pauses_are_known_after_the_first_few() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 1);
    for _ in 0..40 {
        vm.vcpus[0].load = Load::Stream(400_000);
        vm.run(Micros(100_000));
        vm.vcpus[0].load = Load::Idle;
        vm.run(Micros(400_000));
    }
    assert!(vm.ring_fulls(0) <= 3, "{}", vm.ring_fulls(0));
}

/// A kick takes the working set, and the guest faults for it once more: nothing else does.
#[test]
fn kicks_of_a_ring_that_stands_still_cost_its_working_set_and_no_ring_full() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 1);
    vm.vcpus[0].load = Load::RoundRobin(2016, 400_000);
    vm.run(SECOND * 5);
    let before = vm.harvested()[0];
    let mut wakes = 0;
    for _ in 0..50 {
        vm.kick(vm.now);
        wakes += vm.wakes_in(Micros(200_000));
    }
    assert_eq!(vm.harvested()[0] - before, 50 * 2016);
    assert_eq!(vm.ring_fulls(0), 0);
    assert!(wakes <= 50 * 25, "{wakes} wakes beside the kicks");
}
