//! The doorbell: W1 to W3 and W5. W3 is bounded to three preemptions; all others are explored
//! whole.

use std::cell::Cell;
use std::rc::Rc;

use dirty_ring_core::doorbell::{Doorbell, Seen, Wakes};
use dirty_ring_core::sync::SharedWord;
use dirty_ring_core::time::Instant;
use dirty_ring_verification::explore::{Model, Reached};
use dirty_ring_verification::loom_sync::{LoomPark, LoomWord, ModelPark};
use dirty_ring_verification::weak::{LoadThenStoreWord, NoTokenPark, RelaxedTokenPark, TakingWord};
use loom::thread;

/// A deadline that never comes.
const NEVER: Instant = Instant::MAX;

const W1: Model = Model {
    name: "w1",
    witnesses: &[
        "the kick came before the wait",
        "the kick came between the look and the sleep",
        "the kick ended a sleep",
    ],
    preemptions: None,
};

/// One kick, one wait without a timer. A lost kick is a deadlock.
fn a_kick_ends_the_wait<P: ModelPark>(reached: &Reached) {
    let park = P::new();
    let doorbell = Rc::new(Doorbell::<LoomWord, P>::new(park.clone()));
    let slept_at_kick = Rc::new(Cell::new(false));
    let sleeper = thread::spawn({
        let doorbell = Rc::clone(&doorbell);
        move || doorbell.wait(&mut Seen::default(), NEVER)
    });
    let kicker = thread::spawn({
        let (park, slept_at_kick) = (park.clone(), Rc::clone(&slept_at_kick));
        move || {
            slept_at_kick.set(park.watch().asleep.get());
            doorbell.kick();
        }
    });
    let wakes = sleeper.join().unwrap();
    kicker.join().unwrap();
    let watch = park.watch();
    reached.note_if(watch.parks.get() == 0, "the kick came before the wait");
    reached.note_if(
        watch.tokens_found.get() != 0,
        "the kick came between the look and the sleep",
    );
    reached.note_if(slept_at_kick.get(), "the kick ended a sleep");
    assert_eq!(wakes, Wakes::KICK);
}

#[test]
fn w1_a_kick_before_during_or_after_the_look_ends_the_wait() {
    W1.explore(a_kick_ends_the_wait::<LoomPark>);
}

#[test]
fn w1_negative_control_no_token() {
    W1.must_fail("deadlock", a_kick_ends_the_wait::<NoTokenPark>);
}

#[test]
fn w1_negative_control_a_token_that_orders_nothing() {
    W1.must_fail(
        "a wake-up was lost",
        a_kick_ends_the_wait::<RelaxedTokenPark>,
    );
}

const W2: Model = Model {
    name: "w2",
    witnesses: &["the timer alone", "the kick alone", "both in one step"],
    preemptions: None,
};

/// A timer and a kick meet one wait; where the kick wasn't in it, the next wait has it.
fn timer_and_kick_make_one_step<P: ModelPark>(reached: &Reached) {
    let park = P::new();
    let doorbell = Rc::new(Doorbell::<LoomWord, P>::new(park.clone()));
    let sleeper = thread::spawn({
        let (doorbell, reached) = (Rc::clone(&doorbell), reached.clone());
        move || {
            let mut seen = Seen::default();
            let wakes = doorbell.wait(&mut seen, Instant(1));
            if wakes == Wakes::TIMER {
                reached.note("the timer alone");
                assert_eq!(doorbell.wait(&mut seen, NEVER), Wakes::KICK);
            } else if wakes == Wakes::KICK {
                reached.note("the kick alone");
            } else {
                assert_eq!(wakes, Wakes::TIMER | Wakes::KICK);
                reached.note("both in one step");
            }
            assert_eq!(doorbell.poll(&mut seen), Wakes::empty(), "a second step");
            assert_eq!(seen.kicks(), 1, "a kick was not seen exactly once");
        }
    });
    let kicker = thread::spawn(move || doorbell.kick());
    let timer = thread::spawn(move || park.pass_time_until(Instant(1)));
    for thread in [sleeper, kicker, timer] {
        thread.join().unwrap();
    }
}

#[test]
fn w2_timer_and_kick_together_make_one_step_and_drop_no_kick() {
    W2.explore(timer_and_kick_make_one_step::<LoomPark>);
}

#[test]
fn w2_negative_control_no_token() {
    W2.must_fail("deadlock", timer_and_kick_make_one_step::<NoTokenPark>);
}

const W3: Model = Model {
    name: "w3",
    witnesses: &["one wake-up for two kicks", "a wake-up for each kick"],
    preemptions: Some(3),
};

/// Two threads kick; the second waits for the first and stops. The sleeper counts kicks.
fn kicks_coalesce_but_are_counted<W: SharedWord + 'static>(reached: &Reached) {
    let doorbell = Rc::new(Doorbell::<W, LoomPark>::new(LoomPark::new()));
    let sleeper = thread::spawn({
        let (doorbell, reached) = (Rc::clone(&doorbell), reached.clone());
        move || {
            let (mut seen, mut wake_ups) = (Seen::default(), 0);
            loop {
                let wakes = doorbell.wait(&mut seen, NEVER);
                wake_ups += u32::from(wakes.contains(Wakes::KICK));
                if wakes.contains(Wakes::STOP) {
                    // Whatever rang before the stop is in this look or in an earlier one.
                    reached.note_if(wake_ups == 1, "one wake-up for two kicks");
                    reached.note_if(wake_ups == 2, "a wake-up for each kick");
                    return seen.kicks();
                }
            }
        }
    });
    let first = thread::spawn({
        let doorbell = Rc::clone(&doorbell);
        move || doorbell.kick()
    });
    let second = thread::spawn(move || {
        doorbell.kick();
        first.join().unwrap();
        doorbell.stop();
    });
    second.join().unwrap();
    assert_eq!(sleeper.join().unwrap(), 2, "a kick was not counted");
}

#[test]
fn w3_kicks_coalesce_without_losing_count() {
    W3.explore(kicks_coalesce_but_are_counted::<LoomWord>);
}

#[test]
fn w3_negative_control_load_then_store() {
    W3.must_fail(
        "a kick was not counted",
        kicks_coalesce_but_are_counted::<LoadThenStoreWord>,
    );
}

const W5: Model = Model {
    name: "w5",
    witnesses: &["a kick after the sleeper saw the stop"],
    preemptions: None,
};

/// A stop, then a kick: the second wait tells of the stop at the latest, and every later one does.
fn a_kick_after_stop_hides_nothing<W: SharedWord + 'static>(reached: &Reached) {
    let doorbell = Rc::new(Doorbell::<W, LoomPark>::new(LoomPark::new()));
    let stopped = Rc::new(Cell::new(false));
    let sleeper = thread::spawn({
        let (doorbell, stopped) = (Rc::clone(&doorbell), Rc::clone(&stopped));
        move || {
            let mut seen = Seen::default();
            let first = doorbell.wait(&mut seen, NEVER);
            stopped.set(first.contains(Wakes::STOP));
            for _ in 0..2 {
                let wakes = doorbell.wait(&mut seen, NEVER);
                assert!(wakes.contains(Wakes::STOP), "the stop was forgotten");
            }
        }
    });
    let stopper = thread::spawn({
        let reached = reached.clone();
        move || {
            doorbell.stop();
            doorbell.kick();
            reached.note_if(stopped.get(), "a kick after the sleeper saw the stop");
        }
    });
    sleeper.join().unwrap();
    stopper.join().unwrap();
}

#[test]
fn w5_a_kick_after_stop_is_harmless() {
    W5.explore(a_kick_after_stop_hides_nothing::<LoomWord>);
}

#[test]
fn w5_negative_control_a_look_takes_the_stop() {
    W5.must_fail(
        "the stop was forgotten",
        a_kick_after_stop_hides_nothing::<TakingWord>,
    );
}
