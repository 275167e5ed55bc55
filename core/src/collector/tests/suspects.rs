//! Pages that an interrupted reset may have forgotten.

use super::*;

/// A pass over all rings.
fn pass_over_all<const BATCH: usize>(collector: &mut Collector<Kvm, BATCH>) {
    collector.begin_pass(Instant(1), Scope::All, |_| ());
    while !collector.reap(Instant(1)).unwrap().is_over {}
    collector.end_pass();
}

fn suspects<const BATCH: usize>(collector: &Collector<Kvm, BATCH>) -> Vec<u64> {
    collector
        .suspects()
        .iter()
        .map(|page| page.offset)
        .collect()
}

fn write_pages<const BATCH: usize>(collector: &mut Collector<Kvm, BATCH>, pages: &[u64]) {
    for &offset in pages {
        collector.backend_mut().write(0, page(offset));
    }
}

#[test]
fn what_an_interrupted_reset_forgot_is_published_with_every_drain() {
    let mut collector = collector::<256>(1);
    let pages: Vec<u64> = (0..150).collect();
    write_pages(&mut collector, &pages);
    // KVM protects pages 0 to 63 and forgets 64 to 99.
    set_weather(&mut collector, [Weather::Interrupted(100)]);
    pass(&mut collector, Instant(1));
    assert_eq!(suspects(&collector), (99 - 63..150).collect::<Vec<_>>());
    assert_eq!(
        collector.backend().writable.len(),
        36,
        "the test's KVM forgot pages"
    );
    for times in 1..=3u64 {
        // No write to the forgotten pages is logged, and all are published all the same.
        write_pages(&mut collector, &[70, 99]);
        collector.backend_mut().published.clear();
        assert_eq!(collector.drain(Instant(2)), Ok(true));
        let published = collector.backend().published_sorted();
        assert_eq!(published, (36..150).collect::<Vec<_>>());
        assert_eq!(collector.totals().suspects_published, times * 114);
    }
    pass_over_all(&mut collector);
    assert_eq!(collector.totals().suspects_published, 4 * 114);
}

#[test]
fn a_suspect_that_is_harvested_again_is_none_any_more() {
    let mut collector = collector::<256>(1);
    let pages: Vec<u64> = (0..100).collect();
    write_pages(&mut collector, &pages);
    set_weather(&mut collector, [Weather::Interrupted(80)]);
    pass(&mut collector, Instant(1));
    assert_eq!(suspects(&collector).len(), 100 - 16);
    // What was protected is logged again; what KVM forgot stays a suspect.
    write_pages(&mut collector, &pages);
    pass(&mut collector, Instant(2));
    assert_eq!(suspects(&collector), (64..80).collect::<Vec<_>>());
    collector.forget_suspects(SlotId(1));
    assert_eq!(collector.suspects().len(), 16);
    collector.forget_suspects(SlotId(0));
    assert_eq!(collector.suspects(), []);
}

#[test]
fn an_interruption_after_the_last_entry_is_one_too() {
    let mut collector = collector::<256>(1);
    write_pages(&mut collector, &[7, 8, 9, 1000]);
    set_weather(&mut collector, [Weather::Interrupted(4)]);
    pass(&mut collector, Instant(1));
    assert_eq!(suspects(&collector), [1000]);
    let totals = collector.totals();
    assert_eq!(
        (totals.short_resets, totals.maybe_interrupted_resets),
        (0, 1)
    );
}

#[test]
fn only_the_ring_in_which_a_reset_stopped_has_suspects() {
    let mut collector = collector::<256>(3);
    for ring in 0..3 {
        let first = 1000 * ring as u64;
        collector
            .backend()
            .memory(ring)
            .log_pages(first..first + 10);
    }
    set_weather(&mut collector, [Weather::Short(15)]);
    pass(&mut collector, Instant(1));
    assert_eq!(suspects(&collector), (1000..1010).collect::<Vec<_>>());
    // Where it stopped between two rings, either may be the one.
    for ring in 0..3 {
        let first = 10_000 + 1000 * ring as u64;
        collector
            .backend()
            .memory(ring)
            .log_pages(first..first + 10);
    }
    set_weather(&mut collector, [Weather::Short(20)]);
    pass(&mut collector, Instant(2));
    let added: Vec<u64> = suspects(&collector).split_off(10);
    let both = (10_000..10_010).chain(11_000..11_010);
    assert_eq!(added, both.collect::<Vec<_>>());
}

#[test]
fn a_reset_that_did_nothing_makes_no_suspects() {
    let mut collector = collector::<256>(1);
    collector.backend().memory(0).log_pages(0..10);
    set_weather(&mut collector, [Weather::Interrupted(0), Weather::Short(0)]);
    pass(&mut collector, Instant(1));
    assert_eq!(collector.suspects(), []);
    assert_eq!(collector.totals().short_resets, 2);
}

#[test]
fn suspects_that_find_no_room_are_a_failure_that_every_drain_tells() {
    let mut collector = collector::<128>(1);
    let mut first = 0;
    while collector.suspects().len() < crate::collector::suspects::MAX_SUSPECTS {
        collector.backend().memory(0).log_pages(first..first + 100);
        first += 1000;
        set_weather(&mut collector, [Weather::Short(64)]);
        pass(&mut collector, Instant(1));
    }
    let full = CollectError::TooManySuspects { suspects: 4096 };
    collector.backend().memory(0).log_pages(first..first + 100);
    set_weather(&mut collector, [Weather::Short(64)]);
    assert_eq!(collector.drain(Instant(1)), Err(full));
    assert_eq!(collector.drain(Instant(2)), Err(full));
    // The rings are sound: vCPUs and passes go on.
    assert!(
        collector
            .ring_full(0, RingFullMode::Whole, Instant(3))
            .is_ok()
    );
    pass(&mut collector, Instant(4));
    assert_eq!(collector.check_reaping(), Ok(()));
}

#[test]
fn a_ring_that_was_looked_at_while_it_was_lost_has_suspects_as_well() {
    let mut collector = collector::<256>(1);
    // KVM is in the second round of the ring, behind where the reader was.
    write_pages(&mut collector, &(0..150).collect::<Vec<_>>());
    pass(&mut collector, Instant(1));
    write_pages(&mut collector, &(150..250).collect::<Vec<_>>());
    pass(&mut collector, Instant(1));
    write_pages(&mut collector, &(250..350).collect::<Vec<_>>());
    collector.begin_resync().unwrap();
    collector.backend_mut().writable.clear();
    collector.backend_mut().forget_resets();
    collector.end_resync(Instant(1)).unwrap();
    // A pass while nothing is logged.
    pass(&mut collector, Instant(1));
    let pages: Vec<u64> = (0..190).map(|page| 1000 * page).collect();
    write_pages(&mut collector, &pages);
    collector.begin_pass(Instant(2), Scope::All, |_| ());
    assert_eq!(collector.harvest(Instant(2)), Ok((190, false)));
    set_weather(&mut collector, [Weather::Interrupted(100)]);
    assert_eq!(collector.settle(), Ok(true));
    assert_eq!(suspects(&collector), [99_000]);
}
