//! `dirty-ring replay`, and the traces that `run --trace` writes.

use std::path::Path;
use std::process::Stdio;

use dirty_ring::core::controller::{Controller, Measurement, Policy};
use dirty_ring::core::size::{PML_ENTRIES, RingSize};
use dirty_ring::core::time::Micros;
use serde_json::Value;

use crate::support::{POLICIES, Ran, Scratch, backends, command, dirty_ring_with};

/// What a pass decided: its step, the wait in microseconds, the level and the reasons.
type Decided = (u64, u64, Option<u64>, Vec<String>);

/// Replays `file` as `words` say. Returns one decision for each line.
#[track_caller]
fn replay(words: &str, file: &Path) -> Vec<Decided> {
    let words = format!("replay --json {words}");
    let text = dirty_ring_with(&words, &[file.to_str().unwrap()]).good();
    decisions(&text)
}

#[track_caller]
fn decisions(text: &str) -> Vec<Decided> {
    let decision = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let level = &line["level"];
        assert!(level.is_null() || level.as_u64().unwrap() <= 5, "{line}");
        let reasons = line["reasons"].as_array().unwrap().iter();
        let reasons: Vec<String> = reasons.map(|one| one.as_str().unwrap().into()).collect();
        assert!(!reasons.is_empty(), "{line}");
        let [step, wait_us] = ["step", "wait_us"].map(|field| line[field].as_u64().unwrap());
        (step, wait_us, level.as_u64(), reasons)
    };
    text.lines().map(decision).collect()
}

/// Returns the steps of `decided`.
fn steps(decided: &[Decided]) -> Vec<u64> {
    decided.iter().map(|(step, ..)| *step).collect()
}

/// Replays `contents` under `policy` for a ring of 4096 entries.
#[track_caller]
fn replay_text(policy: &str, contents: &str) -> Vec<Decided> {
    let scratch = Scratch::new();
    let words = format!("--policy {policy} --ring-entries 4096");
    replay(&words, &scratch.write("trace.csv", contents))
}

/// Returns the named columns of each row of a trace.
fn columns<const N: usize>(trace: &Path, names: [&str; N]) -> Vec<[String; N]> {
    let text = std::fs::read_to_string(trace).unwrap();
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let at = |name| header.iter().position(|column| *column == name).unwrap();
    let at = names.map(at);
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            at.map(|at| fields[at].to_owned())
        })
        .collect()
}

/// Returns the recorded decisions of a trace.
fn recorded(trace: &Path) -> Vec<Decided> {
    columns(trace, ["step", "wait_us", "level", "reasons"])
        .into_iter()
        .map(|[step, wait_us, level, reasons]| {
            (
                step.parse().unwrap(),
                wait_us.parse().unwrap(),
                level.parse().ok(),
                reasons.split('|').map(str::to_owned).collect(),
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
        // The deadline policy decides by what it finds when it peeks, which no trace holds.
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
fn a_trace_can_be_replayed_under_any_other_policy_and_ring() {
    let scratch = Scratch::new();
    for backend in backends() {
        let trace = record(&scratch, backend, "ladder");
        let recorded = steps(&recorded(&trace));
        for policy in POLICIES {
            let words = format!("--policy {policy} --ring-entries 4096");
            let decided = replay(&words, &trace);
            assert_eq!(steps(&decided), recorded, "{policy} on {backend}");
        }
    }
}

#[test]
fn a_trace_has_every_pass_and_a_replay_the_steps_that_reaped() {
    let scratch = Scratch::new();
    for backend in backends() {
        let trace = record(&scratch, backend, "deadline");
        let rows = columns(&trace, ["step", "reaped", "harvested", "ring_fulls"]);
        let mut reaps: Vec<u64> = Vec::new();
        for (at, [step, reaped, harvested, ring_fulls]) in rows.iter().enumerate() {
            assert_eq!(*step, (at + 1).to_string(), "{backend}");
            match reaped.as_str() {
                "0" => assert_eq!((&**harvested, &**ring_fulls), ("0", "0"), "{backend}"),
                "1" => reaps.push(at as u64 + 1),
                other => panic!("{backend}: reaped is {other}"),
            }
        }
        assert!(!reaps.is_empty() && reaps.len() < rows.len(), "{backend}");
        for policy in POLICIES {
            let words = format!("--policy {policy} --ring-entries 1024 --vcpus 2");
            let decided = replay(&words, &trace);
            assert_eq!(steps(&decided), reaps, "{policy} on {backend}");
        }
    }
}

#[test]
fn only_a_policy_that_peeks_has_passes_that_reaped_nothing() {
    let scratch = Scratch::new();
    for backend in backends() {
        for policy in POLICIES.into_iter().filter(|policy| *policy != "deadline") {
            let trace = record(&scratch, backend, policy);
            let rows = columns(&trace, ["reaped"]);
            let all = rows.iter().all(|[reaped]| reaped == "1");
            assert!(all, "{policy} on {backend}");
        }
    }
}

#[test]
fn the_time_of_a_pass_that_only_peeked_is_added_to_the_next_reap() {
    let header = "step,reaped,elapsed_us,harvested,ring_fulls\n";
    let peeked = "1,1,9000,3000,0\n2,0,4000,0,0\n3,0,,0,0\n4,0,2000,0,0\n5,1,1000,3000,0\n\
                  6,1,5000,3500,0\n7,0,800,0,0\n";
    let added = "1,1,9000,3000,0\n5,1,7000,3000,0\n6,1,5000,3500,0\n";
    let lost = "1,1,9000,3000,0\n5,1,1000,3000,0\n6,1,5000,3500,0\n";
    for policy in POLICIES {
        let decided = replay_text(policy, &[header, peeked].concat());
        assert_eq!(steps(&decided), [1, 5, 6], "{policy}");
        let expected = replay_text(policy, &[header, added].concat());
        assert_eq!(decided, expected, "{policy}");
    }
    let deadline = |rows| replay_text("deadline", &[header, rows].concat());
    assert_ne!(
        deadline(lost),
        deadline(added),
        "the time of the peeks matters"
    );
}

#[test]
fn the_largest_times_of_passes_that_peeked_add_up_to_the_largest_time() {
    let most = u64::MAX;
    let header = "reaped,elapsed_us,harvested,ring_fulls\n";
    let rows = format!("0,{most},0,0\n0,{most},0,0\n1,{most},10,0\n");
    for policy in POLICIES {
        let decided = replay_text(policy, &[header, &rows].concat());
        assert_eq!(steps(&decided), [3], "{policy}");
    }
}

#[test]
fn without_a_step_column_rows_are_counted_and_without_a_reaped_column_every_pass_reaped() {
    for policy in POLICIES {
        let plain = replay_text(policy, "harvested,ring_fulls\n100,0\n0,0\n4000,2\n");
        assert_eq!(steps(&plain), [1, 2, 3], "{policy}");
        let trace = "reaped,step,harvested,ring_fulls\n1,,100,0\n,,0,0\n1,,4000,2\n";
        assert_eq!(replay_text(policy, trace), plain, "{policy}");
        let peeked = "reaped,harvested,ring_fulls\n1,100,0\n0,0,0\n1,4000,2\n";
        assert_eq!(steps(&replay_text(policy, peeked)), [1, 3], "{policy}");
        let from_70 = "step,harvested,ring_fulls\n70,100,0\n,0,0\n90,4000,2\n";
        let decided = replay_text(policy, from_70);
        assert_eq!(steps(&decided), [70, 71, 90], "{policy}");
    }
}

#[test]
fn a_trace_of_nothing_but_peeks_is_refused() {
    let scratch = Scratch::new();
    let trace = scratch.write("idle.csv", "reaped,harvested,ring_fulls\n0,0,0\n0,0,0\n");
    let words = "replay --policy ladder --ring-entries 4096";
    let error = dirty_ring_with(words, &[trace.to_str().unwrap()]).refused(2);
    assert!(error.contains("only peeked at the rings"), "{error}");
}

#[test]
fn a_soft_limit_in_the_trace_is_that_of_the_replayed_rings() {
    // The deadline policy waits for as long as the ring lasts up to its soft limit.
    let replayed = |capacity: u32| {
        let rows = format!("2500,0,{capacity}\n2500,0,\n2500,0,{capacity}\n");
        let header = "harvested,ring_fulls,ring_capacity\n";
        replay_text("deadline", &[header, &rows].concat())
    };
    let expected = |cpu_log_entries| {
        let size = RingSize::new(4096, 4096, cpu_log_entries).unwrap();
        let mut policy = Policy::deadline(size);
        let mut elapsed_us = policy.current().wait.0;
        let mut decide = |step| {
            let decision = policy.on_reaped(&Measurement {
                elapsed: Micros(elapsed_us),
                harvested: 2500,
                fullest: 2500,
                ..Measurement::default()
            });
            elapsed_us = decision.wait.0;
            (step, decision.wait.0)
        };
        [1, 2, 3].map(&mut decide)
    };
    let waits = |decided: Vec<Decided>| -> Vec<(u64, u64)> {
        let waits = decided.into_iter();
        waits.map(|(step, wait_us, ..)| (step, wait_us)).collect()
    };
    assert_eq!(waits(replayed(4032)), expected(0));
    assert_eq!(waits(replayed(3520)), expected(PML_ENTRIES));
    assert_ne!(expected(0), expected(PML_ENTRIES), "the soft limit matters");
    // A trace of rings of another size says nothing of these.
    for other in [960, 65_472] {
        assert_eq!(waits(replayed(other)), expected(0), "{other}");
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
    assert_ne!(one, four, "the share matters");
}

/// Returns the wait that `policy` begins with, in microseconds.
fn first_wait_us(policy: &str, ring_entries: u32) -> u64 {
    let size = RingSize::new(ring_entries, 4096, 0).unwrap();
    let policy = match policy {
        "deadline" => Policy::deadline(size),
        "ladder" => Policy::ladder(size),
        "seed" => Policy::seed(size),
        "halving" => Policy::halving(size),
        "fixed:5ms" => Policy::fixed(Micros::from_millis(5)).unwrap(),
        other => panic!("{other} is new: create it here"),
    };
    policy.current().wait.0
}

#[test]
fn the_last_wait_stands_for_a_missing_elapsed_column_and_0_for_the_ring_full_paths_pages() {
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
        let waits = decided.iter().map(|(_, wait_us, ..)| *wait_us);
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
fn columns_come_in_any_order_and_empty_fields_count_as_missing() {
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
