//! The shared collector: H4 to H6, and C4 through it. The models of the shipped turns are bounded
//! to five preemptions, and to three where there is a deficit. All others are explored whole.

use std::cell::Cell;
use std::rc::Rc;

use dirty_ring_core::backend::Backend;
use dirty_ring_core::collector::{Collector, PassTally, RingFullMode, Scope};
use dirty_ring_core::controller::Fixed;
use dirty_ring_core::counter::EventCounter;
use dirty_ring_core::entry::{EntryFlags, EntryMemory};
use dirty_ring_core::planner::{Planner, SHORTEST_WAIT};
use dirty_ring_core::reaper::{Reaper, Turn};
use dirty_ring_core::shared::SharedCollector;
use dirty_ring_core::sync::Lock;
use dirty_ring_core::time::Instant;
use dirty_ring_verification::explore::{Model, Reached};
use dirty_ring_verification::loom_kvm::{KvmRing, LoomMemory, LoomVm, Resets, Sound};
use dirty_ring_verification::loom_sync::{LoomLock, LoomPark, LoomWord, ModelLock, ModelPark};
use dirty_ring_verification::weak::{NoLock, RelaxedLock};
use loom::thread;

type Pages = Collector<LoomVm<Sound>, 4>;
type Shared<L> = SharedCollector<L, LoomWord, LoomPark>;

const NOW: Instant = Instant(0);

/// Begins a pass over all rings.
fn begin_pass(collector: &mut Pages) {
    collector.begin_pass(NOW, Scope::All, |_| ());
}

/// The deficit is what was harvested and not yet reset, whatever thread did either.
fn check_deficit(kvm: &KvmRing, collector: &Pages) {
    let watch = kvm.watch();
    assert_eq!(
        collector.outstanding(),
        watch.taken.get() - watch.reset.get(),
        "the deficit is wrong"
    );
}

const SPLIT: Model = Model {
    name: "h4-h6: harvest and settle",
    witnesses: &[
        "both took entries",
        "the vCPU reset what the reaper had harvested",
        "the reaper left nothing to the vCPU",
    ],
    preemptions: None,
};

/// Runs a reaper that releases the lock between its harvest and its reset. This explores more than
/// the shipped turn does: a [`Collector::settle`] follows each harvest, maybe under another hold of
/// the lock.
fn harvests_and_settles<L>(shared: &Shared<L>, kvm: &KvmRing, reached: &Reached)
where
    L: ModelLock<Guarded = Pages> + 'static,
{
    let (harvested, _) = shared.with(|collector| {
        begin_pass(collector);
        let harvested = collector.harvest(NOW).unwrap();
        check_deficit(kvm, collector);
        harvested
    });
    shared.with(|collector| {
        check_deficit(kvm, collector);
        reached.note_if(
            harvested != 0 && collector.outstanding() == 0,
            "the vCPU reset what the reaper had harvested",
        );
        assert_eq!(collector.settle(), Ok(true));
        check_deficit(kvm, collector);
    });
}

const TURNS: Model = Model {
    name: "h4-h6: turns",
    witnesses: &["both took entries", "the reaper left nothing to the vCPU"],
    preemptions: Some(5),
};

/// Runs the shipped reaper for a pass, and for the passes that follow from it.
fn takes_turns<L>(shared: &Shared<L>, _kvm: &KvmRing, _reached: &Reached)
where
    L: ModelLock<Guarded = Pages> + 'static,
{
    let mut reaper = Reaper::<_, 1>::new(Planner::new(Fixed::new(SHORTEST_WAIT).unwrap()));
    shared.doorbell().kick();
    while reaper.turn(shared, NOW).unwrap() == Turn::Again {}
    assert_ne!(reaper.planner().passes(), 0, "the kick made no pass");
}

/// What the reaper's thread does.
type ReaperThread<L> = fn(&Shared<L>, &KvmRing, &Reached);

/// A vCPU pushes two entries, leaves on ring-full, pushes a third; the reaper harvests and resets
/// meanwhile. At the end everything is drained.
fn vcpu_and_reaper_share_a_ring<L>(reaper: ReaperThread<L>, resets: Resets, reached: &Reached)
where
    L: ModelLock<Guarded = Pages> + 'static,
{
    let kvm = KvmRing::new(0, 3);
    let vm = LoomVm::new(&[Rc::clone(&kvm)], resets);
    let collector = L::around(Collector::new(vm), Rc::default());
    let shared = Rc::new(Shared::new(collector, LoomPark::new()));
    let vcpu = thread::spawn({
        let (shared, kvm) = (Rc::clone(&shared), Rc::clone(&kvm));
        move || {
            kvm.push();
            kvm.push();
            let report = shared.ring_full(0, RingFullMode::Chunk(1), NOW).unwrap();
            let may_be_short = matches!(resets, Resets::BarrenFor(_));
            assert!(report.settled || may_be_short, "all resets were whole");
            kvm.push();
            report.harvested
        }
    });
    let reaper = thread::spawn({
        let (shared, kvm, reached) = (Rc::clone(&shared), Rc::clone(&kvm), reached.clone());
        move || reaper(&shared, &kvm, &reached)
    });
    let by_vcpu = u64::from(vcpu.join().unwrap());
    reaper.join().unwrap();
    shared.with(|collector| {
        check_deficit(&kvm, collector);
        let totals = collector.totals();
        let by_reaper = totals.reaper_harvested;
        assert_eq!(totals.ring_full_harvested, by_vcpu);
        assert_eq!(by_reaper + by_vcpu, kvm.watch().taken.get());
        reached.note_if(by_vcpu != 0 && by_reaper != 0, "both took entries");
        reached.note_if(by_vcpu == 0, "the reaper left nothing to the vCPU");
        assert_eq!(collector.drain(NOW), Ok(true));
    });
    let watch = kvm.watch();
    assert_eq!(watch.taken.get(), 3, "an entry was lost");
    assert_eq!(watch.reset.get(), 3, "an entry was not reset");
    assert_eq!(watch.published.get(), 3, "a page was lost");
}

#[test]
fn h4_h6_two_harvesters_never_take_the_same_entry_and_publish_only_what_is_reset() {
    SPLIT.explore(|reached| {
        let reaper = harvests_and_settles::<LoomLock<Pages>>;
        vcpu_and_reaper_share_a_ring(reaper, Resets::Full, reached);
    });
}

#[test]
fn h4_h6_hold_for_the_shipped_turns() {
    TURNS.explore(|reached| {
        let reaper = takes_turns::<LoomLock<Pages>>;
        vcpu_and_reaper_share_a_ring(reaper, Resets::Full, reached);
    });
}

#[test]
fn h4_negative_control_no_lock() {
    SPLIT.must_fail("Causality violation: Concurrent write", |reached| {
        let reaper = harvests_and_settles::<NoLock<Pages>>;
        vcpu_and_reaper_share_a_ring(reaper, Resets::Full, reached);
    });
    TURNS.must_fail("Causality violation: Concurrent write", |reached| {
        let reaper = takes_turns::<NoLock<Pages>>;
        vcpu_and_reaper_share_a_ring(reaper, Resets::Full, reached);
    });
}

#[test]
fn h4_negative_control_a_lock_that_orders_nothing() {
    SPLIT.must_fail("Causality violation: Concurrent write", |reached| {
        let reaper = harvests_and_settles::<RelaxedLock<Pages>>;
        vcpu_and_reaper_share_a_ring(reaper, Resets::Full, reached);
    });
    TURNS.must_fail("Causality violation: Concurrent write", |reached| {
        let reaper = takes_turns::<RelaxedLock<Pages>>;
        vcpu_and_reaper_share_a_ring(reaper, Resets::Full, reached);
    });
}

const TWO_LOCKS: Model = Model {
    name: "h4, a lock each",
    witnesses: &[],
    preemptions: None,
};

/// Two harvesters of one ring, each with a fetch index and a lock of its own.
#[test]
fn h4_negative_control_a_lock_for_each_harvester() {
    TWO_LOCKS.must_fail("taken twice or out of order", |_| {
        let kvm = KvmRing::new(0, 1);
        kvm.push();
        let harvesters = [0, 1].map(|_| {
            let vm = LoomVm::<Sound>::new(&[Rc::clone(&kvm)], Resets::Full);
            let collector = Rc::new(LoomLock::around(Pages::new(vm), Rc::default()));
            thread::spawn(move || {
                collector.with(|collector| {
                    begin_pass(collector);
                    collector.harvest(NOW).unwrap()
                })
            })
        });
        for harvester in harvesters {
            harvester.join().unwrap();
        }
    });
}

#[test]
fn h5_a_short_reset_leaves_a_deficit_that_the_next_one_carries() {
    let model = Model {
        name: "h5: harvest and settle",
        ..SPLIT
    };
    model.explore(|reached| {
        let reaper = harvests_and_settles::<LoomLock<Pages>>;
        vcpu_and_reaper_share_a_ring(reaper, Resets::OneByOne, reached);
    });
}

/// So many barren resets make [`Collector::settle`] give up once.
const GIVES_UP_ONCE: Resets = Resets::BarrenFor(4);

const DEFICIT: Model = Model {
    name: "h5: turns",
    witnesses: &[
        "both took entries",
        "the reaper left nothing to the vCPU",
        "the vCPU left a deficit",
        "the vCPU made up for the reaper's deficit",
        "the reaper made up for a deficit",
    ],
    preemptions: Some(3),
};

/// Takes turns, over a KVM that doesn't reset anything at first.
fn takes_turns_with_a_deficit<L>(shared: &Shared<L>, kvm: &KvmRing, reached: &Reached)
where
    L: ModelLock<Guarded = Pages> + 'static,
{
    let mut reaper = Reaper::<_, 1>::new(Planner::new(Fixed::new(SHORTEST_WAIT).unwrap()));
    shared.doorbell().kick();
    // The deficit, and the ring-fulls so far.
    let look = || {
        shared.with(|collector| {
            check_deficit(kvm, collector);
            (collector.outstanding(), collector.totals().ring_fulls)
        })
    };
    let mut last = (0, 0);
    let mut turn = Turn::Again;
    while turn == Turn::Again {
        let before = look();
        reached.note_if(last.0 == 0 && before.0 != 0, "the vCPU left a deficit");
        reached.note_if(
            last.0 != 0 && before.0 == 0,
            "the vCPU made up for the reaper's deficit",
        );
        turn = reaper.turn(shared, NOW).unwrap();
        last = look();
        reached.note_if(
            before.0 != 0 && last.0 == 0 && before.1 == last.1,
            "the reaper made up for a deficit",
        );
    }
}

#[test]
fn h5_a_deficit_outlives_the_hold_of_the_lock_that_left_it() {
    DEFICIT.explore(|reached| {
        let reaper = takes_turns_with_a_deficit::<LoomLock<Pages>>;
        vcpu_and_reaper_share_a_ring(reaper, GIVES_UP_ONCE, reached);
    });
}

const FOREIGN: Model = Model {
    name: "h5, foreign harvester",
    witnesses: &[],
    preemptions: None,
};

/// A foreign harvester takes the second entry: KVM resets more than the collector knows of.
#[test]
fn h5_negative_control_a_foreign_harvester() {
    FOREIGN.must_fail("ForeignReset", |_| {
        let kvm = KvmRing::new(0, 2);
        kvm.push();
        let vm = LoomVm::<Sound>::new(&[Rc::clone(&kvm)], Resets::Full);
        let mut collector = Box::new(Pages::new(vm));
        let reaper = thread::spawn(move || {
            begin_pass(&mut collector);
            let _ = collector.reap(NOW).unwrap();
        });
        let vcpu_and_foreigner = thread::spawn(move || {
            kvm.push();
            let memory = LoomMemory::<Sound>::of(&kvm);
            if memory.load_flags(1) == EntryFlags::DIRTY && kvm.watch().taken.get() == 1 {
                memory.read(1);
                memory.store_flags(1, EntryFlags::RESET);
            }
        });
        reaper.join().unwrap();
        vcpu_and_foreigner.join().unwrap();
    });
}

#[test]
fn h6_negative_control_kvm_counts_what_it_resets_later() {
    SPLIT.must_fail("published before its reset", |reached| {
        let reaper = harvests_and_settles::<LoomLock<Pages>>;
        vcpu_and_reaper_share_a_ring(reaper, Resets::Later, reached);
    });
    TURNS.must_fail("published before its reset", |reached| {
        let reaper = takes_turns::<LoomLock<Pages>>;
        vcpu_and_reaper_share_a_ring(reaper, Resets::Later, reached);
    });
}

/// A ring-full path and a reaper's pass, with one way to count the ring-full.
trait CountedPath {
    fn around(collector: Pages) -> Self;
    /// Returns the entries that it harvested.
    fn ring_full(&self) -> u32;
    /// Takes a pass in three holds of the lock, and returns what it found.
    fn pass(&self) -> PassTally;
    /// Returns the ring-fulls that the collector has dealt with.
    fn dealt_with(&self) -> u64;
}

fn pass(shared: &impl Lock<Guarded = Pages>) -> PassTally {
    shared.with(begin_pass);
    let reaped = shared.with(|collector| collector.reap(NOW)).unwrap();
    assert!(reaped.is_over);
    shared.with(Collector::end_pass)
}

fn ring_fulls_of(collector: &mut Pages) -> u64 {
    collector.backend().rings()[0].stats().ring_fulls
}

/// Counts under the lock, as the core does.
struct UnderTheLock<L>(Shared<L>);

impl<L: ModelLock<Guarded = Pages>> Lock for UnderTheLock<L> {
    type Guarded = Pages;
    fn with<R>(&self, critical: impl FnOnce(&mut Pages) -> R) -> R {
        self.0.with(critical)
    }
}

impl<L: ModelLock<Guarded = Pages>> CountedPath for UnderTheLock<L> {
    fn around(collector: Pages) -> Self {
        let collector = L::around(collector, Rc::default());
        Self(SharedCollector::new(collector, LoomPark::new()))
    }
    fn ring_full(&self) -> u32 {
        let report = self.0.ring_full(0, RingFullMode::Whole, NOW);
        report.unwrap().harvested
    }
    fn pass(&self) -> PassTally {
        pass(self)
    }
    fn dealt_with(&self) -> u64 {
        self.with(ring_fulls_of)
    }
}

/// Counts the ring-full in a word of its own, before the harvest.
struct CountsFirst {
    sound: UnderTheLock<LoomLock<Pages>>,
    ring_fulls: EventCounter<LoomWord>,
}

impl CountedPath for CountsFirst {
    fn around(collector: Pages) -> Self {
        Self {
            sound: CountedPath::around(collector),
            ring_fulls: EventCounter::new(),
        }
    }
    fn ring_full(&self) -> u32 {
        self.ring_fulls.add(1);
        self.sound.ring_full()
    }
    fn pass(&self) -> PassTally {
        let tally = self.sound.pass();
        let ring_fulls = self.ring_fulls.load();
        PassTally {
            ring_fulls,
            ..tally
        }
    }
    fn dealt_with(&self) -> u64 {
        self.sound.dealt_with()
    }
}

/// Counts the ring-full in a word of its own, after the harvest, and loads it after the pass.
struct LoadsLast {
    sound: UnderTheLock<LoomLock<Pages>>,
    ring_fulls: EventCounter<LoomWord>,
}

impl CountedPath for LoadsLast {
    fn around(collector: Pages) -> Self {
        Self {
            sound: CountedPath::around(collector),
            ring_fulls: EventCounter::new(),
        }
    }
    fn ring_full(&self) -> u32 {
        let harvested = self.sound.ring_full();
        self.ring_fulls.add(1);
        harvested
    }
    fn pass(&self) -> PassTally {
        let tally = self.sound.pass();
        let ring_fulls = self.ring_fulls.load();
        PassTally {
            ring_fulls,
            ..tally
        }
    }
    fn dealt_with(&self) -> u64 {
        self.sound.dealt_with()
    }
}

const C4: Model = Model {
    name: "c4, through the lock",
    witnesses: &[
        "the ring-full came before the pass took its pages",
        "the ring-full came between the last batch and the end of the pass",
        "the ring-full came after the pass",
    ],
    preemptions: None,
};

/// A vCPU leaves on ring-full while the reaper takes a pass; a second pass follows.
fn a_counted_ring_full_has_its_pages_in_the_pass<H: CountedPath + 'static>(reached: &Reached) {
    let kvm = KvmRing::new(0, 2);
    kvm.push();
    let vm = LoomVm::new(&[Rc::clone(&kvm)], Resets::Full);
    let path = Rc::new(H::around(Collector::new(vm)));
    let by_vcpu = Rc::new(Cell::new(0));
    let vcpu = thread::spawn({
        let (path, by_vcpu) = (Rc::clone(&path), Rc::clone(&by_vcpu));
        move || {
            kvm.push();
            by_vcpu.set(path.ring_full());
        }
    });
    let reaper = thread::spawn({
        let path = Rc::clone(&path);
        move || {
            let tally = path.pass();
            assert!(
                u64::from(tally.ring_fulls) <= path.dealt_with(),
                "a ring-full was counted before its harvest"
            );
            tally
        }
    });
    vcpu.join().unwrap();
    let tally = reaper.join().unwrap();
    let taken = u64::from(by_vcpu.get());
    let counted = tally.ring_fulls == 1;
    reached.note_if(
        counted && tally.harvested == 0,
        "the ring-full came before the pass took its pages",
    );
    reached.note_if(
        counted && tally.harvested == 1,
        "the ring-full came between the last batch and the end of the pass",
    );
    reached.note_if(!counted, "the ring-full came after the pass");
    let expected = if counted { taken } else { 0 };
    assert_eq!(
        tally.ring_full_harvested, expected,
        "a ring-full's count and its pages are in different passes"
    );
    let second = path.pass();
    let ring_fulls = tally.ring_fulls.max(second.ring_fulls);
    assert_eq!(ring_fulls, 1, "a ring-full was not counted");
}

#[test]
fn c4_a_counted_ring_full_has_its_pages_in_the_pass() {
    C4.explore(a_counted_ring_full_has_its_pages_in_the_pass::<UnderTheLock<LoomLock<Pages>>>);
}

#[test]
fn c4_negative_control_no_lock() {
    C4.must_fail(
        "Causality violation: Concurrent write",
        a_counted_ring_full_has_its_pages_in_the_pass::<UnderTheLock<NoLock<Pages>>>,
    );
}

#[test]
fn c4_negative_control_a_lock_that_orders_nothing() {
    C4.must_fail(
        "Causality violation: Concurrent write",
        a_counted_ring_full_has_its_pages_in_the_pass::<UnderTheLock<RelaxedLock<Pages>>>,
    );
}

#[test]
fn c4_negative_control_counted_before_the_harvest() {
    C4.must_fail(
        "counted before its harvest",
        a_counted_ring_full_has_its_pages_in_the_pass::<CountsFirst>,
    );
}

#[test]
fn c4_negative_control_count_loaded_after_the_pass() {
    C4.must_fail(
        "are in different passes",
        a_counted_ring_full_has_its_pages_in_the_pass::<LoadsLast>,
    );
}
