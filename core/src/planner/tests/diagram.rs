//! The diagram of the machine, as text: what each report does in each state.

use std::format;
use std::string::String;

use super::*;

type Call = fn(&mut Machine) -> Action;

#[test]
fn every_event_in_every_state_does_what_the_diagram_says() {
    let calls: [(&str, Call); 10] = [
        ("start", |machine| machine.start(7)),
        ("timer, early", |machine| {
            machine.on_wake(WAIT_US - 1, Wakes::TIMER)
        }),
        ("timer", |machine| machine.on_wake(WAIT_US, Wakes::TIMER)),
        ("kick", |machine| machine.on_wake(5, Wakes::KICK)),
        ("ring full", |machine| machine.on_wake(5, Wakes::RING_FULL)),
        ("stop", |machine| machine.on_wake(5, Wakes::STOP)),
        ("no cause", |machine| {
            machine.on_wake(u64::MAX, Wakes::empty())
        }),
        ("harvested", |machine| {
            machine.on_harvested(&found(1, 0, false))
        }),
        ("reset short", |machine| machine.on_reset(WAIT_US, &SHORT)),
        ("reset", |machine| machine.on_reset(WAIT_US, &SETTLED)),
    ];
    let show = |machine: &Machine| {
        let action = match machine.action() {
            Action::Wait { .. } => "wait",
            Action::Harvest { begin: true } => "harvest",
            Action::Harvest { begin: false } => "harvest on",
            Action::Reset => "reset",
            Action::Done => "done",
        };
        format!("{:?} {action}", machine.phase())
    };
    let mut matrix = String::from("\n");
    for place in ["NONE", "WAIT", "harvest", "reset"] {
        for (name, call) in calls {
            let mut machine = machine_at(place);
            let before = show(&machine);
            assert_eq!(call(&mut machine), machine.action());
            if show(&machine) != before {
                matrix += &format!("{before}: {name} -> {}\n", show(&machine));
            }
        }
    }
    // What isn't listed changes nothing.
    let expected = "
None done: start -> Wait wait
Wait wait: timer -> Reaping harvest
Wait wait: kick -> Reaping harvest
Wait wait: ring full -> Reaping harvest
Wait wait: stop -> Reaping harvest
Reaping harvest: harvested -> Reaping reset
Reaping reset: reset -> Wait wait
";
    assert!(matrix == expected, "the matrix is now{matrix}");
}

#[test]
fn a_report_that_does_not_fit_the_state_changes_nothing_at_all() {
    let harvested: Call = |machine| machine.on_harvested(&found(4096, 9, true));
    let reset: Call = |machine| machine.on_reset(9, &SETTLED);
    let start: Call = |machine| machine.start(9);
    let wake: Call = |machine| machine.on_wake(9, Wakes::all());
    for (place, calls) in [
        ("NONE", &[harvested, reset, wake][..]),
        ("WAIT", &[harvested, reset, start]),
        ("harvest", &[reset, start]),
        ("reset", &[harvested, start]),
    ] {
        for call in calls {
            let mut machine = machine_at(place);
            let before = format!("{machine:?}");
            let action = machine.action();
            assert_eq!(call(&mut machine), action);
            assert_eq!(format!("{machine:?}"), before, "at {place}");
        }
    }
}
