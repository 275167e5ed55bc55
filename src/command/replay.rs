//! `dirty-ring replay`: recorded steps in, a policy's decisions out.
//!
//! Columns that a trace may leave out, and what stands for them:
//!
//! | column | default |
//! |---|---|
//! | `elapsed_us` | the wait that the policy decided on in the step before |
//! | `ring_full_harvested`, `late_us`, `took_us` | 0 |
//! | `fullest` | an even share of `harvested` and `ring_full_harvested` over the vCPUs, rounded up |
//!
//! Other columns are ignored; an empty field counts as one left out, and blank lines as none. A
//! trace is read row by row, however long it is.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use csv::{ErrorKind, StringRecord};
use dirty_ring::core::controller::{Controller, Decision, Measurement, Policy};
use dirty_ring::core::doorbell::Wakes;
use dirty_ring::core::size::RingSize;
use serde::Serialize;

use super::args::ReplayArguments;
use super::failure::Failure;
use super::lines::Lines;
use super::output;
use super::policy::PolicyName;
use super::trace::reason_names;

/// Bytes of the smallest page that any host of KVM has: a trace may come from another host.
const SMALLEST_PAGE_BYTES: u32 = 4096;

/// One line of the output.
#[derive(Serialize)]
struct Line {
    step: u64,
    level: Option<u8>,
    wait_us: u64,
    reasons: Vec<String>,
}

/// Replays a trace.
pub(crate) fn replay(arguments: &ReplayArguments) -> Result<(), Failure> {
    let size = RingSize::new(arguments.ring_entries, SMALLEST_PAGE_BYTES, 0)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let Some(policy) = arguments.policy.controller(size) else {
        return Err(Failure::Usage(format!(
            "policy {} decides nothing: choose one that reaps, such as ladder",
            PolicyName::None
        )));
    };
    let (name, input) = open(&arguments.file)?;
    let mut trace = Trace::new(name, input, arguments.vcpus.into())?;
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    let written = |result: io::Result<()>| result.map_err(|error| output::failed(&error));
    let result = decide(policy, &mut trace, |line| {
        written(print(&mut stdout, &line, arguments.json))
    });
    // What was decided before an error is told as well.
    written(stdout.flush())?;
    result
}

fn open(path: &Path) -> Result<(String, Input), Failure> {
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

fn decide(
    mut policy: Policy,
    trace: &mut Trace,
    mut print: impl FnMut(Line) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut before: Decision = policy.current();
    let mut step = 0;
    while let Some(measurement) = trace.next(before.wait_us)? {
        step += 1;
        before = policy.on_reaped(&measurement);
        print(Line {
            step,
            level: before.level.map(|level| level.number()),
            wait_us: before.wait_us,
            reasons: reason_names(before.reasons),
        })?;
    }
    if step == 0 {
        return Err(trace.wrong(
            None,
            "it has a header and no steps: record some with run --trace",
        ));
    }
    Ok(())
}

type Input = Box<dyn BufRead>;

/// A trace being read.
struct Trace {
    name: String,
    reader: csv::Reader<Lines<Input>>,
    columns: Columns,
    record: StringRecord,
    vcpus: u64,
}

/// Where the columns are.
struct Columns {
    harvested: usize,
    ring_fulls: usize,
    elapsed_us: Option<usize>,
    ring_full_harvested: Option<usize>,
    fullest: Option<usize>,
    late_us: Option<usize>,
    took_us: Option<usize>,
}

impl Trace {
    fn new(name: String, input: Input, vcpus: u64) -> Result<Self, Failure> {
        let mut reader = csv::ReaderBuilder::new()
            .trim(csv::Trim::All)
            .from_reader(Lines::new(input));
        let header = match reader.headers() {
            Ok(header) => header.clone(),
            Err(error) => return Err(malformed(&name, reader.get_ref().line(), &error)),
        };
        let line = reader.get_ref().line();
        if header.is_empty() {
            return Err(wrong(
                &name,
                None,
                "it is empty: a trace begins with a header",
            ));
        }
        let find = |column: &str| header.iter().position(|name| name == column);
        let need = |column: &str| {
            find(column).ok_or_else(|| {
                let text = format!(
                    "the column '{column}' is missing: a trace needs 'harvested' and 'ring_fulls'"
                );
                wrong(&name, Some(line), &text)
            })
        };
        let columns = Columns {
            harvested: need("harvested")?,
            ring_fulls: need("ring_fulls")?,
            elapsed_us: find("elapsed_us"),
            ring_full_harvested: find("ring_full_harvested"),
            fullest: find("fullest"),
            late_us: find("late_us"),
            took_us: find("took_us"),
        };
        Ok(Self {
            name,
            reader,
            columns,
            record: StringRecord::new(),
            vcpus,
        })
    }

    /// The next step, or `None` at the end. `wait_us` is what the policy decided before.
    fn next(&mut self, wait_us: u64) -> Result<Option<Measurement>, Failure> {
        self.reader.get_mut().begin_record();
        match self.reader.read_record(&mut self.record) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => return Err(malformed(&self.name, self.line(), &error)),
        }
        let columns = &self.columns;
        let harvested = self.number(columns.harvested, u64::MAX)?;
        let ring_fulls = self.number(columns.ring_fulls, u32::MAX.into())?;
        let elapsed_us = self.optional(columns.elapsed_us, u64::MAX)?;
        let at_ring_full = self
            .optional(columns.ring_full_harvested, u64::MAX)?
            .unwrap_or(0);
        let share = harvested.saturating_add(at_ring_full).div_ceil(self.vcpus);
        let fullest = self
            .optional(columns.fullest, u32::MAX.into())?
            .unwrap_or(share);
        Ok(Some(Measurement {
            elapsed_us: elapsed_us.unwrap_or(wait_us),
            harvested,
            ring_full_harvested: at_ring_full,
            fullest: u32::try_from(fullest).unwrap_or(u32::MAX),
            ring_fulls: u32::try_from(ring_fulls).unwrap_or(u32::MAX),
            wakes: Wakes::TIMER,
            late_us: self.optional(columns.late_us, u64::MAX)?.unwrap_or(0),
            took_us: self.optional(columns.took_us, u64::MAX)?.unwrap_or(0),
        }))
    }

    fn optional(&self, column: Option<usize>, most: u64) -> Result<Option<u64>, Failure> {
        match column {
            Some(column) if !self.record.get(column).unwrap_or_default().is_empty() => {
                self.number(column, most).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn number(&self, column: usize, most: u64) -> Result<u64, Failure> {
        let field = self.record.get(column).unwrap_or_default();
        let trouble = match field.parse::<u64>() {
            Ok(number) if number <= most => return Ok(number),
            Ok(_) => "is too large",
            Err(_) if field.is_empty() => "is empty",
            Err(_) if field.starts_with('-') => "is negative",
            Err(_) if field.bytes().all(|byte| byte.is_ascii_digit()) => "is too large",
            Err(_) => "is no whole number",
        };
        let text = format!(
            "column {}: '{field}' {trouble}: give a whole number from 0 to {most}",
            column + 1
        );
        Err(self.wrong(Some(self.line()), &text))
    }

    /// The line of the record read last, from 1; the last one of a record of several.
    fn line(&self) -> u64 {
        self.reader.get_ref().line()
    }

    fn wrong(&self, line: Option<u64>, text: &str) -> Failure {
        wrong(&self.name, line, text)
    }
}

/// What is wrong with a trace, and where.
fn wrong(name: &str, line: Option<u64>, text: &str) -> Failure {
    Failure::Usage(match line {
        Some(line) => format!("the trace {name}, line {line}: {text}"),
        None => format!("the trace {name}: {text}"),
    })
}

/// The same for an error of the CSV itself.
fn malformed(name: &str, line: u64, error: &csv::Error) -> Failure {
    let line = (line > 0).then_some(line);
    let text = match error.kind() {
        ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => {
            let columns = if *len == 1 { "column" } else { "columns" };
            format!("it has {len} {columns}, the header {expected_len}: was the line cut off?")
        }
        ErrorKind::Utf8 { err, .. } => {
            format!(
                "column {}: it is no text (UTF-8): is this a trace?",
                err.field() + 1
            )
        }
        ErrorKind::Io(error) => format!("it can't be read: {error}"),
        _ => error.to_string(),
    };
    wrong(name, line, &text)
}
