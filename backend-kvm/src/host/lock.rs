//! Mutexes that outlive a panic of their holder.

use std::sync::{Mutex, MutexGuard, PoisonError};

use dirty_ring_core::sync::Lock;

/// A mutex as core's [`Lock`].
#[derive(Debug)]
pub(crate) struct StdLock<T>(Mutex<T>, std::sync::atomic::AtomicU64);

impl<T> StdLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(Mutex::new(value), std::sync::atomic::AtomicU64::new(0))
    }

    pub(crate) fn is_held_by_this_thread(&self) -> bool {
        self.1.load(std::sync::atomic::Ordering::Relaxed) == my_id()
    }
}

fn my_id() -> u64 {
    thread_local!(static ID: u64 = {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    });
    ID.with(|id| *id)
}

impl<T> Lock for StdLock<T> {
    type Guarded = T;

    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R {
        let mut guard = lock(&self.0);
        self.1.store(my_id(), std::sync::atomic::Ordering::Relaxed);
        let result = critical(&mut guard);
        self.1.store(0, std::sync::atomic::Ordering::Relaxed);
        result
    }
}

/// Locks `mutex`, even if a holder panicked: a collector is consistent after every call, and
/// continuing to reap loses less than stopping.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panicked_holder_leaves_the_lock_usable() {
        let guarded = StdLock::new(1);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            guarded.with(|_| panic!("a sink panicked"));
        }));
        assert!(result.is_err());
        assert_eq!(guarded.with(|value| *value), 1);
    }
}
