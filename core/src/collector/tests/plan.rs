//! Every pass looks at every ring, and takes those that the plan doesn't leave alone.

use super::*;

#[test]
fn a_ring_that_is_left_alone_keeps_its_entries_and_the_others_are_taken() {
    let mut collector = collector::<16>(3);
    for ring in 0..3 {
        let begin = ring as u64 * 1000;
        collector
            .backend()
            .memory(ring)
            .log_pages(begin..begin + 20);
    }
    collector.begin_pass(Instant(1), Scope::Planned, |rings| {
        assert_eq!((rings.len(), rings.is_empty()), (3, false));
        assert_eq!(rings.scope(), Scope::Planned);
        let ring = rings.get(1).unwrap();
        assert_eq!((ring.occupancy, ring.size.soft_limit()), (20, 192));
        assert!(rings.get(3).is_none());
        assert!(rings.leave(1));
    });
    while !collector.reap(Instant(1)).unwrap().is_over {}
    let tally = collector.end_pass();
    assert_eq!((tally.harvested, tally.fullest), (40, 20));
    let rings = collector.backend().rings();
    assert_eq!([0, 1, 2].map(|ring| rings[ring].occupancy()), [0, 20, 0]);
    // It isn't forgotten: the next pass plans anew.
    assert_eq!(pass(&mut collector, Instant(2)).harvested, 20);
}

#[test]
fn under_the_scope_of_all_no_ring_is_left_alone() {
    let mut collector = collector::<16>(2);
    collector.backend().memory(0).log_pages(0..5);
    collector.begin_pass(Instant(1), Scope::All, |rings| {
        assert_eq!(rings.scope(), Scope::All);
        assert!(!rings.leave(0));
    });
    assert_eq!(collector.reap(Instant(1)).unwrap().entries, 5);
}

#[test]
fn every_pass_looks_at_every_ring_and_its_batches_at_none() {
    let mut collector = collector::<16>(2);
    for passes in 1..=4u64 {
        collector
            .backend()
            .memory(1)
            .log_pages(passes * 100..passes * 100 + 40);
        collector.begin_pass(Instant(passes * 1000), Scope::Planned, |_| ());
        let looked = [0, 1].map(|ring| collector.backend().rings()[ring].occupancy_seen());
        assert_eq!(looked, [0, 40]);
        collector.backend().memory(0).log_pages(0..1);
        while !collector.reap(Instant(passes * 1000 + 5)).unwrap().is_over {}
        let [first, second] = [0, 1].map(|ring| collector.backend().rings()[ring].growth());
        assert_eq!(first.meter().max_per_s(), 1000 * u64::from(passes > 1));
        assert_eq!(second.meter().max_per_s(), 40_000);
    }
}

#[test]
fn looks_that_a_plan_was_made_from_are_counted() {
    let mut collector = collector::<16>(3);
    pass(&mut collector, Instant(1));
    assert_eq!(collector.totals().peeks, 0, "nothing was planned");
    for passes in 1..=4 {
        collector.begin_pass(Instant(passes), Scope::Planned, |rings| {
            for ring in 0..3 {
                assert!(rings.get(ring).is_some());
                assert!(rings.leave(ring));
            }
        });
        assert!(collector.reap(Instant(passes)).unwrap().is_over);
        assert_eq!(collector.totals().peeks, 3 * passes);
    }
}

#[test]
fn rings_beyond_those_that_can_be_planned_are_always_taken() {
    let mut collector = Collector::<_, 16>::new(Kvm::new(MAX_PLANNED_RINGS + 1, ring_size(256)));
    let last = MAX_PLANNED_RINGS;
    collector.backend().memory(last).log_pages(0..3);
    collector.backend().memory(last - 1).log_pages(10..13);
    collector.begin_pass(Instant(1), Scope::Planned, |rings| {
        assert!(rings.leave(last - 1));
        assert!(!rings.leave(last));
    });
    assert_eq!(collector.reap(Instant(1)).unwrap().entries, 3);
}

#[test]
fn a_pass_that_signals_keep_from_settling_is_not_over() {
    let mut collector = collector::<64>(1);
    collector.backend().memory(0).log_pages(0..5);
    set_weather(&mut collector, [Weather::Short(0); 4]);
    collector.begin_pass(Instant(1), Scope::Planned, |_| ());
    let first = collector.reap(Instant(1)).unwrap();
    assert_eq!((first.entries, first.is_over), (5, false));
    let second = collector.reap(Instant(2)).unwrap();
    assert_eq!((second.entries, second.is_over), (0, true));
    assert_eq!(collector.end_pass().harvested, 5);
}
