//! The standard library's lock and sleep as core's, and a clock.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{self, Duration};

use dirty_ring_core::sync::{Lock, Park, Parked};
use dirty_ring_core::time::Instant;

/// A mutex as core's lock. [`FairLock`](dirty_ring_core::fair::FairLock) would make it fair.
pub(crate) struct StdLock<T>(Mutex<T>);

/// Where the reaper sleeps: a token, and a condition variable. It has the clock as well.
pub(crate) struct StdPark {
    token: Mutex<bool>,
    bell: Condvar,
    start: time::Instant,
}

impl<T> StdLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }
}

impl<T> Lock for StdLock<T> {
    type Guarded = T;

    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R {
        critical(&mut lock(&self.0))
    }
}

impl StdPark {
    pub(crate) fn new() -> Self {
        Self {
            token: Mutex::new(false),
            bell: Condvar::new(),
            start: time::Instant::now(),
        }
    }

    /// Returns the time.
    pub(crate) fn now(&self) -> Instant {
        Instant(0) + self.start.elapsed().into()
    }
}

impl Park for StdPark {
    fn park_until(&self, until: Instant) -> Parked {
        let left = Duration::from(until - self.now());
        let token = lock(&self.token);
        let woken = self.bell.wait_timeout_while(token, left, |token| !*token);
        let (mut token, _) = woken.unwrap_or_else(PoisonError::into_inner);
        match std::mem::take(&mut *token) {
            true => Parked::Woken,
            false => Parked::TimedOut,
        }
    }

    fn unpark(&self) {
        *lock(&self.token) = true;
        self.bell.notify_one();
    }
}

/// Locks `mutex`, even if a holder panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
