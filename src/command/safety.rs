//! How large a ring has to be here, so that the deadline controller can promise anything.

use dirty_ring::core::controller::DeadlineConfig;
use dirty_ring::core::size::MAX_ENTRIES;
use dirty_ring::kvm::Support;

/// The smallest ring, in entries, in which no ring-full can be promised on this host to a vCPU
/// that dirties `rate_per_s` pages a second, where a wake and its pass take `latency_us` of the
/// ring's size at most; `None` if no ring is large enough.
pub(crate) fn smallest_ring(
    support: &Support,
    rate_per_s: f64,
    latency_us: impl Fn(u32) -> f64,
) -> Option<u32> {
    (0..=MAX_ENTRIES.ilog2())
        .map(|power| 1 << power)
        .find(|&entries| {
            support.size(entries).is_ok_and(|size| {
                let latency_us = latency_us(entries).ceil() as u64;
                let rate_per_s = (rate_per_s.ceil() as u64).max(1);
                DeadlineConfig::STANDARD
                    .assured(rate_per_s, latency_us, size)
                    .is_ok()
            })
        })
}
