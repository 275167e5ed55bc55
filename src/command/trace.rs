//! Recorded steps: one CSV row for each decision of the reaper, and what led to it.
//!
//! Written by `run --trace`, read by `replay`. A reader needs the columns `harvested` and
//! `ring_fulls`; the others have defaults.
//!
//! `deadline` often wakes to look and reaps nothing. Such a pass makes no row; its time is part of
//! the next one, so that a row is a reap, as any other policy knows it.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use dirty_ring::core::reaper::Step;

use super::failure::Failure;
use super::policy::PolicyName;

/// The columns that are written.
const HEADER: [&str; 12] = [
    "step",
    "now_us",
    "elapsed_us",
    "harvested",
    "ring_full_harvested",
    "fullest",
    "ring_fulls",
    "late_us",
    "took_us",
    "wait_us",
    "level",
    "reasons",
];

/// Writes steps to a file; cheap to clone, so that the reaper's thread can have one.
#[derive(Clone)]
pub(crate) struct TraceWriter {
    path: PathBuf,
    state: Arc<Mutex<State>>,
}

struct State {
    writer: csv::Writer<BufWriter<File>>,
    /// The first error: what came after it was not written.
    error: Option<String>,
    /// The policy looks before it reaps: a pass that found nothing to do is no step for others.
    skips_looks: bool,
    /// Microseconds of the passes that were skipped since the last row.
    skipped_us: u64,
}

impl TraceWriter {
    /// Creates `path`, or empties it, for the steps of `policy`.
    pub(crate) fn create(path: &Path, policy: PolicyName) -> Result<Self, Failure> {
        let file = File::create(path).map_err(|error| {
            let path = path.display();
            Failure::Usage(format!(
                "the trace {path} can't be created: {error}; name a file in a directory that you \
                 may write"
            ))
        })?;
        let mut writer = csv::Writer::from_writer(BufWriter::new(file));
        let error = writer.write_record(HEADER).err();
        Ok(Self {
            path: path.to_owned(),
            state: Arc::new(Mutex::new(State {
                writer,
                error: error.map(|error| error.to_string()),
                skips_looks: policy == PolicyName::Deadline,
                skipped_us: 0,
            })),
        })
    }

    /// Adds a row.
    pub(crate) fn write(&self, step: &Step) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.error.is_some() {
            return;
        }
        let measurement = &step.measurement;
        let decision = &step.decision;
        let found = measurement.harvested + measurement.ring_full_harvested;
        if state.skips_looks && found == 0 && measurement.ring_fulls == 0 {
            state.skipped_us += measurement.elapsed_us;
            return;
        }
        let elapsed_us = measurement.elapsed_us + std::mem::take(&mut state.skipped_us);
        let level = decision.level.map(|level| level.number().to_string());
        let result = state.writer.write_record([
            step.iteration.to_string(),
            step.now_us.to_string(),
            elapsed_us.to_string(),
            measurement.harvested.to_string(),
            measurement.ring_full_harvested.to_string(),
            measurement.fullest.to_string(),
            measurement.ring_fulls.to_string(),
            measurement.late_us.to_string(),
            measurement.took_us.to_string(),
            decision.wait_us.to_string(),
            level.unwrap_or_default(),
            reason_names(decision.reasons).join("|"),
        ]);
        state.error = result.err().map(|error| error.to_string());
    }

    /// Writes what is left; an error of any row is told here.
    pub(crate) fn finish(&self) -> Result<(), Failure> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let flushed = state.writer.flush().map_err(|error| error.to_string());
        match state.error.take().map_or(flushed, Err) {
            Ok(()) => Ok(()),
            Err(error) => Err(Failure::Run(format!(
                "the trace {} is incomplete: {error}; make room, or write it elsewhere",
                self.path.display()
            ))),
        }
    }
}

/// A decision's reasons by name, in lower case.
pub(crate) fn reason_names(reasons: dirty_ring::core::controller::Reasons) -> Vec<String> {
    reasons
        .iter_names()
        .map(|(name, _)| name.to_lowercase())
        .collect()
}
