//! Turns of the reaper in one thread: the test is the clock, the guests and the other threads.

use core::sync::atomic::AtomicU32;
use std::vec::Vec;

use super::*;
use crate::collector::RingFullMode;
use crate::controller::Fixed;
use crate::planner::PassRecord;
use crate::testing::{Bed, Kvm, OneThread, RESET_FAILS, Weather, collector};
use crate::time::Micros;

/// So that a pass takes several batches.
const BATCH: usize = 16;

type Shared<'b> = SharedCollector<OneThread<Collector<Kvm, BATCH>>, AtomicU32, &'b Bed>;

const WAIT: Micros = Micros::SECOND;

fn shared(bed: &Bed) -> Shared<'_> {
    SharedCollector::new(OneThread::new(collector(2)), bed)
}

fn reaper() -> Reaper<Fixed, 4> {
    Reaper::new(Planner::new(Fixed::new(WAIT).unwrap()))
}

/// A reaper that has started at 0 and waits.
fn waiting(shared: &Shared<'_>) -> Reaper<Fixed, 4> {
    let mut reaper = reaper();
    assert_eq!(turn(&mut reaper, shared, 0), until(WAIT.0));
    reaper
}

fn turn(reaper: &mut Reaper<Fixed, 4>, shared: &Shared<'_>, now: u64) -> Turn {
    reaper.turn(shared, Instant(now)).unwrap()
}

/// Takes turns at `now` until there is something else to do than to take one more; returns how
/// many said `Again`.
fn turns(reaper: &mut Reaper<Fixed, 4>, shared: &Shared<'_>, now: u64) -> (u32, Turn) {
    let mut again = 0;
    loop {
        match turn(reaper, shared, now) {
            Turn::Again => again += 1,
            other => return (again, other),
        }
        assert!(again < 1000, "it never ends");
    }
}

fn until(until: u64) -> Turn {
    Turn::Wait {
        until: Instant(until),
    }
}

fn log(shared: &Shared<'_>, ring: usize, pages: core::ops::Range<u64>) {
    shared.with(|collector| collector.backend().memory(ring).log_pages(pages));
}

fn published(shared: &Shared<'_>) -> usize {
    shared.with(|collector| collector.backend().published.len())
}

fn set_weather(shared: &Shared<'_>, weather: &[Weather]) {
    shared.with(|collector| collector.backend_mut().weather.extend(weather));
}

fn last_pass(reaper: &Reaper<Fixed, 4>) -> PassRecord {
    *reaper.planner().last_pass().unwrap()
}

#[test]
fn the_first_turn_starts_and_waits_and_so_does_each_before_the_time() {
    let bed = Bed::default();
    let shared = shared(&bed);
    log(&shared, 0, 0..5);
    let mut reaper = reaper();
    assert_eq!(reaper.planner().phase(), Phase::Idle);
    for now in [50, 51, 50 + WAIT.0 - 1] {
        assert_eq!(turn(&mut reaper, &shared, now), until(50 + WAIT.0));
        assert_eq!(reaper.planner().phase(), Phase::Waiting);
    }
    assert_eq!(published(&shared), 0);
    assert!(bed.sleeps.borrow().is_empty(), "a turn never sleeps");
}

#[test]
fn when_the_wait_is_over_a_pass_takes_the_rings_and_the_next_wait_begins_after_it() {
    let bed = Bed::default();
    let shared = shared(&bed);
    let mut reaper = waiting(&shared);
    log(&shared, 0, 0..5);
    log(&shared, 1, 100..103);
    let due = WAIT.0 + 30;
    assert_eq!(turn(&mut reaper, &shared, due), Turn::Again, "it begins");
    assert_eq!(published(&shared), 0);
    assert_eq!(
        turn(&mut reaper, &shared, due + 10),
        Turn::Again,
        "its one batch"
    );
    assert_eq!(published(&shared), 8);
    assert_eq!(
        turn(&mut reaper, &shared, due + 25),
        until(due + 25 + WAIT.0)
    );
    let pass = last_pass(&reaper).measurement;
    assert_eq!(
        (pass.harvested, pass.fullest, pass.wakes),
        (8, 5, Wakes::TIMER)
    );
    assert_eq!((pass.late, pass.took), (Micros(30), Micros(25)));
}

#[test]
fn a_kick_is_followed_by_turns_until_every_page_is_published() {
    let bed = Bed::default();
    let shared = shared(&bed);
    let mut reaper = waiting(&shared);
    log(&shared, 0, 0..10);
    shared.doorbell().kick();
    let (again, last) = turns(&mut reaper, &shared, 500);
    assert!(again >= 2);
    assert_eq!(last, until(500 + WAIT.0));
    assert_eq!(published(&shared), 10);
    assert_eq!((reaper.seen().kicks(), reaper.planner().passes()), (1, 1));
    assert_eq!(turns(&mut reaper, &shared, 501), (0, until(500 + WAIT.0)));
}

#[test]
fn each_turn_takes_one_batch() {
    let bed = Bed::default();
    let shared = shared(&bed);
    let mut reaper = waiting(&shared);
    log(&shared, 0, 0..40);
    shared.doorbell().kick();
    assert_eq!(turn(&mut reaper, &shared, 1), Turn::Again);
    let mut taken = Vec::new();
    loop {
        let before = published(&shared);
        let next = turn(&mut reaper, &shared, 2);
        if next != Turn::Again {
            break;
        }
        taken.push(published(&shared) - before);
    }
    assert_eq!(taken, [16, 16, 8]);
    assert_eq!(last_pass(&reaper).measurement.harvested, 40);
}

#[test]
fn pages_that_come_between_two_batches_are_taken_as_far_as_the_ring_is_large() {
    let bed = Bed::default();
    let shared = shared(&bed);
    let mut reaper = waiting(&shared);
    log(&shared, 0, 0..100);
    shared.doorbell().kick();
    let mut next = 100;
    while turn(&mut reaper, &shared, 1) == Turn::Again {
        // A guest that is as fast as the reaper.
        assert!(next < 2000, "it keeps the reaper busy without end");
        log(&shared, 0, next..next + 16);
        next += 16;
    }
    assert_eq!(last_pass(&reaper).measurement.harvested, 256);
}

#[test]
fn a_stop_drains_the_rings_and_ends_in_done_for_good() {
    let bed = Bed::default();
    let shared = shared(&bed);
    let mut reaper = waiting(&shared);
    log(&shared, 0, 0..40);
    log(&shared, 1, 100..101);
    shared.doorbell().stop();
    assert_eq!(turns(&mut reaper, &shared, 5).1, Turn::Done);
    assert_eq!(published(&shared), 41);
    log(&shared, 0, 40..45);
    shared.doorbell().kick();
    for now in [5, 6, 10 * WAIT.0] {
        assert_eq!(turn(&mut reaper, &shared, now), Turn::Done);
    }
    assert_eq!((published(&shared), reaper.planner().passes()), (41, 1));
}

#[test]
fn a_stop_before_the_first_turn_drains_as_well() {
    let bed = Bed::default();
    let shared = shared(&bed);
    log(&shared, 0, 0..5);
    shared.doorbell().stop();
    assert_eq!(turns(&mut reaper(), &shared, 5).1, Turn::Done);
    assert_eq!(published(&shared), 5);
}

#[test]
fn a_stop_during_a_pass_makes_one_whole_further_pass_and_then_done() {
    for turns_before in 1..=3 {
        let bed = Bed::default();
        let shared = shared(&bed);
        let mut reaper = waiting(&shared);
        log(&shared, 0, 0..30);
        shared.doorbell().kick();
        for _ in 0..turns_before {
            assert_eq!(turn(&mut reaper, &shared, 5), Turn::Again);
        }
        // The pass may have left this ring behind already.
        log(&shared, 0, 30..31);
        shared.doorbell().stop();
        assert_eq!(turns(&mut reaper, &shared, 6).1, Turn::Done);
        assert_eq!(published(&shared), 31, "after {turns_before} turns");
        let wakes = reaper
            .planner()
            .history()
            .map(|pass| pass.measurement.wakes);
        let wakes = wakes.collect::<Vec<_>>();
        assert_eq!(wakes.last(), Some(&Wakes::STOP));
        assert_eq!(wakes.len(), 2);
    }
}

#[test]
fn a_kick_during_a_pass_makes_another_pass() {
    let bed = Bed::default();
    let shared = shared(&bed);
    let mut reaper = waiting(&shared);
    log(&shared, 1, 100..110);
    shared.doorbell().kick();
    assert_eq!(turn(&mut reaper, &shared, 5), Turn::Again, "it begins");
    assert_eq!(turn(&mut reaper, &shared, 6), Turn::Again, "its one batch");
    // The batch has gone by when this page comes, and the kick asks for it.
    log(&shared, 0, 0..1);
    shared.doorbell().kick();
    let (_, last) = turns(&mut reaper, &shared, 7);
    assert_eq!(last, until(7 + WAIT.0));
    assert_eq!((published(&shared), reaper.planner().passes()), (11, 2));
    let second = last_pass(&reaper).measurement;
    assert_eq!((second.wakes, second.harvested), (Wakes::KICK, 1));
}

#[test]
fn a_ring_full_wakes_it_for_the_rest_of_the_ring() {
    let bed = Bed::default();
    let shared = shared(&bed);
    let mut reaper = waiting(&shared);
    log(&shared, 0, 0..192);
    let chunk = RingFullMode::Chunk(10);
    shared.ring_full(0, chunk, Instant(100)).unwrap();
    let (_, last) = turns(&mut reaper, &shared, 150);
    assert_eq!(last, until(150 + WAIT.0));
    assert_eq!(published(&shared), 192);
    let pass = last_pass(&reaper).measurement;
    assert_eq!((pass.ring_fulls, pass.ring_full_harvested), (1, 10));
    assert_eq!((pass.harvested, pass.wakes), (182, Wakes::RING_FULL));
}

#[test]
fn a_short_reset_makes_it_go_on_and_the_final_drain_too() {
    for stops in [false, true] {
        let bed = Bed::default();
        let shared = shared(&bed);
        let mut reaper = waiting(&shared);
        log(&shared, 0, 0..30);
        set_weather(&shared, &[Weather::Short(3)]);
        // Three turns' worth of resets that do nothing.
        set_weather(&shared, &[Weather::Short(0); 12]);
        match stops {
            true => shared.doorbell().stop(),
            false => shared.doorbell().kick(),
        }
        assert_eq!(turn(&mut reaper, &shared, 5), Turn::Again);
        for _ in 0..3 {
            assert_eq!(turn(&mut reaper, &shared, 6), Turn::Again);
            assert_eq!((published(&shared), reaper.planner().passes()), (0, 0));
        }
        let expected = if stops { Turn::Done } else { until(7 + WAIT.0) };
        assert_eq!(turns(&mut reaper, &shared, 7).1, expected);
        // The pages of the batch in which the reset stopped are suspects, and published twice.
        assert_eq!((published(&shared), reaper.planner().passes()), (46, 1));
        assert_eq!(last_pass(&reaper).measurement.harvested, 30);
    }
}

#[test]
fn an_error_of_the_backend_comes_out_again_and_again_and_the_pages_stay() {
    let bed = Bed::default();
    let shared = shared(&bed);
    let mut reaper = waiting(&shared);
    log(&shared, 0, 0..5);
    shared.doorbell().kick();
    set_weather(&shared, &[Weather::Fails]);
    assert_eq!(turn(&mut reaper, &shared, 5), Turn::Again);
    let failed = reaper.turn(&shared, Instant(6));
    assert_eq!(failed, Err(CollectError::Reset(RESET_FAILS)));
    assert_eq!(
        (published(&shared), shared.with(|it| it.outstanding())),
        (0, 5)
    );
    let failed = reaper.turn(&shared, Instant(7));
    assert_eq!(failed, Err(CollectError::Reset(RESET_FAILS)));
    assert_eq!((published(&shared), reaper.planner().passes()), (0, 0));
}

#[test]
fn run_sleeps_until_the_deadline_reaps_and_ends_after_a_stop() {
    let bed = Bed::default();
    let shared = shared(&bed);
    log(&shared, 0, 0..20);
    // The bed never really sleeps: the clock is where the last sleep was to end.
    let clock = || bed.sleeps.borrow().last().copied().unwrap_or(Instant(7));
    let mut reaper = reaper();
    let mut waits = Vec::new();
    let ended = reaper.run(&shared, clock, |reaper, turn| {
        if let Turn::Wait { until } = turn {
            waits.push(until);
            if reaper.planner().passes() == 3 {
                log(&shared, 1, 100..105);
                shared.doorbell().stop();
            }
        }
    });
    assert_eq!(ended, Ok(()));
    let expected = [1, 2, 3, 4].map(|passes| Instant(7) + WAIT * passes);
    assert_eq!(waits, expected);
    assert_eq!(
        *bed.sleeps.borrow(),
        expected[..3],
        "no sleep after the stop"
    );
    assert_eq!((published(&shared), reaper.planner().passes()), (25, 4));
    assert_eq!(last_pass(&reaper).measurement.wakes, Wakes::STOP);
}

#[test]
fn run_hears_of_what_ended_its_sleep() {
    let bed = Bed::default();
    bed.restless.set(2);
    let shared = shared(&bed);
    log(&shared, 0, 0..5);
    shared.doorbell().kick();
    let mut reaper = reaper();
    let mut kicked = false;
    let clock = || Instant(7);
    let ended = reaper.run(&shared, clock, |reaper, turn| {
        if turn != Turn::Again && reaper.planner().passes() == 1 && !kicked {
            kicked = true;
            shared.doorbell().kick();
            shared.doorbell().stop();
        }
    });
    assert_eq!(ended, Ok(()));
    let wakes = reaper
        .planner()
        .history()
        .map(|pass| pass.measurement.wakes);
    assert_eq!(
        wakes.collect::<Vec<_>>(),
        [Wakes::KICK, Wakes::KICK | Wakes::STOP]
    );
    assert_eq!(reaper.seen().kicks(), 2);
}

#[test]
fn run_ends_with_the_error_of_the_backend() {
    let bed = Bed::default();
    let shared = shared(&bed);
    log(&shared, 0, 0..5);
    shared.doorbell().kick();
    set_weather(&shared, &[Weather::Fails]);
    let failed = reaper().run(&shared, || Instant(7), |_, _| ());
    assert_eq!(failed, Err(CollectError::Reset(RESET_FAILS)));
    assert_eq!(shared.with(|it| it.outstanding()), 5);
}
