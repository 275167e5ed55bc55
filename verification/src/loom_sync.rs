//! The core's primitives as loom's.

use std::cell::Cell;
use std::rc::Rc;

use dirty_ring_core::sync::{Lock, Park, Parked, SharedWord};
use dirty_ring_core::time::Instant;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Condvar, Mutex};

/// A shared word as the trait requires it.
#[derive(Debug)]
pub struct LoomWord(AtomicU32);

impl SharedWord for LoomWord {
    fn new(value: u32) -> Self {
        Self(AtomicU32::new(value))
    }

    fn load(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    fn add(&self, amount: u32) -> u32 {
        self.0.fetch_add(amount, Ordering::Release)
    }
}

/// A lock that a model can make, to put one type of lock in the place of another.
pub trait ModelLock: Lock {
    /// Creates a lock around `value`. `callers` counts the threads inside or waiting, for witnesses.
    fn around(value: Self::Guarded, callers: Rc<Cell<u32>>) -> Self;
}

/// A lock as the trait requires it.
#[derive(Debug)]
pub struct LoomLock<T> {
    guarded: Mutex<T>,
    callers: Rc<Cell<u32>>,
}

impl<T> ModelLock for LoomLock<T> {
    fn around(value: T, callers: Rc<Cell<u32>>) -> Self {
        Self {
            guarded: Mutex::new(value),
            callers,
        }
    }
}

impl<T> Lock for LoomLock<T> {
    type Guarded = T;

    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R {
        self.callers.set(self.callers.get() + 1);
        let mut guarded = self.guarded.lock().expect("loom's locks are not poisoned");
        let result = critical(&mut guarded);
        self.callers.set(self.callers.get() - 1);
        result
    }
}

/// A place to sleep that a model can make, and whose clock it can move.
///
/// Clones are the same place.
pub trait ModelPark: Park + Clone + 'static {
    /// Creates an empty place, at time 0.
    fn new() -> Self;
    /// Moves the clock to `now`, as the timer does, and ends the sleep if its deadline has passed.
    /// Loom's condition variable never times out, so a thread of the model has to be the timer.
    fn pass_time_until(&self, now: Instant);
    /// Returns what happened here.
    fn watch(&self) -> &ParkWatch;
}

/// What happened at a [`ModelPark`], for witnesses; orders nothing.
#[derive(Debug, Default)]
pub struct ParkWatch {
    /// The clock.
    pub now: Cell<Instant>,
    /// The sleeper sleeps.
    pub asleep: Cell<bool>,
    /// Calls of `park_until`.
    pub parks: Cell<u32>,
    /// Of those, the ones that found a token and didn't sleep.
    pub tokens_found: Cell<u32>,
}

/// A place to sleep as the trait requires it. With `TOKEN` false its `unpark` is lost unless the
/// thread sleeps already.
#[derive(Clone, Debug)]
pub struct LoomPark<const TOKEN: bool = true>(Rc<Place>);

#[derive(Debug)]
struct Place {
    token: Mutex<bool>,
    rung: Condvar,
    watch: ParkWatch,
}

impl<const TOKEN: bool> ModelPark for LoomPark<TOKEN> {
    fn new() -> Self {
        Self(Rc::new(Place {
            token: Mutex::new(false),
            rung: Condvar::new(),
            watch: ParkWatch::default(),
        }))
    }

    fn pass_time_until(&self, now: Instant) {
        let _token = self.0.token.lock().expect("loom's locks are not poisoned");
        self.0.watch.now.set(now);
        self.0.rung.notify_one();
    }

    fn watch(&self) -> &ParkWatch {
        &self.0.watch
    }
}

impl<const TOKEN: bool> Park for LoomPark<TOKEN> {
    fn park_until(&self, until: Instant) -> Parked {
        let Place { token, rung, watch } = &*self.0;
        watch.parks.set(watch.parks.get() + 1);
        let mut token = token.lock().expect("loom's locks are not poisoned");
        if *token {
            watch.tokens_found.set(watch.tokens_found.get() + 1);
        }
        let mut woken = false;
        while !*token && !woken && watch.now.get() < until {
            watch.asleep.set(true);
            token = rung.wait(token).expect("loom's locks are not poisoned");
            watch.asleep.set(false);
            woken = !TOKEN;
        }
        // Where both came, the worse for the caller: it isn't told of the deadline.
        if std::mem::take(&mut *token) || (woken && watch.now.get() < until) {
            Parked::Woken
        } else {
            Parked::TimedOut
        }
    }

    fn unpark(&self) {
        let mut token = self.0.token.lock().expect("loom's locks are not poisoned");
        *token = TOKEN;
        self.0.rung.notify_one();
    }
}
