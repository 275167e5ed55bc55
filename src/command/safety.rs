//! How large a ring must be on this host for the deadline controller to promise no ring-full.

use dirty_ring::core::controller::DeadlineConfig;
use dirty_ring::core::size::{MAX_ENTRIES, RingSize};
use dirty_ring::core::time::Micros;
use serde::{Serialize, Serializer};

/// The smallest safe ring: the smallest one in which the deadline controller can promise no
/// ring-full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum SafeRing {
    /// The dirty rate or the latency was not measured.
    #[default]
    Unknown,
    /// Even the largest ring of this host is too small.
    NoneIsSafe,
    /// The ring's entries.
    Entries(u32),
}

impl SafeRing {
    /// Finds the smallest safe ring for a vCPU that dirties `rate_per_s` pages a second, where a
    /// wake-up and its pass over a ring of so many entries take `latency_us` at most. `size`
    /// returns the rings that this host has. Unknown where no page was dirtied.
    pub(crate) fn find(
        size: impl Fn(u32) -> Option<RingSize>,
        rate_per_s: f64,
        latency_us: impl Fn(u32) -> f64,
    ) -> Self {
        if rate_per_s.is_nan() || rate_per_s <= 0.0 {
            return Self::Unknown;
        }
        let rate_per_s = rate_per_s.ceil() as u64;
        let is_safe = |entries: &u32| {
            let latency = Micros(latency_us(*entries).ceil() as u64);
            size(*entries).is_some_and(|size| {
                DeadlineConfig::STANDARD
                    .assured(rate_per_s, latency, size)
                    .is_ok()
            })
        };
        (0..=MAX_ENTRIES.ilog2())
            .map(|power| 1 << power)
            .find(is_safe)
            .map_or(Self::NoneIsSafe, Self::Entries)
    }

    /// Returns the entries; `None` where they are unknown or no ring is safe.
    pub(crate) fn entries(self) -> Option<u32> {
        match self {
            Self::Entries(entries) => Some(entries),
            Self::Unknown | Self::NoneIsSafe => None,
        }
    }
}

impl Serialize for SafeRing {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.entries().serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(rate_per_s: f64, latency_us: f64) -> SafeRing {
        let size = |entries| RingSize::new(entries, 4096, 0).ok();
        SafeRing::find(size, rate_per_s, |_| latency_us)
    }

    #[test]
    fn a_faster_guest_or_a_slower_host_needs_a_larger_ring() {
        let slow = find(1e4, 100.0).entries().unwrap();
        let faster = find(1e6, 100.0).entries().unwrap();
        let later = find(1e6, 1000.0).entries().unwrap();
        assert!(slow < faster && faster < later, "{slow} {faster} {later}");
        assert_eq!(find(1e9, 1e6), SafeRing::NoneIsSafe);
    }

    #[test]
    fn no_ring_is_called_safe_without_a_dirty_rate() {
        for rate_per_s in [0.0, -1.0, f64::NAN] {
            assert_eq!(find(rate_per_s, 100.0), SafeRing::Unknown, "{rate_per_s}");
        }
    }

    #[test]
    fn json_has_a_number_or_null() {
        let json = |safe: SafeRing| serde_json::to_string(&safe).unwrap();
        assert_eq!(json(SafeRing::Entries(1024)), "1024");
        assert_eq!(json(SafeRing::NoneIsSafe), "null");
        assert_eq!(json(SafeRing::Unknown), "null");
    }
}
