//! The time since a reaper's start, and the CPU time of a thread.

use std::time;

use dirty_ring_core::time::{Instant, Micros};

use crate::sys;

/// What a clock shows at its start: far enough from 0 that the ages in a saved state fit before it.
const EPOCH: Instant = Instant(1 << 50);

/// A monotonic clock for one reaper.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: time::Instant,
}

impl Clock {
    /// Creates a clock that starts now.
    pub(crate) fn start() -> Self {
        Self {
            start: time::Instant::now(),
        }
    }

    /// Returns the time.
    pub(crate) fn now(&self) -> Instant {
        EPOCH + self.start.elapsed().into()
    }
}

/// Returns the CPU time that the calling thread has used.
pub(crate) fn thread_cpu() -> Option<Micros> {
    Some(sys::thread_cpu().ok()?.into())
}
