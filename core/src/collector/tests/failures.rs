//! No failure is told only once, and none to one caller only.

use super::*;
use crate::testing::PUBLICATION_FAILS;

type Pages = Collector<Kvm, 64>;

/// Checks that every way to take pages returns `failure`, and takes none.
fn all_return(collector: &mut Pages, failure: CollectError<&'static str>) {
    let resets = collector.backend().resets;
    for _ in 0..2 {
        assert_eq!(collector.settle(), Err(failure));
        assert_eq!(collector.harvest(Instant(9)), Err(failure));
        assert_eq!(collector.reap(Instant(9)), Err(failure));
        assert_eq!(collector.drain(Instant(9)), Err(failure));
        let mut drain = Drain::default();
        assert_eq!(collector.drain_batch(&mut drain, Instant(9)), Err(failure));
        let fulls = collector.totals().ring_fulls;
        let full = collector.ring_full(0, RingFullMode::Whole, Instant(9));
        assert_eq!(full, Err(failure));
        assert_eq!(collector.totals().ring_fulls, fulls + 1);
        assert_eq!(collector.check(), Err(failure));
    }
    assert_eq!(collector.backend().resets, resets);
}

#[test]
fn an_overrun_told_to_one_vcpu_is_told_to_all_callers() {
    let mut collector: Pages = collector(2);
    let mut last = Ok(());
    for _ in 0..crate::ring::OVERRUN_EXITS {
        let report = collector.ring_full(1, RingFullMode::default(), Instant(1));
        last = report.map(|_| ());
    }
    assert_eq!(last, Err(CollectError::Overrun { ring: 1 }));
    collector.backend().memory(0).log_pages(0..5);
    all_return(&mut collector, CollectError::Overrun { ring: 1 });
    assert_eq!(collector.backend().rings()[0].occupancy(), 5);
}

#[test]
fn a_failing_reset_is_told_to_all_callers() {
    let mut collector: Pages = collector(1);
    collector.backend().memory(0).log_pages(0..5);
    set_weather(&mut collector, [Weather::Fails]);
    let failed = CollectError::Reset(RESET_FAILS);
    assert_eq!(collector.drain(Instant(1)), Err(failed));
    all_return(&mut collector, failed);
}

#[test]
fn a_failing_publication_keeps_the_pages_until_another_consumer_takes_them() {
    let mut collector: Pages = collector(1);
    collector.backend().memory(0).log_pages(0..5);
    collector.backend_mut().publication_fails = true;
    let failed = CollectError::Publish(PUBLICATION_FAILS);
    assert_eq!(collector.drain(Instant(1)), Err(failed));
    all_return(&mut collector, failed);
    assert_eq!(
        (collector.outstanding(), collector.unpublished().len()),
        (0, 5)
    );
    collector.backend_mut().publication_fails = false;
    collector.forgive_publication();
    assert_eq!(collector.drain(Instant(2)), Ok(true));
    assert_eq!(collector.backend().published, [0, 1, 2, 3, 4]);
    // Nothing else is forgiven.
    collector.backend().memory(0).log_pages(5..6);
    set_weather(&mut collector, [Weather::Fails]);
    assert!(collector.drain(Instant(3)).is_err());
    collector.forgive_publication();
    assert_eq!(
        collector.drain(Instant(4)),
        Err(CollectError::Reset(RESET_FAILS))
    );
}

#[test]
fn a_lost_page_is_told_by_every_drain_and_keeps_no_vcpu_out() {
    let mut collector: Pages = collector(2);
    collector.backend().memory(0).log_pages(0..3);
    for offset in [SLOT_PAGES, SLOT_PAGES + 8] {
        collector.backend().memory(1).log(page(offset));
    }
    let bad = CollectError::BadEntries {
        entries: 2,
        ring: 1,
        last: page(SLOT_PAGES + 8),
    };
    for _ in 0..3 {
        assert_eq!(collector.drain(Instant(1)), Err(bad));
        assert_eq!(collector.check(), Err(bad));
    }
    assert_eq!(
        collector.backend().published,
        [0, 1, 2],
        "the others are published"
    );
    let stats = collector.backend().rings()[1].stats();
    assert_eq!(stats.last_bad_entry, Some(page(SLOT_PAGES + 8)));
    collector.backend().memory(0).log_pages(3..9);
    assert!(
        collector
            .ring_full(0, RingFullMode::Whole, Instant(2))
            .unwrap()
            .settled
    );
    assert_eq!(
        pass(&mut collector, Instant(3)),
        PassTally {
            ring_full_harvested: 6,
            fullest: 9,
            ring_fulls: 1,
            ..PassTally::default()
        }
    );
    assert!(!bad.ends_reaping());
    let text = bad.to_string();
    for part in [
        "2 dirty ring entries",
        "vCPU 1",
        "page 4294967304 of slot 0",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn an_entry_of_a_slot_that_was_removed_is_late_and_not_lost() {
    let mut collector: Pages = collector(1);
    collector.backend_mut().removed = Some(SlotId(7));
    collector.backend().memory(0).log(crate::entry::DirtyGfn {
        slot: SlotId(7),
        offset: 1,
    });
    assert_eq!(collector.drain(Instant(1)), Ok(true));
    let stats = collector.backend().rings()[0].stats();
    assert_eq!((stats.bad_entries, stats.late_entries), (0, 1));
    assert_eq!(collector.backend().published, []);
}

#[test]
fn a_ring_that_holds_entries_elsewhere_is_never_called_empty() {
    // KVM stands 50 entries ahead of the position that the ring was given.
    for whole_pass in [false, true] {
        let memory = crate::testing::Cells::starting_at(ring_size(256), 50);
        let mut collector: Pages = Collector::new(Kvm::with_memory(memory));
        assert_eq!(
            collector.drain(Instant(1)),
            Ok(true),
            "nothing is in it yet"
        );
        collector.backend().memory(0).log_pages(0..20);
        let parted = CollectError::Parted { ring: 0 };
        if whole_pass {
            collector.begin_pass(Instant(2), Scope::All, |_| ());
            assert_eq!(collector.reap(Instant(2)), Err(parted));
        } else {
            assert_eq!(collector.drain(Instant(2)), Err(parted));
        }
        all_return(&mut collector, parted);
    }
}

#[test]
fn a_lapped_ring_is_found_by_the_next_harvest() {
    // 300 pages in a ring of 256: KVM has passed the reader.
    let mut collector: Pages = collector(1);
    collector.backend().memory(0).log_pages(0..300);
    collector.begin_pass(Instant(1), Scope::Planned, |_| ());
    assert_eq!(
        collector.harvest(Instant(1)),
        Err(CollectError::Parted { ring: 0 })
    );
    all_return(&mut collector, CollectError::Parted { ring: 0 });
}

/// The vCPU laps the reader between the look for that and the first entry that is read.
#[test]
fn a_ring_that_overruns_under_the_harvest_is_a_failure_and_no_silent_loss() {
    for accesses in 1..400 {
        let mut collector = collector::<64>(1);
        let memory = collector.backend().memory(0);
        memory.log_pages(0..250);
        memory.overrun_after(accesses, 250..270);
        let drains: Vec<_> = (0..3).map(|_| collector.drain(Instant(1))).collect();
        let published = collector.backend().published_sorted();
        if drains.iter().all(|drained| *drained == Ok(true)) {
            assert_eq!(published, (0..270).collect::<Vec<_>>(), "{accesses}");
        }
    }
}
