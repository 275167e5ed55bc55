//! A reaper thread that runs the core's machine over the handoff: W4 and C5. Bounded to two
//! preemptions is the model with a timer; the others to three.

use std::cell::Cell;
use std::rc::Rc;

use dirty_ring_core::collector::{Collector, RingFullMode};
use dirty_ring_core::controller::Fixed;
use dirty_ring_core::doorbell::{Seen, Wakes};
use dirty_ring_core::handoff::Handoff;
use dirty_ring_core::reaper::{Action, Moment, Reaper, drive};
use dirty_ring_core::sync::SharedWord;
use dirty_ring_verification::explore::{Model, Reached};
use dirty_ring_verification::loom_kvm::{KvmRing, LoomVm, Resets, Sound};
use dirty_ring_verification::loom_sync::{LoomLock, LoomPark, LoomWord, ModelLock, ModelPark};
use dirty_ring_verification::weak::{NoTokenPark, RelaxedLoadWord};
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

/// A deadline that never comes.
const NEVER_US: u64 = u64::MAX;

type Pages = Collector<LoomVm<Sound>, 4>;
type Shared<W, P> = Handoff<LoomLock<Pages>, W, P>;
type Machine = Reaper<Fixed, 1>;

/// Where the reaper is, for witnesses.
///
/// Loom leaves out orders that make no difference to what it sees, and would never stop a reaper
/// in the middle of a reap that the stop doesn't touch. So who moves or looks touches a word.
struct Whereabouts {
    at: Cell<Moment>,
    explored: AtomicU32,
}

impl Whereabouts {
    fn touch(&self) {
        self.explored.fetch_add(0, Ordering::Relaxed);
    }

    fn set(&self, at: Moment) {
        self.touch();
        self.at.set(at);
    }

    fn get(&self) -> Moment {
        self.touch();
        self.at.get()
    }
}

/// What an execution of W4 is made of.
struct Reaping<W, P> {
    kvm: Rc<KvmRing>,
    handoff: Rc<Shared<W, P>>,
    park: P,
    whereabouts: Rc<Whereabouts>,
    /// Who is inside the lock or waits for it, for witnesses.
    callers: Rc<Cell<u32>>,
}

impl<W: SharedWord + 'static, P: ModelPark> Reaping<W, P> {
    /// A VM with one ring of `entries`.
    fn new(entries: usize) -> Self {
        let (kvm, park) = (KvmRing::new(0, entries), P::new());
        let callers = Rc::new(Cell::new(0));
        let vm = LoomVm::new(&[Rc::clone(&kvm)], Resets::Full);
        let collector = LoomLock::around(Collector::new(vm), Rc::clone(&callers));
        Self {
            kvm,
            handoff: Rc::new(Handoff::new(collector, park.clone())),
            park,
            whereabouts: Rc::new(Whereabouts {
                at: Cell::new(Moment::Waiting),
                explored: AtomicU32::new(0),
            }),
            callers,
        }
    }

    /// Runs the core's machine until it is done; returns the ring-fulls that its steps saw.
    fn spawn_reaper(&self) -> thread::JoinHandle<u64> {
        let (handoff, at) = (Rc::clone(&self.handoff), Rc::clone(&self.whereabouts));
        let park = self.park.clone();
        thread::spawn(move || {
            let mut machine = Machine::new(Fixed::new(1).unwrap());
            let ring_fulls = Cell::new(0);
            let clock = || park.watch().now_us.get();
            let watch = |moment, machine: &Machine| {
                at.set(moment);
                if let (Moment::Decided, Some(step)) = (moment, machine.last_step()) {
                    ring_fulls.set(ring_fulls.get() + u64::from(step.measurement.ring_fulls));
                }
            };
            drive(&mut machine, &handoff, clock, watch).expect("no reset of the model fails");
            assert_eq!(machine.action(), Action::Done);
            ring_fulls.get()
        })
    }

    /// The patch's way: ends where it sees the stop, without another pass.
    fn spawn_impatient_reaper(&self) -> thread::JoinHandle<u64> {
        let handoff = Rc::clone(&self.handoff);
        thread::spawn(move || {
            let mut seen = Seen::default();
            while !handoff.wait(&mut seen, NEVER_US).contains(Wakes::STOP) {
                let _ = handoff.harvest(0, true);
                let _ = handoff.reset().unwrap();
            }
            handoff.ring_fulls().into()
        })
    }

    /// Stops the reaper and notes where it was.
    fn stop(&self, reached: &Reached) {
        let reaping = matches!(
            self.whereabouts.get(),
            Moment::Harvesting { .. } | Moment::Resetting
        );
        reached.note_if(self.park.watch().asleep.get(), "stopped while it slept");
        reached.note_if(reaping, "stopped while it reaped");
        if reaping && self.callers.get() > 1 {
            reached.note("stopped while it waited for the lock");
        }
        self.handoff.doorbell().stop();
    }
}

const DRAIN: Model = Model {
    name: "w4: drain",
    witnesses: &["stopped while it slept", "stopped while it reaped"],
    preemptions: Some(2),
};

/// The vCPU leaves on ring-full, dirties one page more and stops the reaper, whose timer may fire.
fn the_last_pass_follows_the_stop<W: SharedWord + 'static, P: ModelPark>(
    spawn: fn(&Reaping<W, P>) -> thread::JoinHandle<u64>,
    reached: &Reached,
) {
    let reaping = Rc::new(Reaping::<W, P>::new(2));
    let reaper = spawn(&reaping);
    let vcpu = thread::spawn({
        let (reaping, reached) = (Rc::clone(&reaping), reached.clone());
        move || {
            reaping.kvm.push();
            let chunk = RingFullMode::Chunk(1);
            let report = reaping.handoff.ring_full(0, chunk, 0).unwrap();
            assert!(report.settled);
            reaping.kvm.push();
            reaping.stop(&reached);
        }
    });
    let timer = thread::spawn({
        let park = reaping.park.clone();
        move || park.pass_time_until(1)
    });
    vcpu.join().unwrap();
    timer.join().unwrap();
    let ring_fulls = reaper.join().unwrap();
    assert_eq!(ring_fulls, 1, "a ring-full was not seen exactly once");
    let published = reaping.kvm.watch().published.get();
    assert_eq!(published, 2, "the last pass left a page behind");
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

const SEEN: Model = Model {
    name: "c5",
    witnesses: &["stopped while it slept", "stopped while it reaped"],
    preemptions: Some(3),
};

/// The vCPU leaves on ring-full and stops the reaper.
fn every_ring_full_is_seen<W: SharedWord + 'static>(reached: &Reached) {
    let reaping = Rc::new(Reaping::<W, LoomPark>::new(1));
    reaping.kvm.push();
    let reaper = reaping.spawn_reaper();
    let vcpu = thread::spawn({
        let (reaping, reached) = (Rc::clone(&reaping), reached.clone());
        move || {
            let chunk = RingFullMode::Chunk(1);
            assert!(reaping.handoff.ring_full(0, chunk, 0).unwrap().settled);
            reaping.stop(&reached);
        }
    });
    vcpu.join().unwrap();
    let ring_fulls = reaper.join().unwrap();
    assert_eq!(ring_fulls, 1, "a ring-full was not seen exactly once");
}

#[test]
fn c5_after_a_stop_every_ring_full_has_been_seen() {
    SEEN.explore(every_ring_full_is_seen::<LoomWord>);
}

#[test]
fn c5_negative_control_relaxed_load() {
    SEEN.must_fail(
        "not seen exactly once",
        every_ring_full_is_seen::<RelaxedLoadWord>,
    );
}

#[test]
fn w4_negative_control_relaxed_load_of_the_stop() {
    DRAIN.must_fail("left a page behind", |reached| {
        the_last_pass_follows_the_stop::<RelaxedLoadWord, LoomPark>(Reaping::spawn_reaper, reached);
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
        let reaping = Rc::new(Reaping::<LoomWord, LoomPark>::new(1));
        let reaper = reaping.spawn_reaper();
        let vcpu = thread::spawn({
            let reaping = Rc::clone(&reaping);
            move || {
                reaping.kvm.push();
                // So that the reaper comes for the lock as well.
                reaping.handoff.doorbell().kick();
                reaping.handoff.with(|collector| {
                    reaping.whereabouts.touch();
                    let chunk = RingFullMode::Chunk(1);
                    assert!(collector.ring_full(0, chunk, 0).unwrap().settled);
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
