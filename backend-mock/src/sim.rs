//! The discrete-event simulation, from the beginning of a guest to its end.

use dirty_ring_core::collector::CollectError;
use dirty_ring_core::controller::{Controller, Policy};
use dirty_ring_core::planner::PassRecord;
use thiserror::Error;

use crate::config::{ConfigError, SimConfig};
use crate::cost::PS_PER_US;
use crate::error::VmError;
use crate::machine::{Failure, Machine};
use crate::report::SimReport;
use crate::vm::Vm;

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
        source: CollectError<VmError>,
    },
    /// The collector can't go on.
    #[error("the simulation ended after {at_us} us")]
    Collect {
        /// When, in microseconds of virtual time.
        at_us: u64,
        /// Why.
        source: CollectError<VmError>,
    },
}

/// A simulated VM with its reaper, ready to run.
#[derive(Debug)]
pub struct Simulation<C = Policy> {
    machine: Machine<Vm, C>,
    /// How often a reader reads.
    read_every_ps: Option<u64>,
    duration_us: u64,
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
        let read_every_ps = config.read_every_us.map(|us| us.saturating_mul(PS_PER_US));
        let read_every_ps = read_every_ps.filter(|_| config.policy.is_some());
        let SimConfig {
            cost, faults, seed, ..
        } = config;
        let mut machine = Machine::new(vm, config.ring_full_mode, cost, faults, seed);
        if let Some(controller) = config.policy {
            machine.start_reaper(controller);
        }
        Ok(Self {
            machine,
            read_every_ps,
            duration_us: config.duration_us,
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
        let done = self.run_guest(&mut observe);
        done.map_err(|source| self.error(source))?;
        let (duration_us, tally) = (self.duration_us, self.machine.tally.clone());
        Ok(self.machine.with(|collector| {
            let report = SimReport::new(duration_us, collector, tally);
            (report, inspect(collector.backend()))
        }))
    }

    /// Lets the guest run to its end, with a read now and then, and drains the rings.
    fn run_guest(&mut self, observe: &mut impl FnMut(&PassRecord)) -> Result<(), Failure> {
        let end_ps = self.duration_us * PS_PER_US;
        if let Some(every_ps) = self.read_every_ps {
            let mut read_ps = every_ps;
            while read_ps < end_ps {
                self.machine.run_until_ps(read_ps, observe)?;
                match self.machine.read() {
                    // The rings are sound and the guest lives. The report says so.
                    Err(failure) if failure.ends_reaping() => return Err(failure),
                    _ => read_ps = read_ps.saturating_add(every_ps),
                }
            }
        }
        self.machine.run_until_ps(end_ps, observe)?;
        self.machine.stop_reaper(observe)
    }

    fn error(&self, source: Failure) -> SimError {
        let at_us = self.machine.now().0;
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
