//! What is counted, and against whom.

use super::*;
use crate::ring::RingStats;

fn stats<const BATCH: usize>(collector: &Collector<Kvm, BATCH>, ring: usize) -> RingStats {
    collector.backend().rings()[ring].stats()
}

#[test]
fn the_fullest_ring_is_that_of_reaper_and_ring_full_path_together() {
    let mut collector = collector::<16>(3);
    // 30 + 40 of ring 0 beat the 60 of ring 1 and the 50 of ring 2.
    collector.backend().memory(0).log_pages(0..30);
    collector.ring_full(0, RingFullMode::Chunk(20), 1).unwrap();
    collector.ring_full(0, RingFullMode::Chunk(20), 2).unwrap();
    collector.backend().memory(0).log_pages(30..70);
    collector.backend().memory(1).log_pages(100..160);
    collector.backend().memory(2).log_pages(200..250);
    collector.ring_full(2, RingFullMode::Chunk(50), 3).unwrap();
    let mut harvested = collector.harvest(4, true);
    while harvested.more {
        collector.settle().unwrap();
        harvested = collector.harvest(4, false);
    }
    let expected = PassTally {
        harvested: 100,
        ring_full_harvested: 80,
        fullest: 70,
    };
    assert_eq!(harvested.tally, expected);
    let totals = collector.totals();
    assert_eq!(
        (totals.reaper_harvested, totals.ring_full_harvested),
        (100, 80)
    );
    collector.settle().unwrap();
    assert_eq!(collector.harvest(5, true).tally, PassTally::default());
}

#[test]
fn pages_taken_at_ring_full_during_a_pass_belong_to_the_next() {
    let mut collector = collector::<16>(1);
    collector.backend().memory(0).log_pages(0..50);
    let first = collector.harvest(1, true);
    collector.ring_full(0, RingFullMode::Chunk(20), 2).unwrap();
    finish_pass(&mut collector, 3, first);
    assert_eq!(collector.totals().reaper_harvested, 30);
    let tally = collector.harvest(4, true).tally;
    let expected = PassTally {
        harvested: 0,
        ring_full_harvested: 20,
        fullest: 20,
    };
    assert_eq!(tally, expected);
}

#[test]
fn harvests_count_once_for_each_pass_and_ring() {
    let mut collector = collector::<16>(3);
    for round in 0..5 {
        collector
            .backend()
            .memory(0)
            .log_pages(round * 1000..round * 1000 + 100);
        collector
            .backend()
            .memory(1)
            .log_pages(round * 1000 + 500..round * 1000 + 516);
        pass(&mut collector, round);
    }
    assert_eq!(
        [0, 1, 2].map(|ring| stats(&collector, ring).harvests),
        [5, 5, 0]
    );
    assert_eq!(
        [0, 1].map(|ring| stats(&collector, ring).harvested),
        [500, 80]
    );
    // A ring-full exit is a harvest too, however many batches it takes.
    collector.backend().memory(0).log_pages(0..100);
    collector.ring_full(0, RingFullMode::Whole, 9).unwrap();
    assert_eq!(
        [0, 1, 2].map(|ring| stats(&collector, ring).harvests),
        [6, 5, 0]
    );
}

#[test]
fn a_ring_that_a_full_batch_kept_waiting_is_counted_when_its_turn_comes() {
    let mut collector = collector::<16>(1);
    collector.backend().memory(0).log_pages(0..26);
    set_weather(&mut collector, [Weather::Short(0); 4]);
    let _ = collector.harvest(1, true);
    assert!(!collector.settle().unwrap().1);
    // A new pass begins while the batch is still full of the last one's pages.
    let waiting = collector.harvest(2, true);
    assert_eq!((waiting.entries, waiting.more), (0, true));
    finish_pass(&mut collector, 2, waiting);
    assert_eq!(stats(&collector, 0).harvests, 2);
    assert_eq!(stats(&collector, 0).harvested, 26);
}

#[test]
fn the_peak_is_the_highest_occupancy_that_anyone_met() {
    let mut collector = collector::<64>(2);
    collector.backend().memory(0).log_pages(0..40);
    collector.backend().memory(1).log_pages(0..192);
    pass(&mut collector, 1);
    collector.backend().memory(0).log_pages(0..30);
    collector.ring_full(1, RingFullMode::Chunk(1), 2).unwrap();
    pass(&mut collector, 3);
    assert_eq!(
        [0, 1].map(|ring| stats(&collector, ring).peak_occupancy),
        [40, 192]
    );
    assert_eq!(
        [0, 1].map(|ring| stats(&collector, ring).ring_fulls),
        [0, 1]
    );
}

#[test]
fn published_pages_are_counted_whoever_publishes_them() {
    let mut collector = collector::<64>(1);
    collector.backend().memory(0).log_pages(0..40);
    let _ = collector.harvest(1, true);
    let Ok(Reset::Settled(publishable)) = collector.reset() else {
        panic!("nothing keeps KVM from it");
    };
    publishable.publish();
    assert_eq!(collector.totals().published, 40);
}

#[test]
fn the_meter_measures_the_guest_and_not_the_speed_of_the_harvest() {
    // 1000 pages a second, in a pass of 7 batches 10 us apart, after a chunk at ring-full.
    let mut collector = collector::<16>(1);
    for second in 1..=3 {
        collector.backend().memory(0).log_pages(0..100);
        let mut now_us = second * 100_000;
        collector
            .ring_full(0, RingFullMode::Chunk(8), now_us)
            .unwrap();
        let mut harvested = collector.harvest(now_us, true);
        while harvested.more {
            now_us += 10;
            collector.settle().unwrap();
            harvested = collector.harvest(now_us, false);
        }
        collector.settle().unwrap();
    }
    let meter = collector.backend().rings()[0].meter();
    assert!(meter.max_per_s() < 1100, "{}", meter.max_per_s());
}

#[test]
fn a_ring_that_was_emptied_in_whole_batches_is_measured_at_once() {
    let mut collector = collector::<16>(1);
    collector.backend().memory(0).log_pages(0..192);
    let taken = collector.ring_full(0, RingFullMode::Whole, 1_000_000);
    assert_eq!(taken.unwrap().harvested, 192);
    let meter = collector.backend().rings()[0].meter();
    assert_eq!((meter.mean_per_s(), meter.max_per_s()), (192, 192));
}
