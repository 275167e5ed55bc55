//! The core's lock and sleep for one thread in virtual time.

use core::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dirty_ring_core::sync::{Lock, Park, Parked};
use dirty_ring_core::time::Instant;

/// A lock without contention: the simulation decides which vCPU waits for it, and how long.
#[derive(Debug)]
pub(crate) struct Alone<T>(RefCell<T>);

impl<T> Alone<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }
}

impl<T> Lock for Alone<T> {
    type Guarded = T;

    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R {
        critical(&mut self.0.borrow_mut())
    }
}

/// Where the reaper sleeps: the simulation asks whether the doorbell rang. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct VirtualPark(Arc<AtomicBool>);

impl VirtualPark {
    /// Returns whether the doorbell rang since the last [`settle`](Self::settle).
    pub(crate) fn was_rung(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Notes that the sleeper is awake and has polled the doorbell.
    pub(crate) fn settle(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Park for VirtualPark {
    /// Returns at once: the simulation moves the clock between two turns of the reaper.
    fn park_until(&self, _until: Instant) -> Parked {
        Parked::Woken
    }

    fn unpark(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
