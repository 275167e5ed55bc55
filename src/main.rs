//! The `dirty-ring` command: probe, run, compare, replay and soak.
#![forbid(unsafe_code)]

mod command;

use std::process::ExitCode;

fn main() -> ExitCode {
    command::main()
}
