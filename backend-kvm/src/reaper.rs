//! The reaper thread, and the builder that starts it.

use std::fmt;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use dirty_ring_core::backend::Backend;
use dirty_ring_core::collector::{CollectError, Collector, RingFullMode};
use dirty_ring_core::controller::Controller;
use dirty_ring_core::planner::{Events, NoEvents, Planner, PlannerState};
use dirty_ring_core::reaper::{Reaper, Turn};
use dirty_ring_core::ring::{RingPosition, RingState};
use dirty_ring_core::size::RingSize;
use kvm_ioctls::{Error as KvmError, VcpuFd, VmFd};

use crate::error::Error;
use crate::handles::ReaperHandle;
use crate::host::{self, Clock, lock};
use crate::mapping::MappedRing;
use crate::rings::KvmRings;
use crate::session::{Progress, Session};
use crate::sink::PageSink;
use crate::slots::MemorySlot;
use crate::sys;

/// Puts a reaper together: the VM's rings, its memory slots, a sink.
pub struct ReaperBuilder {
    rings: KvmRings,
    clock: Clock,
    size: RingSize,
    mode: RingFullMode,
    events: Box<dyn Events + Send>,
}

impl fmt::Debug for ReaperBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReaperBuilder")
            .field("rings", &self.rings)
            .field("size", &self.size)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl ReaperBuilder {
    /// Creates a builder for `vm`, whose rings were enabled with `size`; pages go to `sink`.
    ///
    /// # Errors
    /// [`Error::Duplicate`].
    pub fn new(vm: &VmFd, size: RingSize, sink: impl PageSink + 'static) -> Result<Self, Error> {
        let vm = sys::duplicate(vm).map_err(Error::Duplicate)?;
        Ok(Self {
            rings: KvmRings::new(vm, Box::new(sink)),
            clock: Clock::start(),
            size,
            mode: RingFullMode::default(),
            events: Box::new(NoEvents),
        })
    }

    /// Registers a memory slot whose pages are logged.
    ///
    /// # Errors
    /// [`Error::Slot`], [`Error::Sink`].
    pub fn slot(mut self, slot: MemorySlot) -> Result<Self, Error> {
        self.rings.add_slot(slot)?;
        Ok(self)
    }

    /// Maps the ring of the next vCPU: the first call is vCPU 0. More may be added later, see
    /// [`ReaperHandle::add_vcpu`].
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn vcpu(self, vcpu: &VcpuFd) -> Result<Self, Error> {
        self.vcpu_at(vcpu, RingPosition::START)
    }

    /// Maps the ring of the next vCPU where it was reaped before. `state` is what was saved of it,
    /// or at least its position: KVM's own indices go on from there.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn vcpu_at(mut self, vcpu: &VcpuFd, state: impl Into<RingState>) -> Result<Self, Error> {
        let ring = MappedRing::map(self.rings.rings().len(), vcpu, self.size)?;
        self.rings.add_ring(ring, &state.into(), self.clock.now());
        Ok(self)
    }

    /// Sets what a vCPU does with its full ring; by default it takes one chunk of it.
    #[must_use]
    pub fn ring_full_mode(mut self, mode: RingFullMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets what hears of each pass, on the reaper's thread. It must not call back into the reaper.
    #[must_use]
    pub fn events(mut self, events: impl Events + Send + 'static) -> Self {
        self.events = Box::new(events);
        self
    }

    /// Returns the rings without a thread, for a VMM that reaps in a loop of its own. Signals are
    /// blocked during each reset.
    pub fn into_collector(self) -> Collector<KvmRings> {
        Collector::new(self.rings)
    }

    /// Starts the reaper thread, which lets `controller` decide.
    ///
    /// # Errors
    /// [`Error::Spawn`], [`Error::Signals`].
    pub fn start<C>(self, controller: C) -> Result<ReaperHandle<C>, Error>
    where
        C: Controller + Send + 'static,
        C::State: Send,
    {
        self.spawn(Planner::new(controller))
    }

    /// Starts the reaper thread and goes on from a saved state.
    ///
    /// # Errors
    /// [`Error::State`], [`Error::Spawn`], [`Error::Signals`].
    pub fn resume<C>(
        self,
        controller: C,
        state: &PlannerState<C::State>,
    ) -> Result<ReaperHandle<C>, Error>
    where
        C: Controller + Send + 'static,
        C::State: Send,
    {
        self.spawn(Planner::from_state(controller, state)?)
    }

    fn spawn<C>(self, planner: Planner<C>) -> Result<ReaperHandle<C>, Error>
    where
        C: Controller + Send + 'static,
        C::State: Send,
    {
        let session = Session::new(self.rings, self.clock, self.size, self.mode);
        session.update(|progress| progress.passes = planner.passes());
        if session.with_rings(|rings| rings.rings().iter().any(|ring| ring.is_at_least(1))) {
            // Rings of an earlier reaper may be nearly full.
            session.collector.doorbell().ring_full();
        }
        let session = Arc::new(session);
        let state = Arc::new(Mutex::new(planner.state()));
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("dirty-ring-reaper".into())
            .spawn({
                let (session, state) = (Arc::clone(&session), Arc::clone(&state));
                let mut events = self.events;
                move || {
                    let _ending = Ending(&session);
                    host::wake_precisely();
                    let blocked = host::block_signals();
                    let is_blocked = blocked.is_ok();
                    let _ = ready.send(blocked);
                    let mut reaper = Reaper::new(planner);
                    if is_blocked
                        && let Err(failure) = run(&session, &mut reaper, &state, &mut *events)
                    {
                        session.update(|progress| progress.failure = Some(failure));
                    }
                    reaper
                }
            })
            .map_err(Error::Spawn)?;
        let handle = ReaperHandle::new(session, state, thread);
        match is_ready.recv() {
            Ok(Ok(())) => Ok(handle),
            Ok(Err(error)) => Err(Error::Signals(error)),
            Err(_) => Err(Error::Ended),
        }
    }
}

/// Notes that the thread has ended, even if it panics.
struct Ending<'s>(&'s Session);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.update(|progress| {
            progress.has_ended = true;
            progress.phase = dirty_ring_core::planner::Phase::Idle;
        });
    }
}

/// Runs the reaper until it is done, and keeps the session's progress up to date.
fn run<C: Controller>(
    session: &Session,
    reaper: &mut Reaper<C>,
    state: &Mutex<PlannerState<C::State>>,
    events: &mut dyn Events,
) -> Result<(), CollectError<KvmError>> {
    let mut has_waited = false;
    let mut passes = reaper.planner().passes();
    let watch = |reaper: &Reaper<C>, turn: Turn| {
        let planner = reaper.planner();
        let is_new = planner.passes() != passes;
        passes = planner.passes();
        if is_new {
            if let Some(pass) = planner.last_pass() {
                events.on_pass(pass);
            }
            *lock(state) = planner.state();
        }
        session.update(|progress: &mut Progress| {
            progress.phase = planner.phase();
            progress.wakeups += u64::from(has_waited);
            if is_new {
                progress.passes = planner.passes();
                progress.last_pass = planner.last_pass().copied();
                progress.cpu = host::thread_cpu();
            }
        });
        has_waited = matches!(turn, Turn::Wait { .. });
    };
    reaper.run(&session.collector, || session.clock.now(), watch)
}
