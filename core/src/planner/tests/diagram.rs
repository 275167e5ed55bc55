//! The diagram of the machine, as text: what each report does in each phase.

use std::format;
use std::string::String;

use super::*;

type Call = fn(&mut Machine) -> Action;

#[test]
fn every_event_in_every_phase_does_what_the_diagram_says() {
    const EARLY: Instant = Instant(5);
    let calls: [(&str, Call); 9] = [
        ("start", |machine| machine.start(Instant(7))),
        ("timer, early", |machine| {
            machine.on_wake(EARLY, Wakes::TIMER)
        }),
        ("timer", |machine| machine.on_wake(DUE, Wakes::TIMER)),
        ("kick", |machine| machine.on_wake(EARLY, Wakes::KICK)),
        ("ring full", |machine| {
            machine.on_wake(EARLY, Wakes::RING_FULL)
        }),
        ("stop", |machine| machine.on_wake(EARLY, Wakes::STOP)),
        ("no cause, early", |machine| {
            machine.on_wake(EARLY, Wakes::empty())
        }),
        ("no cause, in time", |machine| {
            machine.on_wake(DUE, Wakes::empty())
        }),
        ("reaped", |machine| machine.on_reaped(DUE, &found(1, 0))),
    ];
    let show = |machine: &Machine| {
        let action = match machine.action() {
            Action::Wait { .. } => "wait",
            PLANNED => "reap",
            Action::Reap { .. } => "reap all",
            Action::Done => "done",
        };
        format!("{:?} {action}", machine.phase())
    };
    let mut matrix = String::from("\n");
    for place in ["idle", "wait", "reap"] {
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
Idle done: start -> Waiting wait
Waiting wait: timer -> Reaping reap
Waiting wait: kick -> Reaping reap all
Waiting wait: ring full -> Reaping reap
Waiting wait: stop -> Reaping reap all
Waiting wait: no cause, in time -> Reaping reap
Reaping reap: reaped -> Waiting wait
";
    assert!(matrix == expected, "the matrix is now{matrix}");
}

#[test]
fn a_report_that_does_not_fit_the_phase_changes_nothing_at_all() {
    let reaped: Call = |machine| machine.on_reaped(Instant(9), &found(4096, 9));
    let start: Call = |machine| machine.start(Instant(9));
    let wake: Call = |machine| machine.on_wake(Instant(9), Wakes::all());
    for (place, calls) in [
        ("idle", &[reaped, wake][..]),
        ("wait", &[reaped, start]),
        ("reap", &[start]),
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
