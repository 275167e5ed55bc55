//! Primitives with one thing wrong each, for the negative controls.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use dirty_ring_core::sync::{Lock, Park, Parked, SharedWord};
use dirty_ring_core::time::Instant;
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread::yield_now;

use crate::loom_sync::{LoomPark, ModelLock, ModelPark, ParkWatch};

/// Defines a [`SharedWord`] over loom's `AtomicU32` from its two operations.
macro_rules! weak_word {
    ($(#[$doc:meta])* $name:ident, load: $load:expr, add: $add:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name(AtomicU32);

        impl SharedWord for $name {
            fn new(value: u32) -> Self {
                Self(AtomicU32::new(value))
            }
            fn load(&self) -> u32 {
                let load: fn(&AtomicU32) -> u32 = $load;
                load(&self.0)
            }
            fn add(&self, amount: u32) -> u32 {
                let add: fn(&AtomicU32, u32) -> u32 = $add;
                add(&self.0, amount)
            }
        }
    };
}

weak_word!(
    /// Loads without acquire.
    RelaxedLoadWord,
    load: |word| word.load(Ordering::Relaxed),
    add: |word, amount| word.fetch_add(amount, Ordering::Release)
);

weak_word!(
    /// Adds without release.
    RelaxedAddWord,
    load: |word| word.load(Ordering::Acquire),
    add: |word, amount| word.fetch_add(amount, Ordering::Relaxed)
);

weak_word!(
    /// Adds with a load and a store, as the plain integer of the 2022 patch.
    LoadThenStoreWord,
    load: |word| word.load(Ordering::Acquire),
    add: |word, amount| {
        let value = word.load(Ordering::Acquire);
        word.store(value.wrapping_add(amount), Ordering::Release);
        value
    }
);

weak_word!(
    /// Loads without acquire and adds without release.
    RelaxedWord,
    load: |word| word.load(Ordering::Relaxed),
    add: |word, amount| word.fetch_add(amount, Ordering::Relaxed)
);

weak_word!(
    /// Forgets what a load has returned, as a flag that is read and cleared.
    TakingWord,
    load: |word| word.swap(0, Ordering::AcqRel),
    add: |word, amount| word.fetch_add(amount, Ordering::Release)
);

/// No token: an `unpark` before the sleep is lost.
pub type NoTokenPark = LoomPark<false>;

/// A token that orders nothing: the sleeper wakes but may not see what was written before.
///
/// It has no timer.
#[derive(Clone, Debug)]
pub struct RelaxedTokenPark(Rc<RelaxedPlace>);

#[derive(Debug)]
struct RelaxedPlace {
    token: AtomicU32,
    /// A sleep has ended; orders nothing.
    woken: Cell<bool>,
    watch: ParkWatch,
}

impl ModelPark for RelaxedTokenPark {
    fn new() -> Self {
        Self(Rc::new(RelaxedPlace {
            token: AtomicU32::new(0),
            woken: Cell::new(false),
            watch: ParkWatch::default(),
        }))
    }

    fn pass_time_until(&self, _now: Instant) {}

    fn watch(&self) -> &ParkWatch {
        &self.0.watch
    }
}

impl Park for RelaxedTokenPark {
    fn park_until(&self, _until: Instant) -> Parked {
        // In a model with one `unpark`, a second sleep has no end.
        while self.0.token.swap(0, Ordering::Relaxed) == 0 {
            assert!(
                !self.0.woken.get(),
                "asleep without end: a wake-up was lost"
            );
            yield_now();
        }
        self.0.woken.set(true);
        Parked::Woken
    }

    fn unpark(&self) {
        self.0.token.swap(1, Ordering::Relaxed);
    }
}

/// A lock that keeps no other caller out.
#[derive(Debug)]
pub struct NoLock<T> {
    guarded: RefCell<T>,
    /// Lets loom see that two callers are not ordered.
    touched: UnsafeCell<()>,
    callers: Rc<Cell<u32>>,
}

impl<T> ModelLock for NoLock<T> {
    fn around(value: T, callers: Rc<Cell<u32>>) -> Self {
        Self {
            guarded: RefCell::new(value),
            touched: UnsafeCell::new(()),
            callers,
        }
    }
}

impl<T> Lock for NoLock<T> {
    type Guarded = T;

    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R {
        self.callers.set(self.callers.get() + 1);
        self.touched.with_mut(|_| ());
        let result = critical(&mut self.guarded.borrow_mut());
        self.callers.set(self.callers.get() - 1);
        result
    }
}

/// A lock that keeps others out but doesn't show them what was written inside.
#[derive(Debug)]
pub struct RelaxedLock<T> {
    taken: AtomicU32,
    unordered: NoLock<T>,
}

impl<T> ModelLock for RelaxedLock<T> {
    fn around(value: T, callers: Rc<Cell<u32>>) -> Self {
        Self {
            taken: AtomicU32::new(0),
            unordered: NoLock::around(value, callers),
        }
    }
}

impl<T> Lock for RelaxedLock<T> {
    type Guarded = T;

    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R {
        while self.taken.swap(1, Ordering::Relaxed) != 0 {
            yield_now();
        }
        let result = self.unordered.with(critical);
        self.taken.store(0, Ordering::Relaxed);
        result
    }
}
