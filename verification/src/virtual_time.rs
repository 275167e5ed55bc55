//! The shipped reaper over a simulated VM, in virtual time.
//!
//! The caller plays the adversary: it decides how late the reaper wakes, how long each part of its
//! pass takes, and when the guests run.
//!
//! # The bounds, to the page and the microsecond
//!
//! Times are whole microseconds; what a guest does until an instant comes before what the reaper
//! does at that instant. A guest *fills at most at `r`* if between any two instants `t1 < t2` it
//! logs at most `ceil(r * (t2 - t1))` pages: one that is evenly paced while it runs, and stands
//! still at any time. A pass *is over in time* if that is at most `latency` after the planned wake
//! or, if a kick came first, after the kick.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::AtomicU32;

use dirty_ring_core::backend::{Backend, Reset};
use dirty_ring_core::collector::{Collector, PassRings};
use dirty_ring_core::controller::{
    Controller, Deadline, DeadlineConfig, Decision, Measurement, StateError,
};
use dirty_ring_core::entry::{DirtyGfn, EntryMemory};
use dirty_ring_core::planner::Planner;
use dirty_ring_core::reaper::{Reaper, Turn};
use dirty_ring_core::ring::Ring;
use dirty_ring_core::shared::SharedCollector;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::sync::{Lock, Park, Parked};
use dirty_ring_core::time::{Instant, Micros};

use crate::sim::{SimMemory, SimRing, SimVm};

const US_PER_S: u128 = 1_000_000;

/// How much of a stretch of time a guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Not at all.
    None,
    /// The first half of it.
    Half,
    /// All the time.
    All,
}

/// One vCPU and its ring.
#[derive(Debug)]
struct Guest {
    ring: Rc<SimRing>,
    soft_limit: u64,
    rate_per_s: u64,
    /// Pages that it goes on with at most before the ring is reset.
    working_set: u64,
    ran: Micros,
    paced: u64,
    /// Pages logged so far at the end of each stretch, and when its first one came.
    stretches: VecDeque<(u64, Instant)>,
}

impl Guest {
    /// Returns the pages that an even pace makes of the time that it ran.
    fn pace(&self) -> u64 {
        (u128::from(self.ran.0) * u128::from(self.rate_per_s) / US_PER_S) as u64
    }

    fn logged(&self) -> u64 {
        self.ring.taken() + self.ring.occupancy()
    }

    fn used(&self) -> u64 {
        self.logged() - self.ring.resets()
    }

    /// Runs for `length` from `begin` on; returns whether the ring got full.
    fn run(&mut self, begin: Instant, length: Micros) -> bool {
        let before = self.ran;
        self.ran = before + length;
        let target = self.pace();
        let mut first = None;
        while self.paced < target {
            if self.used() >= self.soft_limit {
                return true;
            }
            self.paced += 1;
            if self.used() < self.working_set {
                first = first.or(Some(self.paced));
                assert!(self.ring.push(true), "no entry is free below the limit");
            }
        }
        if let Some(page) = first {
            // The first instant at which the pace has come to that page.
            let ran = (u128::from(page) * US_PER_S).div_ceil(self.rate_per_s.into()) as u64;
            self.stretches
                .push_back((self.logged(), begin + (Micros(ran) - before)));
        }
        self.used() >= self.soft_limit
    }

    /// Returns when the oldest page that isn't reset came.
    fn oldest(&mut self) -> Option<Instant> {
        while self.stretches.front()?.0 <= self.ring.resets() {
            self.stretches.pop_front();
        }
        self.stretches.front().map(|stretch| stretch.1)
    }
}

/// The clock and the guests.
#[derive(Debug)]
struct World {
    now: Cell<Instant>,
    guests: RefCell<Vec<Guest>>,
    /// When a ring was full first, and which.
    full: Cell<Option<(Instant, usize)>>,
    /// The longest that a page waited for its reset.
    longest_wait: Cell<Micros>,
    /// What the guests do while the reaper reacts.
    reacting: RefCell<Vec<Activity>>,
    /// Delays that the present pass has still before it: from the plan to the first harvest, and
    /// from there to the reset.
    after_plan: Cell<Micros>,
    before_reset: Cell<Micros>,
}

impl World {
    fn advance(&self, length: Micros, activities: &[Activity]) {
        let now = self.now.get();
        for (at, guest) in self.guests.borrow_mut().iter_mut().enumerate() {
            let runs = match activities[at % activities.len()] {
                Activity::None => Micros::ZERO,
                Activity::Half => length / 2,
                Activity::All => length,
            };
            if guest.run(now, runs) && self.full.get().is_none() {
                self.full.set(Some((now, at)));
            }
        }
        self.now.set(now + length);
        self.note_waits();
    }

    /// Lets `length` pass while the reaper reacts.
    fn react(&self, length: Micros) {
        self.advance(length, &self.reacting.borrow());
    }

    fn note_waits(&self) {
        for guest in self.guests.borrow_mut().iter_mut() {
            let since = guest.oldest().unwrap_or(self.now.get());
            let waited = self.now.get() - since;
            self.longest_wait.set(self.longest_wait.get().max(waited));
        }
    }
}

/// A [`Deadline`] whose plan takes time: it passes between the looks and the first harvest.
#[derive(Clone, Debug)]
struct Slow {
    inner: Deadline,
    world: Rc<World>,
}

impl Controller for Slow {
    type State = <Deadline as Controller>::State;

    fn current(&self) -> Decision {
        self.inner.current()
    }
    fn plan<M: EntryMemory>(&mut self, now: Instant, rings: &mut PassRings<'_, M>) {
        self.inner.plan(now, rings);
        self.world.react(self.world.after_plan.take());
    }
    fn on_reaped(&mut self, measurement: &Measurement) -> Decision {
        self.inner.on_reaped(measurement)
    }
    fn state(&self) -> Self::State {
        self.inner.state()
    }
    fn restore(&mut self, state: &Self::State) -> Result<(), StateError> {
        self.inner.restore(state)
    }
}

/// A [`SimVm`] whose reset takes time: it passes before the reset.
#[derive(Debug)]
struct SlowVm {
    inner: SimVm,
    world: Rc<World>,
}

impl Backend for SlowVm {
    type Memory = SimMemory;
    type Error = ();

    fn rings(&self) -> &[Ring<SimMemory>] {
        self.inner.rings()
    }
    fn rings_mut(&mut self) -> &mut [Ring<SimMemory>] {
        self.inner.rings_mut()
    }
    fn is_registered(&self, gfn: &DirtyGfn) -> bool {
        self.inner.is_registered(gfn)
    }
    fn reject(&mut self, ring: usize, gfn: &DirtyGfn) {
        self.inner.reject(ring, gfn);
    }
    fn reset(&mut self) -> Result<Reset, ()> {
        self.world.react(self.world.before_reset.take());
        let entries = self.inner.reset();
        self.world.note_waits();
        entries
    }
    fn publish_all(&mut self) -> Result<(), ()> {
        self.inner.publish_all()
    }
    fn publish(&mut self, pages: &[DirtyGfn]) -> Result<(), ()> {
        self.inner.publish(pages)
    }
}

/// A lock for one thread.
#[derive(Debug)]
struct OneThread<T>(RefCell<T>);

impl<T> Lock for OneThread<T> {
    type Guarded = T;
    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R {
        critical(&mut self.0.borrow_mut())
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

/// Returns the longest latency that can be assured for rings of `size` at `rate_per_s`, if any can.
pub fn longest_latency(rate_per_s: u64, size: RingSize) -> Option<Micros> {
    let accepted = |us: u64| {
        DeadlineConfig::STANDARD
            .assured(rate_per_s, Micros(us), size)
            .is_ok()
    };
    let (mut good, mut bad) = (0, 1 << 40);
    while bad - good > 1 {
        let middle = u64::midpoint(good, bad);
        *(if accepted(middle) {
            &mut good
        } else {
            &mut bad
        }) = middle;
    }
    accepted(good).then_some(Micros(good))
}

/// What a VM is made of.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The controller.
    pub deadline: Deadline,
    /// The size of each ring.
    pub size: RingSize,
    /// How many there are.
    pub rings: usize,
    /// The pace of a running guest, in pages per second.
    pub rate_per_s: u64,
}

/// What the adversary does from the end of one pass to that of the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    /// A kick comes after this time, if the wait isn't over by then.
    pub kick_after: Option<Micros>,
    /// From the planned wake (or the kick) to the real one, from there to the look, from the plan
    /// to the harvest, from there to the reset, and from there to the reaper's next turn, which is
    /// the next batch or the end of the pass.
    pub delays: [Micros; 5],
    /// Whether the guests run during the wait: one for each in turn.
    pub waiting: Vec<Activity>,
    /// Whether they run during the five delays.
    pub reacting: Vec<Activity>,
}

/// What can be told from outside when a pass is over: where it all goes on from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Outside {
    /// Until the planned wake.
    pub wait: Micros,
    /// Of each ring: its occupancy, and how far the guest is from its next page.
    pub rings: Vec<(u64, u64)>,
}

type Shared<const BATCH: usize> =
    SharedCollector<OneThread<Collector<SlowVm, BATCH>>, AtomicU32, Sleepless>;

/// The reaper and its VM.
#[derive(Debug)]
pub struct Drive<const BATCH: usize> {
    world: Rc<World>,
    shared: Shared<BATCH>,
    reaper: Reaper<Slow>,
    until: Instant,
}

impl<const BATCH: usize> Drive<BATCH> {
    /// Starts the reaper at 0 over empty rings.
    ///
    /// # Panics
    /// Where it doesn't wait.
    pub fn new(setup: &Setup) -> Self {
        let (vm, kernel, _) = SimVm::new(&vec![setup.size; setup.rings]);
        let guest = |ring| Guest {
            ring,
            soft_limit: setup.size.soft_limit().into(),
            rate_per_s: setup.rate_per_s,
            working_set: u64::MAX,
            ran: Micros::ZERO,
            paced: 0,
            stretches: VecDeque::new(),
        };
        let world = Rc::new(World {
            now: Cell::new(Instant(0)),
            guests: RefCell::new(kernel.into_iter().map(guest).collect()),
            full: Cell::new(None),
            longest_wait: Cell::new(Micros::ZERO),
            reacting: RefCell::new(vec![Activity::None]),
            after_plan: Cell::new(Micros::ZERO),
            before_reset: Cell::new(Micros::ZERO),
        });
        let collector = Collector::new(SlowVm {
            inner: vm,
            world: Rc::clone(&world),
        });
        let controller = Slow {
            inner: setup.deadline,
            world: Rc::clone(&world),
        };
        let mut drive = Self {
            world,
            shared: SharedCollector::new(OneThread(RefCell::new(collector)), Sleepless),
            reaper: Reaper::new(Planner::new(controller)),
            until: Instant(0),
        };
        match drive.turn() {
            Turn::Wait { until } => drive.until = until,
            other => panic!("told {other:?} at the start"),
        }
        drive
    }

    /// Limits ring `ring` to `pages` from now on: its guest goes round in a working set.
    pub fn limit_working_set(&self, ring: usize, pages: u64) {
        self.world.guests.borrow_mut()[ring].working_set = pages;
    }

    fn turn(&mut self) -> Turn {
        let now = self.world.now.get();
        let turn = self.reaper.turn(&self.shared, now);
        turn.expect("the simulated resets don't fail")
    }

    /// Lets one wait and one pass go by.
    ///
    /// # Panics
    /// Where the reaper does something else.
    pub fn round(&mut self, round: &Round) {
        let now = self.world.now.get();
        let kick = round.kick_after.map(|after| now + after);
        let kick = kick.filter(|&kick| kick < self.until);
        let wake = kick.unwrap_or(self.until);
        let [late, before_look, after_plan, before_reset, before_turn] = round.delays;
        self.world.advance(wake - now, &round.waiting);
        if kick.is_some() {
            self.shared.doorbell().kick();
        }
        self.world.reacting.borrow_mut().clone_from(&round.reacting);
        self.world.react(late);
        assert_eq!(self.turn(), Turn::Again, "it doesn't wake");
        self.world.react(before_look);
        self.world.after_plan.set(after_plan);
        self.world.before_reset.set(before_reset);
        assert_eq!(self.turn(), Turn::Again, "a pass is over without its end");
        // Nothing was harvested, so there was no reset to wait for.
        self.world.react(self.world.before_reset.take());
        self.world.react(before_turn);
        loop {
            match self.turn() {
                Turn::Again => {}
                Turn::Wait { until } => {
                    assert!(until > self.world.now.get(), "no wait at all");
                    self.until = until;
                    return;
                }
                Turn::Done => panic!("done without a stop"),
            }
        }
    }

    /// Returns when a ring was full first, and which ring.
    pub fn full(&self) -> Option<(Instant, usize)> {
        self.world.full.get()
    }

    /// Returns the longest that a page has waited for its reset.
    pub fn longest_wait(&self) -> Micros {
        self.world.longest_wait.get()
    }

    /// Returns the time.
    pub fn now(&self) -> Instant {
        self.world.now.get()
    }

    /// Returns the entries reset so far, all rings.
    pub fn resets(&self) -> u64 {
        let guests = self.world.guests.borrow();
        guests.iter().map(|guest| guest.ring.resets()).sum()
    }

    /// Returns what can be told from outside.
    pub fn outside(&self) -> Outside {
        let phase = |guest: &Guest| {
            let done = u128::from(guest.ran.0) * u128::from(guest.rate_per_s);
            (done % US_PER_S) as u64
        };
        let guests = self.world.guests.borrow();
        Outside {
            wait: self.until - self.world.now.get(),
            rings: guests
                .iter()
                .map(|guest| (guest.used(), phase(guest)))
                .collect(),
        }
    }
}
