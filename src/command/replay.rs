//! `dirty-ring replay`: recorded passes in, a policy's decisions out.
//!
//! The format of a trace, and what stands for a missing column, is in [`trace`](super::trace).

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use dirty_ring::core::controller::{Controller, Measurement, Policy};
use dirty_ring::core::size::RingSize;
use dirty_ring::core::time::Micros;
use serde::Serialize;

use super::args::ReplayArguments;
use super::failure::{self, Failure};
use super::output;
use super::policy::PolicyName;
use super::trace::{Pass, TraceReader, default_size, reason_names};

/// One line of the output.
#[derive(Serialize)]
struct Line {
    /// The trace's own number of the pass, so that the two can be joined.
    step: u64,
    level: Option<u8>,
    wait_us: u64,
    reasons: Vec<String>,
}

/// Replays a trace.
pub(crate) fn replay(arguments: &ReplayArguments) -> Result<(), Failure> {
    let size = default_size(arguments.ring_entries)
        .map_err(|error| Failure::Usage(failure::describe(&error)))?;
    // Wrong arguments are reported before the trace is opened.
    controller(arguments.policy, size)?;
    let (name, input) = open(&arguments.file)?;
    let mut trace = TraceReader::new(name, input, arguments.vcpus.into(), size)?;
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    let written = |result: io::Result<()>| result.map_err(|error| output::failed(&error));
    let result = decide(arguments.policy, &mut trace, |line| {
        written(print(&mut stdout, &line, arguments.json))
    });
    // The decisions before an error are printed as well.
    written(stdout.flush())?;
    result
}

/// Returns the controller of `policy` for rings of `size`.
fn controller(policy: PolicyName, size: RingSize) -> Result<Policy, Failure> {
    policy.controller(size).ok_or_else(|| {
        Failure::Usage(format!(
            "policy {policy} decides nothing: choose one that reaps, such as ladder"
        ))
    })
}

fn open(path: &Path) -> Result<(String, Box<dyn BufRead>), Failure> {
    if path == Path::new("-") {
        return Ok(("standard input".into(), Box::new(io::stdin().lock())));
    }
    let name = path.display().to_string();
    match File::open(path) {
        Ok(file) => Ok((name, Box::new(BufReader::new(file)))),
        Err(error) => Err(Failure::Usage(format!(
            "the trace {name} can't be opened: {error}; record one with run --trace, or give - \
             for standard input"
        ))),
    }
}

fn print(out: &mut impl Write, line: &Line, json: bool) -> io::Result<()> {
    if json {
        serde_json::to_writer(&mut *out, line)?;
        return writeln!(out);
    }
    let level = line.level.map_or("-".into(), |level| level.to_string());
    let reasons = line.reasons.join(" ");
    let (step, wait_us) = (line.step, line.wait_us);
    writeln!(
        out,
        "step {step:>6}  level {level}  wait {wait_us:>8} us  {reasons}"
    )
}

/// Feeds each reap of `trace` to `policy` and prints what it decides.
fn decide(
    policy: PolicyName,
    trace: &mut TraceReader,
    mut print: impl FnMut(Line) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut next = trace.next()?;
    let Some(Pass { ring_size, .. }) = next else {
        return Err(trace.wrong("it has a header and no steps: record some with run --trace"));
    };
    let mut policy = controller(policy, ring_size)?;
    let mut wait = policy.current().wait;
    // Time of the passes since the last reap, which only peeked.
    let mut peeked = Micros::ZERO;
    let mut has_reaps = false;
    while let Some(pass) = next {
        if pass.reaped {
            let elapsed = pass.elapsed.unwrap_or(wait);
            let decision = policy.on_reaped(&Measurement {
                elapsed: std::mem::take(&mut peeked) + elapsed,
                ..pass.measurement
            });
            wait = decision.wait;
            has_reaps = true;
            print(Line {
                step: pass.step,
                level: decision.level.map(|level| level.number()),
                wait_us: wait.0,
                reasons: reason_names(decision.reasons),
            })?;
        } else {
            peeked = peeked + pass.elapsed.unwrap_or(Micros::ZERO);
        }
        next = trace.next()?;
    }
    if !has_reaps {
        return Err(trace.wrong(
            "all of its passes only peeked at the rings, so there is nothing to decide: record a \
             guest that writes more pages, or a policy that doesn't peek",
        ));
    }
    Ok(())
}
