//! The shared collector in one thread: who is told what, and in which order.

use core::sync::atomic::AtomicU32;

use super::*;
use crate::collector::Scope;
use crate::doorbell::{Seen, Wakes};
use crate::ring::OVERRUN_EXITS;
use crate::testing::{Bed, Kvm, OneThread, RESET_FAILS, Weather, collector};

type Shared<'b> = SharedCollector<OneThread<Collector<Kvm, 64>>, AtomicU32, &'b Bed>;

const CHUNK: RingFullMode = RingFullMode::Chunk(8);

fn shared(bed: &Bed) -> Shared<'_> {
    SharedCollector::new(OneThread::new(collector(2)), bed)
}

fn log(shared: &Shared<'_>, ring: usize, pages: core::ops::Range<u64>) {
    shared.with(|collector| collector.backend().memory(ring).log_pages(pages));
}

fn ring_fulls(shared: &Shared<'_>) -> u64 {
    shared.with(|collector| collector.totals().ring_fulls)
}

fn published(shared: &Shared<'_>) -> usize {
    shared.with(|collector| collector.backend().published.len())
}

#[test]
fn a_ring_full_in_the_chunk_mode_is_counted_and_rings_for_the_reaper() {
    let (bed, mut seen) = (Bed::default(), Seen::default());
    let shared = shared(&bed);
    log(&shared, 0, 0..20);
    let report = shared.ring_full(0, CHUNK, Instant(1)).unwrap();
    assert_eq!((report.harvested, report.settled), (8, true));
    assert_eq!((ring_fulls(&shared), published(&shared)), (1, 8));
    assert_eq!(shared.doorbell().poll(&mut seen), Wakes::RING_FULL);
    assert_eq!(seen.kicks(), 0);
}

#[test]
fn a_ring_full_in_the_whole_mode_is_counted_and_lets_the_reaper_sleep() {
    let (bed, mut seen) = (Bed::default(), Seen::default());
    let shared = shared(&bed);
    log(&shared, 0, 0..20);
    let report = shared
        .ring_full(0, RingFullMode::Whole, Instant(1))
        .unwrap();
    assert_eq!((report.harvested, report.settled), (20, true));
    assert_eq!((ring_fulls(&shared), published(&shared)), (1, 20));
    assert_eq!(shared.doorbell().wait(&mut seen, Instant(50)), Wakes::TIMER);
}

#[test]
fn a_whole_ring_full_that_signals_cut_short_leaves_the_rest_to_the_reaper() {
    let (bed, mut seen) = (Bed::default(), Seen::default());
    let shared = shared(&bed);
    log(&shared, 0, 0..20);
    let signals = [Weather::Short(0); 4];
    shared.with(|collector| collector.backend_mut().weather.extend(signals));
    let report = shared
        .ring_full(0, RingFullMode::Whole, Instant(1))
        .unwrap();
    assert!(!report.settled);
    assert_eq!(published(&shared), 0);
    assert_eq!(shared.doorbell().poll(&mut seen), Wakes::RING_FULL);
    assert_eq!(shared.with(Collector::settle), Ok(true));
    assert_eq!(published(&shared), 20);
}

#[test]
fn a_ring_full_that_fails_is_counted_and_rings_all_the_same() {
    for mode in [CHUNK, RingFullMode::Whole] {
        let (bed, mut seen) = (Bed::default(), Seen::default());
        let shared = shared(&bed);
        log(&shared, 0, 0..20);
        shared.with(|collector| collector.backend_mut().weather.push_back(Weather::Fails));
        let failed = shared.ring_full(0, mode, Instant(1));
        assert_eq!(failed, Err(CollectError::Reset(RESET_FAILS)));
        assert_eq!(ring_fulls(&shared), 1);
        assert_eq!(shared.doorbell().poll(&mut seen), Wakes::RING_FULL);
    }
}

#[test]
fn what_ring_fulls_took_and_their_count_are_in_the_same_tally() {
    let bed = Bed::default();
    let shared = shared(&bed);
    log(&shared, 0, 0..20);
    shared.ring_full(0, CHUNK, Instant(1)).unwrap();
    let tally = shared.with(|collector| {
        collector.begin_pass(Instant(2), Scope::Planned, |_| ());
        assert!(collector.reap(Instant(2)).unwrap().is_over);
        collector.end_pass()
    });
    assert_eq!((tally.ring_full_harvested, tally.harvested), (8, 12));
    assert_eq!(tally.ring_fulls, 1);
}

#[test]
fn a_drain_takes_everything_and_gives_up_the_lock_between_two_batches() {
    let bed = Bed::default();
    let shared = shared(&bed);
    log(&shared, 0, 0..100);
    log(&shared, 1, 1000..1050);
    let before = shared.collector.sections();
    assert_eq!(shared.drain(|| Instant(5)), Ok(()));
    assert_eq!(
        shared.collector.sections() - before,
        3,
        "150 pages in batches of 64"
    );
    assert_eq!(published(&shared), 150);
}

#[test]
fn a_drain_goes_on_until_all_is_settled_and_lets_an_error_out() {
    let bed = Bed::default();
    let shared = shared(&bed);
    log(&shared, 0, 0..20);
    let weather = |weather: &[Weather]| {
        shared.with(|collector| collector.backend_mut().weather.extend(weather));
    };
    weather(&[Weather::Short(0); 9]);
    assert_eq!(shared.drain(|| Instant(5)), Ok(()));
    assert_eq!(published(&shared), 20);
    log(&shared, 0, 20..30);
    weather(&[Weather::Fails]);
    let failed = shared.drain(|| Instant(6));
    assert_eq!(failed, Err(CollectError::Reset(RESET_FAILS)));
    assert_eq!(shared.drain(|| Instant(7)), failed);
    assert_eq!(published(&shared), 20);
}

#[test]
fn an_overrun_ring_ends_in_an_error_here_too() {
    let bed = Bed::default();
    let shared = shared(&bed);
    for _ in 1..OVERRUN_EXITS {
        assert_eq!(shared.ring_full(1, CHUNK, Instant(1)).unwrap().harvested, 0);
    }
    let overrun = shared.ring_full(1, CHUNK, Instant(1));
    assert_eq!(overrun, Err(CollectError::Overrun { ring: 1 }));
    assert_eq!(ring_fulls(&shared), OVERRUN_EXITS.into());
}
