//! Reads a trace row by row, and reports errors by line and column.

use std::io::BufRead;

use csv::{ErrorKind, StringRecord};
use dirty_ring::core::controller::Measurement;
use dirty_ring::core::doorbell::Wakes;
use dirty_ring::core::size::RingSize;
use dirty_ring::core::time::Micros;

use super::lines::Lines;
use super::soft_limit::{size_with, sizes};
use crate::command::failure::Failure;

type Input = Box<dyn BufRead>;

/// A pass of the reaper, read from a row.
pub(crate) struct Pass {
    pub(crate) step: u64,
    /// The pass reaped; otherwise it only peeked.
    pub(crate) reaped: bool,
    /// Microseconds since the pass before began, where the trace has them.
    pub(crate) elapsed: Option<Micros>,
    /// What the pass found. Its `elapsed` is 0, because only the caller knows what stands for a
    /// missing one.
    pub(crate) measurement: Measurement,
    /// The size of each ring; the same for every pass of a trace.
    pub(crate) ring_size: RingSize,
}

/// A trace being read.
pub(crate) struct TraceReader {
    name: String,
    reader: csv::Reader<Lines<Input>>,
    columns: Columns,
    record: StringRecord,
    vcpus: u64,
    /// The step of the row read last; 0 before the first.
    step: u64,
    ring: Ring,
}

/// Which field of a row holds what.
struct Columns {
    harvested: usize,
    ring_fulls: usize,
    step: Option<usize>,
    reaped: Option<usize>,
    elapsed_us: Option<usize>,
    ring_full_harvested: Option<usize>,
    fullest: Option<usize>,
    late_us: Option<usize>,
    took_us: Option<usize>,
    ring_capacity: Option<usize>,
}

/// What is known of the ring size.
#[derive(Clone, Copy)]
enum Ring {
    /// No row has been read; the size is this one unless the first row has a soft limit.
    Assumed(RingSize),
    /// The first row settled the size; its soft limit field held this, or was empty.
    Settled(RingSize, Option<u32>),
}

impl TraceReader {
    /// Reads the header of a trace called `name`. The guest had `vcpus` rings of `ring_size`,
    /// unless the rows have another soft limit.
    pub(crate) fn new(
        name: String,
        input: Input,
        vcpus: u64,
        ring_size: RingSize,
    ) -> Result<Self, Failure> {
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
                "it is empty: a trace begins with a header; record one with run --trace",
            ));
        }
        let columns =
            Columns::find(&header).map_err(|missing| wrong(&name, Some(line), &missing))?;
        Ok(Self {
            name,
            reader,
            columns,
            record: StringRecord::new(),
            vcpus,
            step: 0,
            ring: Ring::Assumed(ring_size),
        })
    }

    /// Reads the next pass; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Pass>, Failure> {
        self.reader.get_mut().begin_record();
        match self.reader.read_record(&mut self.record) {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(error) => return Err(malformed(&self.name, self.line(), &error)),
        }
        let columns = &self.columns;
        let harvested = self.number(columns.harvested, u64::MAX)?;
        let ring_fulls = self.number(columns.ring_fulls, u32::MAX)?;
        let ring_full_harvested = self.optional(columns.ring_full_harvested, u64::MAX)?;
        let ring_full_harvested = ring_full_harvested.unwrap_or(0);
        let fullest = self.optional(columns.fullest, u32::MAX)?;
        let pages = harvested.saturating_add(ring_full_harvested);
        let even_share = u32::try_from(pages.div_ceil(self.vcpus)).unwrap_or(u32::MAX);
        let measurement = Measurement {
            elapsed: Micros::ZERO,
            harvested,
            ring_full_harvested,
            fullest: fullest.unwrap_or(even_share),
            ring_fulls,
            wakes: Wakes::TIMER,
            late: Micros(self.optional(columns.late_us, u64::MAX)?.unwrap_or(0)),
            took: Micros(self.optional(columns.took_us, u64::MAX)?.unwrap_or(0)),
        };
        let elapsed = self.optional(columns.elapsed_us, u64::MAX)?.map(Micros);
        let reaped = self.optional(columns.reaped, 1_u8)? != Some(0);
        let step = self.optional(columns.step, u64::MAX)?;
        self.step = step.unwrap_or(self.step.saturating_add(1));
        Ok(Some(Pass {
            step: self.step,
            reaped,
            elapsed,
            measurement,
            ring_size: self.ring_size()?,
        }))
    }

    /// Returns what is wrong with the trace as a whole.
    pub(crate) fn wrong(&self, text: &str) -> Failure {
        wrong(&self.name, None, text)
    }

    /// Returns the size of the rings, going by the row read last and those before it.
    fn ring_size(&mut self) -> Result<RingSize, Failure> {
        let Some(column) = self.columns.ring_capacity else {
            let (Ring::Assumed(size) | Ring::Settled(size, _)) = self.ring;
            return Ok(size);
        };
        let capacity = self.optional(Some(column), u32::MAX)?;
        match (self.ring, capacity) {
            (Ring::Assumed(asked), None) => {
                self.ring = Ring::Settled(asked, None);
                Ok(asked)
            }
            (Ring::Assumed(asked), Some(capacity)) => match size_with(capacity, asked) {
                Some(size) => {
                    self.ring = Ring::Settled(size, Some(capacity));
                    Ok(size)
                }
                None => Err(self.no_soft_limit(column, capacity, asked)),
            },
            (Ring::Settled(size, _), None) => Ok(size),
            (Ring::Settled(size, settled), capacity) if settled == capacity => Ok(size),
            (Ring::Settled(..), Some(capacity)) => {
                let text = format!(
                    "'{capacity}' differs from the first row: rings keep their soft limit, so give \
                     the same in every row"
                );
                Err(self.wrong_field(column, &text))
            }
        }
    }

    fn no_soft_limit(&self, column: usize, capacity: u32, asked: RingSize) -> Failure {
        let allowed: Vec<String> = sizes(asked.entries())
            .map(|size| size.soft_limit().to_string())
            .collect();
        let text = format!(
            "'{capacity}' is the soft limit of no ring: give {} for a ring of {} entries, or leave \
             it empty",
            allowed.join(" or "),
            asked.entries()
        );
        self.wrong_field(column, &text)
    }

    fn optional<N>(&self, column: Option<usize>, most: N) -> Result<Option<N>, Failure>
    where
        N: Copy + TryFrom<u64> + Into<u64>,
    {
        match column {
            Some(column) if !self.field(column).is_empty() => self.number(column, most).map(Some),
            _ => Ok(None),
        }
    }

    fn number<N>(&self, column: usize, most: N) -> Result<N, Failure>
    where
        N: Copy + TryFrom<u64> + Into<u64>,
    {
        let field = self.field(column);
        let most: u64 = most.into();
        let parsed = field.parse::<u64>();
        let in_range = parsed.as_ref().ok().filter(|number| **number <= most);
        if let Some(Ok(number)) = in_range.map(|number| N::try_from(*number)) {
            return Ok(number);
        }
        let trouble = match parsed {
            Ok(_) => "is too large",
            Err(_) if field.is_empty() => "is empty",
            Err(_) if field.starts_with('-') => "is negative",
            Err(_) if field.bytes().all(|byte| byte.is_ascii_digit()) => "is too large",
            Err(_) => "is not a whole number",
        };
        let text = format!("'{field}' {trouble}: give a whole number from 0 to {most}");
        Err(self.wrong_field(column, &text))
    }

    fn field(&self, column: usize) -> &str {
        self.record.get(column).unwrap_or_default()
    }

    /// Returns the line of the record read last, from 1; the last line of one that spans several.
    fn line(&self) -> u64 {
        self.reader.get_ref().line()
    }

    /// Returns what is wrong with a field of the record read last.
    fn wrong_field(&self, column: usize, text: &str) -> Failure {
        let text = format!("column {}: {text}", column + 1);
        wrong(&self.name, Some(self.line()), &text)
    }
}

impl Columns {
    /// Finds the columns; the error names a required one that is missing.
    fn find(header: &StringRecord) -> Result<Self, String> {
        let find = |column: &str| header.iter().position(|name| name == column);
        let require = |column: &str| {
            find(column).ok_or_else(|| {
                format!(
                    "the column '{column}' is missing: a trace needs 'harvested' and 'ring_fulls'"
                )
            })
        };
        Ok(Self {
            harvested: require("harvested")?,
            ring_fulls: require("ring_fulls")?,
            step: find("step"),
            reaped: find("reaped"),
            elapsed_us: find("elapsed_us"),
            ring_full_harvested: find("ring_full_harvested"),
            fullest: find("fullest"),
            late_us: find("late_us"),
            took_us: find("took_us"),
            ring_capacity: find("ring_capacity"),
        })
    }
}

/// Returns what is wrong with the trace `name`, and on which line.
fn wrong(name: &str, line: Option<u64>, text: &str) -> Failure {
    Failure::Usage(match line {
        Some(line) => format!("the trace {name}, line {line}: {text}"),
        None => format!("the trace {name}: {text}"),
    })
}

/// Returns what is wrong with the CSV itself.
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
            let column = err.field() + 1;
            format!("column {column}: it is not UTF-8 text: is this a trace?")
        }
        ErrorKind::Io(error) => format!("it can't be read: {error}"),
        _ => error.to_string(),
    };
    wrong(name, line, &text)
}
