//! Traces that can't be replayed are refused with exit code 2, the file and the line.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use crate::support::{Scratch, WRONG_USAGE, command, dirty_ring_with};

const REPLAY: &str = "replay --json --policy ladder --ring-entries 4096";

/// Checks that `contents` are refused after `good` steps, with an error that contains each of
/// `expected`.
#[track_caller]
fn refuses(contents: impl AsRef<[u8]>, good: usize, expected: &[&str]) {
    let scratch = Scratch::new();
    let path = scratch.write("trace.csv", contents);
    let path = path.to_str().unwrap();
    let ran = dirty_ring_with(REPLAY, &[path]);
    // The decisions before the error are printed, in whole lines.
    assert_eq!(ran.stdout.lines().count(), good, "{ran:?}");
    assert!(
        ran.stdout.is_empty() || ran.stdout.ends_with("}\n"),
        "{ran:?}"
    );
    let error = ran.failed(WRONG_USAGE);
    for expected in expected.iter().chain([&path]) {
        assert!(error.contains(expected), "{expected:?} is not in {error:?}");
    }
}

#[test]
fn a_trace_has_a_header_with_two_columns_and_a_step() {
    for nothing in ["", "\n", "\r\n\r\n\n"] {
        refuses(nothing, 0, &["it is empty"]);
    }
    for header in ["harvested,ring_fulls", "harvested,ring_fulls\n\n"] {
        refuses(header, 0, &["no steps", "run --trace"]);
    }
    refuses(
        "harvested\n1\n",
        0,
        &["line 1: the column 'ring_fulls' is missing"],
    );
    refuses(
        "\n\nring_fulls\n1\n",
        0,
        &["line 3: the column 'harvested' is missing"],
    );
    for strange in [
        "Harvested,RING_FULLS\n1,0\n",
        "harvested;ring_fulls\n1;0\n",
        "1,0\n2,0\n",
    ] {
        refuses(strange, 0, &["a trace needs 'harvested' and 'ring_fulls'"]);
    }
}

#[test]
fn numbers_are_whole_and_have_bounds() {
    for (number, expected) in [
        ("-5", "is negative"),
        ("1.5", "is not a whole number"),
        ("1e3", "is not a whole number"),
        ("NaN", "is not a whole number"),
        ("0x10", "is not a whole number"),
        ("12 34", "is not a whole number"),
        ("", "is empty"),
        ("18446744073709551616", "is too large"),
        ("99999999999999999999999999999999", "is too large"),
    ] {
        let trace = format!("ring_fulls,harvested\n0,1\n0,{number}\n0,1\n");
        let give = "give a whole number from 0 to 18446744073709551615";
        refuses(trace, 1, &["line 3: column 2: ", expected, give]);
    }
    let too_many = "harvested,ring_fulls\n1,4294967296\n";
    refuses(too_many, 0, &["line 2: column 2: ", "from 0 to 4294967295"]);
    for column in [
        "step",
        "reaped",
        "elapsed_us",
        "ring_full_harvested",
        "fullest",
        "late_us",
        "took_us",
        "ring_capacity",
    ] {
        let trace = format!("harvested,ring_fulls,{column}\n1,0,\n1,0,-1\n");
        refuses(trace, 1, &["line 3: column 3: ", "is negative"]);
    }
}

#[test]
fn whether_a_pass_reaped_is_0_or_1() {
    let trace = "reaped,harvested,ring_fulls\n1,1,0\n2,1,0\n";
    let give = "give a whole number from 0 to 1";
    refuses(trace, 1, &["line 3: column 1: '2' is too large", give]);
}

#[test]
fn a_soft_limit_belongs_to_a_ring_and_stays_the_same() {
    let header = "harvested,ring_fulls,ring_capacity\n";
    for wrong in ["0", "4096", "4031", "4294967295"] {
        let no_ring = format!("line 2: column 3: '{wrong}' is the soft limit of no ring");
        let give = "give 4032 or 3520 for a ring of 4096 entries";
        refuses(format!("{header}1,0,{wrong}\n"), 0, &[&no_ring, give]);
    }
    for first in ["4032", "", "960"] {
        let trace = format!("{header}1,0,{first}\n1,0,\n1,0,3520\n");
        let differs = "line 4: column 3: '3520' differs from the first row";
        refuses(trace, 2, &[differs, "give the same in every row"]);
    }
}

#[test]
fn errors_name_the_right_line_after_blank_lines_and_carriage_returns() {
    refuses("harvested,ring_fulls\n\n1,0\n\n\nx,0\n", 1, &["line 6: "]);
    refuses("harvested,ring_fulls\r\n1,0\r\nx,0\r\n", 1, &["line 3: "]);
    refuses("harvested,ring_fulls\r\n1,0\r\n\r\nx\r\n", 1, &["line 4: "]);
}

#[test]
fn the_largest_numbers_are_replayed() {
    let scratch = Scratch::new();
    let header = "harvested,ring_fulls,elapsed_us,ring_full_harvested,fullest\n";
    let most = format!("{},{},{0},{0},{1}\n", u64::MAX, u32::MAX);
    let rows = [most.as_str(), "0,0,0,0,0\n", &most].concat();
    let path = scratch.write("most.csv", format!("{header}{rows}"));
    let path = path.to_str().unwrap();
    for policy in crate::support::POLICIES {
        for ring in ["256", "65536"] {
            let words = format!("replay --vcpus 65535 --policy {policy} --ring-entries {ring}");
            let text = dirty_ring_with(&words, &[path]).good();
            assert_eq!(text.lines().count(), 3, "{policy}");
        }
    }
}

#[test]
fn a_line_that_was_cut_off_is_refused() {
    refuses(
        "harvested,ring_fulls\n1,0\n2",
        1,
        &["line 3: it has 1 column, ", "cut off?"],
    );
    refuses(
        "harvested,ring_fulls\n1,0,7\n",
        0,
        &["line 2: it has 3 columns, "],
    );
    refuses(
        "harvested,ring_fulls\n1,0\n\"2,0\n3,0\n",
        1,
        &["it has 1 column, "],
    );
    refuses("harvested,ring_fulls\n1,0\n\0\0\0\0", 1, &["line 3: "]);
}

#[test]
fn a_file_that_is_not_utf8_is_refused() {
    let utf16: Vec<u8> = "\u{feff}harvested,ring_fulls\n1,0\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    refuses(utf16, 0, &["line 1: ", "is this a trace?"]);
    let elf = std::fs::read(env!("CARGO_BIN_EXE_dirty-ring")).unwrap();
    refuses(&elf[..elf.len().min(1 << 20)], 0, &["line 1"]);
    refuses(
        b"harvested,ring_fulls\n1,0\n\xff,0\n",
        1,
        &["line 3: ", "not UTF-8 text"],
    );
}

#[test]
fn an_endless_line_is_refused_before_it_fills_the_memory() {
    let long = format!("harvested,ring_fulls\n1,0\n{}", "1".repeat(3 << 20));
    refuses(long, 1, &["line 3: ", "more than 65536 bytes"]);
    let open_quote = format!("harvested,ring_fulls\n1,0\n\"{}", "1,0\n".repeat(1 << 18));
    refuses(open_quote, 1, &["more than 65536 bytes"]);
    let error = dirty_ring_with(REPLAY, &["/dev/zero"]).refused(WRONG_USAGE);
    assert!(error.contains("is this a trace?"), "{error}");
}

#[test]
fn files_that_cannot_be_read_are_refused() {
    let scratch = Scratch::new();
    let missing = scratch.path("missing.csv");
    let error = dirty_ring_with(REPLAY, &[missing.to_str().unwrap()]).refused(WRONG_USAGE);
    assert!(
        error.contains("can't be opened") && error.contains("run --trace"),
        "{error}"
    );
    let directory = scratch.directory().to_str().unwrap();
    let error = dirty_ring_with(REPLAY, &[directory]).refused(WRONG_USAGE);
    assert!(error.contains("directory"), "{error}");
    let error = dirty_ring_with(REPLAY, &["-"]).refused(WRONG_USAGE);
    assert!(
        error.contains("standard input") && error.contains("empty"),
        "{error}"
    );
}

/// Bytes of a trace that is large enough to show in the peak memory if it is read as a whole.
const LARGE_BYTES: usize = 64 << 20;
const ROW_BYTES: usize = 8192;

#[test]
fn a_large_trace_is_streamed() {
    let scratch = Scratch::new();
    let path = scratch.path("large.csv");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    writeln!(file, "harvested,ring_fulls,note").unwrap();
    let row = format!("123,0,{}\n", "x".repeat(ROW_BYTES));
    let rows = LARGE_BYTES / ROW_BYTES;
    for _ in 0..rows {
        file.write_all(row.as_bytes()).unwrap();
    }
    drop(file);

    let mut command = command();
    command
        .args(REPLAY.split(' '))
        .arg(&path)
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // More lines are left than the pipe and the buffers hold, so the process is still running.
    let left = 3000;
    for _ in 0..rows - left {
        lines.next().unwrap().unwrap();
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let peak_kib: usize = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(lines.count(), left);
    assert!(child.wait().unwrap().success());
    assert!(peak_kib < LARGE_BYTES / 1024 / 2, "{peak}");
}
