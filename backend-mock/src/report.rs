//! What a simulation gives back.

use dirty_ring_core::backend::Backend;
use dirty_ring_core::collector::{CollectError, Collector};
use dirty_ring_workload::Stalls;

use crate::error::VmError;
use crate::vm::Vm;

/// What happened in a run.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SimReport {
    /// How long the guest ran, in microseconds of virtual time.
    pub duration_us: u64,
    /// Page writes of all vCPUs.
    pub page_writes: u64,
    /// Ring-full exits that were handled.
    pub ring_fulls: u64,
    /// How long each of them kept its vCPU out of guest mode.
    pub stalls: Stalls,
    /// Pages harvested, those refused not counted.
    pub pages_harvested: u64,
    /// Pages published; one that is dirtied again counts again.
    pub pages_published: u64,
    /// Passes that took at least one entry, ring by ring.
    pub harvests: u64,
    /// Resets.
    pub resets: u64,
    /// Of those, the ones that came back early.
    pub short_resets: u64,
    /// Returns of the reaper from its wait.
    pub wakeups: u64,
    /// Looks at a ring.
    pub peeks: u64,
    /// Passes of the reaper, one decision each.
    pub passes: u64,
    /// Reads of all dirty pages.
    pub reads: u64,
    /// How long the reaper worked, in nanoseconds of virtual time; waits are not in it.
    pub reaper_busy_ns: u64,
    /// Entries that named no registered page; refused.
    pub bad_entries: u64,
    /// Pages that interrupted resets left unprotected.
    pub forgotten_pages: u64,
    /// Suspects published again: pages that an interrupted reset may have left unprotected.
    pub suspects_published: u64,
    /// Why the log is incomplete although the guest went on: entries that named no page, or more
    /// interrupted resets than can be made up for.
    pub failure: Option<CollectError<VmError>>,
    /// Pages whose last write no publication followed. Must be 0.
    pub lost_pages: u64,
    /// Publications of a page while an entry of it waited for its reset. Must be 0.
    pub premature_publications: u64,
    /// Publications of pages that don't exist. Must be 0.
    pub unregistered_publications: u64,
    /// The figures of each vCPU, by index.
    pub per_vcpu: Vec<VcpuReport>,
}

/// What happened to one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VcpuReport {
    /// Page writes.
    pub page_writes: u64,
    /// Ring-full exits that were handled.
    pub ring_fulls: u64,
    /// Pages harvested from its ring, those refused not counted.
    pub pages_harvested: u64,
    /// Most entries in its ring that a look found.
    pub peak_occupancy: u32,
}

/// What the simulation counts besides what the collector counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) stalls: Stalls,
    pub(crate) wakeups: u64,
    pub(crate) passes: u64,
    pub(crate) reads: u64,
    pub(crate) reaper_busy_ns: u64,
}

impl SimReport {
    pub(crate) fn new(duration_us: u64, collector: &Collector<Vm>, tally: Tally) -> Self {
        let vm = collector.backend();
        let totals = collector.totals();
        let stats = || vm.rings().iter().map(|ring| ring.stats());
        let per_vcpu: Vec<_> = stats()
            .enumerate()
            .map(|(vcpu, stats)| VcpuReport {
                page_writes: vm.page_writes(vcpu),
                ring_fulls: stats.ring_fulls,
                pages_harvested: stats.harvested - stats.bad_entries,
                peak_occupancy: stats.peak_occupancy,
            })
            .collect();
        let sum = |of: fn(&VcpuReport) -> u64| per_vcpu.iter().map(of).sum();
        Self {
            duration_us,
            page_writes: sum(|vcpu| vcpu.page_writes),
            ring_fulls: sum(|vcpu| vcpu.ring_fulls),
            stalls: tally.stalls,
            pages_harvested: sum(|vcpu| vcpu.pages_harvested),
            pages_published: totals.published,
            harvests: stats().map(|stats| stats.harvests).sum(),
            resets: totals.resets,
            short_resets: totals.short_resets,
            wakeups: tally.wakeups,
            peeks: totals.peeks,
            passes: tally.passes,
            reads: tally.reads,
            reaper_busy_ns: tally.reaper_busy_ns,
            bad_entries: stats().map(|stats| stats.bad_entries).sum(),
            forgotten_pages: vm.forgotten_pages(),
            suspects_published: totals.suspects_published,
            failure: collector.check().err(),
            lost_pages: vm.unpublished_pages(),
            premature_publications: vm.premature_publications(),
            unregistered_publications: vm.unregistered_publications(),
            per_vcpu,
        }
    }

    /// Returns the page writes per second.
    pub fn page_writes_per_s(&self) -> u64 {
        per(self.page_writes, self.duration_us)
    }

    /// Returns the ring-fulls per million page writes.
    pub fn ring_fulls_per_million_writes(&self) -> u64 {
        per(self.ring_fulls, self.page_writes)
    }

    /// Returns whether nothing was lost, and nothing published that must not be.
    pub fn is_sound(&self) -> bool {
        [
            self.lost_pages,
            self.premature_publications,
            self.unregistered_publications,
        ] == [0; 3]
    }
}

/// Returns a million times `count` over `base`; 0 where that is 0.
fn per(count: u64, base: u64) -> u64 {
    let millions = u128::from(count) * 1_000_000;
    let ratio = millions.checked_div(base.into()).unwrap_or(0);
    u64::try_from(ratio).unwrap_or(u64::MAX)
}
