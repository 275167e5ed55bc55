//! What a guest that does something new costs.

use super::*;

#[test]
fn the_first_burst_makes_each_ring_full_once_at_the_most() {
    for rate in [100_000, 400_000, 900_000] {
        let bed = Bed::default();
        let mut vm = Vm::standard(&bed, 3);
        vm.run(30 * SECOND_US);
        vm.vcpus
            .iter_mut()
            .for_each(|v| v.load = Load::Stream(rate));
        vm.run(100_000);
        for ring in 0..3 {
            assert!(
                vm.ring_fulls(ring) <= 1,
                "{rate}/s: {}",
                vm.ring_fulls(ring)
            );
        }
    }
}

/// A ring lasts for 10 ms at that rate, so it takes 320 ms of calm to be trusted for longer.
#[test]
fn bursts_with_short_pauses_are_known_after_the_first() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 1);
    for burst in 0..20 {
        vm.vcpus[0].load = Load::Stream(400_000);
        vm.run(30_000);
        vm.vcpus[0].load = Load::Idle;
        vm.run(200_000);
        assert!(vm.ring_fulls(0) <= 1, "burst {burst}");
    }
}

#[test]
fn a_ring_full_ends_the_trust() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 1);
    vm.run(60 * SECOND_US);
    let long_us = vm.reaper.last_step().unwrap().decision.wait_us;
    vm.vcpus[0].load = Load::Stream(400_000);
    vm.run(100_000);
    assert_eq!(vm.ring_fulls(0), 1);
    vm.vcpus[0].load = Load::Idle;
    vm.run(100_000);
    let step = vm.reaper.last_step().unwrap();
    assert!(step.decision.wait_us * 10 < long_us, "{step:?}");
}

#[test]
fn a_working_set_that_disappointed_wants_twice_the_rounds() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 1);
    let fits = Load::RoundRobin(3800, 400_000);
    let mut needed = [0; 3];
    for rounds in &mut needed {
        vm.vcpus[0].load = fits;
        while vm.ring(0, |ring| ring.recurrence.fitting_set()).is_none() {
            assert!(*rounds < 200, "never known to fit");
            vm.run(3800 * 10 / 4);
            *rounds += 1;
        }
        let before = vm.ring_fulls(0);
        vm.vcpus[0].load = Load::Stream(400_000);
        vm.run(200_000);
        assert_eq!(vm.ring_fulls(0), before + 1, "it was believed");
    }
    assert!(needed[1] > needed[0] && needed[2] > needed[1], "{needed:?}");
}

#[test]
fn a_late_pass_is_counted_in_and_fades() {
    let mut deadline = Deadline::new(DeadlineConfig::STANDARD, SIZE);
    let pass = |late_us| Measurement {
        late_us,
        ..Measurement::default()
    };
    deadline.on_wake(0, Wakes::TIMER);
    let prompt = deadline.on_reaped(&pass(0)).wait_us;
    deadline.on_wake(0, Wakes::TIMER);
    let late = deadline.on_reaped(&pass(1500)).wait_us;
    assert!(late + 900 < prompt, "{late} and {prompt}");
    for _ in 0..1000 {
        deadline.on_wake(0, Wakes::TIMER);
        let _ = deadline.on_reaped(&pass(0));
    }
    assert_eq!(deadline.state().reaction_us, 0);
}

/// Each disappointment halves the trust, so a guest that works in bursts is known for it.
#[test]
fn bursts_with_long_pauses_are_known_after_the_first_few() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 1);
    for _ in 0..40 {
        vm.vcpus[0].load = Load::Stream(400_000);
        vm.run(100_000);
        vm.vcpus[0].load = Load::Idle;
        vm.run(400_000);
    }
    assert!(vm.ring_fulls(0) <= 3, "{}", vm.ring_fulls(0));
}
