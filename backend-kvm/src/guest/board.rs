//! What a vCPU's thread and the owner of the guest tell each other while it runs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::error::GuestError;
use super::kick::{KICK_LIMIT, VcpuKicker};

/// The notice board of one vCPU.
#[derive(Debug, Default)]
pub(super) struct Board {
    ring_fulls: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// How often the page writes were asked for.
    asked: u64,
    /// The last question that `page_writes` answers.
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

impl Board {
    /// Asks for the page writes; the vCPU has to be kicked after this.
    pub(super) fn ask(&self) -> u64 {
        let mut state = self.lock();
        state.asked += 1;
        state.asked
    }

    /// Waits for the answer to `question`.
    pub(super) fn answer(&self, question: u64, kicker: &VcpuKicker) -> Result<u64, GuestError> {
        let deadline = Instant::now() + KICK_LIMIT;
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
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(kicker.timeout());
            }
            (state, _) = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn is_asked(&self) -> bool {
        let state = self.lock();
        state.asked != state.answered
    }

    /// Answers all questions so far.
    pub(super) fn publish(&self, page_writes: u64) {
        let mut state = self.lock();
        state.answered = state.asked;
        state.page_writes = page_writes;
        self.changed.notify_all();
    }

    pub(super) fn count_ring_full(&self) {
        // A figure that stands alone: nothing else is published through it.
        self.ring_fulls.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ring_fulls(&self) -> u64 {
        self.ring_fulls.load(Ordering::Relaxed)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.lock().end == End::Failed
    }

    /// Marks the vCPU as failed when dropped, unless [`Ending::clean`] was called.
    pub(super) fn ending(&self) -> Ending<'_> {
        Ending { board: self }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a vCPU's thread, however it comes.
#[must_use]
pub(super) struct Ending<'a> {
    board: &'a Board,
}

impl Ending<'_> {
    /// The vCPU stopped because it was asked to.
    pub(super) fn clean(self, page_writes: u64) {
        self.board.publish(page_writes);
        self.board.lock().end = End::Clean;
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut state = self.board.lock();
        if state.end == End::Running {
            state.end = End::Failed;
            self.board.changed.notify_all();
        }
    }
}

/// Holds threads back until all of them are there.
#[derive(Debug, Default)]
pub(super) struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    waiting: usize,
    open: bool,
}

impl Gate {
    /// Waits for the gate to open.
    pub(super) fn wait(&self) {
        let mut state = self.lock();
        state.waiting += 1;
        self.changed.notify_all();
        let _open = self
            .changed
            .wait_while(state, |state| !state.open)
            .unwrap_or_else(PoisonError::into_inner);
    }

    /// Opens the gate as soon as `threads` threads wait at it.
    pub(super) fn open_when_waiting(&self, threads: usize) {
        let mut state = self
            .changed
            .wait_while(self.lock(), |state| state.waiting < threads)
            .unwrap_or_else(PoisonError::into_inner);
        state.open = true;
        self.changed.notify_all();
    }

    /// Opens the gate at once.
    pub(super) fn open(&self) {
        self.open_when_waiting(0);
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
