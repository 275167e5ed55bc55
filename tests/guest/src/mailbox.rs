//! Questions to a running vCPU's thread, and its answers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::GuestError;
use crate::kick::{KICK_LIMIT, KICK_WAIT, VcpuKicker};

/// What a vCPU's thread and the owner of the guest tell each other while the vCPU runs.
#[derive(Debug, Default)]
pub(crate) struct VcpuMailbox {
    ring_fulls: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Number of the latest request for the page writes.
    asked: u64,
    /// Number of the latest request that `page_writes` answers.
    answered: u64,
    page_writes: u64,
    end: End,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum End {
    #[default]
    Running,
    Clean,
    Failed,
}

impl VcpuMailbox {
    /// Requests the page writes and returns the number of the request. The vCPU has to be kicked
    /// afterwards.
    pub(crate) fn ask(&self) -> u64 {
        let mut state = self.lock();
        state.asked += 1;
        state.asked
    }

    /// Waits for the answer to request `question`.
    pub(crate) fn answer(&self, question: u64, kicker: &VcpuKicker) -> Result<u64, GuestError> {
        let mut waited = Duration::ZERO;
        let mut state = self.lock();
        loop {
            if state.end == End::Failed {
                return Err(GuestError::VcpuFailed {
                    vcpu: kicker.vcpu(),
                });
            }
            if state.answered >= question || state.end == End::Clean {
                return Ok(state.page_writes);
            }
            if waited >= KICK_LIMIT {
                return Err(kicker.timeout());
            }
            let timeout;
            (state, timeout) = self
                .changed
                .wait_timeout(state, KICK_WAIT)
                .unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() {
                waited += KICK_WAIT;
            }
        }
    }

    /// Returns whether a request is unanswered.
    pub(crate) fn is_asked(&self) -> bool {
        let state = self.lock();
        state.asked != state.answered
    }

    /// Answers all requests made so far.
    pub(crate) fn publish(&self, page_writes: u64) {
        let mut state = self.lock();
        state.answered = state.asked;
        state.page_writes = page_writes;
        self.changed.notify_all();
    }

    /// Counts one `KVM_EXIT_DIRTY_RING_FULL`.
    pub(crate) fn count_ring_full(&self) {
        // Relaxed: no other memory is published through this count.
        self.ring_fulls.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number of `KVM_EXIT_DIRTY_RING_FULL` exits.
    pub(crate) fn ring_fulls(&self) -> u64 {
        self.ring_fulls.load(Ordering::Relaxed)
    }

    /// Returns whether the vCPU's thread ended with an error or a panic.
    pub(crate) fn has_failed(&self) -> bool {
        self.lock().end == End::Failed
    }

    /// Returns a guard that marks the vCPU as failed when dropped, unless [`Ending::clean`]
    /// consumes it.
    pub(crate) fn ending(&self) -> Ending<'_> {
        Ending { mailbox: self }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a vCPU's thread, on whichever path it is reached.
#[must_use]
pub(crate) struct Ending<'a> {
    mailbox: &'a VcpuMailbox,
}

impl Ending<'_> {
    /// Marks the vCPU as stopped on request, with its final count of page writes.
    pub(crate) fn clean(self, page_writes: u64) {
        self.mailbox.publish(page_writes);
        self.mailbox.lock().end = End::Clean;
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut state = self.mailbox.lock();
        if state.end == End::Running {
            state.end = End::Failed;
            self.mailbox.changed.notify_all();
        }
    }
}
