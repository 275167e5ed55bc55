//! Writes a trace while a run goes on.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use dirty_ring::core::controller::{Measurement, Reasons};
use dirty_ring::core::doorbell::Wakes;
use dirty_ring::core::planner::PassRecord;
use dirty_ring::core::size::RingSize;
use dirty_ring::core::time::Instant;

use crate::command::failure::Failure;
use crate::command::policy::PolicyName;

/// The columns that are written.
const HEADER: [&str; 14] = [
    "step",
    "now_us",
    "elapsed_us",
    "reaped",
    "harvested",
    "ring_full_harvested",
    "fullest",
    "ring_fulls",
    "ring_capacity",
    "late_us",
    "took_us",
    "wait_us",
    "level",
    "reasons",
];

/// Writes passes to a file. A clone writes to the same file, so that the reaper's thread can own
/// one.
#[derive(Clone)]
pub(crate) struct TraceWriter {
    path: PathBuf,
    /// The policy peeks before it reaps.
    peeks: bool,
    /// The soft limit of each ring, in entries.
    ring_capacity: u32,
    state: Arc<Mutex<State>>,
}

struct State {
    writer: csv::Writer<BufWriter<File>>,
    /// The first error; no row is written after it.
    error: Option<String>,
    /// When the reaper started.
    begin: Option<Instant>,
}

impl TraceWriter {
    /// Creates `path`, or empties it, for the passes of `policy` over rings of `size`.
    pub(crate) fn create(path: &Path, policy: PolicyName, size: RingSize) -> Result<Self, Failure> {
        let file = File::create(path).map_err(|error| {
            let path = path.display();
            Failure::Usage(format!(
                "the trace {path} can't be created: {error}; name a file in a directory that you \
                 may write to"
            ))
        })?;
        let mut writer = csv::Writer::from_writer(BufWriter::new(file));
        let error = writer.write_record(HEADER).err();
        Ok(Self {
            path: path.to_owned(),
            peeks: policy.is_deadline(),
            ring_capacity: size.soft_limit(),
            state: Arc::new(Mutex::new(State {
                writer,
                error: error.map(|error| error.to_string()),
                begin: None,
            })),
        })
    }

    /// Writes the row of a pass.
    pub(crate) fn write(&self, pass: &PassRecord) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.error.is_some() {
            return;
        }
        let measurement = &pass.measurement;
        // The driver's clock starts anywhere; the trace starts with its first wait.
        let first = pass.now - measurement.took - measurement.elapsed;
        let begin = *state.begin.get_or_insert(first);
        let decision = &pass.decision;
        let level = decision.level.map(|level| level.number().to_string());
        let reaped = !self.peeks || has_reaped(measurement);
        let result = state.writer.write_record([
            pass.number.to_string(),
            (pass.now - begin).0.to_string(),
            measurement.elapsed.0.to_string(),
            u8::from(reaped).to_string(),
            measurement.harvested.to_string(),
            measurement.ring_full_harvested.to_string(),
            measurement.fullest.to_string(),
            measurement.ring_fulls.to_string(),
            self.ring_capacity.to_string(),
            measurement.late.0.to_string(),
            measurement.took.0.to_string(),
            decision.wait.0.to_string(),
            level.unwrap_or_default(),
            reason_names(decision.reasons).join("|"),
        ]);
        state.error = result.err().map(|error| error.to_string());
    }

    /// Writes what is buffered. Returns the first error of any row.
    pub(crate) fn finish(&self) -> Result<(), Failure> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let flushed = state.writer.flush().map_err(|error| error.to_string());
        match state.error.take().map_or(flushed, Err) {
            Ok(()) => Ok(()),
            Err(error) => Err(Failure::Run(format!(
                "the trace {} is incomplete: {error}; free some space, or name a file elsewhere",
                self.path.display()
            ))),
        }
    }
}

/// Returns whether a pass of a policy that peeks went on to reap: a ring gave pages, or had been
/// full, or a kick or a stop asked for every ring.
fn has_reaped(measurement: &Measurement) -> bool {
    measurement.harvested != 0
        || measurement.ring_full_harvested != 0
        || measurement.ring_fulls != 0
        || measurement.wakes.intersects(Wakes::KICK | Wakes::STOP)
}

/// Returns the names of a decision's reasons, in lower case.
pub(crate) fn reason_names(reasons: Reasons) -> Vec<String> {
    reasons
        .iter_names()
        .map(|(name, _)| name.to_lowercase())
        .collect()
}
