//! How long vCPUs stood still.

use hdrhistogram::Histogram;

/// Significant digits that a percentile keeps.
const DIGITS: u8 = 3;

/// Lengths of stalls, in nanoseconds: a histogram of three digits that grows with them; the
/// longest and the sum are exact.
#[derive(Clone, Debug, PartialEq)]
pub struct Stalls {
    histogram: Histogram<u64>,
    total_ns: u64,
    max_ns: u64,
}

impl Default for Stalls {
    fn default() -> Self {
        Self {
            histogram: Histogram::new(DIGITS).expect("a histogram may keep three digits"),
            total_ns: 0,
            max_ns: 0,
        }
    }
}

impl Stalls {
    /// Adds one.
    pub fn record(&mut self, stall_ns: u64) {
        // The histogram grows by itself: nothing is out of its range.
        let recorded = self.histogram.record(stall_ns);
        debug_assert!(recorded.is_ok());
        self.total_ns = self.total_ns.saturating_add(stall_ns);
        self.max_ns = self.max_ns.max(stall_ns);
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// Their sum, in nanoseconds.
    pub fn total_ns(&self) -> u64 {
        self.total_ns
    }

    /// The longest, in nanoseconds; 0 if there was none.
    pub fn max_ns(&self) -> u64 {
        self.max_ns
    }

    /// What `permille` of them don't exceed, in nanoseconds; 0 if there was none.
    pub fn permille_ns(&self, permille: u16) -> u64 {
        let quantile = f64::from(permille) / 1000.0;
        self.histogram
            .value_at_quantile(quantile)
            .min(self.max_ns())
    }

    /// The median, in nanoseconds.
    pub fn p50_ns(&self) -> u64 {
        self.permille_ns(500)
    }

    /// The 99th percentile, in nanoseconds.
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
