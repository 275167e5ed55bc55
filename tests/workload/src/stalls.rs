//! A histogram of stalls.

use hdrhistogram::Histogram;

/// Significant digits of a percentile.
const DIGITS: u8 = 3;

/// Durations of vCPU stalls, in nanoseconds.
///
/// Percentiles keep three significant digits; the maximum and the sum are exact. The histogram
/// grows as needed.
#[derive(Clone, Debug, PartialEq)]
pub struct Stalls {
    histogram: Histogram<u64>,
    total_ns: u64,
    max_ns: u64,
}

impl Default for Stalls {
    fn default() -> Self {
        Self {
            histogram: Histogram::new(DIGITS)
                .expect("three digits are within the range of a histogram"),
            total_ns: 0,
            max_ns: 0,
        }
    }
}

impl Stalls {
    /// Adds a stall of `stall_ns` nanoseconds.
    pub fn record(&mut self, stall_ns: u64) {
        // The histogram resizes itself, so no value is out of range.
        let recorded = self.histogram.record(stall_ns);
        debug_assert!(recorded.is_ok());
        self.total_ns = self.total_ns.saturating_add(stall_ns);
        self.max_ns = self.max_ns.max(stall_ns);
    }

    /// Returns the number of stalls.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Returns the sum of all stalls, in nanoseconds.
    pub fn total_ns(&self) -> u64 {
        self.total_ns
    }

    /// Returns the longest stall, in nanoseconds; 0 if there was none.
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// Returns the duration that `permille` of the stalls do not exceed, in nanoseconds; 0 if there
    /// was none.
    pub fn permille_ns(&self, permille: u16) -> u64 {
        let quantile = f64::from(permille) / 1000.0;
        self.histogram
            .value_at_quantile(quantile)
            .min(self.max_ns())
    }

    /// Returns the median, in nanoseconds.
    pub fn p50_ns(&self) -> u64 {
        self.permille_ns(500)
    }

    /// Returns the 99th percentile, in nanoseconds.
    pub fn p99_ns(&self) -> u64 {
        self.permille_ns(990)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_stall_is_all_zero() {
        let stalls = Stalls::default();
        let figures = [
            stalls.count(),
            stalls.p50_ns(),
            stalls.p99_ns(),
            stalls.max_ns(),
        ];
        assert_eq!(figures, [0; 4]);
    }

    #[test]
    fn percentiles_keep_three_digits_and_the_sum_is_exact() {
        let mut stalls = Stalls::default();
        (1..=1000).for_each(|us| stalls.record(us * 1000));
        assert_eq!((stalls.count(), stalls.total_ns()), (1000, 500_500_000));
        for (told, exact) in [
            (stalls.p50_ns(), 500_000),
            (stalls.p99_ns(), 990_000),
            (stalls.max_ns(), 1_000_000),
        ] {
            assert!(
                told.abs_diff(exact) <= exact / 1000,
                "{exact} told as {told}"
            );
        }
    }
}
