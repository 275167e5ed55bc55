//! What a reaper has done so far.

use dirty_ring_core::collector::Totals;
use dirty_ring_core::entry::DirtyGfn;
use dirty_ring_core::planner::{PassRecord, Phase};
use dirty_ring_core::ring::{RingPosition, RingStats};
use dirty_ring_core::time::Micros;

/// Figures of a reaper, at any time.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReaperStats {
    /// Whether there is a reaper, one that has ended of itself included.
    pub has_reaper: bool,
    /// Where the reaper is.
    pub phase: Phase,
    /// Its thread has ended of itself; [`stop`](crate::ReaperHandle::stop) tells why.
    pub has_ended: bool,
    /// Passes of this reaper over the rings, those before a resume included.
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
    /// Pages harvested and not yet published: their reset is to come, or the sink failed.
    pub unpublished: usize,
    /// Pages published while there was no reaper, which the next one's sink gets.
    pub backlog: u64,
    /// Pages that may be writable without being logged, because their reset was interrupted. They are
    /// published whenever all pages are asked for.
    pub suspects: usize,
    /// The last entry that named no registered page, and whose page is lost.
    pub last_bad_entry: Option<BadEntry>,
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

/// An entry that named no registered page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadEntry {
    /// The vCPU in whose ring it was.
    pub vcpu: usize,
    /// What it named.
    pub gfn: DirtyGfn,
}

/// Figures of one vCPU's ring.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct VcpuStats {
    /// What happened to the ring.
    pub ring: RingStats,
    /// How far it is harvested.
    pub position: RingPosition,
    /// The position is unknown until the vCPU has logged a page, because of a resynchronisation.
    pub is_lost: bool,
    /// Entries waiting in it now.
    pub occupancy: u32,
    /// Mean dirty rate over the last looks, in pages per second.
    pub mean_rate_per_s: u64,
    /// Highest dirty rate of the last looks, in pages per second.
    pub max_rate_per_s: u64,
}
