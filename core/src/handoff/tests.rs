//! The handoff in one thread: who is told what, and in which order.

use core::sync::atomic::AtomicU32;

use super::*;
use crate::doorbell::Seen;
use crate::ring::OVERRUN_EXITS;
use crate::testing::{Bed, Kvm, OneThread, RESET_FAILS, Weather, collector};

type Shared<'b> = Handoff<OneThread<Collector<Kvm, 64>>, AtomicU32, &'b Bed>;

const CHUNK: RingFullMode = RingFullMode::Chunk(8);

fn shared(bed: &Bed) -> Shared<'_> {
    Handoff::new(OneThread::new(collector(2)), bed)
}

fn log(shared: &Shared<'_>, ring: usize, pages: core::ops::Range<u64>) {
    shared.with(|collector| collector.backend().memory(ring).log_pages(pages));
}

fn published(shared: &Shared<'_>) -> usize {
    shared.with(|collector| collector.backend().published.len())
}

#[test]
fn a_ring_full_in_the_chunk_mode_is_counted_and_rings_for_the_reaper() {
    let (bed, mut seen) = (Bed::default(), Seen::default());
    let shared = shared(&bed);
    log(&shared, 0, 0..20);
    let report = shared.ring_full(0, CHUNK, 1).unwrap();
    assert_eq!((report.harvested, report.settled), (8, true));
    assert_eq!((shared.ring_fulls(), published(&shared)), (1, 8));
    assert_eq!(shared.doorbell().poll(&mut seen), Wakes::RING_FULL);
    assert_eq!(seen.kicks(), 0);
}

#[test]
fn a_ring_full_in_the_whole_mode_is_counted_and_lets_the_reaper_sleep() {
    let (bed, mut seen) = (Bed::default(), Seen::default());
    let shared = shared(&bed);
    log(&shared, 0, 0..20);
    let report = shared.ring_full(0, RingFullMode::Whole, 1).unwrap();
    assert_eq!((report.harvested, report.settled), (20, true));
    assert_eq!((shared.ring_fulls(), published(&shared)), (1, 20));
    assert_eq!(shared.wait(&mut seen, 50), Wakes::TIMER);
}

#[test]
fn a_whole_ring_full_that_signals_cut_short_leaves_the_rest_to_the_reaper() {
    let (bed, mut seen) = (Bed::default(), Seen::default());
    let shared = shared(&bed);
    log(&shared, 0, 0..20);
    let signals = [Weather::Short(0); 4];
    shared.with(|collector| collector.backend_mut().weather.extend(signals));
    let report = shared.ring_full(0, RingFullMode::Whole, 1).unwrap();
    assert!(!report.settled);
    assert_eq!(published(&shared), 0);
    assert_eq!(shared.doorbell().poll(&mut seen), Wakes::RING_FULL);
    let reset = shared.reset().unwrap();
    assert_eq!((reset.entries, reset.settled), (20, true));
    assert_eq!(published(&shared), 20);
}

#[test]
fn a_ring_full_that_fails_is_counted_and_rings_all_the_same() {
    for mode in [CHUNK, RingFullMode::Whole] {
        let (bed, mut seen) = (Bed::default(), Seen::default());
        let shared = shared(&bed);
        log(&shared, 0, 0..20);
        shared.with(|collector| collector.backend_mut().weather.push_back(Weather::Fails));
        let failed = shared.ring_full(0, mode, 1);
        assert_eq!(failed, Err(CollectError::Reset(RESET_FAILS)));
        assert_eq!(shared.ring_fulls(), 1);
        assert_eq!(shared.doorbell().poll(&mut seen), Wakes::RING_FULL);
    }
}

#[test]
fn ring_fulls_in_a_harvest_were_counted_before_it() {
    let bed = Bed::default();
    let shared = shared(&bed);
    log(&shared, 0, 0..20);
    shared.ring_full(0, CHUNK, 1).unwrap();
    let harvest = shared.harvest(2, true);
    let tally = harvest.harvested.tally;
    assert_eq!((tally.ring_full_harvested, tally.harvested), (8, 12));
    assert_eq!(harvest.ring_fulls, 1);
    shared.ring_full(1, CHUNK, 3).unwrap();
    assert_eq!(shared.harvest(4, false).ring_fulls, 2);
}

#[test]
fn the_reaper_harvests_in_batches_and_publishes_at_its_reset() {
    let bed = Bed::default();
    let shared = shared(&bed);
    log(&shared, 0, 0..100);
    assert!(shared.harvest(1, true).harvested.more);
    assert_eq!(published(&shared), 0);
    assert_eq!(shared.reset().unwrap().entries, 64);
    assert_eq!(published(&shared), 64);
    let rest = shared.harvest(2, false).harvested;
    assert_eq!((rest.entries, rest.more), (36, false));
    assert_eq!(shared.reset().unwrap().entries, 36);
    assert_eq!(published(&shared), 100);
}

#[test]
fn an_overrun_ring_ends_in_an_error_through_the_handoff_too() {
    let bed = Bed::default();
    let shared = shared(&bed);
    for _ in 1..OVERRUN_EXITS {
        assert_eq!(shared.ring_full(1, CHUNK, 1).unwrap().harvested, 0);
    }
    let overrun = shared.ring_full(1, CHUNK, 1);
    assert_eq!(overrun, Err(CollectError::Overrun { ring: 1 }));
    assert_eq!(shared.ring_fulls(), OVERRUN_EXITS);
}
