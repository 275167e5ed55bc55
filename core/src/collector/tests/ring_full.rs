//! What a vCPU does on ring-full.

use super::*;
use crate::ring::OVERRUN_EXITS;

const CHUNK: RingFullMode = RingFullMode::Chunk(10);

/// Two rings, the first at its soft limit of 192.
fn one_full<const BATCH: usize>() -> Collector<Kvm, BATCH> {
    let collector = collector(2);
    collector.backend().memory(0).log_pages(0..192);
    collector.backend().memory(1).log_pages(1000..1050);
    collector
}

fn occupancies<const BATCH: usize>(collector: &Collector<Kvm, BATCH>) -> Vec<u32> {
    let rings = collector.backend().rings().iter();
    rings.map(Ring::occupancy).collect()
}

#[test]
fn a_chunk_is_taken_of_the_own_ring_alone() {
    let mut collector = one_full::<64>();
    let report = collector.ring_full(0, CHUNK, Instant(1)).unwrap();
    assert_eq!((report.harvested, report.settled), (10, true));
    assert_eq!(occupancies(&collector), [182, 50]);
    let expected: Vec<u64> = (0..10).collect();
    assert_eq!(collector.backend().published, expected);
}

#[test]
fn a_chunk_of_0_still_makes_room_for_one() {
    let mut collector = one_full::<64>();
    let report = collector.ring_full(0, RingFullMode::Chunk(0), Instant(1));
    assert_eq!(report.unwrap().harvested, 1);
}

#[test]
fn a_chunk_larger_than_the_batch_settles_on_the_way() {
    let mut collector = one_full::<16>();
    let report = collector
        .ring_full(0, RingFullMode::Chunk(100), Instant(1))
        .unwrap();
    assert_eq!((report.harvested, report.settled), (100, true));
    assert_eq!(occupancies(&collector), [92, 50]);
    assert_eq!(collector.backend().published.len(), 100);
}

#[test]
fn the_whole_mode_takes_all_rings() {
    for_each_batch(&mut one_full::<16>());
    for_each_batch(&mut one_full::<4096>());

    fn for_each_batch<const BATCH: usize>(collector: &mut Collector<Kvm, BATCH>) {
        let report = collector
            .ring_full(0, RingFullMode::Whole, Instant(1))
            .unwrap();
        assert_eq!((report.harvested, report.settled), (242, true));
        assert_eq!(occupancies(collector), [0, 0]);
        let expected: Vec<u64> = (0..192).chain(1000..1050).collect();
        assert_eq!(collector.backend().published, expected);
    }
}

#[test]
fn what_the_reaper_harvested_and_did_not_reset_goes_out_with_the_chunk() {
    let mut collector = one_full::<64>();
    assert_eq!(begin(&mut collector, Instant(1)), (64, true));
    let report = collector.ring_full(0, CHUNK, Instant(2)).unwrap();
    assert_eq!((report.harvested, report.settled), (10, true));
    assert_eq!(collector.backend().published.len(), 74);
    finish_pass(&mut collector, Instant(3), true);
    let expected: Vec<u64> = (0..192).chain(1000..1050).collect();
    assert_eq!(collector.backend().published, expected);
}

#[test]
fn signals_at_a_ring_full_leave_a_deficit_and_no_loss() {
    for mode in [RingFullMode::Chunk(100), RingFullMode::Whole] {
        let mut collector = one_full::<16>();
        set_weather(&mut collector, [Weather::Short(3)]);
        set_weather(&mut collector, [Weather::Short(0); 20]);
        let report = collector.ring_full(0, mode, Instant(1)).unwrap();
        assert!(!report.settled);
        assert_eq!(collector.backend().published, []);
        assert_ne!(collector.outstanding(), 0);
        collector.backend_mut().weather.clear();
        pass(&mut collector, Instant(2));
        let expected: Vec<u64> = (0..192).chain(1000..1050).collect();
        assert_eq!(collector.backend().published_sorted(), expected);
    }
}

#[test]
fn an_index_without_a_ring_is_refused() {
    let mut collector = collector::<16>(2);
    let error = collector.ring_full(2, CHUNK, Instant(1)).unwrap_err();
    assert_eq!(error, CollectError::NoSuchRing { ring: 2, rings: 2 });
    assert!(error.to_string().contains("no dirty ring 2: this VM has 2"));
}

#[test]
fn a_long_run_of_fruitless_exits_is_an_overrun_of_that_vcpus_ring() {
    for mode in [CHUNK, RingFullMode::Whole] {
        let mut collector = collector::<16>(4);
        for _ in 1..OVERRUN_EXITS {
            let report = collector.ring_full(3, mode, Instant(1)).unwrap();
            assert_eq!((report.harvested, report.settled), (0, true));
        }
        let error = collector.ring_full(3, mode, Instant(1)).unwrap_err();
        assert_eq!(error, CollectError::Overrun { ring: 3 });
        assert!(error.to_string().contains("vCPU 3 has overrun"));
        let stats = collector.backend().rings()[3].stats();
        assert_eq!(stats.ring_fulls, u64::from(OVERRUN_EXITS));
    }
}

#[test]
fn busy_rings_of_others_do_not_hide_an_overrun() {
    let mut collector = collector::<64>(2);
    for exit in 1..=OVERRUN_EXITS {
        collector.backend().memory(1).log_pages(0..5);
        let report = collector.ring_full(0, RingFullMode::Whole, Instant(1));
        if exit < OVERRUN_EXITS {
            assert_eq!(report.unwrap().harvested, 5);
        } else {
            assert_eq!(report, Err(CollectError::Overrun { ring: 0 }));
        }
    }
}

#[test]
fn fruitless_exits_of_different_vcpus_do_not_add_up() {
    let mut collector = collector::<16>(4);
    for _ in 1..OVERRUN_EXITS {
        for ring in 0..4 {
            assert_eq!(
                collector
                    .ring_full(ring, CHUNK, Instant(1))
                    .unwrap()
                    .harvested,
                0
            );
        }
    }
}

#[test]
fn exits_that_the_reaper_was_quicker_than_are_no_overrun() {
    let mut collector = collector::<64>(1);
    for round in 0..3 * u64::from(OVERRUN_EXITS) {
        collector.backend().memory(0).log_pages(round..round + 1);
        pass(&mut collector, Instant(round));
        assert_eq!(
            collector.ring_full(0, CHUNK, Instant(1)).unwrap().harvested,
            0
        );
    }
}

#[test]
fn exits_that_wait_for_the_reset_of_their_own_entries_are_no_overrun() {
    let mut collector = collector::<64>(2);
    collector.backend().memory(0).log_pages(0..5);
    begin(&mut collector, Instant(1));
    // Signals keep the reset from doing anything, for many exits.
    set_weather(&mut collector, [Weather::Short(0); 160]);
    for _ in 0..2 * OVERRUN_EXITS {
        let report = collector.ring_full(0, CHUNK, Instant(1)).unwrap();
        assert_eq!((report.harvested, report.settled), (0, false));
    }
    while collector.backend().published.is_empty() {
        let _ = collector.ring_full(0, CHUNK, Instant(1)).unwrap();
    }
    assert_eq!(collector.backend().published, [0, 1, 2, 3, 4]);
}

#[test]
fn the_deficit_of_a_neighbour_does_not_hide_an_overrun() {
    let mut collector = collector::<64>(2);
    let exits = (0..OVERRUN_EXITS).map(|_| {
        collector.backend().memory(1).log_pages(0..1);
        begin(&mut collector, Instant(1));
        collector.ring_full(0, CHUNK, Instant(1))
    });
    let last = exits.last();
    assert_eq!(last, Some(Err(CollectError::Overrun { ring: 0 })));
}

/// Three rings, the first two at their soft limit.
fn two_full() -> Collector<Kvm, 64> {
    let collector = collector(3);
    collector.backend().memory(0).log_pages(0..192);
    collector.backend().memory(1).log_pages(1000..1192);
    collector.backend().memory(2).log_pages(2000..2191);
    collector
}

#[test]
fn a_ring_that_is_full_at_the_same_moment_is_served_by_the_same_reset() {
    let mut collector = two_full();
    let report = collector.ring_full(0, CHUNK, Instant(1)).unwrap();
    assert_eq!((report.harvested, report.settled), (20, true));
    assert_eq!(occupancies(&collector), [182, 182, 191]);
    assert_eq!(collector.totals().resets, 1);
    // Its vCPU finds room and goes back in; the exit counts all the same.
    let report = collector.ring_full(1, CHUNK, Instant(2)).unwrap();
    assert_eq!((report.harvested, report.settled), (0, true));
    assert_eq!(collector.totals().resets, 1);
    assert_eq!(collector.backend().rings()[1].stats().ring_fulls, 1);
    // The next time it helps itself.
    assert_eq!(
        collector.ring_full(1, CHUNK, Instant(3)).unwrap().harvested,
        10
    );
}

#[test]
fn no_more_rings_are_served_than_the_batch_has_room_for() {
    let mut collector = two_full();
    let chunk = RingFullMode::Chunk(40);
    assert_eq!(
        collector.ring_full(0, chunk, Instant(1)).unwrap().harvested,
        40
    );
    assert_eq!(occupancies(&collector), [152, 192, 191]);
    assert_eq!(
        collector.ring_full(1, chunk, Instant(2)).unwrap().harvested,
        40
    );
}

#[test]
fn a_pass_of_the_reaper_forgets_who_was_served() {
    let mut collector = two_full();
    let _ = collector.ring_full(0, CHUNK, Instant(1)).unwrap();
    assert!(collector.drain(Instant(2)).unwrap());
    collector.backend().memory(1).log_pages(3000..3192);
    assert_eq!(
        collector.ring_full(1, CHUNK, Instant(3)).unwrap().harvested,
        10
    );
}

#[test]
fn an_overrun_ring_is_found_out_even_if_it_was_served_once() {
    let mut collector = two_full();
    let _ = collector.ring_full(0, CHUNK, Instant(1)).unwrap();
    assert!(collector.drain(Instant(2)).unwrap());
    let exits = (0..2 * OVERRUN_EXITS).map(|_| collector.ring_full(1, CHUNK, Instant(3)));
    let overruns = exits.filter(Result::is_err).count();
    assert_eq!(overruns, OVERRUN_EXITS as usize + 1);
}

#[test]
fn a_full_batch_that_signals_keep_from_settling_makes_no_overrun_of_a_ring_with_entries() {
    let mut collector = collector::<16>(2);
    collector.backend().memory(0).log_pages(0..192);
    collector.backend().memory(1).log_pages(1000..1192);
    set_weather(&mut collector, [Weather::Short(0); 400]);
    assert!(
        !collector
            .ring_full(0, RingFullMode::Whole, Instant(1))
            .unwrap()
            .settled
    );
    for _ in 0..2 * OVERRUN_EXITS {
        let report = collector.ring_full(1, CHUNK, Instant(2)).unwrap();
        assert!(!report.settled);
    }
    collector.backend_mut().weather.clear();
    assert_eq!(collector.drain(Instant(3)), Ok(true));
    assert_eq!(collector.backend().published.len(), 384);
}
