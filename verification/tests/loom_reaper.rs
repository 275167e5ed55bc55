//! A reaper thread that runs the core's loop over the shared collector: W4 and C5. The model with a
//! timer is bounded to two preemptions, the others to three.

use std::cell::Cell;
use std::rc::Rc;

use dirty_ring_core::collector::{Collector, RingFullMode, Scope};
use dirty_ring_core::controller::Fixed;
use dirty_ring_core::doorbell::{Seen, Wakes};
use dirty_ring_core::planner::{Phase, Planner, SHORTEST_WAIT};
use dirty_ring_core::reaper::{Reaper, Turn};
use dirty_ring_core::shared::SharedCollector;
use dirty_ring_core::sync::SharedWord;
use dirty_ring_core::time::Instant;
use dirty_ring_verification::explore::{Model, Reached};
use dirty_ring_verification::loom_kvm::{KvmRing, LoomVm, Resets, Sound};
use dirty_ring_verification::loom_sync::{LoomLock, LoomPark, LoomWord, ModelLock, ModelPark};
use dirty_ring_verification::weak::{NoLock, NoTokenPark, RelaxedLoadWord, RelaxedLock};
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

const BEGIN: Instant = Instant(0);

type Pages = Collector<LoomVm<Sound>, 4>;

/// Where the reaper is, for witnesses.
///
/// Loom leaves out orders that make no difference to what it sees, and would never stop a reaper
/// in the middle of a pass that the stop doesn't touch. So each move and each look touches a word.
struct Whereabouts {
    at: Cell<Phase>,
    explored: AtomicU32,
}

impl Whereabouts {
    fn touch(&self) {
        self.explored.fetch_add(0, Ordering::Relaxed);
    }

    fn set(&self, at: Phase) {
        self.touch();
        self.at.set(at);
    }

    fn get(&self) -> Phase {
        self.touch();
        self.at.get()
    }
}

/// What an execution is made of.
struct Reaping<L, W, P> {
    kvm: Rc<KvmRing>,
    shared: Rc<SharedCollector<L, W, P>>,
    park: P,
    whereabouts: Rc<Whereabouts>,
    /// Threads inside the lock or waiting for it, for witnesses.
    callers: Rc<Cell<u32>>,
}

impl<L, W, P> Reaping<L, W, P>
where
    L: ModelLock<Guarded = Pages> + 'static,
    W: SharedWord + 'static,
    P: ModelPark,
{
    /// Creates a VM with one ring of `entries`.
    fn new(entries: usize) -> Self {
        let (kvm, park) = (KvmRing::new(0, entries), P::new());
        let callers = Rc::new(Cell::new(0));
        let vm = LoomVm::new(&[Rc::clone(&kvm)], Resets::Full);
        let collector = L::around(Collector::new(vm), Rc::clone(&callers));
        Self {
            kvm,
            shared: Rc::new(SharedCollector::new(collector, park.clone())),
            park,
            whereabouts: Rc::new(Whereabouts {
                at: Cell::new(Phase::Idle),
                explored: AtomicU32::new(0),
            }),
            callers,
        }
    }

    /// Runs the core's loop until it is done; returns the ring-fulls that its passes saw.
    fn spawn_reaper(&self) -> thread::JoinHandle<u64> {
        let (shared, at) = (Rc::clone(&self.shared), Rc::clone(&self.whereabouts));
        let park = self.park.clone();
        thread::spawn(move || {
            let controller = Fixed::new(SHORTEST_WAIT).unwrap();
            let mut reaper = Reaper::<_, 1>::new(Planner::new(controller));
            let (mut ring_fulls, mut passes) = (0, 0);
            let mut last = Turn::Again;
            let clock = || park.watch().now.get();
            let watch = |reaper: &Reaper<Fixed, 1>, turn| {
                let planner = reaper.planner();
                at.set(planner.phase());
                last = turn;
                if planner.passes() != passes {
                    passes = planner.passes();
                    let pass = planner.last_pass().expect("there was one");
                    ring_fulls += u64::from(pass.measurement.ring_fulls);
                }
            };
            reaper
                .run(&shared, clock, watch)
                .expect("no reset of the model fails");
            assert_eq!(last, Turn::Done);
            ring_fulls
        })
    }

    /// Runs a reaper as in the patch of 2022: it ends where it sees the stop, without another pass.
    fn spawn_impatient_reaper(&self) -> thread::JoinHandle<u64> {
        let shared = Rc::clone(&self.shared);
        thread::spawn(move || {
            let (mut seen, mut ring_fulls) = (Seen::default(), 0);
            let until = Instant::MAX;
            while !shared
                .doorbell()
                .wait(&mut seen, until)
                .contains(Wakes::STOP)
            {
                let tally = shared.with(|collector| {
                    collector.begin_pass(BEGIN, Scope::All, |_| ());
                    assert!(collector.reap(BEGIN).unwrap().is_over);
                    collector.end_pass()
                });
                ring_fulls += u64::from(tally.ring_fulls);
            }
            ring_fulls
        })
    }

    /// Stops the reaper and notes where it was.
    fn stop(&self, reached: &Reached) {
        let reaping = self.whereabouts.get() == Phase::Reaping;
        reached.note_if(self.park.watch().asleep.get(), "stopped while it slept");
        reached.note_if(reaping, "stopped while it reaped");
        if reaping && self.callers.get() > 1 {
            reached.note("stopped while it waited for the lock");
        }
        self.shared.doorbell().stop();
    }
}

/// What runs the reaper.
type Spawn<L, W, P> = fn(&Reaping<L, W, P>) -> thread::JoinHandle<u64>;

const DRAIN: Model = Model {
    name: "w4: drain",
    witnesses: &["stopped while it slept", "stopped while it reaped"],
    preemptions: Some(2),
};

/// The vCPU leaves on ring-full, dirties one page more and stops the reaper, whose timer may fire.
fn the_last_pass_follows_the_stop<W: SharedWord + 'static, P: ModelPark>(
    spawn: Spawn<LoomLock<Pages>, W, P>,
    reached: &Reached,
) {
    let reaping = Rc::new(Reaping::new(2));
    let reaper = spawn(&reaping);
    let vcpu = thread::spawn({
        let (reaping, reached) = (Rc::clone(&reaping), reached.clone());
        move || {
            reaping.kvm.push();
            let chunk = RingFullMode::Chunk(1);
            let report = reaping.shared.ring_full(0, chunk, BEGIN).unwrap();
            assert!(report.settled);
            reaping.kvm.push();
            reaping.stop(&reached);
        }
    });
    let timer = thread::spawn({
        let park = reaping.park.clone();
        move || park.pass_time_until(BEGIN + SHORTEST_WAIT)
    });
    vcpu.join().unwrap();
    timer.join().unwrap();
    let ring_fulls = reaper.join().unwrap();
    let published = reaping.kvm.watch().published.get();
    assert_eq!(published, 2, "the last pass left a page behind");
    assert_eq!(ring_fulls, 1, "a ring-full was not seen exactly once");
}

#[test]
fn w4_after_a_stop_a_last_pass_drains_the_rings() {
    DRAIN.explore(|reached| {
        the_last_pass_follows_the_stop::<LoomWord, LoomPark>(Reaping::spawn_reaper, reached);
    });
}

#[test]
fn w4_negative_control_no_last_pass() {
    DRAIN.must_fail("left a page behind", |reached| {
        let spawn = Reaping::spawn_impatient_reaper;
        the_last_pass_follows_the_stop::<LoomWord, LoomPark>(spawn, reached);
    });
}

#[test]
fn w4_negative_control_no_token() {
    DRAIN.must_fail("deadlock", |reached| {
        the_last_pass_follows_the_stop::<LoomWord, NoTokenPark>(Reaping::spawn_reaper, reached);
    });
}

#[test]
fn w4_negative_control_relaxed_load_of_the_stop() {
    DRAIN.must_fail("left a page behind", |reached| {
        the_last_pass_follows_the_stop::<RelaxedLoadWord, LoomPark>(Reaping::spawn_reaper, reached);
    });
}

const SEEN: Model = Model {
    name: "c5",
    witnesses: &["stopped while it slept", "stopped while it reaped"],
    preemptions: Some(3),
};

/// The vCPU kicks, so that the reaper comes for the lock as well, leaves on ring-full, and stops the
/// reaper.
fn every_ring_full_is_seen<L, W>(spawn: Spawn<L, W, LoomPark>, reached: &Reached)
where
    L: ModelLock<Guarded = Pages> + 'static,
    W: SharedWord + 'static,
{
    let reaping = Rc::new(Reaping::new(1));
    reaping.kvm.push();
    let reaper = spawn(&reaping);
    let vcpu = thread::spawn({
        let (reaping, reached) = (Rc::clone(&reaping), reached.clone());
        move || {
            reaping.shared.doorbell().kick();
            let chunk = RingFullMode::Chunk(1);
            let report = reaping.shared.ring_full(0, chunk, BEGIN).unwrap();
            assert!(report.settled);
            reaping.stop(&reached);
        }
    });
    vcpu.join().unwrap();
    let ring_fulls = reaper.join().unwrap();
    assert_eq!(ring_fulls, 1, "a ring-full was not seen exactly once");
}

#[test]
fn c5_after_a_stop_every_ring_full_has_been_seen() {
    SEEN.explore(|reached| {
        every_ring_full_is_seen::<LoomLock<Pages>, LoomWord>(Reaping::spawn_reaper, reached);
    });
}

/// The lock carries the count: a doorbell that orders nothing costs no ring-full.
#[test]
fn c5_does_not_depend_on_the_order_of_the_doorbell_s_words() {
    let model = Model {
        name: "c5, relaxed doorbell",
        ..SEEN
    };
    model.explore(|reached| {
        every_ring_full_is_seen::<LoomLock<Pages>, RelaxedLoadWord>(Reaping::spawn_reaper, reached);
    });
}

#[test]
fn c5_negative_control_no_lock() {
    SEEN.must_fail("Causality violation: Concurrent write", |reached| {
        every_ring_full_is_seen::<NoLock<Pages>, LoomWord>(Reaping::spawn_reaper, reached);
    });
}

#[test]
fn c5_negative_control_a_lock_that_orders_nothing() {
    SEEN.must_fail("Causality violation: Concurrent write", |reached| {
        every_ring_full_is_seen::<RelaxedLock<Pages>, LoomWord>(Reaping::spawn_reaper, reached);
    });
}

#[test]
fn c5_negative_control_no_last_pass() {
    SEEN.must_fail("not seen exactly once", |reached| {
        let spawn = Reaping::spawn_impatient_reaper;
        every_ring_full_is_seen::<LoomLock<Pages>, LoomWord>(spawn, reached);
    });
}

const CONTENDED: Model = Model {
    name: "w4: contended",
    witnesses: &[
        "stopped while it slept",
        "stopped while it reaped",
        "stopped while it waited for the lock",
    ],
    preemptions: Some(3),
};

/// A third thread stops the reaper while the vCPU is on its ring-full path.
#[test]
fn w4_a_stop_ends_the_reaper_while_a_vcpu_holds_the_lock() {
    CONTENDED.explore(|reached| {
        let reaping = Rc::new(Reaping::<LoomLock<Pages>, LoomWord, LoomPark>::new(1));
        let reaper = reaping.spawn_reaper();
        let vcpu = thread::spawn({
            let reaping = Rc::clone(&reaping);
            move || {
                reaping.kvm.push();
                // So that the reaper comes for the lock as well.
                reaping.shared.doorbell().kick();
                reaping.shared.with(|collector| {
                    reaping.whereabouts.touch();
                    let chunk = RingFullMode::Chunk(1);
                    assert!(collector.ring_full(0, chunk, BEGIN).unwrap().settled);
                });
            }
        });
        let stopper = thread::spawn({
            let (reaping, reached) = (Rc::clone(&reaping), reached.clone());
            move || reaping.stop(&reached)
        });
        vcpu.join().unwrap();
        stopper.join().unwrap();
        reaper.join().unwrap();
        // The page was taken by the one or by the other, before or after the stop.
        let published = reaping.kvm.watch().published.get();
        assert_eq!(published, 1, "a page was lost");
    });
}
