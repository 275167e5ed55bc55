//! Signals of the calling thread: a pending one ends `KVM_RESET_DIRTY_RINGS` early.

use nix::sys::signal::{SigSet, SigmaskHow};

/// Blocks every signal on the calling thread.
pub(crate) fn block_signals() -> std::io::Result<()> {
    SigSet::all().thread_block().map_err(Into::into)
}

/// Runs `work` with every signal blocked on the calling thread.
pub(crate) fn without_signals<R>(work: impl FnOnce() -> R) -> R {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let result = work();
    if let Ok(before) = before {
        // The kernel returned this mask a moment ago, so it accepts it.
        let _ = before.thread_set_mask();
    }
    result
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::Signal;

    use super::*;

    #[test]
    fn every_signal_is_blocked_during_the_work_and_none_more_after_it() {
        let before = SigSet::thread_get_mask().unwrap();
        let during = without_signals(|| SigSet::thread_get_mask().unwrap());
        for signal in [Signal::SIGALRM, Signal::SIGUSR1, Signal::SIGTERM] {
            assert!(during.contains(signal) && !before.contains(signal));
        }
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }
}
