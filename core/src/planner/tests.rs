//! The machine alone: the test is its driver, its clock and its rings.

mod diagram;

use std::vec::Vec;

use super::*;
use crate::collector::Harvested;
use crate::controller::{Halving, HalvingConfig, HalvingState, Reasons};
use crate::testing::ring_size;

/// 100 ms to 1 s, so that decisions differ: begins at 1 s, and halves where a pass finds 4096.
type Machine = Reaper<Halving, 4>;

const SETTLED: ReaperReset = ReaperReset {
    entries: 0,
    settled: true,
};
const SHORT: ReaperReset = ReaperReset {
    entries: 0,
    settled: false,
};
const BEGIN: Action = Action::Harvest { begin: true };
const AGAIN: Action = Action::Harvest { begin: false };
const WAIT_US: u64 = 1_000_000;

fn halving() -> Halving {
    Halving::new(HalvingConfig::REVIEW, ring_size(4096))
}

fn until(until_us: u64) -> Action {
    Action::Wait { until_us }
}

/// A harvest of `pages` in the whole pass so far, with the count of ring-fulls at `ring_fulls`.
fn found(pages: u64, ring_fulls: u32, more: bool) -> ReaperHarvest {
    ReaperHarvest {
        harvested: Harvested {
            entries: pages as u32,
            more,
            tally: PassTally {
                harvested: pages,
                ring_full_harvested: 7,
                fullest: pages as u32,
            },
        },
        ring_fulls,
    }
}

/// Machines in each state: the driver was told what the name says.
fn machine_at(place: &str) -> Machine {
    let mut machine = Machine::new(halving());
    let steps: &[fn(&mut Machine) -> Action] = &[
        |machine| machine.start(0),
        |machine| machine.on_wake(WAIT_US, Wakes::TIMER),
        |machine| machine.on_harvested(&found(0, 0, false)),
    ];
    let steps = match place {
        "NONE" => &steps[..0],
        "WAIT" => &steps[..1],
        "harvest" => &steps[..2],
        "reset" => steps,
        other => panic!("no place {other:?}"),
    };
    for step in steps {
        let _ = step(&mut machine);
    }
    machine
}

/// A whole pass that `wakes` begin at `now_us` and that takes no time.
fn pass(machine: &mut Machine, now_us: u64, wakes: Wakes, found: &ReaperHarvest) -> Action {
    assert_eq!(machine.on_wake(now_us, wakes), BEGIN);
    finish(machine, now_us, found)
}

/// The rest of a pass that has begun.
fn finish(machine: &mut Machine, now_us: u64, found: &ReaperHarvest) -> Action {
    assert_eq!(machine.on_harvested(found), Action::Reset);
    machine.on_reset(now_us, &SETTLED)
}

fn last_measurement(machine: &Machine) -> Measurement {
    machine.last_step().unwrap().measurement
}

#[test]
fn the_first_wait_is_the_controllers_and_each_further_one_its_decision() {
    let mut machine = Machine::new(halving());
    assert_eq!(machine.start(50), until(50 + WAIT_US));
    let halved = pass(
        &mut machine,
        2_000_000,
        Wakes::TIMER,
        &found(4096, 0, false),
    );
    assert_eq!(halved, until(2_500_000));
    assert_eq!(machine.start(0), halved, "it has started");
    let mut late = Machine::new(halving());
    assert_eq!(late.start(u64::MAX), until(u64::MAX), "no overflow");
}

#[test]
fn an_early_timer_is_ignored_unless_another_cause_comes_with_it() {
    let mut machine = machine_at("WAIT");
    assert_eq!(machine.on_wake(WAIT_US - 1, Wakes::TIMER), until(WAIT_US));
    assert_eq!(machine.iterations(), 0);
    assert_eq!(machine.on_wake(9, Wakes::TIMER | Wakes::KICK), BEGIN);
}

#[test]
fn timer_and_kick_in_one_wake_make_one_step_with_both_causes() {
    let mut machine = machine_at("WAIT");
    let both = Wakes::TIMER | Wakes::KICK;
    let wait = pass(&mut machine, WAIT_US, both, &found(1000, 0, false));
    assert_eq!(wait, until(2 * WAIT_US));
    assert_eq!(machine.iterations(), 1);
    assert_eq!(last_measurement(&machine).wakes, both);
}

#[test]
fn a_short_reset_repeats_the_reset_until_it_is_settled() {
    let mut machine = machine_at("reset");
    for now_us in 0..5 {
        assert_eq!(machine.on_reset(now_us, &SHORT), Action::Reset);
    }
    assert_eq!(machine.iterations(), 0, "the pass isn't over");
    assert!(matches!(machine.on_reset(9, &SETTLED), Action::Wait { .. }));
    assert_eq!(machine.iterations(), 1);
}

#[test]
fn a_full_batch_is_harvested_again_in_the_same_pass_and_counted_once() {
    let mut machine = machine_at("harvest");
    // The tally is that of the whole pass; ring-fulls are as they were when the pass began.
    for (pages, ring_fulls) in [(16, 3), (32, 8)] {
        let harvest = found(pages, ring_fulls, true);
        assert_eq!(machine.on_harvested(&harvest), Action::Reset);
        assert_eq!(machine.on_reset(WAIT_US, &SETTLED), AGAIN);
    }
    let _ = finish(&mut machine, WAIT_US, &found(40, 9, false));
    let expected = Measurement {
        elapsed_us: WAIT_US,
        harvested: 40,
        ring_full_harvested: 7,
        fullest: 40,
        ring_fulls: 3,
        wakes: Wakes::TIMER,
        late_us: 0,
        took_us: 0,
    };
    assert_eq!(last_measurement(&machine), expected);
    assert_eq!(machine.iterations(), 1);
    let _ = pass(&mut machine, 9 * WAIT_US, Wakes::TIMER, &found(0, 9, false));
    assert_eq!(last_measurement(&machine).ring_fulls, 6, "none is lost");
}

#[test]
fn a_stop_during_a_wait_makes_one_whole_pass_and_then_done() {
    let mut machine = machine_at("WAIT");
    let done = pass(&mut machine, 3, Wakes::STOP, &found(5, 0, false));
    assert_eq!((done, machine.phase()), (Action::Done, State::None));
    assert_eq!(machine.on_wake(4, Wakes::all()), Action::Done);
    assert_eq!(machine.iterations(), 1);
}

#[test]
fn a_stop_during_a_pass_makes_one_whole_further_pass_and_then_done() {
    for place in ["harvest", "reset"] {
        let mut machine = machine_at(place);
        let told = machine.action();
        // STOP stays set: the driver may hear it more than once.
        assert_eq!(machine.on_wake(1, Wakes::STOP), told);
        assert_eq!(machine.on_wake(2, Wakes::STOP), told);
        let _ = machine.on_harvested(&found(1, 0, false));
        assert_eq!(machine.on_reset(3, &SETTLED), BEGIN, "the drain");
        let _ = machine.on_wake(4, Wakes::STOP);
        let done = finish(&mut machine, 5, &found(1, 0, false));
        assert_eq!((done, machine.iterations()), (Action::Done, 2));
        assert_eq!(last_measurement(&machine).wakes, Wakes::STOP);
    }
}

#[test]
fn the_final_drain_goes_on_through_full_batches_and_short_resets() {
    let mut machine = machine_at("WAIT");
    let _ = machine.on_wake(3, Wakes::STOP);
    for _ in 0..3 {
        assert_eq!(machine.on_harvested(&found(16, 0, true)), Action::Reset);
        assert_eq!(machine.on_reset(3, &SHORT), Action::Reset);
        assert_eq!(machine.on_reset(3, &SETTLED), AGAIN);
    }
    assert_eq!(finish(&mut machine, 3, &found(0, 0, false)), Action::Done);
}

#[test]
fn causes_during_a_pass_make_one_pass_at_once_that_names_them_all() {
    let mut machine = machine_at("harvest");
    for wakes in [Wakes::KICK, Wakes::RING_FULL, Wakes::KICK, Wakes::TIMER] {
        assert_eq!(machine.on_wake(WAIT_US, wakes), BEGIN);
    }
    let next = finish(&mut machine, WAIT_US + 8, &found(0, 0, false));
    assert_eq!(next, BEGIN);
    let wait = finish(&mut machine, WAIT_US + 20, &found(0, 0, false));
    assert_eq!(wait, until(2 * WAIT_US + 20));
    let last = last_measurement(&machine);
    // The timer is not kept: it was the wait that is over.
    assert_eq!(last.wakes, Wakes::KICK | Wakes::RING_FULL);
    assert_eq!(
        last.elapsed_us, 8,
        "from the beginning of one to that of the next"
    );
}

#[test]
fn each_ring_full_is_in_one_measurement_across_the_wrap_around() {
    let state = Machine::new(halving()).state();
    let mut machine = Machine::from_state(halving(), &state, u32::MAX - 2).unwrap();
    let _ = machine.start(0);
    let deltas: Vec<u32> = [u32::MAX - 2, u32::MAX, 1, 1, 0x8000_0000]
        .into_iter()
        .map(|count| {
            let _ = pass(&mut machine, 9, Wakes::KICK, &found(0, count, false));
            last_measurement(&machine).ring_fulls
        })
        .collect();
    assert_eq!(deltas, [0, 2, 2, 0, 0x7fff_ffff]);
}

#[test]
fn the_history_is_bounded_and_ordered() {
    let mut machine = machine_at("WAIT");
    assert!(machine.last_step().is_none());
    for at in 1..=6 {
        let _ = pass(&mut machine, at * 10, Wakes::KICK, &found(at, 0, false));
        let numbers = machine.history().map(|step| step.iteration);
        let expected: Vec<u64> = (at.saturating_sub(3).max(1)..=at).collect();
        assert_eq!(numbers.collect::<Vec<_>>(), expected);
    }
    let last = machine.last_step().unwrap();
    assert_eq!((last.iteration, last.now_us), (6, 60));
    assert_eq!(
        (last.measurement.elapsed_us, last.measurement.harvested),
        (10, 6)
    );
    assert_eq!(last.decision.reasons, Reasons::AT_SLOWEST);
}

#[test]
fn a_restored_machine_goes_on_and_counts_no_earlier_ring_full_again() {
    let mut first = machine_at("WAIT");
    let _ = pass(&mut first, 10, Wakes::KICK, &found(4096, 40, false));
    let state = first.state();
    let mut restored = Machine::from_state(halving(), &state, 40).unwrap();
    assert_eq!((restored.state(), restored.phase()), (state, State::None));
    assert_eq!(restored.start(100), until(500_100), "the halved wait");
    for machine in [&mut first, &mut restored] {
        let _ = pass(machine, 200, Wakes::KICK, &found(1000, 42, false));
    }
    let (first, restored) = (first.last_step().unwrap(), restored.last_step().unwrap());
    assert_eq!((restored.iteration, restored.decision), (2, first.decision));
    assert_eq!(restored.measurement.ring_fulls, 2);
    assert_eq!(restored.measurement.elapsed_us, 100, "from its own start");
}

#[test]
fn a_state_that_does_not_fit_the_controller_is_refused() {
    let state = ReaperState {
        controller: HalvingState { wait_us: 1 },
        iterations: 5,
    };
    let refused = Machine::from_state(halving(), &state, 0).map(|machine| machine.state());
    assert_eq!(refused, Err(StateError::OutOfRange));
}

#[test]
fn after_done_it_may_start_again_and_goes_on_counting() {
    let mut machine = machine_at("WAIT");
    let _ = pass(&mut machine, 10, Wakes::STOP, &found(4096, 4, false));
    // A kick that came when it was done belongs to nobody.
    assert_eq!(machine.on_wake(11, Wakes::KICK), Action::Done);
    assert_eq!(
        machine.start(1000),
        until(501_000),
        "the controller went on"
    );
    let _ = pass(&mut machine, 1500, Wakes::KICK, &found(0, 6, false));
    let last = machine.last_step().unwrap();
    assert_eq!((last.iteration, last.measurement.elapsed_us), (2, 500));
    assert_eq!(last.measurement.ring_fulls, 2, "those in between count");
}

#[test]
fn a_clock_that_goes_back_measures_no_time() {
    let mut machine = machine_at("WAIT");
    let _ = pass(&mut machine, 500, Wakes::KICK, &found(0, 0, false));
    let _ = pass(&mut machine, 400, Wakes::KICK, &found(0, 0, false));
    assert_eq!(last_measurement(&machine).elapsed_us, 0);
}
