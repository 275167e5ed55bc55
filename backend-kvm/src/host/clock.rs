//! The time since a reaper's start, and the CPU time of a thread.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// A monotonic clock that starts at 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// Creates a clock that starts now.
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    /// Returns the microseconds since the start.
    pub(crate) fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// Returns the CPU time that the calling thread has used, in microseconds.
pub(crate) fn thread_cpu_us() -> Option<u64> {
    let used = Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).ok()?);
    u64::try_from(used.as_micros()).ok()
}
