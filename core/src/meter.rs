//! A dirty-rate meter: pages per second of one ring, over a window of harvests.

use heapless::HistoryBuf;

/// Microseconds in a second.
const US_PER_S: u64 = 1_000_000;

/// Harvests that a meter remembers.
pub const WINDOW: usize = 8;

/// Measures how fast one ring fills, from what each harvest took.
///
/// Integers only. It knows two figures over its last [`WINDOW`] harvests: the mean, and the
/// highest of the single intervals. A reaper that must not come late wants the latter: a mean
/// hides the burst that fills the ring.
#[derive(Clone, Debug)]
pub struct RateMeter {
    last_us: u64,
    /// Pages of harvests that came within the same microsecond as the one before, or that left
    /// entries behind.
    carried_pages: u64,
    samples: HistoryBuf<Sample, WINDOW>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    elapsed_us: u64,
    pages: u64,
}

impl Sample {
    fn rate_per_s(&self) -> u64 {
        rate_per_s(self.pages, self.elapsed_us)
    }
}

/// `pages` in `elapsed_us` as pages per second, rounded up; 0 where no time has passed.
fn rate_per_s(pages: u64, elapsed_us: u64) -> u64 {
    let elapsed_us = u128::from(elapsed_us);
    u128::from(pages)
        .saturating_mul(US_PER_S.into())
        .saturating_add(elapsed_us.saturating_sub(1))
        .checked_div(elapsed_us)
        .map_or(0, |rate| u64::try_from(rate).unwrap_or(u64::MAX))
}

impl RateMeter {
    /// A meter of a ring that was empty at `now_us`.
    pub const fn starting_at(now_us: u64) -> Self {
        Self {
            last_us: now_us,
            carried_pages: 0,
            samples: HistoryBuf::new(),
        }
    }

    /// Tells the meter that a harvest at `now_us` took `pages`. A harvest within the same
    /// microsecond as the last one (or on a clock that went back) joins the next.
    pub fn record(&mut self, now_us: u64, pages: u64) {
        let pages = self.carried_pages.saturating_add(pages);
        let elapsed_us = now_us.saturating_sub(self.last_us);
        if elapsed_us == 0 {
            self.carried_pages = pages;
            return;
        }
        self.carried_pages = 0;
        self.last_us = now_us;
        self.samples.write(Sample { elapsed_us, pages });
    }

    /// Tells the meter of a harvest that took `pages` and left entries behind. They join the next
    /// one that doesn't: they came in since the ring was last empty, not since the last harvest,
    /// and the harvester's own pace would look like a burst.
    pub fn carry(&mut self, pages: u64) {
        self.carried_pages = self.carried_pages.saturating_add(pages);
    }

    /// Mean pages per second over the window, rounded up; 0 before the first harvest.
    pub fn mean_per_s(&self) -> u64 {
        let (elapsed_us, pages) = self.samples.iter().fold((0u64, 0u64), |(us, pages), s| {
            (
                us.saturating_add(s.elapsed_us),
                pages.saturating_add(s.pages),
            )
        });
        rate_per_s(pages, elapsed_us)
    }

    /// Pages per second of the window's fastest interval, rounded up; 0 before the first harvest.
    pub fn max_per_s(&self) -> u64 {
        self.samples
            .iter()
            .map(Sample::rate_per_s)
            .max()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maximum_keeps_the_burst_that_the_mean_hides() {
        let mut meter = RateMeter::starting_at(0);
        meter.record(1_000_000, 10);
        meter.record(1_001_000, 400);
        meter.record(2_000_000, 10);
        assert_eq!(meter.mean_per_s(), 210);
        assert_eq!(meter.max_per_s(), 400_000);
    }

    #[test]
    fn the_window_forgets() {
        let mut meter = RateMeter::starting_at(0);
        meter.record(1, 1_000);
        for step in 1..=WINDOW as u64 {
            meter.record(1 + step * US_PER_S, 5);
        }
        assert_eq!(meter.max_per_s(), 5);
    }

    #[test]
    fn no_time_no_division_and_no_page_lost() {
        let mut meter = RateMeter::starting_at(7);
        assert_eq!((meter.mean_per_s(), meter.max_per_s()), (0, 0));
        meter.record(7, 30);
        meter.record(3, 30);
        assert_eq!((meter.mean_per_s(), meter.max_per_s()), (0, 0));
        meter.record(8, u64::MAX);
        assert_eq!(meter.max_per_s(), u64::MAX);
        let mut meter = RateMeter::starting_at(0);
        meter.record(0, 30);
        meter.record(US_PER_S, 30);
        assert_eq!(meter.mean_per_s(), 60);
    }
}
