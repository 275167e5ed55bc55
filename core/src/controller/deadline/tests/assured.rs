//! Assured bounds: the promise, from the first page on.

use super::*;
use crate::testing::Random;

const RATE_PER_S: u64 = 400_000;

/// Passes take no time here and wakes are exact but for the steps of the guests.
fn config() -> DeadlineConfig {
    STANDARD.assured(RATE_PER_S, STEP * 2, SIZE).unwrap()
}

#[test]
fn under_assured_bounds_no_ring_is_ever_full() {
    let bed = Bed::default();
    let mut vm = Vm::new(&bed, 3, config());
    let mut random = Random::seeded(3);
    for _ in 0..80 {
        for vcpu in &mut vm.vcpus {
            vcpu.load = match random.below(4) {
                0 => Load::Idle,
                1 => Load::Stream(RATE_PER_S),
                2 => Load::RoundRobin(1 + random.below(6_000), RATE_PER_S),
                _ => Load::Stream(random.below(RATE_PER_S)),
            };
        }
        let length = Micros(random.below(50_000));
        assert_eq!(vm.ring_fulls_in(length), 0);
        if random.below(5) == 0 {
            vm.kick(vm.now);
        }
    }
    assert!(vm.harvested().iter().all(|&pages| pages > 50_000));
}

#[test]
fn under_assured_bounds_nothing_is_calm_or_free() {
    let bed = Bed::default();
    let mut vm = Vm::new(&bed, 2, config());
    for load in [
        Load::Idle,
        Load::Stream(RATE_PER_S),
        Load::RoundRobin(2016, RATE_PER_S),
    ] {
        vm.vcpus[0].load = load;
        for _ in 0..200 {
            vm.run(Micros(10_000));
            let reasons = vm.reasons();
            assert!(
                !reasons.intersects(Reasons::CALM | Reasons::FREE),
                "{load:?}: {reasons:?}"
            );
            assert!(vm.until - vm.now <= Micros::of_entries(4031, RATE_PER_S));
        }
    }
}

#[test]
fn a_restored_reaper_keeps_the_promise_for_rings_that_are_not_empty() {
    let bed = Bed::default();
    let mut vm = Vm::new(&bed, 1, config());
    vm.log(0, 2500);
    // A pass that the timer wakes: the doorbell of a restored reaper hasn't rung.
    vm.run(vm.until - vm.now);
    assert_eq!((vm.wakes, vm.occupancy(0)), (1, 2500));
    let state = vm.reaper.planner().state();
    let restored = Planner::from_state(Deadline::new(config(), SIZE), &state);
    vm.reaper = Reaper::new(restored.unwrap());
    vm.turns();
    vm.vcpus[0].load = Load::Stream(RATE_PER_S);
    // It looks at once: what is in the rings is unknown.
    assert_eq!(vm.ring_fulls_in(SECOND), 0);
}
