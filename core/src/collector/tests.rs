//! Harvest, reset and publish against rings in memory. The backend of these tests panics where a
//! page is published before its reset.

mod ring_full;
mod tally;

use std::string::ToString;
use std::vec::Vec;

use super::*;
use crate::entry::SlotId;
use crate::testing::{Kvm, RESET_FAILS, SLOT_PAGES, Weather, collector, page};

/// Harvests on and settles until the pass is over; returns how many harvests it took.
fn finish_pass<const BATCH: usize>(
    collector: &mut Collector<Kvm, BATCH>,
    now_us: u64,
    mut harvested: Harvested,
) -> u32 {
    let mut harvests = 1;
    loop {
        assert!(collector.settle().unwrap().1);
        if !harvested.more {
            return harvests;
        }
        harvested = collector.harvest(now_us, false);
        harvests += 1;
    }
}

/// A whole pass of the reaper.
fn pass<const BATCH: usize>(collector: &mut Collector<Kvm, BATCH>, now_us: u64) -> u32 {
    let harvested = collector.harvest(now_us, true);
    finish_pass(collector, now_us, harvested)
}

fn set_weather<const BATCH: usize>(
    collector: &mut Collector<Kvm, BATCH>,
    weather: impl IntoIterator<Item = Weather>,
) {
    collector.backend_mut().weather.extend(weather);
}

#[test]
fn pages_are_published_after_the_reset_and_not_before() {
    let mut collector = collector::<64>(2);
    collector.backend().memory(0).log_pages(0..10);
    collector.backend().memory(1).log_pages(10..15);
    let harvested = collector.harvest(1, true);
    assert_eq!((harvested.entries, harvested.more), (15, false));
    assert_eq!(collector.outstanding(), 15);
    assert_eq!(collector.backend().published, []);
    let Ok(Reset::Settled(publishable)) = collector.reset() else {
        panic!("nothing keeps KVM from it");
    };
    assert_eq!(publishable.entries(), 15);
    assert_eq!(publishable.publish(), 15);
    assert_eq!(collector.outstanding(), 0);
    assert_eq!(
        collector.backend().published,
        (0..15).collect::<Vec<u64>>(),
        "in the order of the rings"
    );
}

#[test]
fn nothing_harvested_makes_no_call_of_reset() {
    let mut collector = collector::<64>(2);
    let harvested = collector.harvest(1, true);
    assert_eq!((harvested.entries, harvested.more), (0, false));
    assert_eq!(collector.settle().unwrap(), (0, true));
    assert_eq!(collector.backend().resets, 0);
}

#[test]
fn a_short_reset_carries_the_deficit_and_loses_nothing() {
    let mut collector = collector::<64>(2);
    collector.backend().memory(0).log_pages(0..20);
    collector.backend().memory(1).log_pages(20..30);
    set_weather(&mut collector, [Weather::Short(7), Weather::Short(0)]);
    let _ = collector.harvest(1, true);
    for (done, left) in [(7, 23), (0, 23)] {
        let Ok(Reset::Short {
            entries,
            outstanding,
        }) = collector.reset()
        else {
            panic!("it was told to come back short");
        };
        assert_eq!((entries, outstanding), (done, left));
        assert_eq!(collector.backend().published, []);
    }
    // More pages come meanwhile; they share the batch and the next reset.
    collector.backend().memory(1).log_pages(30..33);
    assert_eq!(collector.harvest(2, true).entries, 3);
    assert_eq!(collector.settle().unwrap(), (26, true));
    let all: Vec<u64> = (0..33).collect();
    assert_eq!(collector.backend().published_sorted(), all);
    let totals = collector.totals();
    assert_eq!((totals.resets, totals.short_resets), (3, 2));
    assert_eq!((totals.entries_reset, totals.published), (33, 33));
}

#[test]
fn settle_goes_on_while_there_is_progress_and_gives_up_for_now_where_there_is_none() {
    let mut collector = collector::<64>(1);
    collector.backend().memory(0).log_pages(0..40);
    let _ = collector.harvest(1, true);
    set_weather(&mut collector, [Weather::Short(1); 20]);
    set_weather(&mut collector, [Weather::Short(0); 4]);
    assert_eq!(collector.settle().unwrap(), (20, false));
    assert_eq!(collector.outstanding(), 20);
    assert_eq!(collector.settle().unwrap(), (20, true));
    assert_eq!(collector.backend().published.len(), 40);
}

#[test]
fn a_reset_that_fails_keeps_the_pages_for_the_next() {
    let mut collector = collector::<64>(1);
    collector.backend().memory(0).log_pages(0..5);
    set_weather(&mut collector, [Weather::Fails]);
    let _ = collector.harvest(1, true);
    assert_eq!(collector.settle(), Err(CollectError::Reset(RESET_FAILS)));
    assert_eq!(collector.outstanding(), 5);
    assert_eq!(collector.settle().unwrap(), (5, true));
    assert_eq!(collector.backend().published, [0, 1, 2, 3, 4]);
}

#[test]
fn more_reset_than_harvested_is_a_foreign_reset() {
    let mut collector = collector::<64>(1);
    collector.backend().memory(0).log_pages(0..5);
    set_weather(&mut collector, [Weather::Foreign(1)]);
    let _ = collector.harvest(1, true);
    let error = collector.settle().unwrap_err();
    let (reset, outstanding) = (6, 5);
    assert_eq!(error, CollectError::ForeignReset { reset, outstanding });
    assert!(error.to_string().contains("somebody else harvests"));
    assert_eq!(collector.backend().published, []);
}

#[test]
fn resets_that_never_do_anything_are_stalled_at_last() {
    let mut collector = collector::<64>(1);
    collector.backend().memory(0).log_pages(0..5);
    let _ = collector.harvest(1, true);
    let barren = (STALLED_RESETS - 1) as usize;
    // A long run is no error if a single entry ends it.
    set_weather(
        &mut collector,
        std::iter::repeat_n(Weather::Short(0), barren),
    );
    set_weather(&mut collector, [Weather::Short(1)]);
    set_weather(
        &mut collector,
        std::iter::repeat_n(Weather::Short(0), barren + 1),
    );
    for call in 0..2 * barren + 1 {
        assert!(
            matches!(collector.reset(), Ok(Reset::Short { .. })),
            "{call}"
        );
    }
    let Err(error) = collector.reset() else {
        panic!("it has stalled");
    };
    assert_eq!(error, CollectError::Stalled { outstanding: 4 });
    assert!(error.to_string().contains("stop the VM"));
    assert_eq!(
        collector.settle().unwrap(),
        (4, true),
        "the pages are there"
    );
}

#[test]
fn a_publishable_that_is_dropped_loses_nothing() {
    let mut collector = collector::<64>(1);
    collector.backend().memory(0).log_pages(0..5);
    let _ = collector.harvest(1, true);
    assert!(matches!(collector.reset(), Ok(Reset::Settled(_))));
    assert_eq!(collector.backend().published, []);
    collector.backend().memory(0).log_pages(5..8);
    let _ = collector.harvest(2, true);
    assert_eq!(collector.settle().unwrap(), (3, true));
    assert_eq!(collector.backend().published, [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn a_batch_smaller_than_the_rings_gives_more_and_every_page_exactly_once() {
    let mut collector = collector::<16>(3);
    collector.backend().memory(0).log_pages(0..100);
    collector.backend().memory(2).log_pages(100..132);
    let first = collector.harvest(1, true);
    assert_eq!((first.entries, first.more), (16, true));
    // Without room it takes nothing and says so.
    let none = collector.harvest(1, false);
    assert_eq!((none.entries, none.more), (0, true));
    // 100 + 32 entries; after a full batch one can't know that the ring is empty.
    assert_eq!(finish_pass(&mut collector, 1, none), 9);
    let all: Vec<u64> = (0..132).collect();
    assert_eq!(collector.backend().published, all);
    assert_eq!(collector.totals().reaper_harvested, 132);
}

#[test]
fn a_pass_takes_no_more_from_a_ring_than_its_size() {
    let mut collector = collector::<16>(2);
    collector.backend().memory(0).log_pages(0..100);
    collector.backend().memory(1).log_pages(10_000..10_001);
    let mut next = 100;
    let mut harvested = collector.harvest(1, true);
    while harvested.more {
        // A guest that is as fast as the reaper.
        collector.backend().memory(0).log_pages(next..next + 16);
        next += 16;
        collector.settle().unwrap();
        harvested = collector.harvest(1, false);
    }
    collector.settle().unwrap();
    assert_eq!(harvested.tally.harvested, 256 + 1);
    assert_eq!(collector.backend().published.last(), Some(&10_000));
}

#[test]
fn entries_that_name_no_registered_page_are_rejected_and_never_published() {
    let mut collector = collector::<8>(2);
    let foreign_slot = DirtyGfn {
        slot: SlotId::new(1, 0),
        offset: 3,
    };
    let beyond = page(SLOT_PAGES);
    for round in 0..10 {
        collector.backend().memory(0).log(page(round));
        collector.backend().memory(0).log(foreign_slot);
        collector.backend().memory(1).log(beyond);
        collector.backend().memory(1).log(page(100 + round));
    }
    pass(&mut collector, 1);
    let expected: Vec<u64> = (0..10).chain(100..110).collect();
    assert_eq!(collector.backend().published_sorted(), expected);
    let rejected = &collector.backend().rejected;
    for told in [(0, foreign_slot), (1, beyond)] {
        assert_eq!(rejected.iter().filter(|&&one| one == told).count(), 10);
    }
    assert_eq!(rejected.len(), 20);
    // They were harvested and reset like any other.
    let totals = collector.totals();
    assert_eq!((totals.reaper_harvested, totals.entries_reset), (40, 40));
    assert_eq!(collector.outstanding(), 0);
    for ring in collector.backend().rings() {
        assert_eq!((ring.stats().bad_entries, ring.stats().harvested), (10, 20));
    }
}

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
    assert_eq!(collector.drain(5), Ok(true));
    assert_eq!(collector.backend().published.len(), 450);
    assert_eq!(collector.outstanding(), 0);
    assert!(
        collector
            .backend()
            .rings()
            .iter()
            .all(|ring| ring.occupancy() == 0)
    );
    assert_eq!(collector.drain(6), Ok(true), "twice is harmless");
}

#[test]
fn a_drain_that_signals_keep_from_settling_says_so() {
    let mut collector = collector::<64>(1);
    collector.backend().memory(0).log_pages(0..5);
    set_weather(&mut collector, [Weather::Short(0); 4]);
    assert_eq!(collector.drain(5), Ok(false));
    assert_eq!(collector.backend().published, []);
    assert_eq!(collector.drain(6), Ok(true));
    assert_eq!(collector.backend().published.len(), 5);
}
