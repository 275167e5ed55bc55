//! The real reaper machine, handoff and collector over a simulated VM, in virtual time.
//!
//! Whoever calls it plays the adversary: how late the reaper wakes, how long each part of its pass
//! takes, when the guests run.
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

use dirty_ring_core::collector::Collector;
use dirty_ring_core::controller::{
    Controller, Deadline, DeadlineConfig, Decision, Measurement, StateError,
};
use dirty_ring_core::doorbell::Wakes;
use dirty_ring_core::entry::EntryMemory;
use dirty_ring_core::handoff::Handoff;
use dirty_ring_core::reaper::{Action, Reaper};
use dirty_ring_core::ring::Ring;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::sync::{Lock, Park, Parked};

use crate::sim::{SimRing, SimVm};

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
    ran_us: u64,
    paced: u64,
    /// Pages logged so far at the end of each stretch, and when its first one came.
    stretches: VecDeque<(u64, u64)>,
}

impl Guest {
    /// Pages that an even pace makes of `us` microseconds.
    fn pace(&self, us: u64) -> u64 {
        (u128::from(us) * u128::from(self.rate_per_s) / US_PER_S) as u64
    }

    fn used(&self) -> u64 {
        self.ring.taken() + self.ring.occupancy() - self.ring.resets()
    }

    /// Runs for `us` microseconds from `begin_us` on; returns whether the ring got full.
    fn run(&mut self, begin_us: u64, us: u64) -> bool {
        let before = self.ran_us;
        self.ran_us += us;
        let target = self.pace(self.ran_us);
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
            let logged = self.ring.taken() + self.ring.occupancy();
            self.stretches.push_back((logged, begin_us + ran - before));
        }
        self.used() >= self.soft_limit
    }

    /// When the oldest page came that isn't reset.
    fn oldest_us(&mut self) -> Option<u64> {
        while self.stretches.front()?.0 <= self.ring.resets() {
            self.stretches.pop_front();
        }
        self.stretches.front().map(|stretch| stretch.1)
    }
}

/// The clock and the guests.
#[derive(Debug)]
struct World {
    now_us: Cell<u64>,
    guests: RefCell<Vec<Guest>>,
    /// When a ring was full first, and which.
    full: Cell<Option<(u64, usize)>>,
    /// The longest that a page waited for its reset.
    longest_wait_us: Cell<u64>,
    /// Between the last ring's look and the first harvest.
    look_us: Cell<u64>,
    during_look: RefCell<Vec<Activity>>,
    looks: Cell<usize>,
}

impl World {
    fn advance(&self, us: u64, activities: &[Activity]) {
        let now_us = self.now_us.get();
        for (at, guest) in self.guests.borrow_mut().iter_mut().enumerate() {
            let runs_us = match activities[at % activities.len()] {
                Activity::None => 0,
                Activity::Half => us / 2,
                Activity::All => us,
            };
            if guest.run(now_us, runs_us) && self.full.get().is_none() {
                self.full.set(Some((now_us, at)));
            }
        }
        self.now_us.set(now_us + us);
        self.note_waits();
    }

    fn note_waits(&self) {
        for guest in self.guests.borrow_mut().iter_mut() {
            let since = guest.oldest_us().unwrap_or(self.now_us.get());
            let waited = self.now_us.get().saturating_sub(since);
            let longest = self.longest_wait_us.get().max(waited);
            self.longest_wait_us.set(longest);
        }
    }

    fn looked(&self) {
        self.looks.set(self.looks.get() + 1);
        if self.looks.get() == self.guests.borrow().len() {
            self.advance(self.look_us.get(), &self.during_look.borrow());
        }
    }
}

/// A [`Deadline`] whose look takes time.
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
    fn on_wake(&mut self, now_us: u64, wakes: Wakes) {
        self.world.looks.set(0);
        self.inner.on_wake(now_us, wakes);
    }
    fn looks(&self) -> bool {
        self.inner.looks()
    }
    fn wants<M: EntryMemory>(&mut self, ring: &mut Ring<M>) -> bool {
        let wanted = self.inner.wants(ring);
        self.world.looked();
        wanted
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

/// A lock for one thread.
#[derive(Debug)]
struct OneThread<T>(RefCell<T>);

impl<T> Lock for OneThread<T> {
    type Guarded = T;
    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R {
        critical(&mut self.0.borrow_mut())
    }
}

/// Nobody sleeps: the caller moves the clock.
#[derive(Debug)]
struct Sleepless;

impl Park for Sleepless {
    fn park_until(&self, _deadline_us: u64) -> Parked {
        Parked::TimedOut
    }
    fn unpark(&self) {}
}

/// The longest latency, in microseconds, that can be assured for rings of `size` at `rate_per_s`, if
/// any can.
pub fn longest_latency_us(rate_per_s: u64, size: RingSize) -> Option<u64> {
    let accepted = |us: u64| {
        DeadlineConfig::STANDARD
            .assured(rate_per_s, us, size)
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
    accepted(good).then_some(good)
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
pub struct Turn {
    /// A kick comes after so many microseconds, if the wait isn't over by then.
    pub kick_after_us: Option<u64>,
    /// From the planned wake (or the kick) to the real one, from there to the look, from the look
    /// to the harvest, and from there to the reset, in microseconds.
    pub delays_us: [u64; 4],
    /// Whether the guests run during the wait, and during the pass: one for each in turn.
    pub waiting: Vec<Activity>,
    /// During the four delays.
    pub reacting: Vec<Activity>,
}

/// What can be told from outside when a pass is over: where it all goes on from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Outside {
    /// Until the planned wake, in microseconds.
    pub wait_us: u64,
    /// Of each ring: its occupancy, and how far the guest is from its next page.
    pub rings: Vec<(u64, u64)>,
}

type Shared<const BATCH: usize> = Handoff<OneThread<Collector<SimVm, BATCH>>, AtomicU32, Sleepless>;

/// The machine and its VM.
#[derive(Debug)]
pub struct Drive<const BATCH: usize> {
    world: Rc<World>,
    handoff: Shared<BATCH>,
    reaper: Reaper<Slow>,
    until_us: u64,
}

impl<const BATCH: usize> Drive<BATCH> {
    /// Starts the reaper at 0 over empty rings.
    pub fn new(setup: &Setup) -> Self {
        let (vm, kernel, _) = SimVm::new(&vec![setup.size; setup.rings]);
        let guest = |ring| Guest {
            ring,
            soft_limit: setup.size.soft_limit().into(),
            rate_per_s: setup.rate_per_s,
            working_set: u64::MAX,
            ran_us: 0,
            paced: 0,
            stretches: VecDeque::new(),
        };
        let world = Rc::new(World {
            now_us: Cell::new(0),
            guests: RefCell::new(kernel.into_iter().map(guest).collect()),
            full: Cell::new(None),
            longest_wait_us: Cell::new(0),
            look_us: Cell::new(0),
            during_look: RefCell::new(Vec::new()),
            looks: Cell::new(0),
        });
        let reaper = Reaper::new(Slow {
            inner: setup.deadline,
            world: Rc::clone(&world),
        });
        let mut drive = Self {
            world,
            handoff: Handoff::new(OneThread(RefCell::new(Collector::new(vm))), Sleepless),
            reaper,
            until_us: 0,
        };
        drive.until_us = match drive.reaper.start(0) {
            Action::Wait { until_us } => until_us,
            other => panic!("told {other:?} at the start"),
        };
        drive
    }

    /// From now on ring `ring` holds `pages` at most: its guest goes round in a working set.
    pub fn limit_working_set(&self, ring: usize, pages: u64) {
        self.world.guests.borrow_mut()[ring].working_set = pages;
    }

    /// One wait and one pass.
    ///
    /// # Panics
    /// Where the machine does something else.
    pub fn turn(&mut self, turn: &Turn) {
        let now_us = self.world.now_us.get();
        let kick_us = turn.kick_after_us.map(|after_us| now_us + after_us);
        let kick_us = kick_us.filter(|&kick_us| kick_us < self.until_us);
        let wake_us = kick_us.unwrap_or(self.until_us);
        let wakes = kick_us.map_or(Wakes::TIMER, |_| Wakes::KICK);
        let [late_us, before_look_us, look_us, before_reset_us] = turn.delays_us;
        self.world.advance(wake_us - now_us, &turn.waiting);
        self.world.advance(late_us, &turn.reacting);
        let mut action = self.reaper.on_wake(self.world.now_us.get(), wakes);
        self.world.advance(before_look_us, &turn.reacting);
        self.world.look_us.set(look_us);
        self.world
            .during_look
            .borrow_mut()
            .clone_from(&turn.reacting);
        let mut before_reset_us = Some(before_reset_us);
        loop {
            let now_us = self.world.now_us.get();
            action = match action {
                Action::Harvest { begin } => {
                    let harvest = self.reaper.harvest(&self.handoff, now_us, begin);
                    self.reaper.on_harvested(&harvest)
                }
                Action::Reset => {
                    let us = before_reset_us.take().unwrap_or(0);
                    self.world.advance(us, &turn.reacting);
                    let reset = self.handoff.reset().expect("a simulated reset");
                    self.world.note_waits();
                    self.reaper.on_reset(self.world.now_us.get(), &reset)
                }
                Action::Wait { until_us } => {
                    assert!(until_us > now_us, "no wait at all");
                    self.until_us = until_us;
                    return;
                }
                Action::Done => panic!("done without a stop"),
            };
        }
    }

    /// When a ring was full first, and which ring.
    pub fn full(&self) -> Option<(u64, usize)> {
        self.world.full.get()
    }

    /// The longest that a page has waited for its reset, in microseconds.
    pub fn longest_wait_us(&self) -> u64 {
        self.world.longest_wait_us.get()
    }

    /// Now, in microseconds.
    pub fn now_us(&self) -> u64 {
        self.world.now_us.get()
    }

    /// Until the planned wake, in microseconds.
    pub fn wait_us(&self) -> u64 {
        self.until_us - self.world.now_us.get()
    }

    /// Entries reset so far, all rings.
    pub fn resets(&self) -> u64 {
        let guests = self.world.guests.borrow();
        guests.iter().map(|guest| guest.ring.resets()).sum()
    }

    /// See [`Outside`].
    pub fn outside(&self) -> Outside {
        let phase = |guest: &Guest| {
            let done = u128::from(guest.ran_us) * u128::from(guest.rate_per_s);
            (done % US_PER_S) as u64
        };
        let guests = self.world.guests.borrow();
        Outside {
            wait_us: self.wait_us(),
            rings: guests
                .iter()
                .map(|guest| (guest.used(), phase(guest)))
                .collect(),
        }
    }
}
