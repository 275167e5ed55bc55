//! What a reaper has done so far.

use dirty_ring_core::collector::Totals;
use dirty_ring_core::reaper::{State, Step};
use dirty_ring_core::ring::RingStats;

/// Figures of a reaper, at any time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReaperStats {
    /// Where the reaper is.
    pub phase: State,
    /// Its thread has ended; [`stop`](crate::ReaperHandle::stop) tells why.
    pub has_ended: bool,
    /// Passes over the rings.
    pub iterations: u64,
    /// Returns from a wait.
    pub wakeups: u64,
    /// CPU that the reaper thread has used, in microseconds, as of its last pass; `None` where
    /// the host doesn't tell.
    pub cpu_us: Option<u64>,
    /// Totals over all rings.
    pub totals: Totals,
    /// Entries harvested and not yet reset: the deficit that is being carried.
    pub outstanding: u64,
    /// The last decision and what led to it.
    pub last_step: Option<Step>,
    /// Each vCPU's ring, by index.
    pub vcpus: Vec<VcpuStats>,
}

impl ReaperStats {
    /// Ring-full exits of all vCPUs.
    pub fn ring_fulls(&self) -> u64 {
        self.vcpus.iter().map(|vcpu| vcpu.ring.ring_fulls).sum()
    }

    /// Passes that took at least one entry from one ring, all rings.
    pub fn harvests(&self) -> u64 {
        self.vcpus.iter().map(|vcpu| vcpu.ring.harvests).sum()
    }

    /// Entries that named no registered page, all rings; they were not published.
    pub fn bad_entries(&self) -> u64 {
        self.vcpus.iter().map(|vcpu| vcpu.ring.bad_entries).sum()
    }
}

/// Figures of one vCPU's ring.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct VcpuStats {
    /// What happened to the ring.
    pub ring: RingStats,
    /// Entries waiting in it now.
    pub occupancy: u32,
    /// Mean dirty rate over the last harvests, in pages per second.
    pub mean_rate_per_s: u64,
    /// Highest dirty rate of the last harvests, in pages per second.
    pub max_rate_per_s: u64,
}
