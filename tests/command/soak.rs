//! `dirty-ring soak`.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use crate::contract::{number, whole};
use crate::kvm::kvm;
use crate::support::{Ran, WRONG_USAGE, command, dirty_ring};

#[test]
fn a_soak_on_the_mock_checks_pages_and_says_what_it_did() {
    let soak = dirty_ring("soak --backend mock --duration 500ms --seed 3 --json").json();
    check(&soak, "mock", 0.5);
    assert_eq!(soak["seed"], 3);
    let text = dirty_ring("soak --backend mock --duration 50ms --seed 3").good();
    assert!(
        text.lines().next().unwrap().ends_with("on mock, seed 3"),
        "{text}"
    );
}

/// What every soak on KVM does in its first moments.
const BEGINNING: [&str; 3] = ["phase", "tracking_on", "reaper_start"];

#[track_caller]
fn check(soak: &Value, backend: &str, duration_s: f64) {
    assert_eq!(soak["backend"], backend, "{soak}");
    assert_eq!(whole(soak, "pages_lost"), 0, "{soak}");
    assert!(whole(soak, "pages_checked") > 0, "{soak}");
    assert!(whole(soak, "vms") > 0, "{soak}");
    let seconds = number(soak, "duration_s");
    assert!(seconds >= duration_s, "{soak}");
    let per_minute = whole(soak, "vms") as f64 / seconds * 60.0;
    let difference = number(soak, "vms_per_minute") - per_minute;
    assert!(difference.abs() < 0.01 * per_minute, "{soak}");
    let doings = soak["doings"].as_object().unwrap();
    assert!(doings.values().all(Value::is_u64), "{soak}");
    assert!(doings.values().any(|times| *times != 0), "{soak}");
}

#[test]
fn a_soak_on_kvm_checks_pages_and_says_what_it_did() {
    if kvm().is_none() {
        return;
    }
    let soak = dirty_ring("soak --backend kvm --duration 2s --seed 3 --json").json();
    check(&soak, "kvm", 2.0);
    assert_eq!(soak["seed"], 3);
    for name in BEGINNING {
        assert!(whole(&soak["doings"], name) > 0, "{name}: {soak}");
    }
}

#[test]
fn a_soak_of_given_guests_keeps_to_them() {
    if kvm().is_none() {
        return;
    }
    let words = "soak --backend kvm --duration 500ms --vcpus 3 --ring-entries 1024 --mem 16M \
                 --first-vm 7 --json";
    let soak = dirty_ring(words).json();
    check(&soak, "kvm", 0.5);
    // Without a seed there is another one each time.
    let other = dirty_ring(words).json();
    assert_ne!(soak["seed"], other["seed"]);
}

#[test]
fn text_has_a_line_for_each_figure_and_each_doing() {
    if kvm().is_none() {
        return;
    }
    let text = dirty_ring("soak --backend kvm --duration 200ms --seed 9").good();
    assert!(
        text.lines().next().unwrap().ends_with("on kvm, seed 9"),
        "{text}"
    );
    for name in [
        "VMs",
        "page writes",
        "interrupted",
        "pages checked",
        "pages lost",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{text}");
    }
    for name in BEGINNING {
        let row = format!("| {name} ");
        assert!(text.lines().any(|line| line.starts_with(&row)), "{text}");
    }
}

/// A stop from outside interrupts every wait and every reset.
#[test]
fn a_soak_that_is_stopped_and_continued_loses_nothing() {
    if kvm().is_none() {
        return;
    }
    let mut soak = command();
    soak.args("soak --backend kvm --duration 2s --json".split_whitespace());
    let child = soak.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    let id = child.id().to_string();
    let send = |signal: &str| {
        let mut kill = std::process::Command::new("kill");
        let sent = kill.args([signal, &id]).stderr(Stdio::null()).status();
        assert!(sent.is_ok(), "kill can't be run: {sent:?}");
    };
    while child.try_wait().unwrap().is_none() {
        send("-STOP");
        std::thread::sleep(Duration::from_millis(2));
        send("-CONT");
        std::thread::sleep(Duration::from_millis(3));
    }
    let ran = Ran::new(format!("{soak:?}"), child.wait_with_output().unwrap());
    check(&ran.json(), "kvm", 2.0);
}

#[test]
fn guests_that_cannot_be_are_wrong_usage() {
    let mut wrong = vec![
        ("--duration 0s", "too short"),
        ("--duration 4", "is not a duration"),
        ("--duration 1s --seed -1", "'-1'"),
        ("--duration 1s --seed x", "'x'"),
        ("--duration 1s --vcpus 0", "from 1 to"),
        ("--duration 1s --policy seed", "'--policy'"),
    ];
    wrong.extend([
        (
            "--backend mock --duration 1s --ring-entries 300",
            "power of two",
        ),
        ("--backend mock --duration 1s --mem 64M", "--mem"),
    ]);
    if kvm().is_some() {
        wrong.extend([
            ("--duration 1s --ring-entries 1000", "power of two"),
            ("--duration 1s --ring-entries 131072", "65536"),
            ("--duration 1s --vcpus 65535", "fewer --vcpus"),
            ("--duration 1s --mem 1K", "give 64K or more"),
            ("--duration 1s --mem 8000T", "smaller --mem"),
        ]);
    }
    for (words, expected) in wrong {
        let error = dirty_ring(&format!("soak {words}")).refused(WRONG_USAGE);
        assert!(error.contains(expected), "{words}: {error}");
    }
}
