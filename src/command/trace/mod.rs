//! Traces: one CSV row for each pass of the reaper, with what it found and what was decided.
//!
//! `run --trace` writes this format and `replay` reads it. The header names the columns, in any
//! order:
//!
//! | column | what it holds | where it is missing |
//! |---|---|---|
//! | `harvested` | pages that the reaper's own reap took, all rings | an error |
//! | `ring_fulls` | ring-fulls since the pass before | an error |
//! | `step` | number of the pass, from 1 | the number of the row, from 1 |
//! | `elapsed_us` | time since the pass before began | the wait decided last; 0 if `reaped` is 0 |
//! | `reaped` | 0: the pass only peeked at the rings; 1: it reaped | 1 |
//! | `ring_full_harvested` | pages that the ring-full path took since the pass before | 0 |
//! | `fullest` | most entries that one ring gave | an even share of all pages, rounded up |
//! | `late_us`, `took_us` | how late the wake-up was, and how long the pass took | 0 |
//! | `ring_capacity` | soft limit of each ring, in entries | that of a host without Intel PML |
//! | `now_us`, `wait_us`, `level`, `reasons` | when, and what was decided | not read |
//!
//! A replay for rings of another size than the recorded ones takes their soft limit from a host
//! without Intel PML too.
//!
//! Other columns are not read either. An empty field counts as a missing one, and blank lines are
//! skipped. A reader takes one row at a time, so a trace may be longer than the memory.
//!
//! `deadline` often wakes up, peeks and reaps no ring. A policy that doesn't peek would take such a
//! pass for a reap that found nothing, so its row has `reaped` 0: a replay adds the time of that
//! row to the next reap, and decides nothing for the row itself.

mod lines;
mod reader;
mod soft_limit;
mod writer;

pub(crate) use reader::{Pass, TraceReader};
pub(crate) use soft_limit::default_size;
pub(crate) use writer::{TraceWriter, reason_names};
