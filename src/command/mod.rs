//! The command: arguments in, one of four exit codes out.

mod args;
mod compare;
mod failure;
mod host;
mod output;
mod policy;
mod probe;
mod progress;
mod replay;
mod report;
mod run;
mod safety;
mod soak;
mod table;
mod trace;
mod units;
mod workload;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use args::{Arguments, Command, CompareArguments};
use failure::Failure;

/// Runs the command with the process's arguments.
pub(crate) fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    let result = match arguments.command {
        None => compare::compare(&CompareArguments::quick()),
        Some(Command::Probe(arguments)) => probe::probe(&arguments),
        Some(Command::Run(arguments)) => run::command(&arguments),
        Some(Command::Compare(arguments)) => compare::compare(&arguments),
        Some(Command::Replay(arguments)) => replay::replay(&arguments),
        Some(Command::Soak(arguments)) => soak::soak(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Prints help and version on stdout; reports all else as wrong usage, in two lines.
fn refuse(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        return match output::print(&error.render().to_string()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.report(),
        };
    }
    let text = error.render().to_string();
    let what = text.lines().next().unwrap_or_default();
    let what = what.strip_prefix("error: ").unwrap_or(what);
    // The lines that follow list what is allowed or missing.
    let details: Vec<&str> = text
        .lines()
        .skip(1)
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .filter(|line| !line.is_empty())
        .collect();
    let what = match details.first() {
        None => what.to_owned(),
        Some(first) if first.starts_with("tip:") => format!("{what}; {}", details.join("; ")),
        Some(_) => format!("{what} {}", details.join("; ")),
    };
    Failure::Usage(format!("{what}\ntry 'dirty-ring {}--help'", subcommand())).report()
}

/// Returns the subcommand on the command line with a space after it; nothing where there is none.
fn subcommand() -> String {
    let name = std::env::args_os().nth(1).unwrap_or_default();
    let known = Arguments::command();
    match known.find_subcommand(&name) {
        Some(subcommand) => format!("{} ", subcommand.get_name()),
        None => String::new(),
    }
}
