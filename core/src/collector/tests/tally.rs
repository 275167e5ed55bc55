//! What is counted, and against whom.

use super::*;
use crate::ring::RingStats;
use crate::testing::Random;
use crate::time::Micros;

fn stats<const BATCH: usize>(collector: &Collector<Kvm, BATCH>, ring: usize) -> RingStats {
    collector.backend().rings()[ring].stats()
}

#[test]
fn the_fullest_ring_is_that_of_reaper_and_ring_full_path_together() {
    let mut collector = collector::<16>(3);
    // 30 + 40 of ring 0 beat the 60 of ring 1 and the 50 of ring 2.
    collector.backend().memory(0).log_pages(0..30);
    collector
        .ring_full(0, RingFullMode::Chunk(20), Instant(1))
        .unwrap();
    collector
        .ring_full(0, RingFullMode::Chunk(20), Instant(2))
        .unwrap();
    collector.backend().memory(0).log_pages(30..70);
    collector.backend().memory(1).log_pages(100..160);
    collector.backend().memory(2).log_pages(200..250);
    collector
        .ring_full(2, RingFullMode::Chunk(50), Instant(3))
        .unwrap();
    let expected = PassTally {
        harvested: 100,
        ring_full_harvested: 80,
        fullest: 70,
        ring_fulls: 3,
    };
    assert_eq!(pass(&mut collector, Instant(4)), expected);
    let totals = collector.totals();
    assert_eq!(
        (totals.reaper_harvested, totals.ring_full_harvested),
        (100, 80)
    );
    assert_eq!(pass(&mut collector, Instant(5)), PassTally::default());
}

#[test]
fn a_ring_full_during_a_pass_belongs_to_that_pass_and_one_after_it_to_the_next() {
    let mut collector = collector::<16>(1);
    collector.backend().memory(0).log_pages(0..50);
    let (_, more) = begin(&mut collector, Instant(1));
    let chunk = RingFullMode::Chunk(20);
    collector.ring_full(0, chunk, Instant(2)).unwrap();
    finish_pass(&mut collector, Instant(3), more);
    assert_eq!(collector.totals().reaper_harvested, 30);
    let expected = PassTally {
        harvested: 30,
        ring_full_harvested: 20,
        fullest: 50,
        ring_fulls: 1,
    };
    assert_eq!(collector.end_pass(), expected);
    collector.backend().memory(0).log_pages(50..55);
    collector.ring_full(0, chunk, Instant(4)).unwrap();
    let expected = PassTally {
        harvested: 0,
        ring_full_harvested: 5,
        fullest: 5,
        ring_fulls: 1,
    };
    assert_eq!(pass(&mut collector, Instant(5)), expected);
    assert_eq!(pass(&mut collector, Instant(6)), PassTally::default());
    assert_eq!(collector.totals().ring_fulls, 2);
}

#[test]
fn each_ring_full_is_in_one_tally() {
    let mut collector = collector::<16>(2);
    let mut random = Random::seeded(5);
    let mut tallied = 0;
    for now in 0..200 {
        collector
            .backend()
            .memory(0)
            .log_pages(now * 100..now * 100 + 10);
        let fulls = random.below(4);
        for _ in 0..fulls {
            let chunk = RingFullMode::Chunk(3);
            collector.ring_full(0, chunk, Instant(now)).unwrap();
        }
        if random.below(2) == 0 {
            tallied += u64::from(pass(&mut collector, Instant(now)).ring_fulls);
        }
    }
    tallied += u64::from(pass(&mut collector, Instant(1000)).ring_fulls);
    assert_eq!(tallied, collector.totals().ring_fulls);
    assert_eq!(tallied, stats(&collector, 0).ring_fulls);
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
        pass(&mut collector, Instant(round));
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
    collector
        .ring_full(0, RingFullMode::Whole, Instant(9))
        .unwrap();
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
    begin(&mut collector, Instant(1));
    assert!(!collector.settle().unwrap());
    // A new pass begins while the batch is still full of the last one's pages.
    assert_eq!(begin(&mut collector, Instant(2)), (0, true));
    finish_pass(&mut collector, Instant(2), true);
    assert_eq!(stats(&collector, 0).harvests, 2);
    assert_eq!(stats(&collector, 0).harvested, 26);
}

#[test]
fn the_peak_is_the_highest_occupancy_that_anyone_met() {
    let mut collector = collector::<64>(2);
    collector.backend().memory(0).log_pages(0..40);
    collector.backend().memory(1).log_pages(0..192);
    pass(&mut collector, Instant(1));
    collector.backend().memory(0).log_pages(0..30);
    collector
        .ring_full(1, RingFullMode::Chunk(1), Instant(2))
        .unwrap();
    pass(&mut collector, Instant(3));
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
    pass(&mut collector, Instant(1));
    collector.backend().memory(0).log_pages(40..45);
    let whole = RingFullMode::Whole;
    collector.ring_full(0, whole, Instant(2)).unwrap();
    collector.backend().memory(0).log_pages(45..52);
    collector.drain(Instant(3)).unwrap();
    assert_eq!(collector.totals().published, 52);
}

#[test]
fn the_meter_measures_the_guest_and_not_the_speed_of_the_harvest() {
    // 1000 pages a second, in a pass of 7 batches 10 us apart, after a chunk at ring-full.
    let mut collector = collector::<16>(1);
    for second in 1..=3 {
        collector.backend().memory(0).log_pages(0..100);
        let mut now = Instant(second * 100_000);
        collector.ring_full(0, RingFullMode::Chunk(8), now).unwrap();
        collector.begin_pass(now, Scope::Planned, |_| ());
        while !collector.reap(now).unwrap().is_over {
            now = now + Micros(10);
        }
        collector.end_pass();
    }
    let meter = collector.backend().rings()[0].growth().meter();
    assert!(meter.max_per_s() < 1100, "{}", meter.max_per_s());
}

#[test]
fn a_ring_that_was_emptied_in_whole_batches_is_measured_at_once() {
    let mut collector = collector::<16>(1);
    collector.backend().memory(0).log_pages(0..192);
    let taken = collector.ring_full(0, RingFullMode::Whole, Instant(1_000_000));
    assert_eq!(taken.unwrap().harvested, 192);
    let meter = collector.backend().rings()[0].growth().meter();
    assert_eq!((meter.mean_per_s(), meter.max_per_s()), (192, 192));
}
