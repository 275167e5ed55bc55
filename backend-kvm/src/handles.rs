//! What the embedder holds: the reaper, and each vCPU's side of it.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use dirty_ring_core::collector::{Backend, RingFullReport};
use dirty_ring_core::controller::{Controller, Policy};
use dirty_ring_core::entry::SlotId;
use dirty_ring_core::reaper::{Reaper, ReaperState, Step};
use dirty_ring_core::ring::RingPosition;
use kvm_ioctls::VcpuFd;

use crate::error::Error;
use crate::host::lock;
use crate::mapping::MappedRing;
use crate::reaper::Shared;
use crate::rings::{KvmRings, MemorySlot};
use crate::stats::{ReaperStats, VcpuStats};

/// A running reaper. Dropping it stops it as [`stop`](Self::stop) does, errors unheard.
pub struct ReaperHandle<C: Controller = Policy> {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Reaper<C>>>,
}

/// What a reaper leaves behind.
#[derive(Clone, Debug)]
pub struct Stopped<S> {
    /// Its figures, the final drain included.
    pub stats: ReaperStats,
    /// Its state, to resume from.
    pub state: ReaperState<S>,
    /// How far each vCPU's ring was harvested: another reaper of the same vCPUs goes on from there,
    /// see [`ReaperBuilder::vcpu_at`](crate::ReaperBuilder::vcpu_at).
    pub positions: Vec<RingPosition>,
    /// Its last decisions, oldest first.
    pub history: Vec<Step>,
}

/// A vCPU's side: call [`on_ring_full`](Self::on_ring_full) on its thread.
///
/// It keeps the VM's file descriptor, the rings and the sink alive: drop it with its vCPU.
#[derive(Clone)]
pub struct VcpuHandle {
    shared: Arc<Shared>,
    vcpu: usize,
}

/// A change of the VM's memory slots, while the rings are drained and nobody else reaps.
#[derive(Debug)]
pub struct MemoryUpdate<'r> {
    rings: &'r mut KvmRings,
}

impl<C: Controller> ReaperHandle<C> {
    pub(crate) fn new(shared: Arc<Shared>, thread: JoinHandle<Reaper<C>>) -> Self {
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// The side of vCPU `vcpu`.
    ///
    /// # Errors
    /// [`Error::NoSuchVcpu`].
    pub fn vcpu(&self, vcpu: usize) -> Result<VcpuHandle, Error> {
        let vcpus = self.with_rings(|rings| rings.rings().len());
        if vcpu >= vcpus {
            return Err(Error::NoSuchVcpu { vcpu, vcpus });
        }
        Ok(VcpuHandle {
            shared: Arc::clone(&self.shared),
            vcpu,
        })
    }

    /// Maps the ring of one more vCPU and reaps it from now on. Call it before the vCPU runs.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn add_vcpu(&self, vcpu: &VcpuFd) -> Result<VcpuHandle, Error> {
        let Shared { clock, size, .. } = *self.shared;
        let vcpu = self.with_rings(|rings| {
            let ring = MappedRing::map(rings.rings().len(), vcpu, size)?;
            Ok::<_, Error>(rings.add_ring(ring, RingPosition::START, clock.now_us()))
        })?;
        self.vcpu(vcpu)
    }

    /// Asks for a pass now.
    pub fn kick(&self) {
        self.shared.handoff.doorbell().kick();
    }

    /// Returns when every page that was dirtied before the call is in the sink.
    ///
    /// `kick_vcpus` has to make each vCPU leave guest mode at least once and return after that
    /// (they may go back in at once): pages that sit in the CPU's own log (Intel PML) reach the
    /// ring only then (api.rst 8.29). Where the host has no such log it may do nothing.
    ///
    /// # Errors
    /// [`Error::KickVcpus`] with the error of `kick_vcpus`; otherwise why the reaper has ended.
    pub fn flush<E>(&self, kick_vcpus: impl FnOnce() -> Result<(), E>) -> Result<(), Error>
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        kick_vcpus().map_err(|error| Error::KickVcpus(error.into()))?;
        let mut board = lock(&self.shared.board);
        // A pass that has begun may have passed by a ring already, and one that takes not all of
        // the rings may leave them alone; the kick's own pass does neither.
        let wanted = board.full_passes_begun + 1;
        self.kick();
        while board.full_passes_done < wanted {
            if let Some(failure) = board.failure {
                return Err(failure.into());
            }
            if board.ended {
                return Err(Error::Ended);
            }
            let changed = self.shared.board_changed.wait(board);
            board = changed.unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Drains the rings, then lets `change` change the VM's memory slots, and keeps everyone else
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
        let now_us = self.shared.clock.now_us();
        self.shared.handoff.with(|collector| {
            while !collector.drain(now_us).map_err(Error::from)? {
                // Signals are blocked, so something rare cut the reset short (the freezer, io_uring's
                // task work); `drain` fails if it persists.
            }
            change(&mut MemoryUpdate {
                rings: collector.backend_mut(),
            })
        })
    }

    /// Figures so far.
    pub fn stats(&self) -> ReaperStats {
        stats(&self.shared)
    }

    /// Stops the reaper: it drains the rings once more, publishes, and ends. Stop the vCPUs first,
    /// or pages that they dirty afterwards stay in their rings.
    ///
    /// # Errors
    /// Why the reaper ended before, or failed to drain the rings.
    pub fn stop(mut self) -> Result<Stopped<C::State>, Error> {
        self.shared.handoff.doorbell().stop();
        let thread = self.thread.take().ok_or(Error::Ended)?;
        let reaper = thread.join().map_err(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            Error::Panicked(text.unwrap_or("no message").to_owned())
        })?;
        if let Some(failure) = self.shared.board().failure {
            return Err(failure.into());
        }
        Ok(Stopped {
            stats: stats(&self.shared),
            state: reaper.state(),
            positions: self.with_rings(|rings| {
                let rings = rings.rings().iter();
                rings.map(|ring| ring.position()).collect()
            }),
            history: reaper.history().copied().collect(),
        })
    }

    fn with_rings<R>(&self, look: impl FnOnce(&mut KvmRings) -> R) -> R {
        self.shared
            .handoff
            .with(|collector| look(collector.backend_mut()))
    }
}

impl<C: Controller> Drop for ReaperHandle<C> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.shared.handoff.doorbell().stop();
            // Its error had its chance in `stop`.
            let _ = thread.join();
        }
    }
}

impl<C: Controller> fmt::Debug for ReaperHandle<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReaperHandle")
            .field("board", &self.shared.board())
            .finish_non_exhaustive()
    }
}

impl VcpuHandle {
    /// For `KVM_EXIT_DIRTY_RING_FULL`: makes room in this vCPU's ring; then go back in.
    ///
    /// # Errors
    /// [`Error::Collect`]: the ring has overrun (it names the vCPU), or KVM's reset fails. Stop
    /// the VM: its dirty log is incomplete from here on.
    pub fn on_ring_full(&self) -> Result<RingFullReport, Error> {
        let Shared {
            handoff,
            clock,
            mode,
            ..
        } = &*self.shared;
        Ok(handoff.ring_full(self.vcpu, *mode, clock.now_us())?)
    }

    /// The vCPU's index.
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
    /// A slot was created, with logging.
    ///
    /// # Errors
    /// [`Error::Slot`], [`Error::Sink`].
    pub fn add(&mut self, slot: &MemorySlot) -> Result<(), Error> {
        self.rings.add_slot(slot)
    }

    /// A slot was removed; returns whether it was known.
    pub fn remove(&mut self, slot: SlotId) -> bool {
        self.rings.remove_slot(slot)
    }
}

fn stats(shared: &Shared) -> ReaperStats {
    let board = shared.board();
    shared.handoff.with(|collector| {
        let vcpus = collector.backend().rings().iter().map(|ring| VcpuStats {
            ring: ring.stats(),
            occupancy: ring.occupancy(),
            mean_rate_per_s: ring.meter().mean_per_s(),
            max_rate_per_s: ring.meter().max_per_s(),
        });
        ReaperStats {
            phase: board.phase,
            iterations: board.last_step.map_or(0, |step| step.iteration),
            has_ended: board.ended,
            wakeups: board.wakeups,
            cpu_us: board.cpu_us,
            totals: collector.totals(),
            outstanding: collector.outstanding(),
            last_step: board.last_step,
            vcpus: vcpus.collect(),
        }
    })
}
