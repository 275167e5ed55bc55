//! Mutexes that outlive a panic of their holder, and the fair lock built on them.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use dirty_ring_core::fair::FairLock;
use dirty_ring_core::sync::{Lock, Monitor};

/// Condition variables of a [`StdMonitor`]. With up to so many threads in line a release wakes one
/// of them alone; each takes four bytes.
const LANES: usize = 64;

/// A fair lock that knows which thread holds it.
#[derive(Debug)]
pub(crate) struct StdFairLock<T> {
    lock: FairLock<StdMonitor, AtomicU32, StdLock<T>>,
    /// The [`this_thread`] of the holder, 0 without one.
    holder: AtomicUsize,
}

impl<T> StdFairLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            lock: FairLock::new(StdMonitor::new(), StdLock(Mutex::new(value))),
            holder: AtomicUsize::new(0),
        }
    }

    /// Returns whether the caller runs inside [`with`](Lock::with), where another call of it would
    /// never return.
    pub(crate) fn is_held_by_this_thread(&self) -> bool {
        // Relaxed: a thread finds its own number only where it wrote that itself and didn't clear
        // it yet.
        self.holder.load(Ordering::Relaxed) == this_thread()
    }
}

impl<T> Lock for StdFairLock<T> {
    type Guarded = T;

    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R {
        debug_assert!(
            !self.is_held_by_this_thread(),
            "this thread holds the lock already: it would wait for itself"
        );
        self.lock.with(|value| {
            let _held = Held::new(&self.holder);
            critical(value)
        })
    }
}

/// Notes the holder; its drop clears the note, also after a panic.
struct Held<'l>(&'l AtomicUsize);

impl<'l> Held<'l> {
    fn new(holder: &'l AtomicUsize) -> Self {
        holder.store(this_thread(), Ordering::Relaxed);
        Self(holder)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Returns a number that no other living thread has, and that is never 0: the address of a byte of
/// the thread's own.
fn this_thread() -> usize {
    thread_local!(static OWN: u8 = const { 0 });
    OWN.with(|own| std::ptr::from_ref(own).addr())
}

/// A mutex as core's [`Lock`].
#[derive(Debug)]
struct StdLock<T>(Mutex<T>);

impl<T> Lock for StdLock<T> {
    type Guarded = T;

    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R {
        critical(&mut lock(&self.0))
    }
}

/// A mutex and condition variables as core's [`Monitor`].
#[derive(Debug)]
struct StdMonitor {
    word: Mutex<u32>,
    lanes: [Condvar; LANES],
}

impl StdMonitor {
    const fn new() -> Self {
        Self {
            word: Mutex::new(0),
            lanes: [const { Condvar::new() }; LANES],
        }
    }

    const fn lane(&self, lane: u32) -> &Condvar {
        &self.lanes[lane as usize % LANES]
    }
}

impl Monitor for StdMonitor {
    type Held<'m> = MutexGuard<'m, u32>;

    fn hold(&self) -> MutexGuard<'_, u32> {
        lock(&self.word)
    }

    fn wait<'m>(&'m self, held: MutexGuard<'m, u32>, lane: u32) -> MutexGuard<'m, u32> {
        let held = self.lane(lane).wait(held);
        held.unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, lane: u32) {
        self.lane(lane).notify_all();
    }
}

/// Locks `mutex`, even if a holder panicked: a collector is consistent after every call, and
/// continuing to reap loses less than stopping.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
