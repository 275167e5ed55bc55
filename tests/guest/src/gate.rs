//! A common start for several threads.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Holds threads back until all of them have arrived.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: usize,
    open: bool,
}

impl Gate {
    /// Waits for the gate to open.
    pub(crate) fn wait(&self) {
        let mut state = self.lock();
        state.waiting += 1;
        self.changed.notify_all();
        let _open = self
            .changed
            .wait_while(state, |state| !state.open)
            .unwrap_or_else(PoisonError::into_inner);
    }

    /// Opens the gate as soon as `threads` threads wait at it.
    pub(crate) fn open_when_waiting(&self, threads: usize) {
        let mut state = self
            .changed
            .wait_while(self.lock(), |state| state.waiting < threads)
            .unwrap_or_else(PoisonError::into_inner);
        state.open = true;
        self.changed.notify_all();
    }

    /// Opens the gate at once.
    pub(crate) fn open(&self) {
        self.open_when_waiting(0);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
