//! The fair lock in one thread: whose turn it is, and who is woken.

use core::cell::{RefCell, RefMut};
use core::sync::atomic::AtomicU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::vec::Vec;

use super::*;
use crate::testing::OneThread;

/// A monitor for one thread, where a wait would never end.
#[derive(Debug)]
struct Alone {
    word: RefCell<u32>,
    woken: RefCell<Vec<u32>>,
}

impl Monitor for Alone {
    type Held<'m> = RefMut<'m, u32>;

    fn hold(&self) -> RefMut<'_, u32> {
        self.word.borrow_mut()
    }

    fn wait<'m>(&'m self, held: RefMut<'m, u32>, lane: u32) -> RefMut<'m, u32> {
        panic!("ticket {lane} waits for the end of {}", *held);
    }

    fn wake(&self, lane: u32) {
        assert!(self.word.try_borrow_mut().is_ok(), "woken into a mutex");
        self.woken.borrow_mut().push(lane);
    }
}

type Fair = FairLock<Alone, AtomicU32, OneThread<u32>>;

/// Creates a lock whose first ticket is `ticket`.
fn lock(ticket: u32) -> Fair {
    let line = Alone {
        word: RefCell::new(ticket),
        woken: RefCell::default(),
    };
    Fair::new(line, OneThread::new(0))
}

fn woken(lock: &Fair) -> Vec<u32> {
    lock.serving.woken.borrow().clone()
}

#[test]
fn a_caller_alone_enters_at_once_and_makes_no_wake_up() {
    let lock = lock(0);
    assert_eq!(lock.with(|value| core::mem::replace(value, 6)), 0);
    assert_eq!(lock.with(|value| *value), 6);
    assert_eq!(lock.guarded.sections(), 2);
    assert_eq!(woken(&lock), []);
}

#[test]
fn the_end_of_a_turn_wakes_the_next_in_line_only() {
    let lock = lock(7);
    // Two more callers come meanwhile.
    lock.with(|_| lock.drawn.add(2));
    assert_eq!(woken(&lock), [8]);
    assert_eq!(*lock.serving.hold(), 8);
}

#[test]
fn tickets_wrap_around() {
    let lock = lock(u32::MAX);
    lock.with(|_| lock.drawn.add(1));
    assert_eq!(woken(&lock), [0]);
    assert_eq!(*lock.serving.hold(), 0);
}

#[test]
fn a_panic_inside_serves_the_next_in_line() {
    let lock = lock(0);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        lock.with(|_| {
            lock.drawn.add(1);
            panic!("a sink panicked");
        });
    }));
    assert!(panicked.is_err());
    assert_eq!(woken(&lock), [1]);
    assert_eq!(*lock.serving.hold(), 1);
}
