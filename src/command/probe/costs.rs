//! What dirty logging costs on this host, calculated from one measurement.

use std::time::Duration;

use dirty_ring::core::size::RingSize;
use serde::Serialize;

use crate::command::safety::SafeRing;

const NS_PER_S: f64 = 1e9;

/// What dirty logging costs: one vCPU that writes a word in each of 16384 pages, round-robin.
///
/// A figure is `None` where the host was too busy to measure it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Costs {
    /// Without logging.
    pub(super) page_writes_per_s: Option<f64>,
    /// With logging, where every write is the first one since the page's reset.
    pub(super) dirty_pages_per_s: Option<f64>,
    /// What the first write to a page after its reset costs the guest, over one without logging.
    pub(super) dirty_fault_ns: Option<f64>,
    pub(super) harvest_ns_per_page: Option<f64>,
    pub(super) reset_ns_per_page: Option<f64>,
    /// How late a sleeping thread wakes up. The reaper asks the kernel for precise timers and
    /// wakes up earlier.
    pub(super) wake_latency_us: Latency,
}

/// How late wake-ups were, in microseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

/// Page writes in a time.
#[derive(Clone, Copy, Default)]
pub(super) struct Storm {
    pub(super) time: Duration,
    pub(super) writes: u64,
}

/// The time that the two halves of reaping took, and the pages that were reaped.
#[derive(Clone, Copy, Default)]
pub(super) struct Reaped {
    pub(super) harvest: Duration,
    pub(super) reset: Duration,
    pub(super) pages: u64,
}

impl Costs {
    /// Calculates the costs from a storm without logging, one with logging, and what was reaped
    /// during the latter. The guest writes more pages than the ring holds, so each write under
    /// logging is a fault.
    pub(super) fn of(
        plain: Storm,
        logged: Storm,
        reaped: Reaped,
        wake_latency_us: Latency,
    ) -> Self {
        let reaping = reaped.harvest + reaped.reset;
        let in_guest = logged.time.saturating_sub(reaping);
        // Without a reap the ring was never full: the guest hardly ran.
        let ran = reaped.pages > 0;
        let fault_ns = || {
            let logged_ns = ratio(in_guest.as_secs_f64() * NS_PER_S, logged.writes as f64)?;
            let plain_ns = ratio(plain.time.as_secs_f64() * NS_PER_S, plain.writes as f64)?;
            // A negative cost is noise.
            Some(logged_ns - plain_ns).filter(|ns| *ns > 0.0)
        };
        let per_page_ns =
            |time: Duration| ratio(time.as_secs_f64() * NS_PER_S, reaped.pages as f64);
        Self {
            page_writes_per_s: ratio(plain.writes as f64, plain.time.as_secs_f64()),
            dirty_pages_per_s: ratio(logged.writes as f64, in_guest.as_secs_f64()).filter(|_| ran),
            dirty_fault_ns: fault_ns().filter(|_| ran),
            harvest_ns_per_page: per_page_ns(reaped.harvest),
            reset_ns_per_page: per_page_ns(reaped.reset),
            wake_latency_us,
        }
    }

    /// Finds the smallest safe ring at the measured rate, for the latest wake-up measured and a
    /// pass over a full ring. `size` returns the rings that this host has.
    pub(super) fn smallest_safe_ring(&self, size: impl Fn(u32) -> Option<RingSize>) -> SafeRing {
        let (Some(rate_per_s), Some(harvest_ns), Some(reset_ns)) = (
            self.dirty_pages_per_s,
            self.harvest_ns_per_page,
            self.reset_ns_per_page,
        ) else {
            return SafeRing::Unknown;
        };
        SafeRing::find(size, rate_per_s, |entries| {
            let pass_us = f64::from(entries) * (harvest_ns + reset_ns) / 1e3;
            self.wake_latency_us.max + pass_us
        })
    }
}

/// Returns `one` over `other`; `None` where either is not above 0, so nothing was measured.
fn ratio(one: f64, other: f64) -> Option<f64> {
    (one > 0.0 && other > 0.0).then(|| one / other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATENCY: Latency = Latency {
        p50: 60.0,
        p99: 90.0,
        max: 200.0,
    };
    const WINDOW: Duration = Duration::from_millis(500);

    fn storm(writes: u64) -> Storm {
        Storm {
            time: WINDOW,
            writes,
        }
    }

    fn size(entries: u32) -> Option<RingSize> {
        RingSize::new(entries, 4096, 0).ok()
    }

    #[test]
    fn costs_follow_from_times_and_counts() {
        let reaped = Reaped {
            harvest: Duration::from_millis(8),
            reset: Duration::from_millis(2),
            pages: 40_000,
        };
        let costs = Costs::of(storm(50_000_000), storm(49_000), reaped, LATENCY);
        let known = |figure: Option<f64>| figure.unwrap().round();
        assert_eq!(known(costs.page_writes_per_s), 1e8);
        assert_eq!(known(costs.dirty_pages_per_s), 1e5);
        assert_eq!(known(costs.dirty_fault_ns), 9990.0);
        assert_eq!(known(costs.harvest_ns_per_page), 200.0);
        assert_eq!(known(costs.reset_ns_per_page), 50.0);
        assert!(costs.smallest_safe_ring(size).entries().is_some());
    }

    #[test]
    fn a_ring_that_was_never_full_leaves_all_of_logging_unknown() {
        for writes in [0, 1, 4031] {
            let costs = Costs::of(storm(50_000_000), storm(writes), Reaped::default(), LATENCY);
            assert_eq!(costs.dirty_pages_per_s, None);
            assert_eq!(costs.dirty_fault_ns, None);
            assert_eq!(costs.harvest_ns_per_page, None);
            assert_eq!(costs.reset_ns_per_page, None);
            assert!(costs.page_writes_per_s.is_some());
            assert_eq!(costs.smallest_safe_ring(size), SafeRing::Unknown);
            let json = serde_json::to_value(&costs).unwrap();
            assert!(json["dirty_pages_per_s"].is_null(), "{json}");
        }
    }

    #[test]
    fn a_guest_that_did_not_run_has_no_costs() {
        let costs = Costs::of(storm(0), storm(0), Reaped::default(), LATENCY);
        assert_eq!(costs.page_writes_per_s, None);
        assert_eq!(costs.dirty_fault_ns, None);
    }
}
