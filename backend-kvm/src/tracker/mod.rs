//! The tracker: the dirty rings of one VM, for as long as the VM lives.

mod memory_update;
mod vcpu;

use std::fmt;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use dirty_ring_core::backend::Backend;
use dirty_ring_core::collector::{CollectError, Collector, RingFullMode};
use dirty_ring_core::entry::{DirtyGfn, SlotId};
use dirty_ring_core::ring::RingState;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::Instant;

use crate::error::Error;
use crate::mapping::MappedRing;
use crate::reaper::ReaperBuilder;
use crate::rings::KvmRings;
use crate::session::Session;
use crate::sink::PageSink;
use crate::slots::MemorySlot;
use crate::stats::ReaperStats;

pub use memory_update::MemoryUpdate;
pub use vcpu::VcpuHandle;

/// Tracks the dirty pages of one VM, for as long as the VM lives. Clones are the same tracker.
///
/// Reapers come and go: [`reaper`](Self::reaper) starts one, and only one at a time. Positions, pages
/// that wait for their reset or for a sink, and suspects stay with the tracker, so whatever ends one
/// reaper, the next goes on without losing a page. While there is none, a vCPU on ring-full makes room
/// by itself, and the pages are kept for the next reaper's sink.
#[derive(Clone)]
pub struct Tracker {
    session: Arc<Session>,
}

/// What has to be saved of a tracker to go on with its rings in another process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrackerState {
    /// Each vCPU's ring, for [`KvmRings::add_vcpu_at`]. What was harvested of it and not reset is in
    /// the ring itself.
    pub rings: Vec<RingState>,
    /// Pages that were published to no sink, because there was none or it failed, and those that wait
    /// for their reset: they count as dirty.
    pub unpublished: Vec<DirtyGfn>,
    /// Pages that may be writable without being logged: they count as dirty until their slot's logging
    /// was switched off and on again.
    pub suspects: Vec<DirtyGfn>,
}

/// The kick of a flush where none is needed: no vCPU is in guest mode, or the pages of the last moments may
/// come with the next flush. See [`Tracker::flush`].
///
/// # Errors
/// None.
pub const fn no_kick() -> Result<(), std::convert::Infallible> {
    Ok(())
}

impl Tracker {
    /// Creates the tracker of `rings`; a vCPU on ring-full takes one chunk of its ring.
    ///
    /// # Errors
    /// [`Error::Collect`] where a ring holds more entries without their reset than a tracker leaves.
    pub fn new(rings: KvmRings) -> Result<Self, Error> {
        Self::with_ring_full_mode(rings, RingFullMode::default())
    }

    /// Creates the tracker of `rings`; a vCPU on ring-full does as `mode` says.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_ring_full_mode(rings: KvmRings, mode: RingFullMode) -> Result<Self, Error> {
        let clock = rings.clock();
        let mut collector = Collector::new(rings);
        for ring in 0..collector.backend().rings().len() {
            collector.inherit(ring)?;
        }
        Ok(Self {
            session: Arc::new(Session::new(collector, clock, mode)),
        })
    }

    /// Returns a builder that starts a reaper; pages go to `sink`.
    pub fn reaper(&self, sink: impl PageSink + 'static) -> ReaperBuilder {
        ReaperBuilder::new(Arc::clone(&self.session), Some(Box::new(sink)))
    }

    /// Returns a builder that starts a reaper without a sink: pages are kept in the tracker's dirty log,
    /// until [`take`](Self::take) or [`take_all`](Self::take_all).
    pub fn reaper_for_log(&self) -> ReaperBuilder {
        ReaperBuilder::new(Arc::clone(&self.session), None)
    }

    /// Takes the dirty log of one slot: flushes, and returns and clears one bit a page, in the format of
    /// `KVM_GET_DIRTY_LOG` (bit n of word m is page 64 m + n). All is done on the caller's thread; no bit
    /// that comes meanwhile is lost. Works with a reaper [for the log](Self::reaper_for_log), and with
    /// none.
    ///
    /// `kick_vcpus` is that of [`flush`](Self::flush).
    ///
    /// # Errors
    /// Those of [`flush`](Self::flush), and then nothing is cleared; [`Error::HasSink`];
    /// [`Error::NoSuchSlot`].
    pub fn take<E>(
        &self,
        slot: SlotId,
        kick_vcpus: impl FnOnce() -> Result<(), E>,
    ) -> Result<Vec<u64>, Error>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.flush(kick_vcpus)?;
        self.session.with(|collector| {
            let log = collector.backend_mut().take_log(slot)?;
            log.ok_or(Error::NoSuchSlot { slot })
        })?
    }

    /// Takes the dirty logs of all slots after one flush, as [`take`](Self::take) does.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_all<E>(
        &self,
        kick_vcpus: impl FnOnce() -> Result<(), E>,
    ) -> Result<Vec<(MemorySlot, Vec<u64>)>, Error>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.flush(kick_vcpus)?;
        self.session
            .with(|collector| collector.backend_mut().take_logs())?
    }

    /// Returns the size of each ring.
    ///
    /// # Errors
    /// [`Error::Reentrant`].
    pub fn ring_size(&self) -> Result<RingSize, Error> {
        self.session.with(|collector| collector.backend().size())
    }

    /// Returns the side of vCPU `vcpu`.
    ///
    /// # Errors
    /// [`Error::NoSuchVcpu`], [`Error::Reentrant`].
    pub fn vcpu(&self, vcpu: usize) -> Result<VcpuHandle, Error> {
        let vcpus = self
            .session
            .with(|collector| collector.backend().rings().len())?;
        if vcpu >= vcpus {
            return Err(Error::NoSuchVcpu { vcpu, vcpus });
        }
        Ok(VcpuHandle {
            session: Arc::clone(&self.session),
            vcpu,
        })
    }

    /// Maps the ring of one more vCPU and tracks it from now on.
    ///
    /// # Errors
    /// Those of [`KvmRings::add_vcpu`], [`Error::Reentrant`].
    pub fn add_vcpu(&self, vcpu: &impl AsRawFd) -> Result<VcpuHandle, Error> {
        let vcpu = self
            .session
            .with(|collector| collector.backend_mut().add_vcpu(vcpu))??;
        // The reaper may be asleep for lack of rings, or because all others are idle.
        self.session.collector()?.doorbell().ring_full();
        self.vcpu(vcpu)
    }

    /// Adds the ring of one more vCPU, which is mapped already, and tracks it from now on.
    ///
    /// # Errors
    /// Those of [`KvmRings::add_mapped`], [`Error::Reentrant`].
    pub fn add_mapped(
        &self,
        ring: MappedRing,
        state: impl Into<RingState>,
    ) -> Result<VcpuHandle, Error> {
        let added = self.session.with(|collector| {
            let vcpu = collector.backend_mut().add_mapped(ring, state)?;
            collector.inherit(vcpu)?;
            Ok::<_, Error>(vcpu)
        });
        let vcpu = added??;
        self.session.collector()?.doorbell().ring_full();
        self.vcpu(vcpu)
    }

    /// Publishes every page that was dirtied before the call, on the caller's thread: when it
    /// returns, they are in the sink.
    ///
    /// `kick_vcpus` has to make each vCPU leave guest mode at least once and return after that; the
    /// vCPUs may go back in at once. Without it pages are missing, on every host: a vCPU may have made
    /// a page writable and not logged it yet, and the CPU's own log (Intel PML) reaches the ring only
    /// when the vCPU leaves guest mode (api.rst 8.29). It may be [`no_kick`] where no vCPU is in guest mode,
    /// or where it doesn't matter which pages of the last few microseconds (with PML: of any time) are
    /// in the sink now and which come with the next flush, as in all rounds of a migration but the last.
    ///
    /// Not in the sink are pages that the VMM itself wrote, those that KVM wrote outside any vCPU
    /// ([`Support::needs_bitmap`](crate::Support)), and those that vCPUs dirty after their kick.
    ///
    /// # Errors
    /// [`Error::KickVcpus`] with the error of `kick_vcpus`; [`Error::Collect`] where the rings can't be
    /// reaped any more, or pages were lost: then it is returned by every flush from now on;
    /// [`Error::Panicked`] where the reaper has; [`Error::Reentrant`].
    pub fn flush<E>(&self, kick_vcpus: impl FnOnce() -> Result<(), E>) -> Result<(), Error>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        self.flush_until(Instant::MAX, kick_vcpus)
    }

    /// Flushes as [`flush`](Self::flush) does, but begins no batch after `timeout`.
    ///
    /// # Errors
    /// [`Error::TimedOut`], and those of [`flush`](Self::flush). What was taken in time is in the sink.
    pub fn flush_within<E>(
        &self,
        timeout: Duration,
        kick_vcpus: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), Error>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let deadline = self.session.clock.now() + timeout.into();
        self.flush_until(deadline, kick_vcpus)
    }

    fn flush_until<E>(
        &self,
        deadline: Instant,
        kick_vcpus: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), Error>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let collector = self.session.collector()?;
        kick_vcpus().map_err(|error| Error::KickVcpus(error.into()))?;
        self.session.check_reaper()?;
        match collector.drain_until(deadline, || self.session.clock.now())? {
            true => Ok(()),
            false => Err(Error::TimedOut),
        }
    }

    /// Drains the rings, then lets `change` change the VM's memory slots. Keeps every other caller
    /// out meanwhile: an entry must not outlive the slot that it names (api.rst 8.29).
    ///
    /// `change` calls `KVM_SET_USER_MEMORY_REGION` and tells the [`MemoryUpdate`] of it; to switch
    /// logging of a slot on or off is such a change too. It must not wait for a vCPU that may be in
    /// [`VcpuHandle::on_ring_full`]. What a vCPU writes to a slot that goes away, between the drain and
    /// its removal, is dropped.
    ///
    /// # Errors
    /// [`Error::Collect`] where the rings can't be drained, [`Error::Reentrant`], or that of `change`.
    /// Lost pages don't keep memory from being changed.
    pub fn update_memory<R, E: From<Error>>(
        &self,
        change: impl FnOnce(&mut MemoryUpdate<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let clock = self.session.clock;
        self.session.with(|collector| {
            // Signals are blocked, so only something rare cuts a reset short (the freezer, io_uring's
            // task work); `drain` fails if it persists.
            loop {
                match collector.drain(clock.now()) {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) if error.ends_reaping() => return Err(Error::from(error).into()),
                    Err(_) => break,
                }
            }
            change(&mut MemoryUpdate::new(collector, clock))
        })?
    }

    /// Gives the rings back after a failure that ended the reaping, or where a position was wrong, and
    /// counts all memory as dirty: an overrun ends a migration, not a guest. vCPUs may run.
    ///
    /// `log_anew` has to switch logging off and on again for every slot that is logged
    /// (`KVM_SET_USER_MEMORY_REGION` without `KVM_MEM_LOG_DIRTY_PAGES`, and with it): entries were
    /// overwritten or dropped, so their pages are writable and nothing else will protect them again. It
    /// must not wait for a vCPU that may be in [`VcpuHandle::on_ring_full`].
    ///
    /// All pages of all registered slots go to the sink; where there is none, they are kept for the
    /// next one. A reaper that has ended stays ended: stop it, and start another.
    ///
    /// # Errors
    /// [`Error::Collect`] where KVM resets nothing or the sink fails, [`Error::Reentrant`], or that of
    /// `log_anew`: then the tracker stays as it is until a resync succeeds.
    pub fn resync<E: From<Error>>(
        &self,
        log_anew: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let clock = self.session.clock;
        self.session.with(|collector| {
            collector.begin_resync().map_err(Error::from)?;
            log_anew()?;
            Ok(collector.end_resync(clock.now()).map_err(Error::from)?)
        })?
    }

    /// Returns the figures so far.
    ///
    /// # Errors
    /// [`Error::Reentrant`].
    pub fn stats(&self) -> Result<ReaperStats, Error> {
        self.session.stats()
    }

    /// Returns what to save of the tracker, to go on in another process. Pages that a sink didn't take
    /// are in it.
    ///
    /// # Errors
    /// [`Error::Collect`] where the rings can't be reaped any more, or pages were lost: the next tracker
    /// wouldn't know. [`Error::Reentrant`].
    pub fn state(&self) -> Result<TrackerState, Error> {
        let now = self.session.clock.now();
        self.session.with(|collector| {
            match collector.check_reaping() {
                Ok(()) | Err(CollectError::Publish(_)) => collector.check_pages()?,
                Err(failure) => return Err(failure.into()),
            }
            let backend = collector.backend();
            let rings = backend.rings().iter();
            let mut unpublished = collector.unpublished().to_vec();
            unpublished.extend(backend.backlog_pages());
            Ok(TrackerState {
                rings: rings.map(|ring| ring.state(now)).collect(),
                unpublished,
                suspects: collector.suspects().to_vec(),
            })
        })?
    }
}

impl fmt::Debug for Tracker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracker").finish_non_exhaustive()
    }
}
