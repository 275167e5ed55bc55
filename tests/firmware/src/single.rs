//! A lock, a line and a bed for a machine with one thread.

use core::cell::{RefCell, RefMut};
use core::hint::spin_loop;

use dirty_ring_core::sync::{Lock, Monitor, Park, Parked};
use dirty_ring_core::time::Instant;

/// A lock that only one thread takes.
#[derive(Debug)]
pub struct Single<T>(RefCell<T>);

impl<T> Single<T> {
    /// Creates the lock around `value`.
    pub const fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }
}

impl<T> Lock for Single<T> {
    type Guarded = T;

    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R {
        critical(&mut borrow(&self.0))
    }
}

/// The line of a [`FairLock`](dirty_ring_core::fair::FairLock) in which one thread stands.
#[derive(Debug, Default)]
pub struct Line(RefCell<u32>);

impl Monitor for Line {
    type Held<'m> = RefMut<'m, u32>;

    fn hold(&self) -> RefMut<'_, u32> {
        borrow(&self.0)
    }

    fn wait<'m>(&'m self, held: RefMut<'m, u32>, _lane: u32) -> RefMut<'m, u32> {
        held
    }

    fn wake(&self, _lane: u32) {}
}

/// Borrows the value. A call from inside a critical section never returns, as with any lock.
fn borrow<T>(cell: &RefCell<T>) -> RefMut<'_, T> {
    loop {
        if let Ok(held) = cell.try_borrow_mut() {
            return held;
        }
        spin_loop();
    }
}

/// Where a reaper would sleep. Its machine has no timer: time passes between two turns.
#[derive(Debug)]
pub struct Yard;

impl Park for Yard {
    fn park_until(&self, _until: Instant) -> Parked {
        Parked::TimedOut
    }

    fn unpark(&self) {}
}
