//! The discrete-event simulation: the reaper and the vCPUs take turns in virtual time.

use core::convert::Infallible;
use std::sync::atomic::AtomicU32;

use dirty_ring_core::collector::{CollectError, Collector, RingFullMode};
use dirty_ring_core::controller::{Controller, Policy};
use dirty_ring_core::planner::{PassRecord, Planner};
use dirty_ring_core::reaper::{Reaper, Turn};
use dirty_ring_core::shared::SharedCollector;
use dirty_ring_core::time::Instant;
use thiserror::Error;

use crate::config::{ConfigError, SimConfig};
use crate::cost::{CostModel, PS_PER_NS, PS_PER_US, ps};
use crate::faults::{Dice, Faults, Stream};
use crate::report::{SimReport, Tally};
use crate::sync::{Alone, VirtualPark};
use crate::vm::{VcpuState, Vm};

/// Why a simulation didn't complete.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SimError {
    /// The configuration was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A vCPU overran its ring.
    #[error("the simulation ended after {at_us} us")]
    Overrun {
        /// The vCPU's index.
        vcpu: usize,
        /// When it was noticed, in microseconds of virtual time.
        at_us: u64,
        /// What the collector said.
        source: CollectError<Infallible>,
    },
    /// The collector can't go on.
    #[error("the simulation ended after {at_us} us")]
    Collect {
        /// When, in microseconds of virtual time.
        at_us: u64,
        /// Why.
        source: CollectError<Infallible>,
    },
}

type SimCollector = SharedCollector<Alone<Collector<Vm>>, AtomicU32, VirtualPark>;

/// A simulated VM with its reaper, ready to run.
#[derive(Debug)]
pub struct Simulation<C = Policy> {
    shared: SimCollector,
    park: VirtualPark,
    reaper: Option<Driver<C>>,
    ring_full_mode: RingFullMode,
    /// How often a reader reads, and when it does next.
    read_every_ps: Option<u64>,
    next_read_ps: u64,
    duration_us: u64,
    half_exit_ps: u64,
    wake: WakeLatency,
    tally: Tally,
}

/// The reaper, and when it takes its next turn.
#[derive(Debug)]
struct Driver<C> {
    reaper: Reaper<C>,
    /// What the last turn said.
    turn: Turn,
    /// When it takes the next, at the earliest.
    at_ps: u64,
    /// The doorbell rang, and it is on its way out of the wait.
    called: bool,
}

/// How late the reaper runs.
#[derive(Debug)]
struct WakeLatency {
    dice: Dice,
    cost: CostModel,
    faults: Faults,
}

impl WakeLatency {
    fn draw_ps(&mut self) -> u64 {
        let jitter_ps = ps(self.cost.wake_jitter_ns);
        let least_ps = ps(self.cost.wake_latency_ns).saturating_sub(jitter_ps);
        let usual_ps = least_ps.saturating_add(self.dice.below(2 * jitter_ps + 1));
        if self.dice.happens(self.faults.late_wake_permille) {
            usual_ps.saturating_add(u64::from(self.faults.late_wake_us) * PS_PER_US)
        } else {
            usual_ps
        }
    }
}

/// Runs a simulation from beginning to end, the final drain included.
///
/// # Errors
/// [`SimError`] where the configuration is refused or the collector can't go on. A lost page is
/// no error here: see [`SimReport::is_sound`].
pub fn simulate<C: Controller>(config: SimConfig<C>) -> Result<SimReport, SimError> {
    let (report, ()) = Simulation::new(config)?.run(|_| (), |_| ())?;
    Ok(report)
}

impl<C: Controller> Simulation<C> {
    /// Creates a simulation at time 0.
    ///
    /// # Errors
    /// [`ConfigError`] where the configuration is refused.
    pub fn new(config: SimConfig<C>) -> Result<Self, ConfigError> {
        let vm = Vm::new(&config)?;
        let half_exit_ps = vm.half_exit_ps();
        let park = VirtualPark::default();
        let is_logged = config.policy.is_some();
        let read_every_ps = config.read_every_us.map(|us| us.saturating_mul(PS_PER_US));
        Ok(Self {
            shared: SharedCollector::new(Alone::new(Collector::new(vm)), park.clone()),
            park,
            reaper: config.policy.map(|controller| Driver {
                reaper: Reaper::new(Planner::new(controller)),
                turn: Turn::Again,
                at_ps: 0,
                called: false,
            }),
            ring_full_mode: config.ring_full_mode,
            read_every_ps: read_every_ps.filter(|_| is_logged),
            next_read_ps: read_every_ps.unwrap_or(u64::MAX),
            duration_us: config.duration_us,
            half_exit_ps,
            wake: WakeLatency {
                dice: Dice::new(config.seed, Stream::Wakes),
                cost: config.cost,
                faults: config.faults,
            },
            tally: Tally::default(),
        })
    }

    /// Runs to the end. `observe` hears of each pass of the reaper; `inspect` gets the VM after the
    /// final drain.
    ///
    /// # Errors
    /// [`SimError`] where the collector can't go on.
    pub fn run<R>(
        mut self,
        mut observe: impl FnMut(&PassRecord),
        inspect: impl FnOnce(&Vm) -> R,
    ) -> Result<(SimReport, R), SimError> {
        if let Some(mut reaper) = self.reaper.take() {
            self.run_guest(&mut reaper, &mut observe)?;
            self.drain(&mut reaper, &mut observe)?;
        } else {
            self.vm(|vm| vm.run_until_us(self.duration_us));
        }
        let (duration_us, tally) = (self.duration_us, self.tally);
        Ok(self.shared.with(|collector| {
            let report = SimReport::new(duration_us, collector, tally);
            (report, inspect(collector.backend()))
        }))
    }

    /// Lets reaper and vCPUs take turns until the guest ends.
    fn run_guest(
        &mut self,
        reaper: &mut Driver<C>,
        observe: &mut impl FnMut(&PassRecord),
    ) -> Result<(), SimError> {
        let end_ps = self.duration_us * PS_PER_US;
        loop {
            let next_ps = reaper.at_ps.min(self.next_read_ps);
            if let Some((at_ps, vcpu)) = self.vm(|vm| vm.next_stop(next_ps)) {
                match self.vm(|vm| vm.state(vcpu)) {
                    VcpuState::Running => self.vm(|vm| vm.run_vcpu_until_ps(vcpu, at_ps)),
                    VcpuState::RingFull { since_ps } => {
                        self.ring_full(reaper, vcpu, since_ps, at_ps)?;
                    }
                }
            } else if self.next_read_ps < end_ps && self.next_read_ps <= reaper.at_ps {
                self.read()?;
            } else if reaper.at_ps < end_ps {
                self.reaper_turn(reaper, observe)?;
            } else {
                self.vm(|vm| vm.run_until_ps(end_ps));
                return Ok(());
            }
        }
    }

    /// Stops the reaper, which drains the rings. The vCPUs have left guest mode and stay out.
    fn drain(
        &mut self,
        reaper: &mut Driver<C>,
        observe: &mut impl FnMut(&PassRecord),
    ) -> Result<(), SimError> {
        self.shared.doorbell().stop();
        self.wake_if_rung(reaper);
        while reaper.turn != Turn::Done {
            self.reaper_turn(reaper, observe)?;
        }
        Ok(())
    }

    /// Lets the reader take all dirty pages, on its own thread.
    fn read(&mut self) -> Result<(), SimError> {
        self.vm(|vm| vm.run_until_ps(self.next_read_ps));
        let now = Instant(self.vm(|vm| vm.now_us()));
        let done = self.shared.drain(|| now);
        self.tolerate(done)?;
        self.vm(Vm::charge);
        self.tally.reads += 1;
        self.next_read_ps = match self.read_every_ps {
            Some(every_ps) => self.next_read_ps.saturating_add(every_ps),
            None => u64::MAX,
        };
        Ok(())
    }

    /// Makes room for a vCPU that left at `since_ps` and asks for the lock at `at_ps`.
    fn ring_full(
        &mut self,
        reaper: &mut Driver<C>,
        vcpu: usize,
        since_ps: u64,
        at_ps: u64,
    ) -> Result<(), SimError> {
        let now = self.vm(|vm| {
            vm.run_until_ps(at_ps);
            Instant(vm.now_us())
        });
        let done = self.shared.ring_full(vcpu, self.ring_full_mode, now);
        done.map_err(|source| self.error(source))?;
        let half_exit_ps = self.half_exit_ps;
        let back_ps = self.vm(|vm| {
            vm.charge();
            let back_ps = vm.now_ps().saturating_add(half_exit_ps);
            vm.enter(vcpu, back_ps);
            back_ps
        });
        let stall_ps = back_ps.saturating_sub(since_ps);
        self.tally.stalls.record(stall_ps / PS_PER_NS);
        self.wake_if_rung(reaper);
        Ok(())
    }

    /// Lets the reaper take a turn.
    fn reaper_turn(
        &mut self,
        driver: &mut Driver<C>,
        observe: &mut impl FnMut(&PassRecord),
    ) -> Result<(), SimError> {
        let (begun_ps, now) = self.vm(|vm| {
            vm.run_until_ps(driver.at_ps);
            (vm.now_ps(), Instant(vm.now_us()))
        });
        if matches!(driver.turn, Turn::Wait { .. }) {
            self.tally.wakeups += 1;
        }
        self.park.settle();
        let passes = driver.reaper.planner().passes();
        let turn = driver.reaper.turn(&self.shared, now);
        let turn = turn.map_err(|source| self.error(source))?;
        let busy_ps = self.vm(|vm| {
            vm.charge();
            vm.now_ps() - begun_ps
        });
        self.tally.reaper_busy_ns += busy_ps / PS_PER_NS;
        let planner = driver.reaper.planner();
        if planner.passes() != passes {
            self.tally.passes += 1;
            planner.last_pass().map(observe);
        }
        self.schedule(driver, turn);
        Ok(())
    }

    /// Plans the next turn: at once, or after the wait.
    fn schedule(&mut self, driver: &mut Driver<C>, turn: Turn) {
        let now_ps = self.vm(|vm| vm.now_ps());
        driver.called = false;
        driver.turn = turn;
        driver.at_ps = match turn {
            // The doorbell rang meanwhile: the reaper doesn't go to sleep.
            Turn::Wait { .. } if self.park.was_rung() => now_ps,
            Turn::Wait { until } => until
                .0
                .saturating_mul(PS_PER_US)
                .max(now_ps)
                .saturating_add(self.wake.draw_ps()),
            Turn::Again => now_ps,
            Turn::Done => u64::MAX,
        };
    }

    /// Wakes a sleeping reaper if the doorbell rang.
    fn wake_if_rung(&mut self, driver: &mut Driver<C>) {
        let asleep = matches!(driver.turn, Turn::Wait { .. });
        if asleep && self.park.was_rung() && !driver.called {
            driver.called = true;
            let awake_ps = self.vm(|vm| vm.now_ps());
            let awake_ps = awake_ps.saturating_add(self.wake.draw_ps());
            driver.at_ps = driver.at_ps.min(awake_ps);
        }
    }

    fn vm<R>(&self, look: impl FnOnce(&mut Vm) -> R) -> R {
        self.shared.with(|collector| look(collector.backend_mut()))
    }

    /// Lets the guest live where pages were lost and the rings are sound; the report says so.
    fn tolerate(&self, done: Result<(), CollectError<Infallible>>) -> Result<(), SimError> {
        match done {
            Err(source) if source.ends_reaping() => Err(self.error(source)),
            _ => Ok(()),
        }
    }

    fn error(&self, source: CollectError<Infallible>) -> SimError {
        let at_us = self.vm(|vm| vm.now_us());
        match source {
            CollectError::Overrun { ring } | CollectError::Parted { ring } => SimError::Overrun {
                vcpu: ring,
                at_us,
                source,
            },
            _ => SimError::Collect { at_us, source },
        }
    }
}
