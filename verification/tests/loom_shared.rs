//! The handoff, H4 to H6, and C4 through it. No model is bounded.

use std::cell::Cell;
use std::rc::Rc;

use dirty_ring_core::collector::{Backend, CollectError, Collector, RingFullMode, RingFullReport};
use dirty_ring_core::counter::EventCounter;
use dirty_ring_core::entry::{EntryFlags, EntryMemory};
use dirty_ring_core::handoff::{Handoff, ReaperHarvest};
use dirty_ring_core::sync::Lock;
use dirty_ring_verification::explore::{Model, Reached};
use dirty_ring_verification::loom_kvm::{KvmRing, LoomMemory, LoomVm, Resets, Sound};
use dirty_ring_verification::loom_sync::{LoomLock, LoomPark, LoomWord, ModelLock, ModelPark};
use dirty_ring_verification::weak::{NoLock, RelaxedLock};
use loom::thread;

type Pages = Collector<LoomVm<Sound>, 4>;

const HANDOFF: Model = Model {
    name: "h4-h6",
    witnesses: &[
        "both took entries",
        "the vCPU reset what the reaper had harvested",
        "the reaper left nothing to the vCPU",
    ],
    preemptions: None,
};

/// The deficit is what was harvested and not yet reset, whoever did either.
fn check_deficit(kvm: &KvmRing, collector: &Pages) {
    let watch = kvm.watch();
    assert_eq!(
        collector.outstanding(),
        watch.taken.get() - watch.reset.get(),
        "the deficit is wrong"
    );
}

/// A vCPU pushes two entries, leaves on ring-full, pushes a third; the reaper harvests and resets
/// meanwhile. At the end everything is drained.
fn vcpu_and_reaper_share_a_ring<L>(resets: Resets, reached: &Reached)
where
    L: ModelLock<Guarded = Pages> + 'static,
{
    let kvm = KvmRing::new(0, 3);
    let vm = LoomVm::new(&[Rc::clone(&kvm)], resets);
    let collector = L::around(Collector::new(vm), Rc::default());
    let handoff = Rc::new(Handoff::<L, LoomWord, LoomPark>::new(
        collector,
        LoomPark::new(),
    ));
    let vcpu = thread::spawn({
        let (handoff, kvm) = (Rc::clone(&handoff), Rc::clone(&kvm));
        move || {
            kvm.push();
            kvm.push();
            let report = handoff.ring_full(0, RingFullMode::Chunk(1), 0).unwrap();
            assert!(report.settled);
            kvm.push();
            report.harvested
        }
    });
    let reaper = thread::spawn({
        let (handoff, kvm, reached) = (Rc::clone(&handoff), Rc::clone(&kvm), reached.clone());
        move || {
            let harvested = handoff.harvest(0, true).harvested;
            handoff.with(|collector| check_deficit(&kvm, collector));
            let reset = handoff.reset().unwrap();
            assert!(reset.settled);
            let (harvested, reset) = (u64::from(harvested.entries), reset.entries);
            reached.note_if(
                reset < harvested,
                "the vCPU reset what the reaper had harvested",
            );
            harvested
        }
    });
    let by_vcpu = vcpu.join().unwrap();
    let by_reaper = reaper.join().unwrap();
    reached.note_if(by_vcpu != 0 && by_reaper != 0, "both took entries");
    handoff.with(|collector| {
        check_deficit(&kvm, collector);
        let left = collector.totals();
        reached.note_if(by_vcpu == 0, "the reaper left nothing to the vCPU");
        assert_eq!(
            left.reaper_harvested + left.ring_full_harvested,
            kvm.watch().taken.get()
        );
        assert_eq!(collector.drain(0), Ok(true));
    });
    let watch = kvm.watch();
    assert_eq!(watch.taken.get(), 3, "an entry was lost");
    assert_eq!(watch.reset.get(), 3, "an entry was not reset");
    assert_eq!(watch.published.get(), 3, "a page was lost");
}

#[test]
fn h4_h6_two_harvesters_never_take_the_same_entry_and_publish_only_what_is_reset() {
    HANDOFF.explore(|reached| {
        vcpu_and_reaper_share_a_ring::<LoomLock<Pages>>(Resets::Full, reached);
    });
}

#[test]
fn h4_negative_control_no_lock() {
    HANDOFF.must_fail("Causality violation: Concurrent write", |reached| {
        vcpu_and_reaper_share_a_ring::<NoLock<Pages>>(Resets::Full, reached);
    });
}

#[test]
fn h4_negative_control_a_lock_that_orders_nothing() {
    HANDOFF.must_fail("Causality violation: Concurrent write", |reached| {
        vcpu_and_reaper_share_a_ring::<RelaxedLock<Pages>>(Resets::Full, reached);
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
            thread::spawn(move || {
                let collector = Collector::<_, 4>::new(vm);
                let collector = LoomLock::around(collector, Rc::default());
                collector.with(|collector| collector.harvest(0, true).entries)
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
        name: "h5",
        ..HANDOFF
    };
    model.explore(|reached| {
        vcpu_and_reaper_share_a_ring::<LoomLock<Pages>>(Resets::OneByOne, reached);
    });
}

const FOREIGN: Model = Model {
    name: "h5, foreign harvester",
    witnesses: &[],
    preemptions: None,
};

/// Somebody else takes the second entry: KVM resets more than the collector knows of.
#[test]
fn h5_negative_control_a_foreign_harvester() {
    FOREIGN.must_fail("ForeignReset", |_| {
        let kvm = KvmRing::new(0, 2);
        kvm.push();
        let vm = LoomVm::<Sound>::new(&[Rc::clone(&kvm)], Resets::Full);
        let mut collector = Collector::<_, 4>::new(vm);
        let reaper = thread::spawn(move || {
            let _ = collector.harvest(0, true);
            collector.settle().unwrap();
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
    HANDOFF.must_fail("published before its reset", |reached| {
        vcpu_and_reaper_share_a_ring::<LoomLock<Pages>>(Resets::Later, reached);
    });
}

/// A ring-full path and a reaper's harvest, in the one order or in the other.
trait CountedPath {
    fn around(collector: Pages) -> Self;
    fn ring_full(&self) -> Result<RingFullReport, CollectError<()>>;
    /// The ring-full count, and the pages of ring-fulls in this pass.
    fn harvest(&self) -> (u32, u64);
    /// The ring-fulls that the collector has dealt with.
    fn dealt_with(&self) -> u64;
}

fn ring_fulls_of(collector: &mut Pages) -> u64 {
    collector.backend().rings()[0].stats().ring_fulls
}

type SoundHandoff = Handoff<LoomLock<Pages>, LoomWord, LoomPark>;

impl CountedPath for SoundHandoff {
    fn around(collector: Pages) -> Self {
        Handoff::new(LoomLock::around(collector, Rc::default()), LoomPark::new())
    }
    fn ring_full(&self) -> Result<RingFullReport, CollectError<()>> {
        self.ring_full(0, RingFullMode::Whole, 0)
    }
    fn harvest(&self) -> (u32, u64) {
        let ReaperHarvest {
            harvested,
            ring_fulls,
        } = self.harvest(0, true);
        (ring_fulls, harvested.tally.ring_full_harvested)
    }
    fn dealt_with(&self) -> u64 {
        self.with(ring_fulls_of)
    }
}

/// Counts the ring-full before its harvest.
struct CountsFirst(LoomLock<Pages>, EventCounter<LoomWord>);

impl CountedPath for CountsFirst {
    fn around(collector: Pages) -> Self {
        Self(
            LoomLock::around(collector, Rc::default()),
            EventCounter::new(),
        )
    }
    fn ring_full(&self) -> Result<RingFullReport, CollectError<()>> {
        self.1.add(1);
        self.0
            .with(|collector| collector.ring_full(0, RingFullMode::Whole, 0))
    }
    fn harvest(&self) -> (u32, u64) {
        let ring_fulls = self.1.load();
        let harvested = self.0.with(|collector| collector.harvest(0, true));
        (ring_fulls, harvested.tally.ring_full_harvested)
    }
    fn dealt_with(&self) -> u64 {
        self.0.with(ring_fulls_of)
    }
}

/// Loads the count after the harvest.
struct LoadsLast(SoundHandoff);

impl CountedPath for LoadsLast {
    fn around(collector: Pages) -> Self {
        Self(SoundHandoff::around(collector))
    }
    fn ring_full(&self) -> Result<RingFullReport, CollectError<()>> {
        CountedPath::ring_full(&self.0)
    }
    fn harvest(&self) -> (u32, u64) {
        let (_, pages) = CountedPath::harvest(&self.0);
        (self.0.ring_fulls(), pages)
    }
    fn dealt_with(&self) -> u64 {
        self.0.dealt_with()
    }
}

const C4: Model = Model {
    name: "c4, handoff",
    witnesses: &["the pass has the ring-full's pages but not its count"],
    preemptions: None,
};

/// A vCPU leaves on ring-full while the reaper takes a pass; a second pass follows.
fn a_counted_ring_full_has_its_pages_in_the_pass<H: CountedPath + 'static>(reached: &Reached) {
    let kvm = KvmRing::new(0, 2);
    kvm.push();
    let vm = LoomVm::new(&[Rc::clone(&kvm)], Resets::Full);
    let handoff = Rc::new(H::around(Collector::new(vm)));
    let by_vcpu = Rc::new(Cell::new(0));
    let vcpu = thread::spawn({
        let (handoff, by_vcpu) = (Rc::clone(&handoff), Rc::clone(&by_vcpu));
        move || {
            kvm.push();
            by_vcpu.set(handoff.ring_full().unwrap().harvested);
        }
    });
    let reaper = thread::spawn({
        let (handoff, reached) = (Rc::clone(&handoff), reached.clone());
        move || {
            let (ring_fulls, pages) = handoff.harvest();
            reached.note_if(
                ring_fulls == 0 && pages != 0,
                "the pass has the ring-full's pages but not its count",
            );
            let dealt_with = handoff.dealt_with();
            assert!(
                u64::from(ring_fulls) <= dealt_with,
                "a ring-full was counted before its harvest"
            );
            (ring_fulls, pages)
        }
    });
    vcpu.join().unwrap();
    let (ring_fulls, pages) = reaper.join().unwrap();
    if ring_fulls == 1 {
        let taken = u64::from(by_vcpu.get());
        assert_eq!(pages, taken, "a ring-full was counted without its pages");
    }
    assert_eq!(handoff.harvest().0, 1, "a ring-full was not counted");
}

#[test]
fn c4_a_counted_ring_full_has_its_pages_in_the_pass() {
    C4.explore(a_counted_ring_full_has_its_pages_in_the_pass::<SoundHandoff>);
}

#[test]
fn c4_negative_control_counted_before_the_harvest() {
    C4.must_fail(
        "counted before its harvest",
        a_counted_ring_full_has_its_pages_in_the_pass::<CountsFirst>,
    );
}

#[test]
fn c4_negative_control_count_loaded_after_the_harvest() {
    C4.must_fail(
        "counted without its pages",
        a_counted_ring_full_has_its_pages_in_the_pass::<LoadsLast>,
    );
}
