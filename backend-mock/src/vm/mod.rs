//! The simulated VM: vCPUs, rings and their kernel, memory and the clock.

mod agenda;
mod backend;
mod mishaps;
mod plugged;

use std::sync::Arc;

use dirty_ring_core::entry::SlotId;
use dirty_ring_core::ring::Ring;
use dirty_ring_core::slots::SlotTable;
use dirty_ring_core::time::Instant;

use crate::config::{ConfigError, SimConfig};
use crate::cost::{CostModel, PS_PER_US};
use crate::faults::{Dice, Faults, Stream};
use crate::kernel::KernelRing;
use crate::layout::Layout;
use crate::memory::{AccessMeter, Accesses, RingMemory};
use crate::pages::PageSet;
use crate::truth::Truth;
use crate::vcpu::Vcpu;
use agenda::Forecast;
use mishaps::Mishaps;
use plugged::Plugged;

/// Where a vCPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VcpuState {
    /// In guest mode, or on its way there.
    Running,
    /// It left on ring-full and waits for [`Vm::enter`].
    RingFull {
        /// When it left, in picoseconds.
        since_ps: u64,
    },
}

/// A simulated VM with dirty rings.
///
/// It is a [`Backend`](dirty_ring_core::backend::Backend) in which time passes: a reset charges
/// the harvest before it and its own work, and the vCPUs run on meanwhile; the pages are protected
/// at its end. Put it in a [`Collector`](dirty_ring_core::collector::Collector) to test a reaper
/// of your own:
///
/// ```
/// use dirty_ring_core::collector::Collector;
/// use dirty_ring_core::size::RingSize;
/// use dirty_ring_core::time::Instant;
/// use dirty_ring_mock::{SimConfig, Vm};
///
/// let mut config = SimConfig::new(RingSize::new(1024, 4096, 0)?);
/// config.policy = Some(()); // log dirty pages; the test decides when to drain
/// let mut collector: Collector<Vm> = Collector::new(Vm::new(&config)?);
/// collector.backend_mut().run_until_us(1_000);
/// collector.drain(Instant(1_000))?;
/// let vm = collector.backend();
/// assert!(vm.now_ps() > 1_000_000_000);
/// assert!(!vm.published(vm.slots()[0].0).is_some_and(|pages| pages.is_empty()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Vm {
    cost: CostModel,
    faults: Faults,
    dice: Dice,
    now_ps: u64,
    /// When the guest ends: no vCPU runs after that.
    end_ps: u64,
    layout: Layout,
    slots: SlotTable<3>,
    plugged: Plugged,
    rings: Vec<Ring<RingMemory>>,
    kernel: Vec<KernelRing>,
    vcpus: Vec<Vcpu>,
    forecasts: Vec<Forecast>,
    logged: bool,
    meter: Arc<AccessMeter>,
    /// What of the meter has been charged.
    charged: Accesses,
    /// Pages that interrupted resets left unprotected.
    forgotten: u64,
    mishaps: Mishaps,
    /// The vCPUs are kept out of guest mode.
    is_held: bool,
    truth: Truth,
}

impl Vm {
    /// Creates a VM at time 0. Its pages are protected and logged if there is a policy.
    ///
    /// # Errors
    /// [`ConfigError`] where the configuration is refused.
    pub fn new<C>(config: &SimConfig<C>) -> Result<Self, ConfigError> {
        config.check()?;
        let count = config.vcpus as usize;
        let logged = config.policy.is_some();
        let workload = Arc::new(config.workload.clone());
        let layout = Layout::new(&workload, count);
        let meter = Arc::new(AccessMeter::default());
        let memories: Vec<_> = (0..count)
            .map(|_| RingMemory::new(config.ring, &meter))
            .collect();
        let faults = config.faults;
        let vcpu = |index| {
            let dice = Dice::new(config.seed, Stream::Garbage { vcpu: index });
            let vcpu = Vcpu::new(
                index,
                Arc::clone(&workload),
                config.cost,
                layout.region(index),
                layout.slot_map(),
                logged,
            )
            .with_garbage(dice, faults.garbage_permille);
            match faults.overrun {
                Some(overrun) if logged && overrun.vcpu as usize == index => {
                    vcpu.with_overrun(overrun)
                }
                _ => vcpu,
            }
        };
        let mut vm = Self {
            cost: config.cost,
            faults,
            dice: Dice::new(config.seed, Stream::Resets),
            now_ps: 0,
            end_ps: config.duration_us * PS_PER_US,
            slots: layout.slot_map().table(),
            plugged: Plugged::none(),
            rings: memories
                .iter()
                .map(|m| Ring::new(m.clone(), Instant(0)))
                .collect(),
            kernel: memories
                .into_iter()
                .map(|memory| KernelRing::new(memory, config.ring))
                .collect(),
            vcpus: (0..count).map(vcpu).collect(),
            forecasts: vec![Forecast::NEVER; count],
            logged,
            meter,
            charged: Accesses::default(),
            forgotten: 0,
            mishaps: Mishaps::default(),
            is_held: false,
            truth: Truth::new(&layout, logged),
            layout,
        };
        for vcpu in 0..count {
            vm.forecast_anew(vcpu);
        }
        Ok(vm)
    }

    /// Returns the time, in picoseconds.
    pub fn now_ps(&self) -> u64 {
        self.now_ps
    }

    /// Returns the time, in whole microseconds: what the reaper's clock shows.
    pub fn now_us(&self) -> u64 {
        self.now_ps / PS_PER_US
    }

    /// Runs all vCPUs up to `us` microseconds, or until they leave guest mode. The guest ends with
    /// the configured duration; the clock goes on.
    pub fn run_until_us(&mut self, us: u64) {
        self.run_until_ps(us.saturating_mul(PS_PER_US));
    }

    /// Runs all vCPUs up to `to_ps` picoseconds, as [`run_until_us`](Self::run_until_us) does. A
    /// time that is past changes nothing.
    pub fn run_until_ps(&mut self, to_ps: u64) {
        self.now_ps = self.now_ps.max(to_ps);
        if self.is_held {
            return;
        }
        let guest_ps = self.now_ps.min(self.end_ps);
        for (vcpu, ring) in self.vcpus.iter_mut().zip(&mut self.kernel) {
            vcpu.advance(guest_ps, ring);
        }
    }

    /// Lets the time pass that harvests and looks since the last charge cost; returns the
    /// picoseconds. A reset does the same for those before it.
    pub fn charge(&mut self) -> u64 {
        let work_ps = self.uncharged_ps();
        self.run_until_ps(self.now_ps.saturating_add(work_ps));
        work_ps
    }

    /// Returns where `vcpu` is; [`VcpuState::Running`] for one that isn't there.
    pub fn state(&self, vcpu: usize) -> VcpuState {
        let left_ps = self.vcpus.get(vcpu).and_then(Vcpu::left_ps);
        left_ps.map_or(VcpuState::Running, |since_ps| VcpuState::RingFull {
            since_ps,
        })
    }

    /// Lets `vcpu` go back into guest mode at `at_ps`. If its ring is still at the soft limit, it
    /// leaves again at once. Does nothing with a vCPU that runs, or isn't there.
    pub fn enter(&mut self, vcpu: usize, at_ps: u64) {
        if let (Some(cpu), Some(ring)) = (self.vcpus.get_mut(vcpu), self.kernel.get(vcpu))
            && cpu.left_ps().is_some()
        {
            cpu.enter(at_ps.max(self.now_ps), ring);
            self.forecast_anew(vcpu);
        }
    }

    /// Returns the page writes of `vcpu` so far; 0 for one that isn't there.
    pub fn page_writes(&self, vcpu: usize) -> u64 {
        self.vcpus.get(vcpu).map_or(0, Vcpu::writes)
    }

    /// Returns the memory slots with their pages.
    pub fn slots(&self) -> [(SlotId, usize); 2] {
        self.layout.slot_map().slots()
    }

    /// Returns the pages of `slot` that were published since the last
    /// [`clear_published`](Self::clear_published), or `None` if there is no such slot.
    pub fn published(&self, slot: SlotId) -> Option<&PageSet> {
        self.truth.published(slot)
    }

    /// Forgets which pages were published, as a consumer does that has copied them. The oracle
    /// doesn't forget.
    pub fn clear_published(&mut self) {
        self.truth.clear_published();
    }

    /// Returns the pages that were written since they were last published, or never published. They
    /// are in the rings or with the collector, or they are lost. Must be 0 after the final drain;
    /// always 0 with dirty logging off.
    pub fn unpublished_pages(&self) -> u64 {
        self.truth.unseen_pages(&self.layout, &self.vcpus) + self.plugged.unseen_pages()
    }

    /// Returns the pages that interrupted resets have counted and left unprotected. The next write to
    /// such a page isn't logged.
    pub fn forgotten_pages(&self) -> u64 {
        self.forgotten
    }

    /// Returns the publications of a page while an entry of it waited for its reset; must be 0.
    pub fn premature_publications(&self) -> u64 {
        self.truth.premature()
    }

    /// Returns the publications of pages that don't exist; must be 0.
    pub fn unregistered_publications(&self) -> u64 {
        self.truth.unregistered()
    }
}
