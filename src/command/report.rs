//! The figures of a run, as JSON has them.

use hdrhistogram::Histogram;
use serde::Serialize;

/// One run. A figure that the backend can't know is `null`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RunReport {
    pub(crate) policy: String,
    pub(crate) backend: &'static str,
    pub(crate) workload: String,
    pub(crate) ring_entries: u32,
    /// The soft limit.
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
    pub(crate) per_vcpu: Vec<VcpuReport>,
}

/// How long vCPUs stood still on full rings, in microseconds. The distribution is `null` where
/// there was no stall.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Stall {
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) max: Option<f64>,
    pub(crate) total: f64,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct VcpuReport {
    pub(crate) ring_fulls: u64,
    pub(crate) pages_harvested: u64,
    pub(crate) dirty_pages_per_s: f64,
    pub(crate) peak_occupancy: u32,
}

/// Collects times, in nanoseconds.
#[derive(Debug)]
pub(crate) struct Times {
    histogram: Histogram<u64>,
    max_ns: u64,
    total_ns: u64,
}

impl Times {
    pub(crate) fn new() -> Self {
        Self {
            // Three digits, growing as it must.
            histogram: Histogram::new(3).unwrap_or_else(|_| unreachable!("3 digits are allowed")),
            max_ns: 0,
            total_ns: 0,
        }
    }

    pub(crate) fn record(&mut self, time_ns: u64) {
        // It grows by itself: nothing is out of range.
        let _ = self.histogram.record(time_ns);
        self.max_ns = self.max_ns.max(time_ns);
        self.total_ns = self.total_ns.saturating_add(time_ns);
    }

    pub(crate) fn summary(&self) -> Stall {
        let us = |ns: u64| ns as f64 / 1e3;
        let known = |ns: u64| (!self.histogram.is_empty()).then(|| us(ns));
        // The histogram rounds up to three digits, which may be more than any stall was.
        let quantile = |share| {
            let ns = self.histogram.value_at_quantile(share);
            known(ns.min(self.max_ns))
        };
        Stall {
            p50: quantile(0.5),
            p99: quantile(0.99),
            max: known(self.max_ns),
            total: us(self.total_ns),
        }
    }
}

/// `count` in `seconds`, per second.
pub(crate) fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

/// Ring-fulls per million pages; `None` without pages.
pub(crate) fn per_million(ring_fulls: u64, pages: u64) -> Option<f64> {
    (pages > 0).then(|| ring_fulls as f64 * 1e6 / pages as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_have_no_distribution_where_there_are_none() {
        let mut stalls = Times::new();
        assert_eq!(stalls.summary().p50, None);
        assert_eq!(stalls.summary().total, 0.0);
        for us in 1..=100 {
            stalls.record(us * 1000);
        }
        let summary = stalls.summary();
        assert!((summary.p50.unwrap() - 50.0).abs() < 1.0);
        assert_eq!((summary.max, summary.total), (Some(100.0), 5050.0));
    }

    #[test]
    fn no_quantile_is_longer_than_the_longest_stall() {
        let mut stalls = Times::new();
        stalls.record(3_265_060);
        let summary = stalls.summary();
        assert_eq!((summary.p50, summary.p99), (summary.max, summary.max));
        assert_eq!(summary.max, Some(summary.total));
    }
}
