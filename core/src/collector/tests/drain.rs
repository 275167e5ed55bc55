//! Everything that is in the rings, outside of the reaper's passes.

use super::*;

#[test]
fn a_drain_empties_every_ring_through_a_small_batch() {
    let mut collector = collector::<16>(3);
    (0..3).for_each(|ring| {
        let begin = ring as u64 * 1000;
        collector
            .backend()
            .memory(ring)
            .log_pages(begin..begin + 150);
    });
    assert_eq!(collector.drain(Instant(5)), Ok(true));
    assert_eq!(collector.backend().published.len(), 450);
    assert_eq!(collector.outstanding(), 0);
    assert!(
        collector
            .backend()
            .rings()
            .iter()
            .all(|ring| ring.occupancy() == 0)
    );
    assert_eq!(collector.drain(Instant(6)), Ok(true), "twice is harmless");
}

#[test]
fn a_drain_that_signals_keep_from_settling_says_so() {
    let mut collector = collector::<64>(1);
    collector.backend().memory(0).log_pages(0..5);
    set_weather(&mut collector, [Weather::Short(0); 4]);
    assert_eq!(collector.drain(Instant(5)), Ok(false));
    assert_eq!(collector.backend().published, []);
    assert_eq!(collector.drain(Instant(6)), Ok(true));
    assert_eq!(collector.backend().published.len(), 5);
}

#[test]
fn what_a_drain_takes_is_counted_as_drained() {
    let mut collector = collector::<16>(2);
    collector.backend().memory(1).log_pages(0..40);
    assert_eq!(collector.drain(Instant(5)), Ok(true));
    let totals = collector.totals();
    assert_eq!((totals.drain_harvested, totals.harvested()), (40, 40));
    assert_eq!(collector.backend().rings()[1].stats().harvests, 1);
}

#[test]
fn a_drain_in_the_middle_of_a_pass_leaves_its_tally_and_its_turn_as_they_are() {
    let mut collector = collector::<16>(2);
    collector.backend().memory(0).log_pages(0..50);
    assert_eq!(begin(&mut collector, Instant(1)), (16, true));
    assert_eq!(collector.drain(Instant(2)), Ok(true));
    collector.backend().memory(0).log_pages(50..55);
    collector.backend().memory(1).log_pages(100..103);
    finish_pass(&mut collector, Instant(3), true);
    let tally = collector.end_pass();
    assert_eq!((tally.harvested, tally.ring_full_harvested), (16 + 8, 0));
    assert_eq!(tally.fullest, 55, "whoever took them");
    assert_eq!(collector.totals().drain_harvested, 34);
    let all: Vec<u64> = (0..55).chain(100..103).collect();
    assert_eq!(collector.backend().published_sorted(), all);
}

#[test]
fn a_drain_in_batches_takes_what_was_there_and_no_more() {
    let mut collector = collector::<16>(2);
    collector.backend().memory(0).log_pages(0..40);
    collector.backend().memory(1).log_pages(1000..1020);
    let (mut drain, mut next, mut batches) = (Drain::default(), 40, 1);
    while !collector.drain_batch(&mut drain, Instant(5)).unwrap() {
        assert_eq!(collector.outstanding(), 0, "each batch is settled");
        // A guest that is as fast as the drain.
        collector.backend().memory(0).log_pages(next..next + 16);
        next += 16;
        batches += 1;
    }
    assert_eq!(batches, 4);
    assert_eq!(collector.totals().drain_harvested, 60);
    let expected: Vec<u64> = (0..40).chain(1000..1020).collect();
    assert_eq!(collector.backend().published, expected);
}

#[test]
fn a_drain_batch_that_signals_keep_from_settling_goes_on_later() {
    let mut collector = collector::<16>(1);
    collector.backend().memory(0).log_pages(0..20);
    set_weather(&mut collector, [Weather::Short(0); 8]);
    let mut drain = Drain::default();
    for _ in 0..2 {
        assert_eq!(collector.drain_batch(&mut drain, Instant(5)), Ok(false));
        assert_eq!(collector.outstanding(), 16);
    }
    assert_eq!(collector.drain_batch(&mut drain, Instant(6)), Ok(false));
    assert_eq!(collector.drain_batch(&mut drain, Instant(7)), Ok(true));
    assert_eq!(collector.backend().published.len(), 20);
}

#[test]
fn an_entry_that_is_refused_in_a_full_batch_ends_no_drain() {
    let mut collector = collector::<7>(1);
    collector.backend().memory(0).log(page(SLOT_PAGES));
    collector.backend().memory(0).log_pages(0..7);
    let bad = CollectError::BadEntries {
        entries: 1,
        ring: 0,
        last: page(SLOT_PAGES),
    };
    assert_eq!(collector.drain(Instant(5)), Err(bad));
    assert_eq!(collector.backend().rings()[0].occupancy(), 0);
    assert_eq!(collector.backend().published, [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_drain_that_finds_the_batch_full_counts_its_harvest_all_the_same() {
    let mut collector = collector::<16>(2);
    collector.backend().memory(0).log_pages(0..16);
    collector.backend().memory(1).log_pages(100..105);
    set_weather(&mut collector, [Weather::Short(0); 8]);
    assert_eq!(collector.drain(Instant(1)), Ok(false));
    let mut drain = Drain::default();
    while !collector.drain_batch(&mut drain, Instant(2)).unwrap() {}
    let rings = collector.backend().rings().iter();
    let harvests: Vec<u64> = rings.map(|ring| ring.stats().harvests).collect();
    assert_eq!(harvests, [1, 1]);
    assert_eq!(collector.backend().published.len(), 21);
}

#[test]
fn what_is_late_is_taken_up_to_an_entry_of_a_slot_that_is_not_known_yet() {
    let mut collector = collector::<16>(1);
    let late = |offset| DirtyGfn {
        slot: SlotId(5),
        offset,
    };
    let memory = collector.backend().memory(0);
    memory.log_pages(0..20);
    (0..20).for_each(|offset| memory.log(late(offset)));
    let unknown = DirtyGfn {
        slot: SlotId(6),
        offset: 0,
    };
    memory.log(unknown);
    collector.backend_mut().removed = Some(SlotId(5));
    assert_eq!(collector.drain_late(Instant(1)), Ok(true));
    let stats = collector.backend().rings()[0].stats();
    assert_eq!((stats.late_entries, stats.bad_entries), (20, 0));
    assert_eq!(
        collector.backend().published_sorted(),
        (0..20).collect::<Vec<_>>()
    );
    assert_eq!(collector.backend().rings()[0].occupancy(), 1);
    assert_eq!(collector.outstanding(), 0);
}
