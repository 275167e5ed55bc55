//! Monitors and lines with one thing wrong each, for the negative controls.

use std::cell::{RefCell, RefMut};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use dirty_ring_core::sync::{Lock, Monitor, SharedWord};
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Condvar, Mutex, MutexGuard};
use loom::thread::yield_now;

use crate::loom_line::{LineWatch, LoomMonitor, ModelLine, ModelMonitor, Watched};
use crate::loom_sync::{LoomWord, ModelLock};

/// Defines a monitor over [`LoomMonitor`] with another wake-up.
macro_rules! weak_wake {
    ($(#[$doc:meta])* $name:ident, $wake:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name<const LANES: usize>(LoomMonitor<LANES>);

        impl<const LANES: usize> ModelMonitor for $name<LANES> {
            fn new(value: u32, watch: Rc<LineWatch>) -> Self {
                Self(LoomMonitor::new(value, watch))
            }
        }

        impl<const LANES: usize> Monitor for $name<LANES> {
            type Held<'m> = MutexGuard<'m, u32>;

            fn hold(&self) -> MutexGuard<'_, u32> {
                self.0.hold()
            }

            fn wait<'m>(&'m self, held: MutexGuard<'m, u32>, lane: u32) -> MutexGuard<'m, u32> {
                self.0.wait(held, lane)
            }

            fn wake(&self, lane: u32) {
                let wake: fn(&Condvar) = $wake;
                wake(self.0.lane(lane));
            }
        }
    };
}

weak_wake!(
    /// Wakes no thread.
    SilentMonitor,
    |_| ()
);

weak_wake!(
    /// Wakes one thread of the lane, which may be the wrong one.
    WakeOneMonitor,
    Condvar::notify_one
);

/// Sleeps a moment after it has released the mutex: a wake-up in between is lost.
#[derive(Debug)]
pub struct LateSleepMonitor {
    monitor: LoomMonitor<1>,
    bed: Mutex<()>,
}

impl ModelMonitor for LateSleepMonitor {
    fn new(value: u32, watch: Rc<LineWatch>) -> Self {
        Self {
            monitor: LoomMonitor::new(value, watch),
            bed: Mutex::new(()),
        }
    }
}

impl Monitor for LateSleepMonitor {
    type Held<'m> = MutexGuard<'m, u32>;

    fn hold(&self) -> MutexGuard<'_, u32> {
        self.monitor.hold()
    }

    fn wait<'m>(&'m self, held: MutexGuard<'m, u32>, lane: u32) -> MutexGuard<'m, u32> {
        drop(held);
        let bed = self.bed.lock().expect("loom's locks are not poisoned");
        let bed = self.monitor.lane(lane).wait(bed);
        drop(bed.expect("loom's locks are not poisoned"));
        self.monitor.relock()
    }

    fn wake(&self, lane: u32) {
        self.monitor.wake(lane);
    }
}

/// A mutex that orders nothing. It has no condition variables: a wait is a spurious wake-up.
#[derive(Debug)]
pub struct RelaxedMonitor {
    taken: AtomicU32,
    word: RefCell<u32>,
    watch: Rc<LineWatch>,
}

/// The mutex of a [`RelaxedMonitor`], locked.
#[derive(Debug)]
pub struct RelaxedHeld<'m> {
    word: Option<RefMut<'m, u32>>,
    taken: &'m AtomicU32,
}

impl Deref for RelaxedHeld<'_> {
    type Target = u32;

    fn deref(&self) -> &u32 {
        self.word.as_deref().expect("taken by the drop alone")
    }
}

impl DerefMut for RelaxedHeld<'_> {
    fn deref_mut(&mut self) -> &mut u32 {
        self.word.as_deref_mut().expect("taken by the drop alone")
    }
}

impl Drop for RelaxedHeld<'_> {
    fn drop(&mut self) {
        self.word = None;
        self.taken.store(0, Ordering::Relaxed);
    }
}

impl RelaxedMonitor {
    fn lock(&self) -> RelaxedHeld<'_> {
        while self.taken.swap(1, Ordering::Relaxed) != 0 {
            yield_now();
        }
        RelaxedHeld {
            word: Some(self.word.borrow_mut()),
            taken: &self.taken,
        }
    }
}

impl ModelMonitor for RelaxedMonitor {
    fn new(value: u32, watch: Rc<LineWatch>) -> Self {
        Self {
            taken: AtomicU32::new(0),
            word: RefCell::new(value),
            watch,
        }
    }
}

impl Monitor for RelaxedMonitor {
    type Held<'m> = RelaxedHeld<'m>;

    fn hold(&self) -> RelaxedHeld<'_> {
        self.watch.come_or_go();
        self.lock()
    }

    fn wait<'m>(&'m self, held: RelaxedHeld<'m>, _lane: u32) -> RelaxedHeld<'m> {
        drop(held);
        yield_now();
        self.lock()
    }

    fn wake(&self, _lane: u32) {}
}

/// The fair lock, but it looks for others in line before it serves the next: one that comes in
/// between isn't woken.
#[derive(Debug)]
pub struct HastyLine<L> {
    drawn: LoomWord,
    serving: LoomMonitor<1>,
    guarded: Watched<L>,
}

impl<L: ModelLock> ModelLine for HastyLine<L> {
    fn around(value: L::Guarded, ticket: u32, watch: Rc<LineWatch>) -> Self {
        Self {
            drawn: LoomWord::new(ticket),
            serving: LoomMonitor::new(ticket, Rc::clone(&watch)),
            guarded: Watched::around(value, watch),
        }
    }
}

impl<L: Lock> Lock for HastyLine<L> {
    type Guarded = L::Guarded;

    fn with<R>(&self, critical: impl FnOnce(&mut L::Guarded) -> R) -> R {
        let ticket = self.drawn.add(1);
        let mut serving = self.serving.hold();
        while *serving != ticket {
            serving = self.serving.wait(serving, ticket);
        }
        drop(serving);
        let result = self.guarded.with(critical);
        let next = ticket.wrapping_add(1);
        let others = self.drawn.load() != next;
        *self.serving.hold() = next;
        if others {
            self.serving.wake(next);
        }
        result
    }
}

/// A plain mutex in place of the fair lock, maybe behind a turnstile: a second mutex, which the one
/// caller holds that waits for the first.
#[derive(Debug)]
pub struct MutexLine<L, const TURNSTILE: bool> {
    /// Its addition is where a caller comes, as in the fair lock.
    come: LoomWord,
    turnstile: Mutex<()>,
    guarded: Watched<L>,
    watch: Rc<LineWatch>,
}

/// A plain mutex: it goes to whoever comes first after its release.
pub type BargingLine<L> = MutexLine<L, false>;

/// A mutex behind a turnstile: the turnstile goes to whoever comes first after its release.
pub type TurnstileLine<L> = MutexLine<L, true>;

impl<L: ModelLock, const TURNSTILE: bool> ModelLine for MutexLine<L, TURNSTILE> {
    fn around(value: L::Guarded, ticket: u32, watch: Rc<LineWatch>) -> Self {
        Self {
            come: LoomWord::new(ticket),
            turnstile: Mutex::new(()),
            guarded: Watched::around(value, Rc::clone(&watch)),
            watch,
        }
    }
}

impl<L: Lock, const TURNSTILE: bool> Lock for MutexLine<L, TURNSTILE> {
    type Guarded = L::Guarded;

    fn with<R>(&self, critical: impl FnOnce(&mut L::Guarded) -> R) -> R {
        self.come.add(1);
        self.watch.come_or_go();
        let turn = TURNSTILE.then(|| self.turnstile.lock());
        let result = self.guarded.with(|value| {
            drop(turn);
            critical(value)
        });
        self.watch.come_or_go();
        result
    }
}
