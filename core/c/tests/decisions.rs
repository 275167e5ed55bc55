//! The programs in `examples/` decide as the core does, step for step: they are compiled with the C
//! compiler of this machine and linked with the library.

use std::fmt::Write;
use std::fs;

use dirty_ring_core::controller::{Controller, Measurement, Policy, PolicySpec};
use dirty_ring_core::doorbell::Wakes;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::Micros;

use guest::Guest;

mod guest;
mod support;

const POLICIES: [&str; 6] = [
    "deadline",
    "deadline:50ms",
    "ladder",
    "seed",
    "halving",
    "fixed:20ms",
];

/// Recorded with a fixed interval under a load that comes and goes, and with a policy that looks before it
/// reaps.
const TRACES: [&str; 2] = ["tests/data/trace.csv", "tests/data/peeks.csv"];

/// One row of a trace: what a pass found, and whether it reaped.
struct Row {
    step: u64,
    reaped: bool,
    found: Measurement,
}

fn rows(trace: &str) -> Vec<Row> {
    let text = fs::read_to_string(support::here(trace)).unwrap();
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        let number = |name| {
            let place = header.iter().position(|column| *column == name).unwrap();
            fields[place].parse::<u64>().unwrap()
        };
        Row {
            step: number("step"),
            reaped: number("reaped") != 0,
            found: Measurement {
                elapsed: Micros(number("elapsed_us")),
                harvested: number("harvested"),
                ring_full_harvested: number("ring_full_harvested"),
                fullest: number("fullest") as u32,
                ring_fulls: number("ring_fulls") as u32,
                wakes: Wakes::TIMER,
                late: Micros(number("late_us")),
                took: Micros(number("took_us")),
            },
        }
    };
    lines.map(row).collect()
}

fn size() -> RingSize {
    RingSize::new(4096, 4096, 0).unwrap()
}

fn controller(policy: &str) -> Policy {
    policy.parse::<PolicySpec>().unwrap().build(size()).unwrap()
}

/// Returns a decision as the programs print it.
fn level(level: Option<dirty_ring_core::controller::RunLevel>) -> i32 {
    level.map_or(-1, |level| level.number().into())
}

/// Returns what the controller decides, in the words of `examples/replay.c`.
fn replayed(policy: &str, trace: &str) -> String {
    let mut controller = controller(policy);
    let mut text = String::new();
    let mut peeked = Micros::ZERO;
    for Row {
        step,
        reaped,
        mut found,
    } in rows(trace)
    {
        found.elapsed = found.elapsed + peeked;
        peeked = if reaped { Micros::ZERO } else { found.elapsed };
        if !reaped {
            continue;
        }
        let decided = controller.on_reaped(&found);
        writeln!(
            text,
            "step {step} wait {} level {} reasons {:x}",
            decided.wait.0,
            level(decided.level),
            decided.reasons.bits()
        )
        .unwrap();
    }
    text
}

/// Returns what a reaper of the core does, in the words of `examples/reap.c`.
fn reaped(policy: &str, trace: &str) -> String {
    let mut guest = Guest::new(size(), controller(policy));
    let mut begin_us = 0;
    for row in rows(trace) {
        let pages = row.found.harvested + row.found.ring_full_harvested;
        for page in 0..pages {
            guest.write(begin_us + row.found.elapsed.0 * page / pages);
        }
        begin_us += row.found.elapsed.0;
        guest.reap_until(begin_us);
    }
    guest.stop();
    let mut text = String::new();
    for pass in &guest.passes {
        let (found, decided) = (&pass.measurement, &pass.decision);
        writeln!(
            text,
            "pass {} now {} harvested {}+{} fullest {} ring_fulls {} wakes {:x} late {} took {} wait {} \
             level {} reasons {:x}",
            pass.number,
            pass.now.0,
            found.harvested,
            found.ring_full_harvested,
            found.fullest,
            found.ring_fulls,
            found.wakes.bits(),
            found.late.0,
            found.took.0,
            decided.wait.0,
            level(decided.level),
            decided.reasons.bits()
        )
        .unwrap();
    }
    let totals = guest.totals();
    writeln!(
        text,
        "written {} published {} ring_fulls {} resets {}",
        guest.written, totals.published, totals.ring_fulls, totals.resets
    )
    .unwrap();
    text
}

/// Compares line by line, so that a failure shows the first step that differs.
#[track_caller]
fn same(c: &str, rust: &str, what: &str) {
    for (at, (c, rust)) in c.lines().zip(rust.lines()).enumerate() {
        assert_eq!(c, rust, "{what}, line {}", at + 1);
    }
    assert_eq!(c.lines().count(), rust.lines().count(), "{what}");
}

#[test]
fn controllers_decide_in_c_as_in_rust() {
    let program = support::build("examples/replay.c");
    for trace in TRACES {
        let trace_path = support::here(trace);
        for policy in POLICIES {
            let c = support::run(&program, &[policy, trace_path.to_str().unwrap()]);
            let rust = replayed(policy, trace);
            assert!(c.lines().count() > 70, "{policy}: {c}");
            same(&c, &rust, &format!("{policy} over {trace}"));
        }
    }
}

#[test]
fn a_reaper_does_in_c_as_in_rust() {
    let program = support::build("examples/reap.c");
    for trace in TRACES {
        let trace_path = support::here(trace);
        for policy in POLICIES {
            let c = support::run(&program, &[policy, trace_path.to_str().unwrap()]);
            let rust = reaped(policy, trace);
            assert!(c.contains("ring_fulls"), "{policy}: {c}");
            same(&c, &rust, &format!("{policy} over {trace}"));
        }
    }
}

#[test]
fn the_examples_are_clean_under_valgrind() {
    let trace = support::here("tests/data/peeks.csv");
    for example in ["replay", "reap"] {
        let program = support::build(&format!("examples/{example}.c"));
        support::run_checked(&program, &["deadline", trace.to_str().unwrap()]);
    }
}
