//! A reaping session: what the reaper thread, the vCPU threads and the owner share.

use std::sync::Mutex;
use std::sync::atomic::AtomicU32;

use dirty_ring_core::backend::Backend;
use dirty_ring_core::collector::{CollectError, Collector, RingFullMode};
use dirty_ring_core::planner::{PassRecord, Phase};
use dirty_ring_core::shared::SharedCollector;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::Micros;
use kvm_ioctls::Error as KvmError;

use crate::error::Error;
use crate::host::{Clock, StdFairLock, StdPark, lock};
use crate::rings::KvmRings;
use crate::stats::{ReaperStats, VcpuStats};

pub(crate) struct Session {
    pub(crate) collector: SharedCollector<StdFairLock<Collector<KvmRings>>, AtomicU32, StdPark>,
    pub(crate) clock: Clock,
    pub(crate) size: RingSize,
    pub(crate) mode: RingFullMode,
    progress: Mutex<Progress>,
}

/// How far the reaper thread is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) phase: Phase,
    pub(crate) passes: u64,
    pub(crate) wakeups: u64,
    pub(crate) cpu: Option<Micros>,
    pub(crate) last_pass: Option<PassRecord>,
    /// The thread has ended, for this reason if it failed.
    pub(crate) has_ended: bool,
    pub(crate) failure: Option<CollectError<KvmError>>,
}

impl Session {
    pub(crate) fn new(rings: KvmRings, clock: Clock, size: RingSize, mode: RingFullMode) -> Self {
        Self {
            collector: SharedCollector::new(
                StdFairLock::new(Collector::new(rings)),
                StdPark::new(clock),
            ),
            clock,
            size,
            mode,
            progress: Mutex::new(Progress::default()),
        }
    }

    pub(crate) fn progress(&self) -> Progress {
        *lock(&self.progress)
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut lock(&self.progress));
    }

    pub(crate) fn with_rings<R>(&self, critical: impl FnOnce(&mut KvmRings) -> R) -> R {
        self.collector
            .with(|collector| critical(collector.backend_mut()))
    }

    /// Fails if the reaper thread has ended.
    pub(crate) fn check_running(&self) -> Result<(), Error> {
        let progress = self.progress();
        match progress.failure {
            Some(failure) => Err(failure.into()),
            None if progress.has_ended => Err(Error::Ended),
            None => Ok(()),
        }
    }

    pub(crate) fn stats(&self) -> ReaperStats {
        let progress = self.progress();
        self.collector.with(|collector| {
            let vcpus = collector.backend().rings().iter().map(|ring| VcpuStats {
                ring: ring.stats(),
                position: ring.position(),
                occupancy: ring.occupancy(),
                mean_rate_per_s: ring.growth().meter().mean_per_s(),
                max_rate_per_s: ring.growth().meter().max_per_s(),
            });
            ReaperStats {
                phase: progress.phase,
                passes: progress.passes,
                has_ended: progress.has_ended,
                wakeups: progress.wakeups,
                cpu: progress.cpu,
                totals: collector.totals(),
                outstanding: collector.outstanding(),
                last_pass: progress.last_pass,
                vcpus: vcpus.collect(),
            }
        })
    }
}
