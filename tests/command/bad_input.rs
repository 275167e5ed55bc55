//! Wrong usage is refused with exit code 2 and one or two lines, before anything runs.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use crate::kvm::kvm;
use crate::support::{Ran, WRONG_USAGE, backends, command, dirty_ring, dirty_ring_with};

/// Checks that `words` followed by `more` are refused with an error that contains each of
/// `expected`.
#[track_caller]
fn refuses(words: &str, more: &[&str], expected: &[&str]) {
    let error = dirty_ring_with(words, more).refused(WRONG_USAGE);
    for expected in expected {
        assert!(error.contains(expected), "{expected:?} is not in {error:?}");
    }
}

#[test]
fn unknown_words_are_refused_with_a_pointer_to_the_help() {
    refuses(
        "frobnicate",
        &[],
        &["'frobnicate'", "try 'dirty-ring --help'"],
    );
    refuses("", &[""], &["try 'dirty-ring --help'"]);
    refuses("--json", &[], &["'--json'", "try 'dirty-ring --help'"]);
    refuses(
        "run --frob",
        &[],
        &["'--frob'", "try 'dirty-ring run --help'"],
    );
    refuses(
        "run extra",
        &[],
        &["'extra'", "try 'dirty-ring run --help'"],
    );
    refuses("run --json --json", &[], &["multiple times"]);
    refuses(
        "probe --backend kvm",
        &[],
        &["try 'dirty-ring probe --help'"],
    );
    refuses("run --backend xen", &[], &["'xen'", "auto, kvm, mock"]);
    refuses("run --backend", &[""], &["auto, kvm, mock"]);
    refuses("run --ring-full half", &[], &["'half'", "chunk, whole"]);
    refuses(
        "replay",
        &[],
        &["--policy <P>", "--ring-entries <N>", "<FILE.csv>"],
    );
    refuses("-- run", &[], &["tip: subcommand 'run' exists"]);
}

#[test]
fn an_argument_that_is_not_utf8_is_refused() {
    let mut command = command();
    let broken = OsString::from_vec(vec![b's', 0xff]);
    command.args(["run", "--workload"]).arg(broken);
    let error = Ran::of(command).refused(WRONG_USAGE);
    assert!(error.contains("UTF-8"), "{error}");
}

#[test]
fn unknown_policies_are_refused_with_a_list_of_all() {
    for wrong in ["", "fast", "Seed", "fixed", "seed;ladder", "é"] {
        refuses(
            "run --policy",
            &[wrong],
            &["seed, ladder, halving", "fixed:DURATION"],
        );
        refuses(
            "compare --policies",
            &[&format!("seed,{wrong}")],
            &["seed, ladder"],
        );
    }
    for wrong in [
        "fixed:",
        "fixed:10",
        "fixed:0s",
        "fixed:1ns",
        "fixed:-1s",
        "fixed:25h",
    ] {
        refuses("run --policy", &[wrong], &["give "]);
    }
    let replay = "replay --policy none --ring-entries 4096 -";
    refuses(replay, &[], &["decides nothing", "ladder"]);
}

#[test]
fn malformed_workloads_are_refused_with_the_place_and_the_syntax() {
    for wrong in ["", " ", "STORM", "stürm", "1", "a\nb\nc", "\u{1b}[31m"] {
        refuses(
            "run --workload",
            &[wrong],
            &["idle, trickle, hot", "pages=N,spin=N"],
        );
    }
    for (wrong, expected) in [
        ("pages=", "vCPU 0, phase 1: pages=\"\" is not a number"),
        ("pages=1", "spin=N is missing"),
        ("spin=1", "pages=N is missing"),
        ("pages=-1,spin=0", "pages=\"-1\" is not a number"),
        ("pages=+1,spin=0", "pages=\"+1\" is not a number"),
        ("pages=1e3,spin=0", "not a number"),
        ("pages=0x10,spin=0", "not a number"),
        ("pages=1,spin=0.5", "not a number"),
        ("pages=٣,spin=0", "not a number"),
        ("pages=1,spin=0,ms=0", "1 to 3600000 is allowed"),
        ("pages=1,spin=0,ms=3600001", "1 to 3600000 is allowed"),
        ("pages=16777217,spin=0", "0 to 16777216 is allowed"),
        (
            "pages=99999999999999999999,spin=0",
            "0 to 16777216 is allowed",
        ),
        ("pages=1,spin=4294967296", "0 to 1000000000 is allowed"),
        ("pages=1,spin=0/pages=2,spin=0", "phase 1: ms=N is missing"),
        (
            "pages=1,spin=0,ms=5/pages=2,spin=0",
            "phase 2: ms=N is missing",
        ),
        ("pages=1,spin=0|", "vCPU 1, phase 1: there is nothing"),
        ("|pages=1,spin=0", "vCPU 0, phase 1: there is nothing"),
        ("pages=1,spin=0,ms=1/", "vCPU 0, phase 2: there is nothing"),
        ("pages=1,,spin=0", "\"\" is not key=number"),
        ("pages=1,spin=0,", "\"\" is not key=number"),
        ("pages=1,pages=1,spin=0", "pages is given twice"),
        ("pages = 1,spin=0", "\"pages \" is no key"),
        ("päges=1,spin=0", "\"päges\" is no key"),
        ("=", "is no key"),
    ] {
        refuses("run --workload", &[wrong], &["workload", expected]);
    }
    let many_phases = vec!["pages=1,spin=0,ms=1"; 1025].join("/");
    refuses("run --workload", &[&many_phases], &["1025 phases", "1024"]);
    let many_vcpus = vec!["pages=1,spin=0"; 4097].join("|");
    refuses("run --workload", &[&many_vcpus], &["4097 vCPUs", "4096"]);
}

#[test]
fn durations_need_a_unit_and_have_bounds() {
    for wrong in [
        "",
        " ",
        "4",
        "s",
        "1e3s",
        "-1s",
        "4 parsecs",
        "4S",
        "0x4s",
        "éms",
        "--json",
    ] {
        refuses("run --duration", &[wrong], &["as in 4s or 250ms"]);
    }
    for wrong in ["0s", "1ns", "9ms"] {
        refuses("compare --duration", &[wrong], &["or more"]);
    }
    for wrong in ["24h 1s", "99999999h", "584y", "1M"] {
        refuses("run --duration", &[wrong], &["give 24h or less"]);
    }
}

#[test]
fn rings_are_powers_of_two_from_one_page_to_the_kernels_maximum() {
    for backend in backends() {
        for (wrong, expected) in [
            ("0", "power of two"),
            ("3", "power of two"),
            ("100", "power of two"),
            ("4294967295", "power of two"),
            ("128", "one page holds 256"),
            ("131072", "65536 at most"),
            ("-1", "power of two up to 65536"),
            ("1e3", "power of two up to 65536"),
            ("4294967296", "power of two up to 65536"),
            ("", "power of two up to 65536"),
        ] {
            let words = format!("run --backend {backend} --ring-entries");
            refuses(&words, &[wrong], &[expected]);
        }
    }
    refuses(
        "replay --policy seed --ring-entries 100 -",
        &[],
        &["power of two"],
    );
}

#[test]
fn vcpus_and_rounds_are_whole_numbers_with_bounds() {
    for wrong in [
        "0",
        "-1",
        "65536",
        "1e3",
        "x",
        "",
        "1.5",
        "99999999999999999999",
    ] {
        refuses("run --vcpus", &[wrong], &["from 1 to 65535"]);
        refuses("compare --rounds", &[wrong], &["from 1 to 1000"]);
    }
}

#[test]
fn more_vcpus_than_a_backend_allows_are_refused_at_once() {
    let begin = Instant::now();
    for backend in backends() {
        for vcpus in ["65535", "5000"] {
            let words = format!("run --workload pages=1,spin=0 --backend {backend} --vcpus");
            refuses(&words, &[vcpus], &[vcpus, "vCPUs", "allow"]);
        }
    }
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn guest_memory_must_hold_what_the_workload_writes() {
    for wrong in ["0", "0G", "", "M", "-1M", "1.5G", "64MiB", "17000000T"] {
        refuses("run --mem", &[wrong], &["'--mem <SIZE>'"]);
    }
    for backend in backends() {
        for small in ["1", "4095", "1M", "65535K"] {
            let words = format!("run --backend {backend} --mem {small}");
            refuses(
                &words,
                &[],
                &["--mem leaves each vCPU", "give 65536K or more"],
            );
        }
        let words = format!("run --backend {backend} --vcpus 3 --workload hot --mem 16M");
        refuses(&words, &[], &["give 24576K or more"]);
    }
}

/// Returns the bytes of memory that this host has free.
fn available_bytes() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let mut lines = meminfo.lines();
    let kib = lines.find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = kib.unwrap().trim().trim_end_matches("kB").trim();
    kib.parse::<u64>().unwrap() * 1024
}

#[test]
fn a_guest_larger_than_any_host_is_refused_before_it_is_created() {
    // 64 GiB for each of eight vCPUs are more than the guest's page tables cover, whatever the host
    // has.
    for backend in backends() {
        for words in ["run --policy none", "run", "compare --rounds 1"] {
            let begin = Instant::now();
            let words = format!("{words} --backend {backend} --vcpus 8 --workload");
            refuses(&words, &["pages=16777216,spin=0"], &["pages"]);
            assert!(begin.elapsed() < Duration::from_secs(5), "{words}");
        }
    }
}

#[test]
fn a_guest_larger_than_the_free_memory_is_refused_before_it_is_created() {
    const LARGE: u64 = 64 << 30;
    let available = available_bytes();
    if kvm().is_none() {
        return;
    }
    if available > LARGE {
        println!("skipped: this host has {} MiB free", available >> 20);
        return;
    }
    let begin = Instant::now();
    for policy in ["none", "ladder"] {
        let words = format!("run --backend kvm --policy {policy} --workload");
        let expected = ["needs 65536 MiB", "choose fewer pages"];
        refuses(&words, &["pages=16777216,spin=0"], &expected);
        refuses(&words, &["hot", "--mem", "64G"], &["a smaller --mem"]);
    }
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn help_and_version_are_not_errors() {
    for words in [
        "--help",
        "-h",
        "run --help",
        "compare -h",
        "replay --help",
        "probe --help",
    ] {
        let text = dirty_ring(words).good();
        assert!(text.contains("Usage: dirty-ring"), "{text}");
    }
    let version = dirty_ring("--version").good();
    assert_eq!(
        version,
        format!("dirty-ring {}\n", env!("CARGO_PKG_VERSION"))
    );
}
