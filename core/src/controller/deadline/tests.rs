//! What the documentation of [`Deadline`] says, held to it: on rings in cells, in virtual time.

mod config;
mod extremes;
mod looks;
mod settled;
mod surprises;

use std::vec::Vec;

use core::sync::atomic::AtomicU32;

use super::*;
use crate::collector::{Backend, Collector, RingFullMode};
use crate::handoff::Handoff;
use crate::reaper::{Action, Reaper};
use crate::testing::{Bed, Cells, Kvm, OneThread, page, ring_size};

/// Soft limit 4032.
const SIZE: RingSize = ring_size(4096);
const SOFT_LIMIT: u32 = SIZE.soft_limit();
const SECOND_US: u64 = 1_000_000;

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

const STEP_US: u64 = 50;

type Shared<'b> = Handoff<OneThread<Collector<Kvm, 4096>>, AtomicU32, &'b Bed>;

/// A VM of which the test is the guests, the clock and the reaper's driver.
struct Vm<'b> {
    shared: Shared<'b>,
    reaper: Reaper<Deadline>,
    vcpus: Vec<Vcpu>,
    now_us: u64,
    until_us: u64,
    wakes: u32,
    /// Entries that the last pass took from each ring.
    last_taken: Vec<u64>,
}

impl<'b> Vm<'b> {
    fn new(bed: &'b Bed, rings: usize, config: DeadlineConfig) -> Self {
        let vcpu = Vcpu {
            load: Load::Idle,
            owed: 0,
            next: 0,
        };
        let collector = Collector::new(Kvm::new(rings, SIZE));
        let mut vm = Self {
            shared: Handoff::new(OneThread::new(collector), bed),
            reaper: Reaper::new(Deadline::new(config, SIZE)),
            vcpus: std::vec![vcpu; rings],
            now_us: 0,
            until_us: 0,
            wakes: 0,
            last_taken: std::vec![0; rings],
        };
        let action = vm.reaper.start(0);
        vm.sleep(action);
        vm
    }

    fn standard(bed: &'b Bed, rings: usize) -> Self {
        Self::new(bed, rings, DeadlineConfig::STANDARD)
    }

    fn sleep(&mut self, action: Action) {
        match action {
            Action::Wait { until_us } => self.until_us = until_us,
            other => panic!("told {other:?} instead of a wait"),
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

    /// Lets `us` microseconds pass, wakes and ring-fulls included.
    fn run(&mut self, us: u64) {
        let end_us = self.now_us + us;
        while self.now_us < end_us {
            if (0..self.vcpus.len()).all(|vcpu| self.is_at_rest(vcpu)) {
                // Nothing changes before the next wake.
                self.now_us = self.until_us.clamp(self.now_us, end_us);
            } else {
                self.now_us += STEP_US;
                (0..self.vcpus.len()).for_each(|vcpu| self.step(vcpu));
            }
            if self.now_us >= self.until_us {
                self.wake(Wakes::TIMER);
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
        self.vcpus[vcpu].owed += rate * STEP_US;
        while self.vcpus[vcpu].owed >= US_PER_S {
            let occupancy = self.occupancy(vcpu);
            if u64::from(occupancy) >= set {
                self.vcpus[vcpu].owed = 0;
                return;
            }
            // Batches, so that the occupancy isn't searched for each page.
            let room = u64::from(SOFT_LIMIT - occupancy).min(set - u64::from(occupancy));
            let pages = room.min(self.vcpus[vcpu].owed / US_PER_S);
            for _ in 0..pages {
                let offset = self.vcpus[vcpu].next % set;
                self.vcpus[vcpu].next += 1;
                self.ring(vcpu, |ring| ring.memory().log(page(offset)));
            }
            self.vcpus[vcpu].owed -= pages * US_PER_S;
            if self.occupancy(vcpu) >= SOFT_LIMIT {
                let mode = RingFullMode::default();
                let _ = self.shared.ring_full(vcpu, mode, self.now_us).unwrap();
                self.wake(Wakes::RING_FULL);
            }
        }
    }

    /// One pass, which takes no time; returns its reasons.
    fn wake(&mut self, wakes: Wakes) -> Reasons {
        self.wakes += 1;
        let before = self.harvested();
        let mut action = self.reaper.on_wake(self.now_us, wakes);
        while !matches!(action, Action::Wait { .. }) {
            action = match action {
                Action::Harvest { begin } => {
                    let harvest = self.reaper.harvest(&self.shared, self.now_us, begin);
                    self.reaper.on_harvested(&harvest)
                }
                Action::Reset => {
                    let reset = self.shared.reset().unwrap();
                    self.reaper.on_reset(self.now_us, &reset)
                }
                other => panic!("told {other:?}"),
            };
        }
        self.sleep(action);
        let after = self.harvested();
        self.last_taken = after.iter().zip(before).map(|(a, b)| a - b).collect();
        self.reaper.last_step().unwrap().decision.reasons
    }

    fn harvested(&self) -> Vec<u64> {
        (0..self.vcpus.len())
            .map(|ring| self.ring(ring, |ring| ring.stats().harvested))
            .collect()
    }

    /// Wakes in the next `us` microseconds.
    fn wakes_in(&mut self, us: u64) -> u32 {
        let before = self.wakes;
        self.run(us);
        self.wakes - before
    }
}
