//! What the threads of a tracker share: its collector, and how far its reaper is.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread::{self, ThreadId};

use dirty_ring_core::backend::Backend;
use dirty_ring_core::collector::{CollectError, Collector, RingFullMode};
use dirty_ring_core::planner::{PassRecord, Phase};
use dirty_ring_core::shared::SharedCollector;
use dirty_ring_core::time::Micros;

use crate::error::{Error, RingsError};
use crate::host::{Clock, StdFairLock, StdPark, lock};
use crate::rings::KvmRings;
use crate::sink::PageSink;
use crate::stats::{BadEntry, ReaperStats, VcpuStats};

pub(crate) type Pages = Collector<KvmRings>;

pub(crate) struct Session {
    collector: SharedCollector<StdFairLock<Pages>, AtomicU32, StdPark>,
    pub(crate) clock: Clock,
    pub(crate) mode: RingFullMode,
    /// The reaper's thread has panicked, and its owner hasn't been told yet.
    has_panicked: AtomicBool,
    reaper: Mutex<Option<Progress>>,
    /// The reaper had ended when its owner gave it up in a place where the lock is held: the next
    /// caller releases what it leaves.
    is_left_behind: AtomicBool,
}

/// What is left of a reaper that has ended.
pub(crate) struct Ended {
    /// How far it came.
    pub(crate) progress: Progress,
    /// Whether the log is complete.
    pub(crate) checked: Result<(), CollectError<RingsError>>,
    /// Its sink. To drop it may take its time or panic, so it is dropped last, and outside of the lock.
    pub(crate) sink: Option<Box<dyn PageSink>>,
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

impl Session {
    pub(crate) fn new(collector: Pages, clock: Clock, mode: RingFullMode) -> Self {
        Self {
            collector: SharedCollector::new(StdFairLock::new(collector), StdPark::new(clock)),
            clock,
            mode,
            has_panicked: AtomicBool::new(false),
            reaper: Mutex::new(None),
            is_left_behind: AtomicBool::new(false),
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
        if self.is_left_behind.load(Ordering::Acquire)
            && self.is_left_behind.swap(false, Ordering::AcqRel)
        {
            drop(self.end_reaper());
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
        if reaper.is_some() {
            return Err(Error::HasReaper);
        }
        *reaper = Some(Progress {
            passes,
            ..Progress::default()
        });
        Ok(())
    }

    /// Releases the sink of the reaper, which has ended, and lets another one begin after that: the
    /// other way round, this would take the next reaper's sink away. The caller doesn't hold the lock.
    pub(crate) fn end_reaper(&self) -> Ended {
        let (checked, sink) = self.collector.with(|collector| {
            let checked = collector.check();
            let sink = collector.backend_mut().take_sink();
            collector.forgive_publication();
            (checked, sink)
        });
        self.has_panicked.store(false, Ordering::Release);
        Ended {
            progress: lock(&self.reaper).take().unwrap_or_default(),
            checked,
            sink,
        }
    }

    /// Notes that the reaper's owner can't wait for its end.
    pub(crate) fn abandon(&self) {
        if let Some(progress) = &mut *lock(&self.reaper) {
            progress.is_abandoned = true;
            if progress.has_ended {
                // Its body has looked already.
                self.is_left_behind.store(true, Ordering::Release);
            }
        }
    }

    /// Notes that the reaper's body ends; returns whether its owner can't wait for that, so that the caller
    /// has to call [`end_reaper`](Self::end_reaper).
    pub(crate) fn note_end(&self) -> bool {
        let is_abandoned = lock(&self.reaper).as_mut().is_some_and(|progress| {
            progress.has_ended = true;
            progress.phase = Phase::Idle;
            progress.is_abandoned
        });
        if is_abandoned && self.collector.lock().is_held_by_this_thread() {
            self.is_left_behind.store(true, Ordering::Release);
            return false;
        }
        is_abandoned
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
        let _ = self.collector()?;
        let reaper = self.reaper().clone();
        let has_reaper = reaper.is_some();
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
