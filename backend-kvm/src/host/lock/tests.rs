use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use super::*;

#[test]
fn a_panicked_holder_leaves_the_lock_usable() {
    let guarded = StdFairLock::new(1);
    let result = catch_unwind(AssertUnwindSafe(|| {
        guarded.with(|_| panic!("a sink panicked"));
    }));
    assert!(result.is_err());
    assert!(!guarded.is_held_by_this_thread());
    assert_eq!(guarded.with(|value| *value), 1);
}

#[test]
fn a_panicked_holder_serves_the_thread_that_waits() {
    let guarded = StdFairLock::new(1);
    thread::scope(|scope| {
        let mut waiter = None;
        let result = catch_unwind(AssertUnwindSafe(|| {
            guarded.with(|_| {
                waiter = Some(scope.spawn(|| guarded.with(|value| *value)));
                wait_for_tickets(&guarded, 2);
                panic!("a sink panicked");
            });
        }));
        assert!(result.is_err());
        assert_eq!(waiter.unwrap().join().unwrap(), 1);
    });
}

#[test]
fn only_the_holder_holds_the_lock() {
    let guarded = StdFairLock::new(());
    assert!(!guarded.is_held_by_this_thread());
    guarded.with(|()| {
        assert!(guarded.is_held_by_this_thread());
        thread::scope(|scope| {
            let other = scope.spawn(|| guarded.is_held_by_this_thread());
            assert!(!other.join().unwrap());
        });
    });
    assert!(!guarded.is_held_by_this_thread());
}

/// The reaper leaves and comes back at once, before any of the vCPUs has woken up.
#[test]
fn threads_enter_in_the_order_in_which_they_came() {
    const VCPUS: u32 = 4;
    let guarded = StdFairLock::new(Vec::new());
    thread::scope(|scope| {
        guarded.with(|_| {
            let holder = guarded.lock.drawn();
            for vcpu in 0..VCPUS {
                let lock = &guarded;
                scope.spawn(move || lock.with(|entered| entered.push(vcpu)));
                wait_for_tickets(lock, holder + vcpu + 1);
            }
        });
        guarded.with(|entered| entered.push(VCPUS));
    });
    assert_eq!(guarded.with(|entered| entered.clone()), [0, 1, 2, 3, VCPUS]);
}

/// Waits until so many callers have come.
fn wait_for_tickets<T>(guarded: &StdFairLock<T>, drawn: u32) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while guarded.lock.drawn() != drawn {
        assert!(Instant::now() < give_up, "a caller doesn't come");
        thread::sleep(Duration::from_millis(1));
    }
}
