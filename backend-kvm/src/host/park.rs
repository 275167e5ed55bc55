//! The reaper's wait, ended by a deadline or by another thread.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use dirty_ring_core::sync::{Park, Parked};
use dirty_ring_core::time::Instant;

use super::clock::Clock;
use super::lock::lock;

/// Wakes a reaper that sleeps elsewhere, as in an event loop.
pub(crate) type Waker = Arc<dyn Fn() + Send + Sync>;

/// A condition variable with a token as core's [`Park`].
pub(crate) struct StdPark {
    clock: Clock,
    token: Mutex<bool>,
    bell: Condvar,
    waker: Mutex<Option<Waker>>,
}

impl fmt::Debug for StdPark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdPark").finish_non_exhaustive()
    }
}

impl StdPark {
    /// Creates a park whose deadlines are times of `clock`.
    pub(crate) const fn new(clock: Clock) -> Self {
        Self {
            clock,
            token: Mutex::new(false),
            bell: Condvar::new(),
            waker: Mutex::new(None),
        }
    }

    /// Sets what is called at each [`unpark`](Park::unpark) as well.
    pub(crate) fn set_waker(&self, waker: Option<Waker>) {
        *lock(&self.waker) = waker;
    }
}

impl Park for StdPark {
    fn park_until(&self, until: Instant) -> Parked {
        let mut token = lock(&self.token);
        loop {
            if std::mem::take(&mut *token) {
                return Parked::Woken;
            }
            let now = self.clock.now();
            if now >= until {
                return Parked::TimedOut;
            }
            // A spurious wake-up finds no token and time left, and waits again.
            let left = Duration::from(until - now);
            token = self
                .bell
                .wait_timeout(token, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn unpark(&self) {
        *lock(&self.token) = true;
        self.bell.notify_one();
        let waker = lock(&self.waker).clone();
        if let Some(wake) = waker {
            wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dirty_ring_core::time::Micros;

    #[test]
    fn an_unpark_before_the_park_is_not_lost() {
        let park = StdPark::new(Clock::start());
        park.unpark();
        assert_eq!(park.park_until(Instant::MAX), Parked::Woken);
    }

    #[test]
    fn a_park_ends_at_its_deadline_and_not_before() {
        let clock = Clock::start();
        let park = StdPark::new(clock);
        let until = clock.now() + Micros(2_000);
        assert_eq!(park.park_until(until), Parked::TimedOut);
        assert!(clock.now() >= until);
    }
}
