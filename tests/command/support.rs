//! Runs the command and checks what it prints.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::kvm::kvm;

/// Every policy that reaps.
pub(crate) const POLICIES: [&str; 5] = ["deadline", "ladder", "seed", "halving", "fixed:5ms"];

/// How the warning begins that a ring is too small for this host, which depends on the host.
const SLOW_HOST: &str = "dirty-ring: warning: a ring of ";

/// Exit codes of the command.
pub(crate) const RUN_FAILED: i32 = 1;
pub(crate) const WRONG_USAGE: i32 = 2;
pub(crate) const HOST_CANNOT: i32 = 3;

/// Returns the command, without arguments yet.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dirty-ring"));
    command.stdin(Stdio::null());
    command
}

/// Runs the command with `words`, split at spaces.
pub(crate) fn dirty_ring(words: &str) -> Ran {
    dirty_ring_with(words, &[])
}

/// Runs the command with `words`, split at spaces, and `more` as they are.
pub(crate) fn dirty_ring_with(words: &str, more: &[&str]) -> Ran {
    let mut command = command();
    command.args(words.split_whitespace()).args(more);
    Ran::of(command)
}

/// A finished command.
#[derive(Debug)]
pub(crate) struct Ran {
    what: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Runs `command` to its end.
    pub(crate) fn of(mut command: Command) -> Self {
        let output = command.output().unwrap();
        Self::new(format!("{command:?}"), output)
    }

    pub(crate) fn new(what: String, output: Output) -> Self {
        Self {
            what,
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Checks that the command succeeded without a warning (but for a slow host), and returns its
    /// output.
    #[track_caller]
    pub(crate) fn good(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        let mut complaints = self.stderr.lines();
        let complaint = complaints.find(|line| !line.starts_with(SLOW_HOST));
        assert_eq!(complaint, None, "{}", self.what);
        self.stdout
    }

    /// Checks that the command succeeded and printed one JSON object on one line, and returns it.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let what = self.what.clone();
        let text = self.good();
        assert!(
            text.ends_with('\n') && text.lines().count() == 1,
            "{what}: {text}"
        );
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{what}: {error}: {text}"))
    }

    /// Checks that the command failed with `code` and printed nothing but one or two lines on
    /// stderr, and returns those.
    #[track_caller]
    pub(crate) fn refused(self, code: i32) -> String {
        assert_eq!(self.stdout, "", "{}", self.what);
        self.failed(code)
    }

    /// Checks that the command failed with `code` and one or two lines on stderr, and returns
    /// those.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        let Self { what, stderr, .. } = &self;
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(stderr.starts_with("dirty-ring: "), "{what}: {stderr}");
        assert!(stderr.ends_with('\n'), "{what}: {stderr}");
        assert!(
            (1..=2).contains(&stderr.lines().count()),
            "{what}: {stderr}"
        );
        for word in [
            "panicked",
            "RUST_BACKTRACE",
            "backtrace",
            "Error {",
            "\u{1b}",
        ] {
            assert!(!stderr.contains(word), "{what}: {stderr}");
        }
        self.stderr
    }
}

/// Returns the backends that this host has.
pub(crate) fn backends() -> impl Iterator<Item = &'static str> {
    ["mock"].into_iter().chain(kvm().map(|_| "kvm"))
}

/// A directory that is removed when the test ends.
pub(crate) struct Scratch(TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn directory(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents).unwrap();
        path
    }
}

/// Opens a device on which every write fails for lack of space.
pub(crate) fn full_device() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}
