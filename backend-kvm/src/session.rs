//! What the threads of a tracker share: its collector, and how far its reaper is.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread::{self, ThreadId};

use dirty_ring_core::backend::Backend;
use dirty_ring_core::collector::{Collector, RingFullMode};
use dirty_ring_core::planner::{PassRecord, Phase};
use dirty_ring_core::shared::SharedCollector;
use dirty_ring_core::time::Micros;

use crate::error::Error;
use crate::host::{Clock, StdFairLock, StdPark, lock};
use crate::rings::KvmRings;
use crate::stats::{BadEntry, ReaperStats, VcpuStats};

pub(crate) type Pages = Collector<KvmRings>;

pub(crate) struct Session {
    collector: SharedCollector<StdFairLock<Pages>, AtomicU32, StdPark>,
    pub(crate) clock: Clock,
    pub(crate) mode: RingFullMode,
    /// The reaper's thread has panicked, and its owner hasn't been told yet.
    has_panicked: AtomicBool,
    reaper: Mutex<Option<Progress>>,
}

/// How far the reaper's thread is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress {
    /// The thread that is in a turn.
    pub(crate) thread: Option<ThreadId>,
    /// The thread that takes turns in a loop of its own.
    pub(crate) driver: Option<ThreadId>,
    pub(crate) phase: Phase,
    pub(crate) passes: u64,
    pub(crate) wakeups: u64,
    pub(crate) cpu: Option<Micros>,
    pub(crate) last_pass: Option<PassRecord>,
    /// The body has ended.
    pub(crate) has_ended: bool,
    /// What it said when it panicked.
    pub(crate) panic: Option<String>,
    /// Its owner can't wait for its end.
    pub(crate) is_abandoned: bool,
}

impl Progress {
    /// Returns whether the reaper has ended, and nobody will ask for it.
    const fn is_gone(&self) -> bool {
        self.has_ended && self.is_abandoned
    }
}

/// Releases the sink of a reaper that has ended, and the pages that it didn't take.
pub(crate) fn release(collector: &mut Pages) {
    collector.backend_mut().remove_sink();
    collector.forgive_publication();
}

impl Session {
    pub(crate) fn new(collector: Pages, clock: Clock, mode: RingFullMode) -> Self {
        Self {
            collector: SharedCollector::new(StdFairLock::new(collector), StdPark::new(clock)),
            clock,
            mode,
            has_panicked: AtomicBool::new(false),
            reaper: Mutex::new(None),
        }
    }

    /// Returns the shared collector, for a thread that doesn't hold its lock.
    ///
    /// # Errors
    /// [`Error::Reentrant`] on a thread that does: a sink or a change of memory slots called.
    pub(crate) fn collector(
        &self,
    ) -> Result<&SharedCollector<StdFairLock<Pages>, AtomicU32, StdPark>, Error> {
        if self.collector.lock().is_held_by_this_thread() {
            return Err(Error::Reentrant);
        }
        Ok(&self.collector)
    }

    /// Returns the shared collector on the reaper's own thread, outside of any turn.
    pub(crate) const fn own_collector(
        &self,
    ) -> &SharedCollector<StdFairLock<Pages>, AtomicU32, StdPark> {
        &self.collector
    }

    pub(crate) fn with<R>(&self, critical: impl FnOnce(&mut Pages) -> R) -> Result<R, Error> {
        Ok(self.collector()?.with(critical))
    }

    /// Notes that a reaper begins. There must be none.
    pub(crate) fn begin_reaper(&self, passes: u64) -> Result<(), Error> {
        let mut reaper = lock(&self.reaper);
        if reaper.as_ref().is_some_and(|reaper| !reaper.is_gone()) {
            return Err(Error::HasReaper);
        }
        *reaper = Some(Progress {
            passes,
            ..Progress::default()
        });
        Ok(())
    }

    /// Notes that the owner of the reaper has heard of its end; returns how far it came.
    pub(crate) fn end_reaper(&self) -> Option<Progress> {
        self.has_panicked.store(false, Ordering::Release);
        lock(&self.reaper).take()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Progress)) {
        if let Some(progress) = &mut *lock(&self.reaper) {
            change(progress);
        }
    }

    /// Notes that the reaper's thread panicked: nothing is reaped any more.
    pub(crate) fn note_panic(&self, message: &str) {
        self.update(|progress| progress.panic = Some(message.to_owned()));
        self.has_panicked.store(true, Ordering::Release);
    }

    /// Fails if the reaper's thread has panicked. (Where it failed, the collector tells.)
    pub(crate) fn check_reaper(&self) -> Result<(), Error> {
        if !self.has_panicked.load(Ordering::Acquire) {
            return Ok(());
        }
        let panic = self
            .reaper()
            .as_ref()
            .and_then(|reaper| reaper.panic.clone());
        panic.map_or(Ok(()), |message| Err(Error::Panicked(message)))
    }

    /// Notes that the reaper's owner can't wait for its end: it ends without one.
    pub(crate) fn abandon_reaper(&self) {
        self.update(|progress| progress.is_abandoned = true);
    }

    /// Releases the reaper that has just ended, if its owner won't.
    pub(crate) fn release_if_abandoned(&self) {
        if self.reaper().as_ref().is_some_and(Progress::is_gone) && self.with(release).is_ok() {
            self.end_reaper();
        }
    }

    /// Returns whether the calling thread is in a turn of the reaper.
    pub(crate) fn is_reaper_thread(&self) -> bool {
        let reaper = self.reaper();
        let thread = reaper.as_ref().and_then(|reaper| reaper.thread);
        thread == Some(thread::current().id())
    }

    /// Returns whether the calling thread takes the turns of the reaper.
    pub(crate) fn is_driver(&self) -> bool {
        let reaper = self.reaper();
        let driver = reaper.as_ref().and_then(|reaper| reaper.driver);
        driver == Some(thread::current().id())
    }

    fn reaper(&self) -> MutexGuard<'_, Option<Progress>> {
        lock(&self.reaper)
    }

    pub(crate) fn stats(&self) -> Result<ReaperStats, Error> {
        let reaper = self.reaper().clone();
        let has_reaper = reaper.as_ref().is_some_and(|reaper| !reaper.is_gone());
        self.with(|collector| stats(has_reaper, &reaper.unwrap_or_default(), collector))
    }

    /// Returns the figures of a reaper that came as far as `progress`.
    pub(crate) fn stats_of(&self, progress: &Progress) -> Result<ReaperStats, Error> {
        self.with(|collector| stats(true, progress, collector))
    }
}

fn stats(has_reaper: bool, progress: &Progress, collector: &Pages) -> ReaperStats {
    let rings = collector.backend().rings().iter();
    let vcpus = rings.map(|ring| VcpuStats {
        ring: ring.stats(),
        position: ring.position(),
        is_lost: ring.is_lost(),
        occupancy: ring.occupancy(),
        mean_rate_per_s: ring.growth().meter().mean_per_s(),
        max_rate_per_s: ring.growth().meter().max_per_s(),
    });
    ReaperStats {
        has_reaper,
        phase: progress.phase,
        passes: progress.passes,
        has_ended: progress.has_ended,
        wakeups: progress.wakeups,
        cpu: progress.cpu,
        totals: collector.totals(),
        outstanding: collector.outstanding(),
        unpublished: collector.unpublished().len(),
        backlog: collector.backend().backlog(),
        suspects: collector.suspects().len(),
        last_bad_entry: collector
            .last_bad_entry()
            .map(|(vcpu, gfn)| BadEntry { vcpu, gfn }),
        last_pass: progress.last_pass,
        vcpus: vcpus.collect(),
    }
}
