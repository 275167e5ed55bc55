//! The shipped turns over a simulated VM, whatever happens between them: each does one thing under
//! at most one hold of the lock, a kick brings out every page that was there, and a stop ends the
//! reaper with empty rings.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::AtomicU32;

use dirty_ring_core::collector::{Collector, RingFullMode};
use dirty_ring_core::controller::{Controller, Deadline, DeadlineConfig, Fixed};
use dirty_ring_core::planner::{Phase, Planner};
use dirty_ring_core::reaper::{Reaper, Turn};
use dirty_ring_core::shared::SharedCollector;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::sync::{Lock, Park, Parked};
use dirty_ring_core::time::{Instant, Micros};
use dirty_ring_verification::sim::{SimRing, SimVm};
use proptest::collection::vec;
use proptest::prelude::*;

const RINGS: usize = 3;
const BATCH: usize = 50;
/// Far more than any series needs.
const MOST_TURNS: usize = 2_000;

const SIZE: RingSize = match RingSize::new(128, 16, 0) {
    Ok(size) => size,
    Err(_) => panic!("a small page makes a small ring legal"),
};

/// A lock for one thread that counts how often it was taken.
#[derive(Debug)]
struct Counted<T> {
    guarded: RefCell<T>,
    holds: Rc<Cell<u32>>,
}

impl<T> Lock for Counted<T> {
    type Guarded = T;
    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R {
        self.holds.set(self.holds.get() + 1);
        critical(&mut self.guarded.borrow_mut())
    }
}

/// A place where no thread sleeps: the caller moves the clock.
#[derive(Debug)]
struct Sleepless;

impl Park for Sleepless {
    fn park_until(&self, _until: Instant) -> Parked {
        Parked::TimedOut
    }
    fn unpark(&self) {}
}

#[derive(Clone, Debug)]
enum Op {
    Push {
        ring: usize,
        pages: u32,
    },
    PushGarbage {
        ring: usize,
    },
    ShortenResets(Vec<u32>),
    Wait(Micros),
    Kick,
    RingFull(usize),
    /// So many turns, or fewer if the reaper waits.
    Turns(u32),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0..RINGS, 0u32..150).prop_map(|(ring, pages)| Op::Push { ring, pages }),
        1 => (0..RINGS).prop_map(|ring| Op::PushGarbage { ring }),
        1 => vec(0u32..40, 1..12).prop_map(Op::ShortenResets),
        3 => (0u64..2_000).prop_map(|us| Op::Wait(Micros(us))),
        2 => Just(Op::Kick),
        2 => (0..RINGS).prop_map(Op::RingFull),
        6 => (1u32..6).prop_map(Op::Turns),
    ];
    vec(op, 0..60)
}

type Shared = SharedCollector<Counted<Collector<SimVm, BATCH>>, AtomicU32, Sleepless>;

struct World<C: Controller> {
    shared: Shared,
    reaper: Reaper<C>,
    kernel: Vec<Rc<SimRing>>,
    holds: Rc<Cell<u32>>,
    now: Instant,
    kicks: u64,
    /// Entries pushed at the last kick, by ring, until the reaper has brought them out.
    asked_for: Option<Vec<u64>>,
}

impl<C: Controller> World<C> {
    fn new(controller: C) -> Self {
        let (vm, kernel, _) = SimVm::new(&[SIZE; RINGS]);
        let holds = Rc::new(Cell::new(0));
        let collector = Counted {
            guarded: RefCell::new(Collector::new(vm)),
            holds: Rc::clone(&holds),
        };
        Self {
            shared: SharedCollector::new(collector, Sleepless),
            reaper: Reaper::new(Planner::new(controller)),
            kernel,
            holds,
            now: Instant(0),
            kicks: 0,
            asked_for: None,
        }
    }

    fn pushed(&self) -> Vec<u64> {
        let pushed = |ring: &Rc<SimRing>| ring.taken() + ring.occupancy();
        self.kernel.iter().map(pushed).collect()
    }

    fn taken(&self) -> u64 {
        self.kernel.iter().map(|ring| ring.taken()).sum()
    }

    fn published(&self) -> u64 {
        let published = |collector: &mut Collector<SimVm, BATCH>| collector.totals().published;
        self.shared.with(published)
    }

    /// Takes a turn and checks that it does one thing.
    fn turn(&mut self) -> Turn {
        let planner = self.reaper.planner();
        let (was_reaping, passes) = (planner.phase() == Phase::Reaping, planner.passes());
        let taken = self.taken();
        let published = self.published();
        self.holds.set(0);
        let turn = self.reaper.turn(&self.shared, self.now);
        let turn = turn.expect("no reset fails");
        let holds = self.holds.get();
        let taken = self.taken() - taken;
        let published = self.published() - published;
        assert_eq!(holds, u32::from(was_reaping), "holds of the lock");
        assert!(published <= BATCH as u64, "more than a batch in one turn");
        if !was_reaping || self.reaper.planner().passes() != passes {
            assert_eq!(
                (taken, published),
                (0, 0),
                "this turn was to do something else"
            );
        }
        if matches!(turn, Turn::Wait { .. }) {
            self.check_asked_for();
        }
        turn
    }

    /// Checks that a reaper that waits has dealt with all kicks.
    fn check_asked_for(&mut self) {
        for (ring, pushed) in self.asked_for.take().into_iter().flatten().enumerate() {
            assert!(
                self.kernel[ring].resets() >= pushed,
                "a kick left a page behind"
            );
        }
        assert_eq!(self.reaper.seen().kicks(), self.kicks);
    }

    fn apply(&mut self, op: &Op) {
        match op {
            &Op::Push { ring, pages } => {
                let _ = (0..pages).all(|_| self.kernel[ring].push(true));
            }
            &Op::PushGarbage { ring } => {
                self.kernel[ring].push(false);
            }
            Op::ShortenResets(limits) => self.shared.with(|collector| {
                collector
                    .backend_mut()
                    .shorten_resets(limits.iter().copied());
            }),
            &Op::Wait(length) => self.now = self.now + length,
            Op::Kick => {
                self.shared.doorbell().kick();
                self.kicks += 1;
                self.asked_for = Some(self.pushed());
            }
            &Op::RingFull(ring) => {
                // It may be an overrun: the guests here push whenever they like.
                let _ = self
                    .shared
                    .ring_full(ring, RingFullMode::Chunk(20), self.now);
            }
            &Op::Turns(turns) => {
                let _ = (0..turns).all(|_| self.turn() == Turn::Again);
            }
        }
    }

    /// Stops the reaper and takes turns until it is done.
    fn finish(&mut self) {
        self.shared.doorbell().stop();
        // Harmless: see W5.
        self.shared.doorbell().kick();
        self.kicks += 1;
        let mut turns = 0;
        loop {
            match self.turn() {
                Turn::Again => turns += 1,
                Turn::Wait { .. } => panic!("it waits although it was stopped"),
                Turn::Done => break,
            }
            assert!(turns < MOST_TURNS, "it never ends");
            self.now = self.now + Micros(1);
        }
        self.check_asked_for();
        for ring in &self.kernel {
            assert_eq!(ring.occupancy(), 0, "the last pass left a page behind");
            assert_eq!(ring.resets(), ring.taken());
        }
        let last = *self.reaper.planner().last_pass().expect("the final drain");
        self.shared.doorbell().kick();
        assert_eq!(self.turn(), Turn::Done, "done is done");
        assert_eq!(self.reaper.planner().last_pass(), Some(&last));
    }
}

fn run<C: Controller>(controller: C, ops: &[Op]) {
    let mut world = World::new(controller);
    ops.iter().for_each(|op| world.apply(op));
    world.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_reaper_with_a_fixed_interval_takes_short_turns_and_ends_with_empty_rings(ops in ops()) {
        run(Fixed::new(Micros(500)).unwrap(), &ops);
    }

    #[test]
    fn a_reaper_with_deadlines_takes_short_turns_and_ends_with_empty_rings(ops in ops()) {
        run(Deadline::new(DeadlineConfig::STANDARD, SIZE), &ops);
    }
}
