//! The line in front of a lock: the core's monitor as loom's, and what a model observes of it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use dirty_ring_core::fair::FairLock;
use dirty_ring_core::sync::{Lock, Monitor, SharedWord};
use loom::sync::{Condvar, Mutex, MutexGuard};
use loom::thread::{self, ThreadId};

use crate::loom_sync::ModelLock;

/// What happens in front of a lock; orders nothing.
#[derive(Debug, Default)]
pub struct LineWatch {
    /// The batches that the reaper had ended when each caller took its place.
    places: RefCell<HashMap<ThreadId, u32>>,
    inside: Cell<Option<ThreadId>>,
    reaper: Cell<Option<ThreadId>>,
    /// Critical sections that the reaper has ended.
    batches: Cell<u32>,
    longest_wait: Cell<u32>,
    longest_line: Cell<usize>,
    sleeps: Cell<u32>,
    reaper_waited: Cell<bool>,
}

impl LineWatch {
    /// Makes the calling thread the reaper: each of its critical sections is a batch.
    pub fn reap(&self) {
        self.reaper.set(Some(thread::current().id()));
    }

    /// Notes that the calling thread has come and has its place in line, or that it leaves, if it
    /// is inside.
    pub fn come_or_go(&self) {
        let caller = thread::current().id();
        if self.inside.get() == Some(caller) {
            self.inside.set(None);
            return;
        }
        let mut places = self.places.borrow_mut();
        if self.reaper.get() == Some(caller) && !places.is_empty() {
            self.reaper_waited.set(true);
        }
        places.insert(caller, self.batches.get());
        self.longest_line
            .set(self.longest_line.get().max(places.len()));
    }

    fn enter(&self) {
        let caller = thread::current().id();
        self.inside.set(Some(caller));
        if let Some(batches) = self.places.borrow_mut().remove(&caller) {
            let waited = self.batches.get() - batches;
            self.longest_wait.set(self.longest_wait.get().max(waited));
        }
    }

    fn end(&self) {
        if self.reaper.get() == self.inside.get() {
            self.batches.set(self.batches.get() + 1);
        }
    }

    fn sleep(&self) {
        self.sleeps.set(self.sleeps.get() + 1);
    }

    /// Returns the most batches that ended between the moment when a caller took its place and the
    /// moment when it entered, the one in progress at first included.
    pub fn longest_wait(&self) -> u32 {
        self.longest_wait.get()
    }

    /// Returns the most callers that had a place at the same time and weren't inside.
    pub fn longest_line(&self) -> usize {
        self.longest_line.get()
    }

    /// Returns how often a caller slept.
    pub fn sleeps(&self) -> u32 {
        self.sleeps.get()
    }

    /// Returns whether the reaper came while another caller was in line.
    pub fn reaper_waited(&self) -> bool {
        self.reaper_waited.get()
    }
}

/// A lock that tells a [`LineWatch`] of each critical section.
#[derive(Debug)]
pub struct Watched<L> {
    lock: L,
    watch: Rc<LineWatch>,
}

impl<L: ModelLock> Watched<L> {
    /// Creates a lock around `value`.
    pub fn around(value: L::Guarded, watch: Rc<LineWatch>) -> Self {
        let lock = L::around(value, Rc::default());
        Self { lock, watch }
    }
}

impl<L: Lock> Lock for Watched<L> {
    type Guarded = L::Guarded;

    fn with<R>(&self, critical: impl FnOnce(&mut L::Guarded) -> R) -> R {
        self.lock.with(|value| {
            self.watch.enter();
            let result = critical(value);
            self.watch.end();
            result
        })
    }
}

/// A monitor that a model can make.
pub trait ModelMonitor: Monitor {
    /// Creates a monitor whose word is `value`, for a line that `watch` watches.
    fn new(value: u32, watch: Rc<LineWatch>) -> Self;
}

/// A monitor as the trait requires it, with so many condition variables.
#[derive(Debug)]
pub struct LoomMonitor<const LANES: usize> {
    word: Mutex<u32>,
    lanes: [Condvar; LANES],
    watch: Rc<LineWatch>,
}

impl<const LANES: usize> LoomMonitor<LANES> {
    /// Returns the condition variable of `lane`.
    pub fn lane(&self, lane: u32) -> &Condvar {
        &self.lanes[lane as usize % LANES]
    }

    /// Locks the mutex for a caller that is in line already.
    pub fn relock(&self) -> MutexGuard<'_, u32> {
        self.word.lock().expect("loom's locks are not poisoned")
    }
}

impl<const LANES: usize> ModelMonitor for LoomMonitor<LANES> {
    fn new(value: u32, watch: Rc<LineWatch>) -> Self {
        Self {
            word: Mutex::new(value),
            lanes: std::array::from_fn(|_| Condvar::new()),
            watch,
        }
    }
}

impl<const LANES: usize> Monitor for LoomMonitor<LANES> {
    type Held<'m> = MutexGuard<'m, u32>;

    /// A caller comes here right after it drew its ticket, and again when it leaves.
    fn hold(&self) -> MutexGuard<'_, u32> {
        self.watch.come_or_go();
        self.relock()
    }

    fn wait<'m>(&'m self, held: MutexGuard<'m, u32>, lane: u32) -> MutexGuard<'m, u32> {
        self.watch.sleep();
        let held = self.lane(lane).wait(held);
        held.expect("loom's locks are not poisoned")
    }

    fn wake(&self, lane: u32) {
        self.lane(lane).notify_all();
    }
}

/// A lock with a line that a model can make.
pub trait ModelLine: Lock {
    /// Creates a lock around `value` whose first ticket is `ticket`.
    fn around(value: Self::Guarded, ticket: u32, watch: Rc<LineWatch>) -> Self;
}

impl<M, W, L> ModelLine for FairLock<M, W, Watched<L>>
where
    M: ModelMonitor,
    W: SharedWord,
    L: ModelLock,
{
    fn around(value: L::Guarded, ticket: u32, watch: Rc<LineWatch>) -> Self {
        let line = M::new(ticket, Rc::clone(&watch));
        let lock = Self::new(line, Watched::around(value, Rc::clone(&watch)));
        // The lock read its first ticket, which looked like a caller.
        watch.places.borrow_mut().clear();
        lock
    }
}
