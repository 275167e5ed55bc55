//! `dirty-ring replay`, and the traces that `run` records.

use std::path::Path;
use std::process::Stdio;

use dirty_ring::core::controller::{Controller, Policy};
use dirty_ring::core::size::RingSize;
use serde_json::Value;

use crate::support::{POLICIES, Ran, Scratch, backends, command, dirty_ring_with};

/// What a step decided: wait in microseconds, level and reasons.
type Decided = (u64, Option<u64>, Vec<String>);

/// Replays `file` as `words` say; one decision a step.
#[track_caller]
fn replay(words: &str, file: &Path) -> Vec<Decided> {
    let words = format!("replay --json {words}");
    let text = dirty_ring_with(&words, &[file.to_str().unwrap()]).good();
    decisions(&text)
}

#[track_caller]
fn decisions(text: &str) -> Vec<Decided> {
    let decision = |(at, line): (usize, &str)| {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["step"], at + 1, "{line}");
        let level = &line["level"];
        assert!(level.is_null() || level.as_u64().unwrap() <= 5, "{line}");
        let reasons = line["reasons"].as_array().unwrap().iter();
        let reasons: Vec<String> = reasons.map(|one| one.as_str().unwrap().into()).collect();
        assert!(!reasons.is_empty(), "{line}");
        (line["wait_us"].as_u64().unwrap(), level.as_u64(), reasons)
    };
    text.lines().enumerate().map(decision).collect()
}

/// What a trace has recorded.
fn recorded(trace: &Path) -> Vec<Decided> {
    let text = std::fs::read_to_string(trace).unwrap();
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let column = |name| header.iter().position(|column| *column == name).unwrap();
    let [wait, level, reasons] = ["wait_us", "level", "reasons"].map(column);
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            let reasons = fields[reasons].split('|').map(str::to_owned).collect();
            (
                fields[wait].parse().unwrap(),
                fields[level].parse().ok(),
                reasons,
            )
        })
        .collect()
}

#[track_caller]
fn record(scratch: &Scratch, backend: &str, policy: &str) -> std::path::PathBuf {
    let trace = scratch.path(&format!("{backend}-{}.csv", policy.replace(':', "-")));
    let words = format!(
        "run --backend {backend} --policy {policy} --vcpus 2 --ring-entries 1024 \
         --workload pages=2000,spin=0,ms=100/pages=10,spin=0,ms=150 --duration 500ms --json --trace"
    );
    dirty_ring_with(&words, &[trace.to_str().unwrap()]).good();
    trace
}

#[test]
fn a_replay_under_the_same_policy_and_ring_decides_as_recorded() {
    let scratch = Scratch::new();
    for backend in backends() {
        // The deadline policy decides by what it sees in the rings, which no trace holds.
        for policy in POLICIES.into_iter().filter(|policy| *policy != "deadline") {
            let trace = record(&scratch, backend, policy);
            let recorded = recorded(&trace);
            assert!(!recorded.is_empty(), "{policy} on {backend}");
            let words = format!("--policy {policy} --ring-entries 1024 --vcpus 2");
            assert_eq!(replay(&words, &trace), recorded, "{policy} on {backend}");
        }
    }
}

#[test]
fn a_trace_can_be_replayed_under_any_other_policy() {
    let scratch = Scratch::new();
    for backend in backends() {
        let trace = record(&scratch, backend, "ladder");
        let steps = recorded(&trace).len();
        for policy in POLICIES {
            let words = format!("--policy {policy} --ring-entries 4096");
            assert_eq!(replay(&words, &trace).len(), steps, "{policy} on {backend}");
        }
    }
}

#[test]
fn a_run_without_logging_decides_nothing_and_leaves_a_header() {
    let scratch = Scratch::new();
    let trace = scratch.path("none.csv");
    let words = "run --backend mock --policy none --duration 50ms --trace";
    dirty_ring_with(words, &[trace.to_str().unwrap()]).good();
    assert!(recorded(&trace).is_empty());
    let words = "replay --policy seed --ring-entries 4096";
    let error = dirty_ring_with(words, &[trace.to_str().unwrap()]).refused(2);
    assert!(error.contains("no steps"), "{error}");
}

#[test]
fn an_even_share_stands_for_a_missing_fullest_column() {
    let scratch = Scratch::new();
    let missing = scratch.write(
        "missing.csv",
        "harvested,ring_fulls\n4001,0\n3200,0\n10,1\n",
    );
    // Rounded up.
    let share = "harvested,ring_fulls,fullest\n4001,0,1001\n3200,0,800\n10,1,3\n";
    let share = scratch.write("share.csv", share);
    let all = "harvested,ring_fulls,fullest\n4001,0,4001\n3200,0,3200\n10,1,10\n";
    let all = scratch.write("all.csv", all);
    let policy = "--policy ladder --ring-entries 4096";
    let four = replay(&format!("{policy} --vcpus 4"), &missing);
    assert_eq!(four, replay(&format!("{policy} --vcpus 4"), &share));
    let one = replay(&format!("{policy} --vcpus 1"), &missing);
    assert_eq!(one, replay(policy, &all));
    assert_ne!(one, four, "the share makes a difference");
}

/// What `policy` waits before the first step.
fn first_wait_us(policy: &str, ring_entries: u32) -> u64 {
    let size = RingSize::new(ring_entries, 4096, 0).unwrap();
    let policy = match policy {
        "deadline" => Policy::deadline(size),
        "ladder" => Policy::ladder(size),
        "seed" => Policy::seed(size),
        "halving" => Policy::halving(size),
        "fixed:5ms" => Policy::fixed(5_000).unwrap(),
        other => panic!("{other} is new: say how it is made"),
    };
    policy.current().wait_us
}

#[test]
fn the_wait_before_stands_for_a_missing_elapsed_column_and_0_for_the_ring_full_paths_pages() {
    let scratch = Scratch::new();
    let rows = [(500, 0), (2000, 0), (3900, 1), (0, 0), (0, 0), (900, 3)];
    let short: String = rows
        .map(|(pages, fulls)| format!("{pages},{fulls}\n"))
        .concat();
    let short = scratch.write("short.csv", format!("harvested,ring_fulls\n{short}"));
    for policy in POLICIES {
        let words = format!("--policy {policy} --ring-entries 4096");
        let decided = replay(&words, &short);
        let starts = first_wait_us(policy, 4096);
        let waits = decided.iter().map(|(wait_us, ..)| *wait_us);
        let elapsed_us = [starts].into_iter().chain(waits);
        let mut full = "harvested,ring_fulls,elapsed_us,ring_full_harvested,fullest\n".to_owned();
        for ((pages, fulls), elapsed_us) in rows.iter().zip(elapsed_us) {
            full += &format!("{pages},{fulls},{elapsed_us},0,{pages}\n");
        }
        let full = scratch.write("full.csv", full);
        assert_eq!(replay(&words, &full), decided, "{policy}");
    }
}

#[test]
fn columns_come_in_any_order_empty_fields_and_blank_lines_count_as_left_out() {
    let scratch = Scratch::new();
    let plain = scratch.write("plain.csv", "harvested,ring_fulls\n100,0\n4000,2\n");
    let odd = "note,ring_fulls,elapsed_us,harvested\r\n\r\n\"a, b\", 0 ,,100\r\n\r\n,2,,\"4000\"";
    let odd = scratch.write("odd.csv", odd);
    let with_mark = scratch.write("mark.csv", "\u{feff}harvested,ring_fulls\n100,0\n4000,2\n");
    let words = "--policy seed --ring-entries 4096";
    let expected = replay(words, &plain);
    assert_eq!(expected.len(), 2);
    assert_eq!(replay(words, &odd), expected);
    assert_eq!(replay(words, &with_mark), expected);
}

#[test]
fn a_dash_reads_standard_input() {
    let scratch = Scratch::new();
    let trace = scratch.write("trace.csv", "harvested,ring_fulls\n100,0\n4000,2\n");
    let words = "replay --json --policy ladder --ring-entries 4096 -";
    let mut from_stdin = command();
    from_stdin
        .args(words.split(' '))
        .stdin(Stdio::from(std::fs::File::open(&trace).unwrap()));
    let text = Ran::of(from_stdin).good();
    let words = "--policy ladder --ring-entries 4096";
    assert_eq!(decisions(&text), replay(words, &trace));
}

#[test]
fn without_json_a_step_is_a_line_of_text() {
    let scratch = Scratch::new();
    let trace = scratch.write("trace.csv", "harvested,ring_fulls\n100,0\n4000,2\n");
    let words = "replay --policy ladder --ring-entries 4096";
    let text = dirty_ring_with(words, &[trace.to_str().unwrap()]).good();
    assert_eq!(text.lines().count(), 2);
    for (at, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[..2], ["step", &(at + 1).to_string()], "{line}");
        assert_eq!((words[2], words[4]), ("level", "wait"), "{line}");
    }
}
