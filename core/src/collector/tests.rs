//! Harvest, reset and publish against rings in memory. The backend of these tests panics where a
//! page is published before its reset.

mod chaos;
mod drain;
mod failures;
mod plan;
mod resync;
mod ring_full;
mod suspects;
mod tally;

use std::string::ToString;
use std::vec::Vec;

use super::*;
use crate::controller::StateError;
use crate::entry::SlotId;
use crate::ring::Ring;
use crate::testing::{Kvm, RESET_FAILS, SLOT_PAGES, Weather, collector, page, ring_size};
use crate::time::Instant;

/// Begins a pass that takes every ring, and harvests its first batch.
fn begin<const BATCH: usize>(collector: &mut Collector<Kvm, BATCH>, now: Instant) -> (u32, bool) {
    collector.begin_pass(now, Scope::Planned, |_| ());
    collector.harvest(now).unwrap()
}

/// Harvests on and settles until the pass is over, after a harvest that left `more`; returns how
/// many harvests it took.
fn finish_pass<const BATCH: usize>(
    collector: &mut Collector<Kvm, BATCH>,
    now: Instant,
    mut more: bool,
) -> u32 {
    let mut harvests = 1;
    loop {
        assert!(collector.settle().unwrap());
        if !more {
            return harvests;
        }
        (_, more) = collector.harvest(now).unwrap();
        harvests += 1;
    }
}

/// A whole pass of the reaper.
fn pass<const BATCH: usize>(collector: &mut Collector<Kvm, BATCH>, now: Instant) -> PassTally {
    let (_, more) = begin(collector, now);
    finish_pass(collector, now, more);
    collector.end_pass()
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
    assert_eq!(begin(&mut collector, Instant(1)), (15, false));
    assert_eq!(collector.outstanding(), 15);
    assert_eq!(collector.backend().published, []);
    assert_eq!(collector.settle(), Ok(true));
    let totals = collector.totals();
    assert_eq!((totals.entries_reset, totals.published), (15, 15));
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
    assert_eq!(begin(&mut collector, Instant(1)), (0, false));
    assert_eq!(collector.settle(), Ok(true));
    assert_eq!(collector.backend().resets, 0);
}

#[test]
fn a_short_reset_carries_the_deficit_and_loses_nothing() {
    let mut collector = collector::<64>(2);
    collector.backend().memory(0).log_pages(0..20);
    collector.backend().memory(1).log_pages(20..30);
    set_weather(&mut collector, [Weather::Short(7), Weather::Short(0)]);
    begin(&mut collector, Instant(1));
    for (done, left) in [(7, 23), (0, 23)] {
        assert_eq!(collector.reset(), Ok(done));
        assert_eq!(collector.outstanding(), left);
        assert_eq!(collector.backend().published, []);
    }
    // More pages come meanwhile; they share the batch and the next reset.
    collector.backend().memory(1).log_pages(30..33);
    assert_eq!(begin(&mut collector, Instant(2)), (3, false));
    assert_eq!(collector.settle(), Ok(true));
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
    begin(&mut collector, Instant(1));
    set_weather(&mut collector, [Weather::Short(1); 20]);
    set_weather(&mut collector, [Weather::Short(0); 4]);
    assert_eq!(collector.settle(), Ok(false));
    assert_eq!(collector.totals().entries_reset, 20);
    assert_eq!(collector.outstanding(), 20);
    assert_eq!(collector.backend().published, []);
    assert_eq!(collector.settle(), Ok(true));
    assert_eq!(collector.totals().entries_reset, 40);
    assert_eq!(collector.backend().published.len(), 40);
}

#[test]
fn a_reset_that_fails_ends_the_reaping_and_keeps_the_pages() {
    let mut collector = collector::<64>(1);
    collector.backend().memory(0).log_pages(0..5);
    set_weather(&mut collector, [Weather::Fails]);
    begin(&mut collector, Instant(1));
    assert_eq!(collector.settle(), Err(CollectError::Reset(RESET_FAILS)));
    assert_eq!(collector.outstanding(), 5);
    assert_eq!(collector.settle(), Err(CollectError::Reset(RESET_FAILS)));
    let kept: Vec<u64> = collector
        .unpublished()
        .iter()
        .map(|page| page.offset)
        .collect();
    assert_eq!(kept, [0, 1, 2, 3, 4]);
    assert_eq!(collector.backend().published, []);
}

#[test]
fn the_error_of_the_backend_is_the_source_of_the_collectors() {
    use core::error::Error;

    let failed = CollectError::Reset(StateError::OutOfRange);
    assert_eq!(failed.to_string(), "resetting the dirty rings failed");
    let source = failed.source().map(ToString::to_string);
    assert_eq!(source, Some(StateError::OutOfRange.to_string()));
    let stalled = CollectError::<StateError>::Stalled { outstanding: 1 };
    assert!(stalled.source().is_none());
}

#[test]
fn more_reset_than_harvested_is_a_foreign_reset() {
    let mut collector = collector::<64>(1);
    collector.backend().memory(0).log_pages(0..5);
    set_weather(&mut collector, [Weather::Foreign(1)]);
    begin(&mut collector, Instant(1));
    let error = collector.settle().unwrap_err();
    let (reset, outstanding) = (6, 5);
    assert_eq!(error, CollectError::ForeignReset { reset, outstanding });
    assert!(
        error
            .to_string()
            .contains("another reaper or program harvests")
    );
    assert_eq!(collector.backend().published, []);
}

#[test]
fn resets_that_never_do_anything_are_stalled_at_last() {
    let mut collector = collector::<64>(1);
    collector.backend().memory(0).log_pages(0..5);
    begin(&mut collector, Instant(1));
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
        assert!(collector.reset().is_ok(), "{call}");
        assert_ne!(collector.outstanding(), 0);
    }
    let error = collector.reset().unwrap_err();
    assert_eq!(error, CollectError::Stalled { outstanding: 4 });
    assert!(error.to_string().contains("resync the rings"));
    assert_eq!(collector.settle(), Err(error));
    assert_eq!(collector.unpublished().len(), 5, "none is lost");
}

#[test]
fn a_batch_smaller_than_the_rings_gives_more_and_every_page_exactly_once() {
    let mut collector = collector::<16>(3);
    collector.backend().memory(0).log_pages(0..100);
    collector.backend().memory(2).log_pages(100..132);
    assert_eq!(begin(&mut collector, Instant(1)), (16, true));
    // Without room it takes nothing and says so.
    assert_eq!(collector.harvest(Instant(1)), Ok((0, true)));
    // 100 + 32 entries; after a full batch one can't know that the ring is empty.
    assert_eq!(finish_pass(&mut collector, Instant(1), true), 9);
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
    collector.begin_pass(Instant(1), Scope::Planned, |_| ());
    let mut entries = 0;
    loop {
        let reaped = collector.reap(Instant(1)).unwrap();
        entries += reaped.entries;
        if reaped.is_over {
            break;
        }
        // A guest that is as fast as the reaper.
        collector.backend().memory(0).log_pages(next..next + 16);
        next += 16;
    }
    assert_eq!(entries, 256 + 1);
    assert_eq!(collector.end_pass().harvested, 256 + 1);
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
    pass(&mut collector, Instant(1));
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
