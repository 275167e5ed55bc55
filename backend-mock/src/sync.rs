//! The core's lock and sleep for one thread in virtual time.

use core::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dirty_ring_core::sync::{Lock, Park, Parked};

/// A lock that nobody else can hold: the simulation says who waits for it.
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

/// The reaper's bed: the simulation sets its clock and looks whether somebody rang. Clones share
/// it.
#[derive(Clone, Debug, Default)]
pub(crate) struct VirtualPark(Arc<Bed>);

#[derive(Debug, Default)]
struct Bed {
    now_us: AtomicU64,
    rung: AtomicBool,
}

impl VirtualPark {
    /// Sets the sleeper's clock.
    pub(crate) fn set_now_us(&self, now_us: u64) {
        self.0.now_us.store(now_us, Ordering::Relaxed);
    }

    /// Has somebody rung since the last [`settle`](Self::settle)?
    pub(crate) fn was_rung(&self) -> bool {
        self.0.rung.load(Ordering::Relaxed)
    }

    /// The sleeper is awake and has seen all that rang.
    pub(crate) fn settle(&self) {
        self.0.rung.store(false, Ordering::Relaxed);
    }
}

impl Park for VirtualPark {
    fn park_until(&self, deadline_us: u64) -> Parked {
        let rung = self.0.rung.swap(false, Ordering::Relaxed);
        if !rung && self.0.now_us.load(Ordering::Relaxed) >= deadline_us {
            Parked::TimedOut
        } else {
            Parked::Woken
        }
    }

    fn unpark(&self) {
        self.0.rung.store(true, Ordering::Relaxed);
    }
}
