//! The collector as threads share it: behind a lock, with a doorbell for the reaper.

use crate::backend::Backend;
use crate::collector::{CollectError, Collector, Drain, RingFullMode, RingFullReport};
use crate::doorbell::Doorbell;
use crate::sync::{Lock, Park, SharedWord};
use crate::time::Instant;

/// What every vCPU thread and the reaper of one VM share.
///
/// `L` guards a [`Collector`]; with a [`FairLock`](crate::fair::FairLock) a vCPU on ring-full waits
/// for at most one batch of the reaper. `W` is a shared word, `P` the place where the reaper sleeps.
/// All are the standard library's in production, a model checker's in the models.
#[derive(Debug)]
pub struct SharedCollector<L, W, P> {
    collector: L,
    doorbell: Doorbell<W, P>,
}

impl<B, L, W, P, const BATCH: usize> SharedCollector<L, W, P>
where
    B: Backend,
    L: Lock<Guarded = Collector<B, BATCH>>,
    W: SharedWord,
    P: Park,
{
    /// Shares `collector`; the reaper sleeps at `park`.
    pub fn new(collector: L, park: P) -> Self {
        Self {
            collector,
            doorbell: Doorbell::new(park),
        }
    }

    /// Makes room for a vCPU that left guest mode with `KVM_EXIT_DIRTY_RING_FULL`. Rings for the
    /// reaper in the chunked mode, and wherever work is left. When it returns, the vCPU may go back
    /// in.
    ///
    /// # Errors
    /// See [`Collector::ring_full`]. The ring-full is counted all the same.
    pub fn ring_full(
        &self,
        ring: usize,
        mode: RingFullMode,
        now: Instant,
    ) -> Result<RingFullReport, CollectError<B::Error>> {
        let report = self
            .collector
            .with(|collector| collector.ring_full(ring, mode, now));
        let is_done =
            mode == RingFullMode::Whole && matches!(&report, Ok(report) if report.settled);
        if !is_done {
            self.doorbell.ring_full();
        }
        report
    }

    /// Harvests, resets and publishes everything that is in the rings, on the caller's thread.
    /// Releases the lock between two batches, so that a vCPU on ring-full doesn't wait for all of
    /// it. `now` is read under the lock.
    ///
    /// # Errors
    /// See [`Collector::drain_batch`].
    pub fn drain(&self, now: impl FnMut() -> Instant) -> Result<(), CollectError<B::Error>> {
        self.drain_until(Instant::MAX, now).map(|_| ())
    }

    /// Drains as [`drain`](Self::drain) does, but begins no batch after `deadline`. Returns whether it is
    /// over. What it took is published.
    ///
    /// # Errors
    /// See [`Collector::drain_batch`].
    pub fn drain_until(
        &self,
        deadline: Instant,
        mut now: impl FnMut() -> Instant,
    ) -> Result<bool, CollectError<B::Error>> {
        let mut drain = Drain::default();
        let mut batch = |collector: &mut Collector<B, BATCH>| {
            let now = now();
            let is_over = collector.drain_batch(&mut drain, now)?;
            Ok((is_over, now >= deadline))
        };
        loop {
            match self.collector.with(&mut batch)? {
                (true, _) => return Ok(true),
                (false, true) => return Ok(false),
                (false, false) => {}
            }
        }
    }

    /// Returns the lock around the collector.
    pub const fn lock(&self) -> &L {
        &self.collector
    }

    /// Returns the reaper's doorbell: kick, stop, sleep.
    pub const fn doorbell(&self) -> &Doorbell<W, P> {
        &self.doorbell
    }

    /// Runs `critical` with the collector while no other thread touches it.
    pub fn with<R>(&self, critical: impl FnOnce(&mut Collector<B, BATCH>) -> R) -> R {
        self.collector.with(critical)
    }
}

#[cfg(test)]
mod tests;
