//! Failures of the command, and their exit codes.

use std::error::Error;
use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

/// A failure: one or two lines that say what is wrong and what to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// The run failed: a lost page, an overrun ring, an error of KVM, output that can't be written.
    #[error("{0}")]
    Run(String),
    /// The usage or the input is wrong.
    #[error("{0}")]
    Usage(String),
    /// This host can't do it: no `/dev/kvm`, no dirty ring.
    #[error("{0}")]
    Host(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Run(_) => 1,
            Self::Usage(_) => 2,
            Self::Host(_) => 3,
        }
    }

    /// Prints the failure on stderr and returns its exit code.
    pub(crate) fn report(&self) -> ExitCode {
        warn(self);
        ExitCode::from(self.code())
    }
}

/// Returns an error's message, followed by those of its sources.
pub(crate) fn describe(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// Prints a line on stderr, best effort: a closed stderr doesn't fail the command.
pub(crate) fn warn(what: &impl Display) {
    let _ = writeln!(std::io::stderr(), "dirty-ring: {what}");
}
