//! Rings that are had back. The test's KVM keeps its indices and flags as virt/kvm/dirty_ring.c does.

use super::super::PATIENCE_RESETS;
use super::*;
use crate::entry::EntryFlags;
use crate::testing::{Cells, PUBLICATION_FAILS, Random};

type Pages = Collector<Kvm, 64>;

/// Switches logging off and on: all memory is protected again.
fn resync(collector: &mut Pages) {
    collector.begin_resync().unwrap();
    assert_eq!(collector.drain(Instant(1)), Err(CollectError::Resyncing));
    collector.backend_mut().writable.clear();
    collector.end_resync(Instant(1)).unwrap();
    collector.backend_mut().published.clear();
    collector.backend_mut().forget_resets();
}

/// Lets the vCPU write pages `first` and up to `pages` more, as long as KVM lets it; a full ring is
/// handled. Panics where KVM won't let it in for good.
fn write_on(collector: &mut Pages, first: u64, pages: u64) {
    for offset in first..first + pages {
        let mut exits = 0;
        while collector.backend().memory(0).is_soft_full() {
            exits += 1;
            assert!(exits < 20, "the vCPU is kept out for ever");
            collector
                .ring_full(0, RingFullMode::default(), Instant(2))
                .unwrap();
        }
        collector.backend_mut().write(0, page(offset));
    }
}

/// Checks that `pages` written from now on are all published, and that KVM's indices agree.
fn is_sound_again(collector: &mut Pages, pages: u64) {
    write_on(collector, 0, pages);
    assert_eq!(collector.drain(Instant(3)), Ok(true));
    assert_eq!(
        collector.backend().published_sorted(),
        (0..pages).collect::<Vec<_>>()
    );
    let memory = collector.backend().memory(0);
    assert_eq!(memory.used(), 0, "KVM counts entries that are not there");
    assert!((0..256).all(|index| memory.flags(index) == 0));
}

#[test]
fn an_overrun_ring_is_had_back_however_far_it_overran() {
    for beyond in [
        0, 1, 5, 63, 64, 100, 191, 192, 193, 255, 256, 300, 511, 512, 600, 700,
    ] {
        let mut collector: Pages = collector(1);
        collector.backend().memory(0).log_pages(0..256 + beyond);
        let parted = collector.drain(Instant(1));
        assert_eq!(parted, Err(CollectError::Parted { ring: 0 }), "{beyond}");
        resync(&mut collector);
        assert_eq!(collector.backend().published_all, 1);
        is_sound_again(&mut collector, 500);
    }
}

#[test]
fn a_ring_that_stays_full_after_an_overrun_is_had_back() {
    for beyond in [10, 150, 192, 230] {
        let mut collector: Pages = collector(1);
        let memory = collector.backend().memory(0);
        // It is harvested in the moment in which it overruns.
        memory.log_pages(0..200);
        collector.backend_mut().rings_mut()[0].harvest_without_reset(200, |_| ());
        collector.backend().memory(0).log_pages(0..56 + beyond);
        let mut failed = Ok(());
        for _ in 0..2000 {
            let report = collector.ring_full(0, RingFullMode::default(), Instant(1));
            failed = report.map(|_| ());
            if failed.is_err() {
                break;
            }
        }
        assert!(failed.is_err(), "{beyond}");
        resync(&mut collector);
        is_sound_again(&mut collector, 500);
    }
}

#[test]
fn a_ring_whose_position_is_unknown_is_had_back() {
    for (position, harvested, waiting) in [
        (0, 0, 0),
        (50, 0, 0),
        (50, 0, 20),
        (200, 30, 100),
        (255, 1, 1),
    ] {
        let memory = Cells::starting_at(ring_size(256), position);
        memory.log_pages(0..harvested);
        for index in 0..harvested as u32 {
            memory.set_flags((position + index) % 256, EntryFlags::RESET.bits());
        }
        memory.log_pages(100..100 + waiting);
        let mut collector: Pages = Collector::new(Kvm::with_memory(memory));
        resync(&mut collector);
        is_sound_again(&mut collector, 500);
    }
}

#[test]
fn a_resync_ends_only_when_a_consumer_has_counted_all_memory_as_dirty() {
    let mut collector: Pages = collector(1);
    collector.backend().memory(0).log_pages(0..5);
    collector.begin_resync().unwrap();
    collector.backend_mut().publication_fails = true;
    let failed = Err(CollectError::Publish(PUBLICATION_FAILS));
    assert_eq!(collector.end_resync(Instant(1)), failed);
    // The consumer is replaced: no page waits for it, and all memory is still to be counted.
    collector.backend_mut().publication_fails = false;
    collector.forgive_publication();
    assert_eq!(collector.drain(Instant(1)), Err(CollectError::Resyncing));
    assert_eq!(collector.end_resync(Instant(1)), Ok(()));
    assert_eq!(collector.backend().published_all, 1);
    assert_eq!(collector.drain(Instant(1)), Ok(true));
}

#[test]
fn an_interrupted_reset_makes_suspects_of_a_ring_that_was_found_again() {
    let mut collector = crate::testing::collector::<256>(2);
    // The second ring has gone round before.
    for first in [0, 150] {
        collector.backend().memory(1).log_pages(first..first + 150);
        assert_eq!(collector.drain(Instant(1)), Ok(true));
    }
    collector.begin_resync().unwrap();
    collector.end_resync(Instant(1)).unwrap();
    assert_eq!(
        collector.drain(Instant(2)),
        Ok(true),
        "nothing is logged yet"
    );
    collector.backend().memory(0).log_pages(1000..1020);
    collector.backend().memory(1).log_pages(5000..5030);
    // The rings are found, and a signal ends the reset after that, behind the first ring's last entry.
    let searches = [Weather::Short(u32::MAX)].repeat(2 * PATIENCE_RESETS as usize);
    set_weather(
        &mut collector,
        searches.into_iter().chain([Weather::Interrupted(20)]),
    );
    assert_eq!(collector.drain(Instant(3)), Ok(true));
    let suspects = collector.suspects().iter().map(|page| page.offset);
    let suspects: Vec<u64> = suspects.collect();
    assert_eq!(suspects, (1000..1020).collect::<Vec<_>>());
}

#[test]
fn resets_that_signals_keep_from_doing_anything_end_no_resync_before_its_time() {
    for barren in [1, 4, 10, 30] {
        let weather = || [Weather::Interrupted(0)].repeat(barren);
        let mut collector: Pages = collector(1);
        collector.backend().memory(0).log_pages(0..150);
        set_weather(&mut collector, weather());
        resync(&mut collector);
        // The ring is found again by the next caller.
        set_weather(&mut collector, weather());
        is_sound_again(&mut collector, 100);
    }
}

#[test]
fn a_sound_ring_survives_a_resync() {
    let mut collector: Pages = collector(1);
    for _ in 0..3 {
        write_on(&mut collector, 1000, 150);
        resync(&mut collector);
        is_sound_again(&mut collector, 30);
        collector.backend_mut().published.clear();
        collector.backend_mut().writable.clear();
    }
}

#[test]
fn rings_in_any_state_are_had_back() {
    let mut random = Random::seeded(7);
    for _ in 0..500 {
        let memory = Cells::starting_at(ring_size(256), random.below(1000) as u32);
        let mut kvm = Kvm::with_memory(memory);
        for _ in 0..random.below(6) {
            if !kvm.memory(0).is_soft_full() {
                kvm.memory(0).log_pages(0..random.below(700));
            }
            if random.below(2) == 0 {
                let limit = random.below(300) as u32;
                kvm.rings_mut()[0].harvest_without_reset(limit, |_| ());
            }
            if random.below(2) == 0 {
                while kvm.memory(0).reset_one().is_some() {}
            }
        }
        let mut collector: Pages = Collector::new(kvm);
        // Nobody knows what is in it: a failure has been seen.
        collector.failure = Some(CollectError::Parted { ring: 0 });
        resync(&mut collector);
        is_sound_again(&mut collector, 1 + random.below(400));
    }
}

#[test]
fn a_fruitless_exit_from_before_the_resync_resets_no_entry_that_is_not_there() {
    let mut collector: Pages = collector(1);
    collector.backend().memory(0).log_pages(0..150);
    resync(&mut collector);
    let used = collector.backend().memory(0).used();
    assert!(used <= 1);
    assert!(
        collector
            .ring_full(0, RingFullMode::default(), Instant(2))
            .is_ok()
    );
    assert_eq!(collector.backend().memory(0).used(), used);
    is_sound_again(&mut collector, 100);
}

/// The vCPU of a ring may log pages at any moment of a resync and of the search for its position.
#[test]
fn a_ring_is_had_back_while_its_vcpu_logs_pages() {
    let starts = [(0, 250), (5, 0), (5, 250), (150, 100)];
    let paces = (1..40)
        .chain((40..3000).step_by(151))
        .flat_map(|accesses| [1, 2, 40].map(|pages| (accesses, pages)));
    for (pace, (waiting, start)) in paces.flat_map(|pace| starts.map(|start| (pace, start))) {
        let what = (waiting, start, pace);
        let memory = Cells::starting_at(ring_size(256), start);
        memory.log_pages(0..waiting);
        let mut collector: Pages = Collector::new(Kvm::with_memory(memory));
        collector.backend().memory(0).run_vcpu(pace.0, pace.1);
        resync(&mut collector);
        for _ in 0..3 {
            if collector.backend().memory(0).is_soft_full() {
                collector.backend().memory(0).run_vcpu(0, 0);
                let report = collector.ring_full(0, RingFullMode::default(), Instant(2));
                assert!(report.is_ok(), "{report:?}: {what:?}");
                collector.backend().memory(0).run_vcpu(pace.0, pace.1);
            }
            assert_eq!(collector.drain(Instant(2)), Ok(true), "{what:?}");
        }
        collector.backend().memory(0).run_vcpu(0, 0);
        assert_eq!(collector.drain(Instant(2)), Ok(true), "{what:?}");
        collector.backend_mut().published.clear();
        collector.backend_mut().writable.clear();
        is_sound_again(&mut collector, 300);
    }
}

/// Two rings, cleared; both vCPUs have logged a page since. The first one's is harvested, and signals
/// keep KVM from resetting it for a while.
fn one_ring_lost_and_a_deficit() -> Pages {
    let mut collector: Pages = collector(2);
    resync(&mut collector);
    collector.backend_mut().write(0, page(1));
    collector.begin_pass(Instant(1), Scope::Planned, |_| ());
    assert_eq!(collector.harvest(Instant(1)), Ok((1, false)));
    collector.backend_mut().write(1, page(2));
    collector
        .backend_mut()
        .weather
        .extend([Weather::Short(0); 4]);
    collector
}

#[test]
fn a_drain_is_not_over_before_it_has_looked_for_a_lost_ring() {
    let mut collector = one_ring_lost_and_a_deficit();
    while !collector.drain(Instant(2)).unwrap() {}
    assert_eq!(collector.backend().published_sorted(), [1, 2]);
    let mut collector = one_ring_lost_and_a_deficit();
    while !collector.drain_late(Instant(2)).unwrap() {}
    assert_eq!(collector.backend().published_sorted(), [1, 2]);
}

#[test]
fn a_pass_over_all_rings_is_not_over_before_it_has_looked_for_a_lost_one() {
    let mut collector = one_ring_lost_and_a_deficit();
    collector.begin_pass(Instant(2), Scope::All, |_| ());
    while !collector.reap(Instant(2)).unwrap().is_over {}
    assert_eq!(collector.backend().published_sorted(), [1, 2]);
}

/// As a VMM does that calls for every vCPU when one ring is full.
#[test]
fn calls_without_an_exit_move_no_index_of_a_sound_ring_that_was_cleared() {
    for waiting in [0, 1, 150] {
        let mut collector: Pages = collector(1);
        collector.backend().memory(0).log_pages(0..waiting);
        resync(&mut collector);
        let used = collector.backend().memory(0).used();
        for _ in 0..crate::ring::OVERRUN_EXITS - 1 {
            let report = collector.ring_full(0, RingFullMode::default(), Instant(2));
            assert!(report.is_ok());
        }
        assert_eq!(collector.backend().memory(0).used(), used, "{waiting}");
        is_sound_again(&mut collector, 100);
    }
}
