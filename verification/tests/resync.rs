//! Rings in any state are had back while their vCPU logs pages between any two accesses.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use dirty_ring_core::backend::Backend;
use dirty_ring_core::collector::{Collector, RingFullMode};
use dirty_ring_core::ring::{RingPosition, RingState};
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::Instant;
use dirty_ring_verification::running::{RunningRing, RunningVm, Stretch};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

type Pages = Collector<RunningVm, 50>;

/// 256 entries, 192 of them usable.
const SIZE: RingSize = match RingSize::new(256, 4096, 0) {
    Ok(size) => size,
    Err(_) => panic!("256 entries are a ring"),
};

const NOW: Instant = Instant(1);

/// Far more exits than a vCPU ever needs to get back in.
const MOST_EXITS: u32 = 20;

/// What happened to a ring before.
#[derive(Clone, Copy, Debug)]
enum Before {
    /// A vCPU that KVM had let in logged so many pages, whether or not there was room.
    Log(u32),
    /// So many entries were harvested, from wherever the reader was.
    Harvest(u32),
    /// So many marked entries were reset.
    Reset(u32),
}

/// A ring, what happens to it, and when its vCPU runs.
#[derive(Clone, Debug)]
struct Case {
    start: u32,
    /// Where the reader begins, from there.
    position: u32,
    before: Vec<Before>,
    /// During the resync and the search.
    stretches: Vec<Stretch>,
    /// After how many entries signals end the first resets.
    interruptions: Vec<u32>,
    /// Pages that are logged when the ring is sound again.
    after: u32,
}

fn any_case() -> impl Strategy<Value = Case> {
    let start = prop_oneof![Just(0u32), any::<u32>(), (u32::MAX - 300)..=u32::MAX];
    let position = prop_oneof![4 => Just(0u32), 1 => any::<u32>()];
    let before = prop_oneof![
        3 => (0u32..700).prop_map(Before::Log),
        2 => (0u32..300).prop_map(Before::Harvest),
        1 => (0u32..300).prop_map(Before::Reset),
    ];
    let stretch = (0u32..3000, 1u32..60).prop_map(|(accesses, pages)| Stretch { accesses, pages });
    let interruption = prop_oneof![2 => Just(0u32), 1 => 0u32..100];
    (
        start,
        position,
        vec(before, 0..8),
        vec(stretch, 0..8),
        vec(interruption, 0..20),
        1u32..600,
    )
        .prop_map(
            |(start, position, before, stretches, interruptions, after)| Case {
                start,
                position,
                before,
                stretches,
                interruptions,
                after,
            },
        )
}

/// Takes all pages, and lets the vCPU in again, until it has logged all that it wants.
fn take_all(collector: &mut Pages, kvm: &RunningRing) {
    let mut exits = 0;
    loop {
        while kvm.is_soft_full() {
            exits += 1;
            assert!(exits < MOST_EXITS, "the vCPU is kept out for ever");
            let report = collector.ring_full(0, RingFullMode::default(), NOW);
            assert!(report.is_ok(), "{report:?}");
        }
        exits = 0;
        let is_running = kvm.is_running();
        let drained = collector.drain(NOW);
        assert!(drained.is_ok(), "{drained:?}");
        if drained == Ok(true) && !is_running {
            return;
        }
    }
}

fn run(case: &Case, exchanges: bool) {
    let kvm = RunningRing::starting_at(SIZE, case.start, exchanges);
    let position = RingPosition::from_index(case.start.wrapping_add(case.position));
    let mut vm = RunningVm::new(&kvm, &RingState::from(position));
    for before in &case.before {
        match *before {
            Before::Log(_) if kvm.is_soft_full() => {}
            Before::Log(pages) => (0..pages).for_each(|_| kvm.log()),
            Before::Harvest(entries) => {
                vm.rings_mut()[0].harvest_without_reset(entries, |_| ());
            }
            Before::Reset(entries) => _ = kvm.reset(entries),
        }
    }
    vm.interrupt(case.interruptions.iter().copied());
    kvm.run(case.stretches.iter().copied());
    let mut collector = Pages::new(vm);
    collector.begin_resync().unwrap();
    collector.end_resync(NOW).unwrap();
    take_all(&mut collector, &kvm);
    kvm.run([Stretch {
        accesses: 0,
        pages: case.after,
    }]);
    take_all(&mut collector, &kvm);
    check(&collector, &kvm, case.interruptions.is_empty());
}

/// Checks that all pages that were logged since all memory was counted as dirty were published, and
/// that KVM's indices agree.
fn check(collector: &Pages, kvm: &Rc<RunningRing>, once: bool) {
    let vm = collector.backend();
    for page in vm.counted()..kvm.logged() {
        let times = vm.published().get(&page).copied().unwrap_or(0);
        assert!(times != 0, "page {page} was lost");
        assert!(times == 1 || !once, "page {page} was published twice");
    }
    assert_eq!(kvm.used(), 0, "KVM counts entries that are not there");
    assert!(kvm.is_clear(), "a mark was left behind");
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        cases: 4_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_ring_in_any_state_is_had_back_while_its_vcpu_runs(case in any_case()) {
        run(&case, true);
    }
}

#[test]
fn control_marks_that_are_not_exchanged_in_one_step_part_rings() {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    let failed = (0..500).filter(|_| {
        let case = any_case().new_tree(&mut runner).unwrap().current();
        catch_unwind(AssertUnwindSafe(|| run(&case, false))).is_err()
    });
    assert!(failed.count() > 0);
}
