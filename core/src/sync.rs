//! The primitives that the shared types are built on, as traits.
//!
//! The shared types ([`EventCounter`](crate::counter::EventCounter),
//! [`Doorbell`](crate::doorbell::Doorbell), [`FairLock`](crate::fair::FairLock),
//! [`SharedCollector`](crate::shared::SharedCollector)) are written once over these traits. A
//! backend gives them the machine's atomics and its standard library's lock; a model checker gives
//! them its own, or weakened ones to see the model fail. No `cfg` decides which: both instances
//! live in one build.

use core::ops::DerefMut;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::time::Instant;

/// A shared 32-bit word.
///
/// 32 bits because firmware targets have no wider atomics; every counter here is read as a
/// wrapping difference.
pub trait SharedWord {
    /// Creates a word that holds `value`.
    fn new(value: u32) -> Self;
    /// Loads the word. MUST be an acquire load.
    fn load(&self) -> u32;
    /// Adds to the word, wrapping around, and returns what it held before. MUST be one atomic
    /// read-modify-write with release ordering.
    fn add(&self, amount: u32) -> u32;
}

impl SharedWord for AtomicU32 {
    fn new(value: u32) -> Self {
        AtomicU32::new(value)
    }

    fn load(&self) -> u32 {
        AtomicU32::load(self, Ordering::Acquire)
    }

    fn add(&self, amount: u32) -> u32 {
        self.fetch_add(amount, Ordering::Release)
    }
}

/// Mutual exclusion around a value.
pub trait Lock {
    /// What the lock guards.
    type Guarded;
    /// Runs `critical` with the value. MUST keep any other call out meanwhile, and what one call
    /// wrote MUST be visible to the next. A call from inside `critical` may deadlock.
    fn with<R>(&self, critical: impl FnOnce(&mut Self::Guarded) -> R) -> R;
}

/// A mutex around a 32-bit word, with condition variables.
///
/// A thread sleeps in a *lane*, so that a wake-up disturbs few others. Any number names a lane, and
/// lanes MAY share a condition variable.
pub trait Monitor {
    /// The mutex, locked. Its drop releases it.
    type Held<'m>: DerefMut<Target = u32>
    where
        Self: 'm;
    /// Locks the mutex, also after a holder panicked. What was written before its last release MUST be
    /// visible.
    fn hold(&self) -> Self::Held<'_>;
    /// Releases the mutex, sleeps in `lane`, and locks the mutex again. Release and sleep MUST be
    /// one step: a [`wake`](Self::wake) after the next lock of the mutex ends the sleep. Spurious
    /// wake-ups are allowed.
    fn wait<'m>(&'m self, held: Self::Held<'m>, lane: u32) -> Self::Held<'m>;
    /// Ends the sleep of every thread in `lane`. Called without the mutex.
    fn wake(&self, lane: u32);
}

/// What ended a [`Park::park_until`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parked {
    /// [`Park::unpark`], or a spurious wake-up.
    Woken,
    /// The deadline passed.
    TimedOut,
}

/// A place where one thread sleeps.
pub trait Park {
    /// Sleeps until `until` on the caller's clock or until [`unpark`](Self::unpark), whichever comes
    /// first. An `unpark` since the last return MUST end the sleep at once (a token, as in
    /// `std::thread::park`), and what was written before the `unpark` MUST be visible after it, or
    /// a wake-up is lost. Spurious wake-ups are allowed.
    fn park_until(&self, until: Instant) -> Parked;
    /// Ends the sleep, or the next one.
    fn unpark(&self);
}
