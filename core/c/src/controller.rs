//! A controller, by itself: for a monitor that keeps its own harvest, and to begin a reaper with.

use std::ffi::c_int;
use std::sync::Mutex;

use dirty_ring_core::controller::{
    Controller as _, Deadline, DeadlineConfig, Decision, Measurement, Policy, PolicySpec,
};
use dirty_ring_core::doorbell::Wakes;
use dirty_ring_core::size::{self, RingSize};
use dirty_ring_core::time::Micros;

use crate::error::{Code, Failure};
use crate::figures;
use crate::handle::exclusively;

/// Entries of the CPU's own log on a host with Intel PML.
pub const PML_ENTRIES: u32 = 512;

const _: () = assert!(PML_ENTRIES == size::PML_ENTRIES);

/// What a `struct dirty_ring_controller` is.
#[derive(Debug)]
pub struct Controller {
    policy: Mutex<Policy>,
}

/// A ring's size, and what follows from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Size {
    /// Entries of each ring.
    pub entries: u32,
    /// Bytes of the host's pages.
    pub page_bytes: u32,
    /// Entries that the CPU's own log holds: `DIRTY_RING_PML_ENTRIES` with Intel PML, else 0.
    pub cpu_log_entries: u32,
    /// Told by `dirty_ring_size_check`: entries at which KVM finds a ring full.
    pub soft_limit: u32,
    /// Told by `dirty_ring_size_check`: bytes of a ring.
    pub bytes: u32,
}

impl Size {
    /// Checks the size, whatever it says of what follows from it.
    ///
    /// # Errors
    /// [`Code::Size`].
    pub fn check(&self) -> Result<RingSize, Failure> {
        Ok(RingSize::new(
            self.entries,
            self.page_bytes,
            self.cpu_log_entries,
        )?)
    }

    /// Checks the size and completes it.
    ///
    /// # Errors
    /// [`Code::Size`].
    pub fn complete(&mut self) -> Result<c_int, Failure> {
        let size = self.check()?;
        (self.soft_limit, self.bytes) = (size.soft_limit(), size.bytes());
        Ok(0)
    }
}

/// Options of the controller `deadline`. 0 means: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DeadlineOptions {
    /// How long a page may wait for its reap, in microseconds.
    pub freshness_us: u64,
    /// The rate that no ring exceeds, in pages per second.
    pub assured_rate_per_s: u64,
    /// With a rate: the time after its planned wake-up within which every pass is over, in microseconds.
    pub assured_latency_us: u64,
}

impl Controller {
    /// Creates the controller that `policy` names, as in `fixed:10ms`.
    ///
    /// # Errors
    /// [`Code::Policy`], [`Code::Size`].
    pub fn named(policy: &[u8], size: &Size) -> Result<Self, Failure> {
        let size = size.check()?;
        let name = std::str::from_utf8(policy)
            .map_err(|_| Failure::new(Code::Policy, "the policy's name is not UTF-8"))?;
        let spec: PolicySpec = name.parse()?;
        Ok(Self::of(spec.build(size)?))
    }

    /// Creates the controller `deadline` with `options`.
    ///
    /// # Errors
    /// [`Code::Policy`], [`Code::Size`].
    pub fn deadline(options: &DeadlineOptions, size: &Size) -> Result<Self, Failure> {
        let size = size.check()?;
        let mut config = DeadlineConfig::STANDARD;
        if options.freshness_us != 0 {
            config = config.freshness(Micros(options.freshness_us))?;
        }
        if options.assured_rate_per_s != 0 || options.assured_latency_us != 0 {
            let latency = Micros(options.assured_latency_us);
            config = config.assured(options.assured_rate_per_s, latency, size)?;
        }
        Ok(Self::of(Policy::Deadline(Deadline::new(config, size))))
    }

    const fn of(policy: Policy) -> Self {
        Self {
            policy: Mutex::new(policy),
        }
    }

    /// Returns a copy of what decides.
    ///
    /// # Errors
    /// [`Code::Busy`].
    pub fn policy(&self) -> Result<Policy, Failure> {
        Ok(*exclusively(&self.policy)?)
    }

    /// Returns the decision that holds now.
    ///
    /// # Errors
    /// [`Code::Busy`].
    pub fn current(&self) -> Result<figures::Decision, Failure> {
        Ok(exclusively(&self.policy)?.current().into())
    }

    /// Decides after a pass that found `measurement`.
    ///
    /// # Errors
    /// [`Code::Busy`].
    pub fn on_reaped(
        &self,
        measurement: &figures::Measurement,
    ) -> Result<figures::Decision, Failure> {
        let mut policy = exclusively(&self.policy)?;
        Ok(policy.on_reaped(&measurement.into()).into())
    }
}

impl From<&figures::Measurement> for Measurement {
    fn from(found: &figures::Measurement) -> Self {
        Self {
            elapsed: Micros(found.elapsed_us),
            harvested: found.harvested,
            ring_full_harvested: found.ring_full_harvested,
            fullest: found.fullest,
            ring_fulls: found.ring_fulls,
            wakes: Wakes::from_bits_truncate(found.wakes as u8),
            late: Micros(found.late_us),
            took: Micros(found.took_us),
        }
    }
}

impl From<Decision> for figures::Decision {
    fn from(decided: Decision) -> Self {
        Self {
            wait_us: decided.wait.0,
            level: decided
                .level
                .map_or(figures::NO_LEVEL, |level| level.number().into()),
            reasons: decided.reasons.bits().into(),
        }
    }
}
