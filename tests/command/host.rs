//! Hosts without KVM, and users without permission to use it.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::kvm::kvm;
use crate::support::{HOST_CANNOT, Ran, Scratch, WRONG_USAGE, dirty_ring};

/// Shell commands that hide `/dev/kvm` inside a mount namespace, and the error that follows.
const WITHOUT_KVM: [(&str, &str); 2] = [
    ("mount -t tmpfs none /dev", "load the kvm module"),
    ("mount --bind /dev/null /dev/kvm", "is no KVM"),
];

/// Runs the command in a mount namespace after `hide`; `None`, with a line on stdout, where that is
/// not allowed.
fn without_kvm(hide: &str, words: &str) -> Option<Ran> {
    let shell = |script: &str| {
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-c", script])
            .stdin(Stdio::null());
        command
    };
    match shell(hide).output() {
        Ok(output) if output.status.success() => {}
        other => {
            println!("skipped: '{hide}' can't be done in a mount namespace here: {other:?}");
            return None;
        }
    }
    let mut command = shell(&format!("{hide} && exec \"$0\" \"$@\""));
    command.arg(env!("CARGO_BIN_EXE_dirty-ring"));
    command.args(words.split(' '));
    Some(Ran::of(command))
}

/// Runs a copy of the command as the user `nobody`, who may not reach the build directory; `None`,
/// with a line on stdout, where that is not allowed.
fn as_nobody(scratch: &Scratch, words: &[&str]) -> Option<Ran> {
    let binary = scratch.path("dirty-ring");
    if !binary.exists() {
        std::fs::copy(env!("CARGO_BIN_EXE_dirty-ring"), &binary).unwrap();
        for path in [binary.as_path(), scratch.directory()] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        }
    }
    let nobody = |program: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", program]);
        command.stdin(Stdio::null());
        command
    };
    let mut probe = nobody(binary.to_str().unwrap());
    match probe.arg("--version").output() {
        Ok(output) if output.status.success() => {}
        other => {
            println!("skipped: the command can't be run as the user nobody here: {other:?}");
            return None;
        }
    }
    let mut command = nobody(binary.to_str().unwrap());
    command.args(words);
    Some(Ran::of(command))
}

/// Checks that the run fell back to the mock, and that one line on stderr says why.
#[track_caller]
fn took_the_mock(ran: Ran, why: &str) {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(json["backend"], "mock");
    let stderr = &ran.stderr;
    assert!(
        stderr.starts_with("dirty-ring: using the mock, because "),
        "{stderr}"
    );
    assert!(stderr.contains(why), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn auto_takes_kvm_where_it_works_and_prints_no_warning() {
    let backend = match kvm() {
        Some(_) => "kvm",
        None => return,
    };
    for words in [
        "run --duration 50ms --json",
        "run --backend auto --duration 50ms --json",
    ] {
        let json = dirty_ring(words).json();
        assert_eq!(json["backend"], backend);
    }
}

#[test]
fn without_kvm_auto_takes_the_mock_and_says_why() {
    for (hide, why) in WITHOUT_KVM {
        let Some(ran) = without_kvm(hide, "run --duration 50ms --json") else {
            return;
        };
        took_the_mock(ran, why);
    }
}

#[test]
fn without_kvm_a_command_that_needs_it_exits_with_the_code_of_the_host() {
    for (hide, why) in WITHOUT_KVM {
        for words in [
            "run --backend kvm",
            "compare --backend kvm --json",
            "probe",
            "probe --json",
        ] {
            let Some(ran) = without_kvm(hide, words) else {
                return;
            };
            let error = ran.refused(HOST_CANNOT);
            assert!(error.contains(why), "{words}: {error}");
        }
    }
}

#[test]
fn without_kvm_wrong_usage_is_still_wrong_usage() {
    let (hide, _) = WITHOUT_KVM[0];
    if let Some(ran) = without_kvm(hide, "run --backend kvm --policy fast") {
        ran.refused(WRONG_USAGE);
    }
}

#[test]
fn a_kvm_that_the_user_may_not_open_is_reported_with_the_remedy() {
    let mode = std::fs::metadata("/dev/kvm").map(|kvm| kvm.permissions().mode());
    if !mode.is_ok_and(|mode| mode & 0o006 != 0o006) {
        println!("skipped: there is no /dev/kvm here, or every user may open it");
        return;
    }
    let scratch = Scratch::new();
    let Some(ran) = as_nobody(&scratch, &["run", "--backend", "kvm"]) else {
        return;
    };
    let error = ran.refused(HOST_CANNOT);
    assert!(error.contains("Permission denied"), "{error}");
    assert!(error.contains("kvm group"), "{error}");
    let words = ["run", "--duration", "50ms", "--json"];
    if let Some(ran) = as_nobody(&scratch, &words) {
        took_the_mock(ran, "Permission denied");
    }
}

#[test]
fn a_trace_that_the_user_may_not_read_or_write_is_refused() {
    let scratch = Scratch::new();
    let trace = scratch.write("trace.csv", "harvested,ring_fulls\n1,0\n");
    std::fs::set_permissions(&trace, PermissionsExt::from_mode(0o600)).unwrap();
    let trace = trace.to_str().unwrap();
    let replay = [
        "replay",
        "--policy",
        "seed",
        "--ring-entries",
        "4096",
        trace,
    ];
    let run = [
        "run",
        "--backend",
        "mock",
        "--duration",
        "50ms",
        "--trace",
        trace,
    ];
    for (words, what) in [(&replay[..], "opened"), (&run[..], "created")] {
        let Some(ran) = as_nobody(&scratch, words) else {
            return;
        };
        let error = ran.refused(WRONG_USAGE);
        assert!(error.contains(what), "{error}");
        assert!(error.contains("Permission denied"), "{error}");
    }
}
