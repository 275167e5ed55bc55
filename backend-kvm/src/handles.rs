//! What the embedder holds: the reaper, and each vCPU's side of it.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use dirty_ring_core::backend::Backend;
use dirty_ring_core::collector::RingFullReport;
use dirty_ring_core::controller::{Controller, Policy};
use dirty_ring_core::entry::SlotId;
use dirty_ring_core::planner::{PassRecord, PlannerState};
use dirty_ring_core::reaper::Reaper;
use dirty_ring_core::ring::RingState;
use kvm_ioctls::VcpuFd;

use crate::error::Error;
use crate::host::lock;
use crate::mapping::MappedRing;
use crate::rings::KvmRings;
use crate::session::Session;
use crate::slots::MemorySlot;
use crate::stats::ReaperStats;

/// A running reaper. Dropping it stops it as [`stop`](Self::stop) does; an error goes unreported.
pub struct ReaperHandle<C: Controller = Policy> {
    session: Arc<Session>,
    planner: Arc<Mutex<PlannerState<C::State>>>,
    thread: Option<JoinHandle<Reaper<C>>>,
}

/// What has to be saved of a reaper to go on with its rings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaperState<S> {
    /// The planner's state, for [`ReaperBuilder::resume`](crate::ReaperBuilder::resume).
    pub planner: PlannerState<S>,
    /// Each vCPU's ring, for [`ReaperBuilder::vcpu_at`](crate::ReaperBuilder::vcpu_at).
    pub rings: Vec<RingState>,
}

/// What a reaper leaves behind.
#[derive(Clone, Debug)]
pub struct Stopped<S> {
    /// Its figures, the final drain included.
    pub stats: ReaperStats,
    /// Its state, to resume from.
    pub state: ReaperState<S>,
    /// Its last passes, oldest first.
    pub history: Vec<PassRecord>,
}

/// A vCPU's side: call [`on_ring_full`](Self::on_ring_full) on its thread.
///
/// It keeps the VM's file descriptor, the rings and the sink alive: drop it with its vCPU.
#[derive(Clone)]
pub struct VcpuHandle {
    session: Arc<Session>,
    vcpu: usize,
}

/// A change of the VM's memory slots, while the rings are drained and nothing else reaps.
#[derive(Debug)]
pub struct MemoryUpdate<'r> {
    rings: &'r mut KvmRings,
}

impl<C: Controller> ReaperHandle<C> {
    pub(crate) fn new(
        session: Arc<Session>,
        planner: Arc<Mutex<PlannerState<C::State>>>,
        thread: JoinHandle<Reaper<C>>,
    ) -> Self {
        Self {
            session,
            planner,
            thread: Some(thread),
        }
    }

    /// Returns the side of vCPU `vcpu`.
    ///
    /// # Errors
    /// [`Error::NoSuchVcpu`].
    pub fn vcpu(&self, vcpu: usize) -> Result<VcpuHandle, Error> {
        let vcpus = self.session.with_rings(|rings| rings.rings().len());
        if vcpu >= vcpus {
            return Err(Error::NoSuchVcpu { vcpu, vcpus });
        }
        Ok(VcpuHandle {
            session: Arc::clone(&self.session),
            vcpu,
        })
    }

    /// Maps the ring of one more vCPU and reaps it from now on. Call it before the vCPU runs.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn add_vcpu(&self, vcpu: &VcpuFd) -> Result<VcpuHandle, Error> {
        let Session { clock, size, .. } = *self.session;
        let vcpu = self.session.with_rings(|rings| {
            let ring = MappedRing::map(rings.rings().len(), vcpu, size)?;
            Ok::<_, Error>(rings.add_ring(ring, &RingState::default(), clock.now()))
        })?;
        // The reaper may be asleep for lack of rings, or because all others are idle.
        self.session.collector.doorbell().ring_full();
        self.vcpu(vcpu)
    }

    /// Asks the reaper for a pass over all rings, without waiting for it.
    pub fn kick(&self) {
        self.session.collector.doorbell().kick();
    }

    /// Publishes every page that was dirtied before the call, on the caller's thread: when it
    /// returns, they are in the sink.
    ///
    /// `kick_vcpus` has to make each vCPU leave guest mode at least once and return after that; the
    /// vCPUs may go back in at once. It is needed on every host: pages in the CPU's own log (Intel
    /// PML) reach the ring only then (api.rst 8.29), and elsewhere too a vCPU may have made a page
    /// writable and not logged it yet. With all vCPUs out of guest mode it may do nothing.
    ///
    /// # Errors
    /// [`Error::KickVcpus`] with the error of `kick_vcpus`; why the reaper has ended;
    /// [`Error::Collect`] where the rings can't be drained.
    pub fn flush<E>(&self, kick_vcpus: impl FnOnce() -> Result<(), E>) -> Result<(), Error>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        kick_vcpus().map_err(|error| Error::KickVcpus(error.into()))?;
        self.session.check_running()?;
        Ok(self.session.collector.drain(|| self.session.clock.now())?)
    }

    /// Drains the rings, then lets `change` change the VM's memory slots. Keeps every other caller
    /// out meanwhile: an entry must not outlive the slot that it names (api.rst 8.29).
    ///
    /// The vCPUs that write to a slot that goes away must not run. `change` calls
    /// `KVM_SET_USER_MEMORY_REGION` and tells the [`MemoryUpdate`] of it; to switch logging of a
    /// slot on or off is such a change too. It must not call the reaper (the lock is held), nor wait
    /// for a vCPU that may be in [`VcpuHandle::on_ring_full`].
    ///
    /// # Errors
    /// [`Error::Collect`] where the rings can't be drained, or that of `change`.
    pub fn update_memory<R, E: From<Error>>(
        &self,
        change: impl FnOnce(&mut MemoryUpdate<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        self.session.collector.with(|collector| {
            let now = self.session.clock.now();
            // Signals are blocked, so only something rare cuts a reset short (the freezer, io_uring's
            // task work); `drain` fails if it persists.
            while !collector.drain(now).map_err(Error::from)? {}
            change(&mut MemoryUpdate {
                rings: collector.backend_mut(),
            })
        })
    }

    /// Returns the figures so far.
    pub fn stats(&self) -> ReaperStats {
        self.session.stats()
    }

    /// Returns the state as of the last pass, while the reaper runs on: for a snapshot of a VM whose
    /// vCPUs stand still.
    pub fn state(&self) -> ReaperState<C::State> {
        let now = self.session.clock.now();
        ReaperState {
            planner: *lock(&self.planner),
            rings: self.session.with_rings(|rings| {
                let rings = rings.rings().iter();
                rings.map(|ring| ring.state(now)).collect()
            }),
        }
    }

    /// Stops the reaper: it drains the rings once more, publishes, and ends. Stop the vCPUs first,
    /// or pages that they dirty afterwards stay in their rings.
    ///
    /// # Errors
    /// Why the reaper ended before, or failed to drain the rings.
    pub fn stop(mut self) -> Result<Stopped<C::State>, Error> {
        self.session.collector.doorbell().stop();
        let thread = self.thread.take().ok_or(Error::Ended)?;
        let reaper = thread.join().map_err(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            Error::Panicked(text.unwrap_or("no message").to_owned())
        })?;
        if let Some(failure) = self.session.progress().failure {
            return Err(failure.into());
        }
        Ok(Stopped {
            stats: self.session.stats(),
            state: self.state(),
            history: reaper.planner().history().copied().collect(),
        })
    }
}

impl<C: Controller> Drop for ReaperHandle<C> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.session.collector.doorbell().stop();
            // `stop` would have returned its error.
            let _ = thread.join();
        }
    }
}

impl<C: Controller> fmt::Debug for ReaperHandle<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReaperHandle")
            .field("progress", &self.session.progress())
            .finish_non_exhaustive()
    }
}

impl VcpuHandle {
    /// Makes room in this vCPU's ring after `KVM_EXIT_DIRTY_RING_FULL`; then enter the guest again.
    ///
    /// # Errors
    /// [`Error::Collect`]: the ring has overrun (it names the vCPU), or KVM's reset fails. Stop
    /// the VM: its dirty log is incomplete from here on.
    pub fn on_ring_full(&self) -> Result<RingFullReport, Error> {
        let Session {
            collector,
            clock,
            mode,
            ..
        } = &*self.session;
        Ok(collector.ring_full(self.vcpu, *mode, clock.now())?)
    }

    /// Returns the vCPU's index.
    pub const fn index(&self) -> usize {
        self.vcpu
    }
}

impl fmt::Debug for VcpuHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuHandle")
            .field("vcpu", &self.vcpu)
            .finish_non_exhaustive()
    }
}

impl MemoryUpdate<'_> {
    /// Registers a slot that was created, with logging.
    ///
    /// # Errors
    /// [`Error::Slot`], [`Error::Sink`].
    pub fn add(&mut self, slot: MemorySlot) -> Result<(), Error> {
        self.rings.add_slot(slot)
    }

    /// Forgets a slot that was removed; returns whether it was known.
    pub fn remove(&mut self, slot: SlotId) -> bool {
        self.rings.remove_slot(slot)
    }
}
