//! Standard output. What can't be written is an error.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use super::failure::Failure;

/// Prints `text`.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| failed(&error))
}

/// Prints `value` as one JSON object on one line.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_string(value)
        .map_err(|error| Failure::Run(format!("the result can't be printed as JSON: {error}")))?;
    text.push('\n');
    print(&text)
}

/// Returns the failure for a write to stdout that returned `error`.
pub(crate) fn failed(error: &io::Error) -> Failure {
    Failure::Run(match error.kind() {
        ErrorKind::BrokenPipe => {
            "standard output was closed before everything was written: keep its reader open".into()
        }
        _ => format!("standard output can't be written: {error}; check the file that it goes to"),
    })
}
