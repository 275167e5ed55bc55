//! A dirty-rate meter: pages per second of one ring, over a window of looks.

use heapless::Deque;

use crate::bounded::push_recent;
use crate::time::Micros;

/// Intervals that a meter remembers.
pub const WINDOW: usize = 8;

/// The shortest interval: looks that follow each other faster are one.
const SHORTEST: Micros = Micros(1_000);

/// Measures how fast one ring fills.
///
/// It knows two figures over its last [`WINDOW`] intervals: the mean, and the highest of the single
/// intervals. A mean hides the burst that fills the ring.
#[derive(Clone, Debug)]
pub struct RateMeter {
    /// Looks that don't make an interval yet.
    open: Interval,
    intervals: Deque<Interval, WINDOW>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Interval {
    elapsed: Micros,
    pages: u64,
}

impl Interval {
    fn and(self, elapsed: Micros, pages: u64) -> Self {
        Self {
            elapsed: self.elapsed + elapsed,
            pages: self.pages.saturating_add(pages),
        }
    }

    fn rate_per_s(&self) -> u64 {
        self.elapsed.rate_of(self.pages)
    }
}

impl RateMeter {
    pub(crate) const fn new() -> Self {
        Self {
            open: Interval {
                elapsed: Micros::ZERO,
                pages: 0,
            },
            intervals: Deque::new(),
        }
    }

    /// Records a look that found `pages` more, `elapsed` after the one before.
    pub(crate) fn record(&mut self, elapsed: Micros, pages: u64) {
        self.open = self.open.and(elapsed, pages);
        if self.open.elapsed >= SHORTEST {
            push_recent(&mut self.intervals, core::mem::take(&mut self.open));
        }
    }

    /// Returns the mean over the window, in pages per second, rounded up; 0 before the first look.
    pub fn mean_per_s(&self) -> u64 {
        let all = self.intervals.iter().fold(Interval::default(), |all, one| {
            all.and(one.elapsed, one.pages)
        });
        all.rate_per_s()
    }

    /// Returns the rate of the window's fastest interval, in pages per second, rounded up; 0 before
    /// the first look.
    pub fn max_per_s(&self) -> u64 {
        let rates = self.intervals.iter().map(Interval::rate_per_s);
        rates.max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maximum_keeps_the_burst_that_the_mean_hides() {
        let mut meter = RateMeter::new();
        meter.record(Micros(1_000_000), 10);
        meter.record(Micros(1_000), 400);
        meter.record(Micros(999_000), 10);
        assert_eq!((meter.mean_per_s(), meter.max_per_s()), (210, 400_000));
    }

    #[test]
    fn the_window_forgets() {
        let mut meter = RateMeter::new();
        meter.record(Micros(1_000), 1_000);
        (0..WINDOW).for_each(|_| meter.record(Micros::SECOND, 5));
        assert_eq!(meter.max_per_s(), 5);
    }

    #[test]
    fn looks_in_quick_succession_are_one_and_lose_no_page() {
        let mut meter = RateMeter::new();
        assert_eq!((meter.mean_per_s(), meter.max_per_s()), (0, 0));
        (0..10).for_each(|_| meter.record(Micros(100), 3));
        assert_eq!((meter.mean_per_s(), meter.max_per_s()), (30_000, 30_000));
        meter.record(Micros(1_000), u64::MAX);
        assert_eq!(meter.max_per_s(), u64::MAX);
    }
}
