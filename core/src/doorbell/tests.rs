//! The doorbell with a sleeper that never really sleeps.

use core::sync::atomic::AtomicU32;

use super::*;
use crate::testing::Bed;

fn doorbell(bed: &Bed) -> Doorbell<AtomicU32, &Bed> {
    Doorbell::new(bed)
}

#[test]
fn kicks_coalesce_into_one_wake_and_keep_their_count() {
    let bed = Bed::default();
    let (doorbell, mut seen) = (doorbell(&bed), Seen::default());
    (0..5).for_each(|_| doorbell.kick());
    assert_eq!(doorbell.poll(&mut seen), Wakes::KICK);
    assert_eq!(doorbell.poll(&mut seen), Wakes::empty());
    doorbell.kick();
    assert_eq!(doorbell.poll(&mut seen), Wakes::KICK);
    assert_eq!(seen.kicks(), 6);
}

#[test]
fn each_cause_is_named_and_none_hides_another() {
    let bed = Bed::default();
    let (doorbell, mut seen) = (doorbell(&bed), Seen::default());
    doorbell.ring_full();
    assert_eq!(doorbell.poll(&mut seen), Wakes::RING_FULL);
    doorbell.kick();
    doorbell.ring_full();
    doorbell.stop();
    assert_eq!(doorbell.poll(&mut seen), Wakes::all() - Wakes::TIMER);
    assert_eq!(seen.kicks(), 1, "a ring-full is no kick");
}

#[test]
fn a_stop_stays_set_and_a_kick_after_it_is_harmless() {
    let bed = Bed::default();
    let (doorbell, mut seen) = (doorbell(&bed), Seen::default());
    doorbell.stop();
    assert_eq!(doorbell.wait(&mut seen, Instant(9)), Wakes::STOP);
    doorbell.kick();
    assert_eq!(
        doorbell.wait(&mut seen, Instant(9)),
        Wakes::STOP | Wakes::KICK
    );
    doorbell.stop();
    assert_eq!(doorbell.wait(&mut seen, Instant(9)), Wakes::STOP);
    assert!(bed.sleeps.borrow().is_empty(), "no sleep after a stop");
}

#[test]
fn a_ring_before_the_wait_ends_it_without_a_sleep() {
    let bed = Bed::default();
    let (doorbell, mut seen) = (doorbell(&bed), Seen::default());
    doorbell.kick();
    assert_eq!(doorbell.wait(&mut seen, Instant(100)), Wakes::KICK);
    assert!(bed.sleeps.borrow().is_empty());
    // The token of that kick is still there: a sleep ends early, finds nothing and goes on.
    assert_eq!(doorbell.wait(&mut seen, Instant(100)), Wakes::TIMER);
    assert_eq!(*bed.sleeps.borrow(), [Instant(100); 2]);
}

#[test]
fn a_sleep_that_ends_for_no_reason_goes_on_to_the_same_deadline() {
    let bed = Bed::default();
    bed.restless.set(3);
    let (doorbell, mut seen) = (doorbell(&bed), Seen::default());
    assert_eq!(doorbell.wait(&mut seen, Instant(70)), Wakes::TIMER);
    assert_eq!(*bed.sleeps.borrow(), [Instant(70); 4]);
}

#[test]
fn what_rang_for_a_reaper_that_is_gone_is_not_for_the_next_one() {
    let bed = Bed::default();
    let (doorbell, mut first) = (doorbell(&bed), Seen::default());
    doorbell.stop();
    doorbell.kick();
    assert_eq!(doorbell.poll(&mut first), Wakes::STOP | Wakes::KICK);
    let mut second = doorbell.seen_now();
    assert_eq!(doorbell.poll(&mut second), Wakes::empty());
    doorbell.ring_full();
    assert_eq!(doorbell.poll(&mut second), Wakes::RING_FULL);
    doorbell.stop();
    assert_eq!(doorbell.poll(&mut second), Wakes::STOP);
    assert_eq!(doorbell.poll(&mut second), Wakes::STOP, "a stop stays set");
}

/// A kick comes just as the deadline passes.
struct KickedAtDeadline;

std::thread_local! {
    static KICKED: Doorbell<AtomicU32, KickedAtDeadline> = Doorbell::new(KickedAtDeadline);
}

impl Park for KickedAtDeadline {
    fn park_until(&self, _until: Instant) -> Parked {
        KICKED.with(|doorbell| doorbell.kicks.add(1));
        Parked::TimedOut
    }
    fn unpark(&self) {}
}

#[test]
fn timer_and_kick_together_are_both_named() {
    let mut seen = Seen::default();
    let wakes = KICKED.with(|doorbell| doorbell.wait(&mut seen, Instant(5)));
    assert_eq!((wakes, seen.kicks()), (Wakes::TIMER | Wakes::KICK, 1));
}
