//! The machine alone: the test is its driver, its clock and its rings.

mod diagram;

use std::vec::Vec;

use super::*;
use crate::controller::{Fixed, Halving, HalvingConfig, HalvingState, Reasons};
use crate::testing::{Cells, ring_size};

/// 100 ms to 1 s, so that decisions differ: begins at 1 s, and halves where a pass finds 4096.
type Machine = Planner<Halving, 4>;

const PLANNED: Action = Action::Reap {
    scope: Scope::Planned,
};
const ALL: Action = Action::Reap { scope: Scope::All };
const WAIT: Micros = Micros::SECOND;
const DUE: Instant = Instant(WAIT.0);

fn halving() -> Halving {
    Halving::new(HalvingConfig::REVIEW, ring_size(4096))
}

fn until(until: u64) -> Action {
    Action::Wait {
        until: Instant(until),
    }
}

/// A pass that took `pages`, and `ring_fulls` since the last.
fn found(pages: u64, ring_fulls: u32) -> PassTally {
    PassTally {
        harvested: pages,
        ring_full_harvested: 7,
        fullest: pages as u32,
        ring_fulls,
    }
}

/// Machines in each phase: the driver was told what the name says.
fn machine_at(place: &str) -> Machine {
    let mut machine = Machine::new(halving());
    let steps: &[fn(&mut Machine) -> Action] = &[
        |machine| machine.start(Instant(0)),
        |machine| machine.on_wake(DUE, Wakes::TIMER),
    ];
    let steps = match place {
        "idle" => &steps[..0],
        "wait" => &steps[..1],
        "reap" => steps,
        other => panic!("no place {other:?}"),
    };
    for step in steps {
        let _ = step(&mut machine);
    }
    machine
}

/// A whole pass that `wakes` begin at `now` and that takes no time.
fn pass(machine: &mut Machine, now: u64, wakes: Wakes, found: &PassTally) -> Action {
    let begun = machine.on_wake(Instant(now), wakes);
    assert!(matches!(begun, Action::Reap { .. }), "{begun:?}");
    machine.on_reaped(Instant(now), found)
}

fn last_measurement(machine: &Machine) -> Measurement {
    machine.last_pass().unwrap().measurement
}

#[test]
fn the_first_wait_is_the_controllers_and_each_further_one_its_decision() {
    let mut machine = Machine::new(halving());
    assert_eq!(machine.start(Instant(50)), until(50 + WAIT.0));
    let halved = pass(&mut machine, 2_000_000, Wakes::TIMER, &found(4096, 0));
    assert_eq!(halved, until(2_500_000));
    assert_eq!(machine.start(Instant(0)), halved, "it has started");
    let mut late = Machine::new(halving());
    assert_eq!(late.start(Instant::MAX), until(u64::MAX), "no overflow");
}

#[test]
fn no_wait_is_shorter_than_the_shortest() {
    let mut machine: Planner<Fixed, 1> = Planner::new(Fixed::new(Micros(1)).unwrap());
    assert_eq!(machine.start(Instant(0)), until(SHORTEST_WAIT.0));
    let _ = machine.on_wake(Instant(500), Wakes::TIMER);
    let wait = machine.on_reaped(Instant(700), &found(1, 0));
    assert_eq!(wait, until(700 + SHORTEST_WAIT.0));
    let last = machine.last_pass().unwrap();
    assert_eq!(
        last.decision.wait, SHORTEST_WAIT,
        "the record says what was done"
    );
}

#[test]
fn an_early_timer_is_ignored_unless_another_cause_comes_with_it() {
    let mut machine = machine_at("wait");
    let early = Instant(WAIT.0 - 1);
    assert_eq!(machine.on_wake(early, Wakes::TIMER), until(WAIT.0));
    assert_eq!(machine.passes(), 0);
    assert_eq!(machine.on_wake(Instant(9), Wakes::TIMER | Wakes::KICK), ALL);
    let _ = machine.on_reaped(Instant(9), &found(0, 0));
    assert_eq!(last_measurement(&machine).wakes, Wakes::KICK);
}

#[test]
fn timer_and_kick_in_one_wake_make_one_pass_with_both_causes() {
    let mut machine = machine_at("wait");
    // The clock tells of the timer even where the doorbell doesn't.
    let wait = pass(&mut machine, WAIT.0, Wakes::KICK, &found(1000, 0));
    assert_eq!(wait, until(2 * WAIT.0));
    assert_eq!(machine.passes(), 1);
    let both = Wakes::TIMER | Wakes::KICK;
    assert_eq!(last_measurement(&machine).wakes, both);
}

#[test]
fn a_kick_and_a_stop_take_every_ring_and_other_wakes_what_is_planned() {
    for (wakes, expected) in [
        (Wakes::TIMER, PLANNED),
        (Wakes::RING_FULL, PLANNED),
        (Wakes::TIMER | Wakes::RING_FULL, PLANNED),
        (Wakes::KICK, ALL),
        (Wakes::STOP, ALL),
        (Wakes::all(), ALL),
    ] {
        let mut machine = machine_at("wait");
        assert_eq!(machine.on_wake(DUE, wakes), expected, "{wakes:?}");
    }
}

#[test]
fn a_controller_plans_in_a_pass_and_at_no_other_time() {
    /// Leaves ring 0 alone.
    #[derive(Clone, Debug)]
    struct Leaves;
    impl Controller for Leaves {
        type State = ();
        fn current(&self) -> Decision {
            Decision {
                wait: WAIT,
                level: None,
                reasons: Reasons::empty(),
            }
        }
        fn plan<M: EntryMemory>(&mut self, now: Instant, rings: &mut PassRings<'_, M>) {
            assert_eq!(now, Instant(5));
            rings.leave(0);
        }
        fn on_reaped(&mut self, _measurement: &Measurement) -> Decision {
            self.current()
        }
        fn state(&self) {}
        fn restore(&mut self, (): &()) -> Result<(), StateError> {
            Ok(())
        }
    }
    let rings = [crate::ring::Ring::new(
        Cells::new(ring_size(256)),
        Instant(0),
    )];
    let is_left_alone = |machine: &mut Planner<Leaves, 4>| {
        let mut told = [false];
        PassRings::play(&rings, &mut told, |rings| machine.plan(Instant(5), rings));
        told[0]
    };
    let mut machine = Planner::new(Leaves);
    assert!(!is_left_alone(&mut machine));
    let _ = machine.start(Instant(0));
    assert!(!is_left_alone(&mut machine));
    let _ = machine.on_wake(Instant(5), Wakes::RING_FULL);
    assert!(is_left_alone(&mut machine));
}

#[test]
fn a_pass_measures_what_it_found_and_how_late_and_long_it_was() {
    let mut machine = machine_at("wait");
    let _ = machine.on_wake(Instant(WAIT.0 + 30), Wakes::TIMER);
    let _ = machine.on_reaped(Instant(WAIT.0 + 50), &found(40, 3));
    let expected = Measurement {
        elapsed: WAIT + Micros(30),
        harvested: 40,
        ring_full_harvested: 7,
        fullest: 40,
        ring_fulls: 3,
        wakes: Wakes::TIMER,
        late: Micros(30),
        took: Micros(20),
    };
    assert_eq!(last_measurement(&machine), expected);
    assert_eq!(machine.passes(), 1);
    let _ = pass(&mut machine, WAIT.0 + 90, Wakes::KICK, &found(0, 0));
    assert_eq!(
        last_measurement(&machine).late,
        Micros::ZERO,
        "it came before the time"
    );
}

#[test]
fn a_stop_during_a_wait_makes_one_whole_pass_and_then_done() {
    let mut machine = machine_at("wait");
    let done = pass(&mut machine, 3, Wakes::STOP, &found(5, 0));
    assert_eq!((done, machine.phase()), (Action::Done, Phase::Idle));
    assert_eq!(machine.on_wake(Instant(4), Wakes::all()), Action::Done);
    assert_eq!(machine.passes(), 1);
}

#[test]
fn a_stop_during_a_pass_makes_one_whole_further_pass_and_then_done() {
    let mut machine = machine_at("reap");
    // STOP stays set: the driver may hear it more than once.
    assert_eq!(machine.on_wake(Instant(1), Wakes::STOP), PLANNED);
    assert_eq!(machine.on_wake(Instant(2), Wakes::STOP), PLANNED);
    assert_eq!(
        machine.on_reaped(Instant(3), &found(1, 0)),
        ALL,
        "the drain"
    );
    let _ = machine.on_wake(Instant(4), Wakes::STOP);
    let done = machine.on_reaped(Instant(5), &found(1, 0));
    assert_eq!((done, machine.passes()), (Action::Done, 2));
    assert_eq!(last_measurement(&machine).wakes, Wakes::STOP);
}

#[test]
fn causes_during_a_pass_make_one_pass_at_once_that_names_them_all() {
    let mut machine = machine_at("reap");
    for wakes in [Wakes::KICK, Wakes::RING_FULL, Wakes::KICK, Wakes::TIMER] {
        assert_eq!(machine.on_wake(DUE, wakes), PLANNED);
    }
    let later = |us| Instant(WAIT.0 + us);
    assert_eq!(machine.on_reaped(later(8), &found(0, 0)), ALL);
    let wait = machine.on_reaped(later(20), &found(0, 0));
    assert_eq!(wait, until(2 * WAIT.0 + 20));
    let last = last_measurement(&machine);
    // The timer is not kept: it was the wait that is over.
    assert_eq!(last.wakes, Wakes::KICK | Wakes::RING_FULL);
    assert_eq!(
        last.elapsed,
        Micros(8),
        "from the beginning of one to that of the next"
    );
    assert_eq!(last.late, Micros::ZERO);
}

#[test]
fn the_history_is_bounded_and_ordered() {
    let mut machine = machine_at("wait");
    assert!(machine.last_pass().is_none());
    for at in 1..=6 {
        let _ = pass(&mut machine, at * 10, Wakes::KICK, &found(at, 0));
        let numbers = machine.history().map(|pass| pass.number);
        let expected: Vec<u64> = (at.saturating_sub(3).max(1)..=at).collect();
        assert_eq!(numbers.collect::<Vec<_>>(), expected);
    }
    let last = machine.last_pass().unwrap();
    assert_eq!((last.number, last.now), (6, Instant(60)));
    assert_eq!(
        (last.measurement.elapsed, last.measurement.harvested),
        (Micros(10), 6)
    );
    assert_eq!(last.decision.reasons, Reasons::AT_SLOWEST);
}

#[test]
fn a_restored_machine_goes_on_and_measures_from_its_own_start() {
    let mut first = machine_at("wait");
    let _ = pass(&mut first, 10, Wakes::KICK, &found(4096, 40));
    let state = first.state();
    let mut restored = Machine::from_state(halving(), &state).unwrap();
    assert_eq!((restored.state(), restored.phase()), (state, Phase::Idle));
    assert_eq!(
        restored.start(Instant(100)),
        until(100),
        "what is in the rings is unknown"
    );
    for machine in [&mut first, &mut restored] {
        let _ = pass(machine, 200, Wakes::KICK, &found(1000, 2));
    }
    let (first, restored) = (first.last_pass().unwrap(), restored.last_pass().unwrap());
    assert_eq!((restored.number, restored.decision), (2, first.decision));
    assert_eq!(restored.measurement.elapsed, Micros(100));
}

#[test]
fn a_state_that_does_not_fit_the_controller_is_refused() {
    let state = PlannerState {
        controller: HalvingState { wait_us: 1 },
        passes: 5,
    };
    let refused = Machine::from_state(halving(), &state).map(|machine| machine.state());
    assert_eq!(refused, Err(StateError::OutOfRange));
}

#[test]
fn after_done_it_may_start_again_and_goes_on_counting() {
    let mut machine = machine_at("wait");
    let _ = pass(&mut machine, 10, Wakes::STOP, &found(4096, 4));
    // A kick that came when it was done makes no pass.
    assert_eq!(machine.on_wake(Instant(11), Wakes::KICK), Action::Done);
    assert_eq!(
        machine.start(Instant(1000)),
        until(501_000),
        "the controller went on"
    );
    let _ = pass(&mut machine, 1500, Wakes::KICK, &found(0, 2));
    let last = machine.last_pass().unwrap();
    assert_eq!((last.number, last.measurement.elapsed), (2, Micros(500)));
    assert_eq!(last.measurement.wakes, Wakes::KICK);
}

#[test]
fn a_clock_that_goes_back_measures_no_time() {
    let mut machine = machine_at("wait");
    let _ = pass(&mut machine, 500, Wakes::KICK, &found(0, 0));
    let _ = pass(&mut machine, 400, Wakes::KICK, &found(0, 0));
    assert_eq!(last_measurement(&machine).elapsed, Micros::ZERO);
}
