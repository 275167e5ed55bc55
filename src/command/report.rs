//! The figures of a run, as `--json` prints them.

use dirty_ring_workload::Stalls;
use serde::Serialize;

use super::safety::SafeRing;

/// One run. A figure that the backend doesn't know is `null`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RunReport {
    pub(crate) policy: String,
    pub(crate) backend: &'static str,
    pub(crate) workload: String,
    pub(crate) ring_entries: u32,
    /// The soft limit, in entries.
    pub(crate) ring_capacity: u32,
    pub(crate) vcpus: u16,
    pub(crate) duration_s: f64,
    pub(crate) page_writes: u64,
    pub(crate) page_writes_per_s: f64,
    pub(crate) ring_fulls: u64,
    /// `null` where no page was harvested.
    pub(crate) ring_fulls_per_million_pages: Option<f64>,
    pub(crate) ring_full_stall_us: Stall,
    pub(crate) pages_harvested: u64,
    pub(crate) harvests: u64,
    pub(crate) resets: u64,
    pub(crate) wakeups: u64,
    pub(crate) peeks: u64,
    pub(crate) reaper_cpu_s: Option<f64>,
    /// In entries, at the rates and reactions of this run; `null` where it is unknown, or no ring
    /// is safe.
    pub(crate) smallest_safe_ring: SafeRing,
    pub(crate) per_vcpu: Vec<VcpuReport>,
}

/// How long vCPUs stood still on full rings, in microseconds. All but the total is `null` where
/// there was no stall.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Stall {
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) max: Option<f64>,
    /// The sum over all vCPUs: it can be longer than the run.
    pub(crate) total: f64,
}

/// The figures of one vCPU.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct VcpuReport {
    pub(crate) ring_fulls: u64,
    pub(crate) pages_harvested: u64,
    /// `null` without logging.
    pub(crate) dirty_pages_per_s: Option<f64>,
    /// In entries; `null` without logging.
    pub(crate) peak_occupancy: Option<u32>,
}

impl Stall {
    /// Summarizes `stalls`.
    pub(crate) fn of(stalls: &Stalls) -> Self {
        let us = |ns: u64| ns as f64 / 1e3;
        let known = |ns: u64| (stalls.count() > 0).then_some(us(ns));
        Self {
            p50: known(stalls.p50_ns()),
            p99: known(stalls.p99_ns()),
            max: known(stalls.max_ns()),
            total: us(stalls.total_ns()),
        }
    }
}

/// Returns how many per second `count` in `seconds` are; 0 where no time has passed.
pub(crate) fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

/// Returns the ring-fulls per million pages; `None` without pages.
pub(crate) fn per_million(ring_fulls: u64, pages: u64) -> Option<f64> {
    (pages > 0).then(|| ring_fulls as f64 * 1e6 / pages as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_stalls_there_is_a_total_of_0_and_no_distribution() {
        let mut stalls = Stalls::default();
        assert_eq!(Stall::of(&stalls).p50, None);
        assert_eq!(Stall::of(&stalls).total, 0.0);
        stalls.record(1500);
        assert!(
            Stall::of(&stalls)
                .max
                .is_some_and(|us| (us - 1.5).abs() < 0.01)
        );
    }
}
