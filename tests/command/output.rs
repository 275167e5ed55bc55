//! Output that can't be written is reported as an error, and never causes a panic.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::{
    RUN_FAILED, Ran, Scratch, WRONG_USAGE, command, dirty_ring_with, full_device,
};

/// Command lines that print something.
const PRINTING: [&str; 7] = [
    "--help",
    "run --backend mock --duration 50ms --json",
    "run --backend mock --duration 50ms",
    "compare --backend mock --duration 20ms --rounds 1",
    "compare --backend mock --duration 20ms --rounds 1 --json",
    "soak --backend mock --duration 20ms",
    "soak --backend mock --duration 20ms --json",
];

fn printing(words: &str, stdout: impl Into<Stdio>) -> Command {
    let mut command = command();
    // Otherwise `output()` would pipe it.
    command.args(words.split(' ')).stdout(stdout);
    command
}

#[test]
fn a_closed_stdout_fails_the_run_in_one_line() {
    for words in PRINTING {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let error = Ran::of(printing(words, writer)).failed(RUN_FAILED);
        assert!(error.contains("standard output was closed"), "{error}");
        assert_eq!(error.lines().count(), 1);
    }
}

#[test]
fn a_stdout_closed_during_a_replay_ends_it_in_one_line() {
    let words = "replay --policy ladder --ring-entries 4096 -";
    let (reader, writer) = std::io::pipe().unwrap();
    let mut replay = printing(words, writer);
    replay.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = replay.spawn().unwrap();
    // The command holds the writer's end of the pipe open.
    drop(replay);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"harvested,ring_fulls\n").unwrap();
    drop(reader);
    // The replay reads on until a write fails.
    while stdin.write_all("1,0\n".repeat(1000).as_bytes()).is_ok() {}
    let ran = Ran::new(words.into(), child.wait_with_output().unwrap());
    assert_eq!(ran.failed(RUN_FAILED).lines().count(), 1);
}

#[test]
fn a_full_disk_fails_the_run() {
    for words in PRINTING {
        let error = Ran::of(printing(words, full_device())).failed(RUN_FAILED);
        assert!(error.contains("can't be written"), "{error}");
    }
}

#[test]
fn a_closed_or_full_stderr_changes_no_exit_code() {
    let mut wrong = command();
    wrong
        .args(["run", "--policy", "fast"])
        .stderr(full_device());
    assert_eq!(Ran::of(wrong).code, Some(WRONG_USAGE));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut wrong = command();
    wrong.args(["run", "--policy", "fast"]).stderr(writer);
    assert_eq!(Ran::of(wrong).code, Some(WRONG_USAGE));
}

#[test]
fn a_warning_that_cannot_be_written_does_not_fail_the_run() {
    // The ring is too small for any host, so that there is a warning on KVM.
    let words = "run --ring-entries 256 --vcpus 2 --duration 200ms --json";
    let mut run = command();
    run.args(words.split(' ')).stderr(full_device());
    let ran = Ran::of(run);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.ends_with("}\n"), "{ran:?}");
}

const TRACED: &str = "run --backend mock --duration 100ms --policy fixed:1ms --json --trace";

#[test]
fn a_trace_that_cannot_be_created_is_refused_before_the_run() {
    let scratch = Scratch::new();
    let nowhere = scratch.path("missing/trace.csv");
    for path in [nowhere.as_path(), scratch.directory()] {
        let error = dirty_ring_with(TRACED, &[path.to_str().unwrap()]).refused(WRONG_USAGE);
        assert!(error.contains("can't be created"), "{error}");
    }
    assert!(!nowhere.exists());
}

#[test]
fn a_trace_that_is_incomplete_fails_the_run() {
    let error = dirty_ring_with(TRACED, &["/dev/full"]).refused(RUN_FAILED);
    assert!(
        error.contains("the trace /dev/full is incomplete"),
        "{error}"
    );
}
