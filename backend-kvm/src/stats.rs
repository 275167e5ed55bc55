//! What a reaper has done so far.

use dirty_ring_core::collector::Totals;
use dirty_ring_core::planner::{PassRecord, Phase};
use dirty_ring_core::ring::{RingPosition, RingStats};
use dirty_ring_core::time::Micros;

/// Figures of a reaper, at any time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReaperStats {
    /// Where the reaper is.
    pub phase: Phase,
    /// Its thread has ended; [`stop`](crate::ReaperHandle::stop) tells why.
    pub has_ended: bool,
    /// Passes over the rings, those before a resume included.
    pub passes: u64,
    /// Returns from a wait.
    pub wakeups: u64,
    /// CPU time that the reaper thread has used as of its last pass; `None` where the host doesn't
    /// tell.
    pub cpu: Option<Micros>,
    /// Totals over all rings.
    pub totals: Totals,
    /// Entries harvested and not yet reset: the deficit that is being carried.
    pub outstanding: u64,
    /// The last pass: what it found and what was decided.
    pub last_pass: Option<PassRecord>,
    /// Each vCPU's ring, by index.
    pub vcpus: Vec<VcpuStats>,
}

impl ReaperStats {
    /// Returns the ring-full exits of all vCPUs.
    pub fn ring_fulls(&self) -> u64 {
        self.vcpus.iter().map(|vcpu| vcpu.ring.ring_fulls).sum()
    }

    /// Returns the harvests that took at least one entry from one ring, all rings.
    pub fn harvests(&self) -> u64 {
        self.vcpus.iter().map(|vcpu| vcpu.ring.harvests).sum()
    }

    /// Returns the entries that named no registered page, all rings; they were not published.
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
    /// How far it is harvested.
    pub position: RingPosition,
    /// Entries waiting in it now.
    pub occupancy: u32,
    /// Mean dirty rate over the last looks, in pages per second.
    pub mean_rate_per_s: u64,
    /// Highest dirty rate of the last looks, in pages per second.
    pub max_rate_per_s: u64,
}
