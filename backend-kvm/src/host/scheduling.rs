//! Precise wake-ups of the reaper's thread.

use crate::sys;

/// The scheduler's slice that a reaper requests, in nanoseconds. A look takes a few microseconds
/// and a reap a few hundred, while vCPU threads usually have a slice of 3 ms.
const SLICE_NS: u64 = 100_000;

/// The timer slack that a reaper requests, in nanoseconds: the least that is possible.
const TIMER_SLACK_NS: std::ffi::c_ulong = 1;

/// Makes the calling thread's sleeps end on time: not delayed by the timer slack (50 us by
/// default), nor until a vCPU thread on the same core has used up its slice. Neither request needs
/// a privilege; if one fails, wake-ups are later.
pub(crate) fn wake_precisely() {
    if let Err(error) = sys::set_timer_slack(TIMER_SLACK_NS) {
        log::debug!("the reaper's timer slack is unchanged: {error}");
    }
    if let Err(error) = sys::set_slice(SLICE_NS) {
        log::debug!("the reaper's slice is unchanged: {error}");
    }
}
