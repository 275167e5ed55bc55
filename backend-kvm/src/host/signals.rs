//! Signals of the calling thread, and whether it was stopped: both end `KVM_RESET_DIRTY_RINGS` early.

use crate::errno::Errno;
use crate::sys::{self, SignalMask};

/// Blocks every signal on the calling thread that doesn't come from its own instructions.
pub(crate) fn block_signals() -> Result<(), Errno> {
    SignalMask::ALL_ASYNCHRONOUS.set().map(|_| ())
}

/// Runs `work` with those signals blocked on the calling thread.
///
/// # Errors
/// Where the kernel refuses the mask; then `work` doesn't run.
pub(crate) fn without_signals<R>(work: impl FnOnce() -> R) -> Result<R, Errno> {
    let before = SignalMask::ALL_ASYNCHRONOUS.set()?;
    let result = work();
    before.set()?;
    Ok(result)
}

/// Returns how often the calling thread gave up its CPU of its own accord; `None` where the host
/// doesn't tell.
///
/// SIGSTOP, a debugger and the freezer can't be blocked. A thread that meets one gives up its CPU
/// before it returns from the system call that it is in.
pub(crate) fn times_stopped() -> Option<i64> {
    sys::voluntary_switches().ok()
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{SigSet, Signal};

    use super::*;

    #[test]
    fn asynchronous_signals_are_blocked_during_the_work_and_none_more_after_it() {
        let before = SigSet::thread_get_mask().unwrap();
        let during = without_signals(|| SigSet::thread_get_mask().unwrap()).unwrap();
        for signal in [Signal::SIGALRM, Signal::SIGUSR1, Signal::SIGTERM] {
            assert!(during.contains(signal) && !before.contains(signal));
        }
        for signal in [
            Signal::SIGSYS,
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGTRAP,
        ] {
            assert!(!during.contains(signal));
        }
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }

    #[test]
    fn the_signals_that_the_c_library_keeps_to_itself_are_blocked_too() {
        let blocked = || {
            let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
            let line = status.lines().find(|line| line.starts_with("SigBlk:"))?;
            u64::from_str_radix(line.trim_start_matches("SigBlk:").trim(), 16).ok()
        };
        let during = without_signals(blocked).unwrap();
        let Some(during) = during else {
            println!("skipped: no /proc here");
            return;
        };
        assert_eq!(during >> 31 & 0b11, 0b11, "{during:x}");
    }

    #[test]
    fn a_thread_that_sleeps_is_seen_to_have_given_up_its_cpu() {
        let before = times_stopped();
        std::thread::sleep(std::time::Duration::from_millis(1));
        assert!(times_stopped() > before);
    }
}
