//! The handoff between vCPU threads and the reaper: what they share, and the order in which they
//! touch it.

use crate::collector::{Backend, CollectError, Collector, Harvested, RingFullMode, RingFullReport};
use crate::counter::EventCounter;
use crate::doorbell::{Doorbell, Seen, Wakes};
use crate::ring::Ring;
use crate::sync::{Lock, Park, SharedWord};

/// Shared by every vCPU thread and the reaper of one VM: the collector under one lock, the count
/// of ring-fulls, the doorbell.
///
/// `L` guards a [`Collector`], `W` is a shared word, `P` the place where the reaper sleeps: the
/// standard library's in production, a model checker's in the models.
#[derive(Debug)]
pub struct Handoff<L, W, P> {
    collector: L,
    ring_fulls: EventCounter<W>,
    doorbell: Doorbell<W, P>,
}

/// The reaper's harvest, and the ring-fulls counted by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct ReaperHarvest {
    /// What was harvested.
    pub harvested: Harvested,
    /// The ring-full count, wrapping; loaded *before* the harvest, so every ring-full in it had
    /// its pages counted in this pass or an earlier one.
    pub ring_fulls: u32,
}

/// The reaper's reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct ReaperReset {
    /// Entries reset.
    pub entries: u64,
    /// Everything is reset and published.
    pub settled: bool,
}

impl<B, L, W, P, const BATCH: usize> Handoff<L, W, P>
where
    B: Backend,
    L: Lock<Guarded = Collector<B, BATCH>>,
    W: SharedWord,
    P: Park,
{
    /// Shares `collector`; the reaper will sleep at `park`.
    pub fn new(collector: L, park: P) -> Self {
        Self {
            collector,
            ring_fulls: EventCounter::new(),
            doorbell: Doorbell::new(park),
        }
    }

    /// For a vCPU thread, on `KVM_EXIT_DIRTY_RING_FULL` of the vCPU with ring `ring`: makes room,
    /// counts the ring-full, and in the chunked mode rings for the reaper. When it returns, the
    /// vCPU may go back in.
    ///
    /// # Errors
    /// See [`Collector::ring_full`]. The ring-full is counted all the same.
    pub fn ring_full(
        &self,
        ring: usize,
        mode: RingFullMode,
        now_us: u64,
    ) -> Result<RingFullReport, CollectError<B::Error>> {
        let report = self
            .collector
            .with(|collector| collector.ring_full(ring, mode, now_us));
        // After the harvest: who sees the count sees what caused it.
        self.ring_fulls.add(1);
        let whole = mode == RingFullMode::Whole && matches!(&report, Ok(report) if report.settled);
        if !whole {
            self.doorbell.ring_full();
        }
        report
    }

    /// For the reaper: harvests all rings, or goes on with the pass that `begin` began.
    pub fn harvest(&self, now_us: u64, begin: bool) -> ReaperHarvest {
        let ring_fulls = self.ring_fulls.load();
        let harvested = self
            .collector
            .with(|collector| collector.harvest(now_us, begin));
        ReaperHarvest {
            harvested,
            ring_fulls,
        }
    }

    /// For the reaper: the same, but harvests only the rings that `wants` asks for.
    pub fn harvest_where(
        &self,
        now_us: u64,
        begin: bool,
        wants: impl FnMut(&mut Ring<B::Memory>) -> bool,
    ) -> ReaperHarvest {
        let ring_fulls = self.ring_fulls.load();
        let harvested = self
            .collector
            .with(|collector| collector.harvest_where(now_us, begin, wants));
        ReaperHarvest {
            harvested,
            ring_fulls,
        }
    }

    /// For the reaper: resets, and publishes once nothing is left to reset.
    ///
    /// # Errors
    /// See [`Collector::reset`].
    pub fn reset(&self) -> Result<ReaperReset, CollectError<B::Error>> {
        self.collector.with(|collector| {
            let (entries, settled) = collector.settle()?;
            Ok(ReaperReset { entries, settled })
        })
    }

    /// Ring-fulls so far, wrapping.
    pub fn ring_fulls(&self) -> u32 {
        self.ring_fulls.load()
    }

    /// The reaper's doorbell: kick and stop.
    pub const fn doorbell(&self) -> &Doorbell<W, P> {
        &self.doorbell
    }

    /// For the reaper: sleeps until somebody rings or the deadline passes.
    pub fn wait(&self, seen: &mut Seen, deadline_us: u64) -> Wakes {
        self.doorbell.wait(seen, deadline_us)
    }

    /// Runs `look` with the collector while nobody else touches it: statistics, a change of slots.
    pub fn with<R>(&self, look: impl FnOnce(&mut Collector<B, BATCH>) -> R) -> R {
        self.collector.with(look)
    }
}

#[cfg(test)]
mod tests;
