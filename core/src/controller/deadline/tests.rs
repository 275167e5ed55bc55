//! What the documentation of [`Deadline`] says, held to it: on rings in cells, in virtual time.

mod assured;
mod config;
mod extremes;
mod freshness;
mod looks;
mod settled;
mod surprises;

use core::sync::atomic::AtomicU32;
use std::vec::Vec;

use super::*;
use crate::backend::Backend;
use crate::collector::{Collector, RingFullMode};
use crate::planner::{PassRecord, Planner};
use crate::reaper::{Reaper, Turn};
use crate::ring::Ring;
use crate::shared::SharedCollector;
use crate::testing::{Bed, Cells, Kvm, OneThread, page, ring_size};

/// Soft limit 4032.
const SIZE: RingSize = ring_size(4096);
const SOFT_LIMIT: u32 = SIZE.soft_limit();
const SECOND: Micros = Micros::SECOND;
const STANDARD: DeadlineConfig = DeadlineConfig::STANDARD;

/// How a vCPU dirties pages, from an instant on.
#[derive(Clone, Copy, Debug)]
enum Load {
    Idle,
    /// Ever new pages, so many per second.
    Stream(u64),
    /// So many pages over and over, faults at so many per second: a page that is in the ring
    /// already costs nothing and comes again only after its reset.
    RoundRobin(u64, u64),
}

/// A vCPU in steps of 50 us.
#[derive(Clone, Debug)]
struct Vcpu {
    load: Load,
    /// Faults that it is owed, in millionths.
    owed: u64,
    /// The next page.
    next: u64,
}

const STEP: Micros = Micros(50);

type Shared<'b> = SharedCollector<OneThread<Collector<Kvm, 4096>>, AtomicU32, &'b Bed>;

/// A VM of which the test is the guests, the clock and the reaper's thread.
struct Vm<'b> {
    shared: Shared<'b>,
    reaper: Reaper<Deadline>,
    vcpus: Vec<Vcpu>,
    now: Instant,
    until: Instant,
    wakes: u32,
    /// Entries that the last pass took from each ring.
    last_taken: Vec<u64>,
}

impl<'b> Vm<'b> {
    fn new(bed: &'b Bed, rings: usize, config: DeadlineConfig) -> Self {
        Self::sized(bed, rings, config, SIZE)
    }

    fn sized(bed: &'b Bed, rings: usize, config: DeadlineConfig, size: RingSize) -> Self {
        let vcpu = Vcpu {
            load: Load::Idle,
            owed: 0,
            next: 0,
        };
        let collector = Collector::new(Kvm::new(rings, size));
        let mut vm = Self {
            shared: SharedCollector::new(OneThread::new(collector), bed),
            reaper: Reaper::new(Planner::new(Deadline::new(config, size))),
            vcpus: std::vec![vcpu; rings],
            now: Instant(0),
            until: Instant(0),
            wakes: 0,
            last_taken: std::vec![0; rings],
        };
        vm.turns();
        vm
    }

    fn standard(bed: &'b Bed, rings: usize) -> Self {
        Self::new(bed, rings, STANDARD)
    }

    /// Lets the reaper do all that it has to do, in no time.
    fn turns(&mut self) {
        loop {
            match self.reaper.turn(&self.shared, self.now).unwrap() {
                Turn::Again => {}
                Turn::Wait { until } => {
                    self.until = until;
                    return;
                }
                Turn::Done => panic!("it was never stopped"),
            }
        }
    }

    fn ring<R>(&self, ring: usize, look: impl FnOnce(&mut Ring<Cells>) -> R) -> R {
        self.shared
            .with(|collector| look(&mut collector.backend_mut().rings_mut()[ring]))
    }

    fn occupancy(&self, ring: usize) -> u32 {
        self.ring(ring, |ring| ring.occupancy())
    }

    fn ring_fulls(&self, ring: usize) -> u64 {
        self.ring(ring, |ring| ring.stats().ring_fulls)
    }

    fn loads(&self, ring: usize) -> u32 {
        self.ring(ring, |ring| ring.memory().loads())
    }

    fn log(&self, ring: usize, pages: u64) {
        self.ring(ring, |ring| ring.memory().log_pages(0..pages));
    }

    fn deadline(&self) -> &Deadline {
        self.reaper.planner().controller()
    }

    fn last_pass(&self) -> PassRecord {
        *self.reaper.planner().last_pass().unwrap()
    }

    fn reasons(&self) -> Reasons {
        self.last_pass().decision.reasons
    }

    /// Lets `length` pass, wakes and ring-fulls included.
    fn run(&mut self, length: Micros) {
        let end = self.now + length;
        while self.now < end {
            if (0..self.vcpus.len()).all(|vcpu| self.is_at_rest(vcpu)) {
                // Nothing changes before the next wake.
                self.now = self.until.clamp(self.now, end);
            } else {
                self.now = self.now + STEP;
                (0..self.vcpus.len()).for_each(|vcpu| self.step(vcpu));
            }
            if self.now >= self.until {
                self.wake();
            }
        }
    }

    /// It dirties nothing, or nothing that isn't in its ring already.
    fn is_at_rest(&self, vcpu: usize) -> bool {
        match self.vcpus[vcpu].load {
            Load::Idle => true,
            Load::Stream(_) => false,
            Load::RoundRobin(set, _) => u64::from(self.occupancy(vcpu)) >= set,
        }
    }

    fn step(&mut self, vcpu: usize) {
        let (rate, set) = match self.vcpus[vcpu].load {
            Load::Idle => return,
            Load::Stream(rate) => (rate, u64::MAX),
            Load::RoundRobin(set, rate) => (rate, set),
        };
        let soft_limit = self.ring(vcpu, |ring| ring.size().soft_limit());
        self.vcpus[vcpu].owed += rate * STEP.0;
        while self.vcpus[vcpu].owed >= SECOND.0 {
            let occupancy = self.occupancy(vcpu);
            if u64::from(occupancy) >= set {
                self.vcpus[vcpu].owed = 0;
                return;
            }
            // Batches, so that the occupancy isn't searched for each page.
            let room = u64::from(soft_limit - occupancy).min(set - u64::from(occupancy));
            let pages = room.min(self.vcpus[vcpu].owed / SECOND.0);
            for _ in 0..pages {
                let offset = self.vcpus[vcpu].next % set;
                self.vcpus[vcpu].next += 1;
                self.ring(vcpu, |ring| ring.memory().log(page(offset)));
            }
            self.vcpus[vcpu].owed -= pages * SECOND.0;
            if self.occupancy(vcpu) >= soft_limit {
                self.ring_full(vcpu);
            }
        }
    }

    /// The vCPU of `ring` leaves guest mode on its full ring.
    fn ring_full(&mut self, ring: usize) {
        let mode = RingFullMode::default();
        self.shared.ring_full(ring, mode, self.now).unwrap();
        self.wake();
    }

    /// A pass, if it is time for one or the doorbell rang.
    fn wake(&mut self) {
        let (passes, before) = (self.reaper.planner().passes(), self.harvested());
        self.turns();
        self.wakes += u32::from(self.reaper.planner().passes() != passes);
        let after = self.harvested();
        self.last_taken = after.iter().zip(before).map(|(a, b)| a - b).collect();
    }

    /// A pass at `now` that was asked for all pages; returns its reasons.
    fn kick(&mut self, now: Instant) -> Reasons {
        self.now = now;
        self.shared.doorbell().kick();
        self.wake();
        self.reasons()
    }

    /// A pass at `now` that wants nothing of any ring in particular; returns its reasons.
    fn pass(&mut self, now: Instant) -> Reasons {
        self.now = now;
        self.shared.doorbell().ring_full();
        self.wake();
        self.reasons()
    }

    fn harvested(&self) -> Vec<u64> {
        (0..self.vcpus.len())
            .map(|ring| self.ring(ring, |ring| ring.stats().harvested))
            .collect()
    }

    /// Wakes in the next `length`.
    fn wakes_in(&mut self, length: Micros) -> u32 {
        let before = self.wakes;
        self.run(length);
        self.wakes - before
    }

    /// Ring-fulls of all rings in the next `length`.
    fn ring_fulls_in(&mut self, length: Micros) -> u64 {
        let all = |vm: &Self| {
            (0..vm.vcpus.len())
                .map(|ring| vm.ring_fulls(ring))
                .sum::<u64>()
        };
        let before = all(self);
        self.run(length);
        all(self) - before
    }
}
