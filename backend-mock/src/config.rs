//! What a simulation is given, and what of it is refused.

use dirty_ring_core::collector::RingFullMode;
use dirty_ring_core::controller::Policy;
use dirty_ring_core::size::RingSize;
use dirty_ring_workload::{Phase, Workload};
use thiserror::Error;

use crate::cost::CostModel;
use crate::faults::Faults;
use crate::layout::region_pages;

/// Most vCPUs.
pub const MAX_VCPUS: u32 = 4096;
/// Longest run, in microseconds: a hundred days. Time is counted in picoseconds, in 64 bits.
pub const MAX_DURATION_US: u64 = 100 * 24 * 3600 * 1_000_000;
/// Most pages of all vCPUs together: 256 GiB of guest memory. The oracle keeps about 20 bytes for
/// each.
pub const MAX_TOTAL_PAGES: usize = 1 << 26;
/// Most ring entries of all vCPUs together, 16 bytes each.
pub const MAX_RING_ENTRIES: u64 = 1 << 26;

/// What to simulate. `C` is the controller that decides when to reap.
#[derive(Clone, Debug)]
pub struct SimConfig<C = Policy> {
    /// Virtual CPUs, each with a dirty ring, a core and memory of its own.
    pub vcpus: u32,
    /// The size of each ring.
    pub ring: RingSize,
    /// What the vCPUs do.
    pub workload: Workload,
    /// When to reap; `None`: dirty logging is off, the guest runs undisturbed.
    pub policy: Option<C>,
    /// What a vCPU does on ring-full.
    pub ring_full_mode: RingFullMode,
    /// How often a reader takes all dirty pages, in microseconds of virtual time, as a migration
    /// round or a snapshot does; `None`: there is no reader.
    pub read_every_us: Option<u64>,
    /// How long the guest runs, in microseconds of virtual time.
    pub duration_us: u64,
    /// What everything costs.
    pub cost: CostModel,
    /// What goes wrong.
    pub faults: Faults,
    /// The seed of all chance: latencies and faults.
    pub seed: u64,
}

impl<C> SimConfig<C> {
    /// Creates the configuration of one vCPU that writes 16384 pages as fast as it can (`storm`)
    /// for 4 s, with a ring of `ring`, measured costs, no faults and dirty logging off. Where no
    /// policy says what `C` is, write `SimConfig::<Policy>::new`.
    pub fn new(ring: RingSize) -> Self {
        Self {
            vcpus: 1,
            ring,
            workload: Workload::endless(Phase {
                pages: 16384,
                spin: 0,
                ms: None,
            }),
            policy: None,
            ring_full_mode: RingFullMode::default(),
            read_every_us: None,
            duration_us: 4_000_000,
            cost: CostModel::MEASURED,
            faults: Faults::NONE,
            seed: 0,
        }
    }

    /// Checks the rules that the types don't enforce.
    ///
    /// # Errors
    /// [`ConfigError`], the first that applies.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(1..=MAX_VCPUS).contains(&self.vcpus) {
            return Err(ConfigError::Vcpus { vcpus: self.vcpus });
        }
        if !(1..=MAX_DURATION_US).contains(&self.duration_us) {
            return Err(ConfigError::Duration {
                duration_us: self.duration_us,
            });
        }
        if self.read_every_us == Some(0) {
            return Err(ConfigError::NoTimeBetweenReads);
        }
        let entries = u64::from(self.vcpus) * u64::from(self.ring.entries());
        if entries > MAX_RING_ENTRIES {
            return Err(ConfigError::RingEntries { entries });
        }
        let pages = (0..self.vcpus as usize)
            .map(|vcpu| region_pages(&self.workload, vcpu))
            .sum();
        if pages > MAX_TOTAL_PAGES {
            return Err(ConfigError::Pages { pages });
        }
        if self.cost.write_ps == 0 {
            return Err(ConfigError::FreeWrites);
        }
        if self.cost.wake_jitter_ns > self.cost.wake_latency_ns {
            return Err(ConfigError::Jitter {
                jitter_ns: self.cost.wake_jitter_ns,
                latency_ns: self.cost.wake_latency_ns,
            });
        }
        for (fault, permille) in self.faults.permilles() {
            if permille > 1000 {
                return Err(ConfigError::Permille { fault, permille });
            }
        }
        self.check_overrun()
    }

    fn check_overrun(&self) -> Result<(), ConfigError> {
        let Some(overrun) = self.faults.overrun else {
            return Ok(());
        };
        if overrun.vcpu >= self.vcpus {
            return Err(ConfigError::OverrunVcpu {
                vcpu: overrun.vcpu,
                vcpus: self.vcpus,
            });
        }
        // Free-running 32-bit indices can't be further apart than that.
        if !(1..=1 << 30).contains(&overrun.entries_beyond) {
            return Err(ConfigError::OverrunEntries {
                entries: overrun.entries_beyond,
            });
        }
        Ok(())
    }
}

/// Why a configuration was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// No vCPUs, or too many.
    #[error("a simulation can't have {vcpus} vCPUs: 1 to {MAX_VCPUS} are allowed")]
    Vcpus {
        /// How many were asked for.
        vcpus: u32,
    },
    /// No time, or too much.
    #[error("a simulation can't run for {duration_us} us: 1 to {MAX_DURATION_US} are allowed")]
    Duration {
        /// The duration asked for, in microseconds.
        duration_us: u64,
    },
    /// A reader that reads without a pause.
    #[error("a reader can't read every 0 us: give it an interval, or leave it out")]
    NoTimeBetweenReads,
    /// Rings too large for so many vCPUs.
    #[error(
        "{entries} ring entries for all vCPUs are too many: {MAX_RING_ENTRIES} at most; \
         choose smaller rings or fewer vCPUs"
    )]
    RingEntries {
        /// Entries of all rings.
        entries: u64,
    },
    /// Too much guest memory.
    #[error(
        "{pages} pages for all vCPUs are too many: {MAX_TOTAL_PAGES} at most; \
         choose a smaller workload or fewer vCPUs"
    )]
    Pages {
        /// Pages of all vCPUs, each vCPU's rounded up to 64.
        pages: usize,
    },
    /// Writes that take no time would never end.
    #[error("a write that costs 0 ps would make the vCPUs write without end: give it a cost")]
    FreeWrites,
    /// A wake-up that could come before its time.
    #[error("a wake-up jitter of {jitter_ns} ns is above the mean latency of {latency_ns} ns")]
    Jitter {
        /// The jitter, in nanoseconds.
        jitter_ns: u32,
        /// The mean latency, in nanoseconds.
        latency_ns: u32,
    },
    /// A probability above one.
    #[error("{fault} is {permille}: 0 to 1000 are allowed")]
    Permille {
        /// The field of [`Faults`].
        fault: &'static str,
        /// Its value.
        permille: u16,
    },
    /// An overrun of a vCPU that isn't there.
    #[error("vCPU {vcpu} can't overrun its ring: there are {vcpus} vCPUs, counted from 0")]
    OverrunVcpu {
        /// The vCPU asked for.
        vcpu: u32,
        /// How many there are.
        vcpus: u32,
    },
    /// An overrun by nothing, or by more than the ring's indices can tell.
    #[error("a ring can't be overrun by {entries} entries: 1 to 1073741824 are allowed")]
    OverrunEntries {
        /// The entries asked for.
        entries: u32,
    },
}
