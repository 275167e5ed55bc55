//! The reaper thread: it does what core's machine says.

use std::fmt;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;

use dirty_ring_core::collector::{Backend, CollectError, Collector, RingFullMode};
use dirty_ring_core::controller::Controller;
use dirty_ring_core::handoff::Handoff;
use dirty_ring_core::reaper::{Events, Moment, NoEvents, Reaper, ReaperState, State, Step, drive};
use dirty_ring_core::ring::RingPosition;
use dirty_ring_core::size::RingSize;
use kvm_ioctls::{Error as KvmError, VcpuFd, VmFd};

use crate::error::Error;
use crate::handles::ReaperHandle;
use crate::host::{self, Clock, StdLock, StdPark, lock};
use crate::mapping::MappedRing;
use crate::rings::{KvmRings, MemorySlot};
use crate::sink::PageSink;
use crate::sys;

pub(crate) type KvmHandoff = Handoff<StdLock<Collector<KvmRings>>, AtomicU32, StdPark>;

/// What the reaper thread, the vCPU threads and the owner share.
pub(crate) struct Shared {
    pub(crate) handoff: KvmHandoff,
    pub(crate) clock: Clock,
    pub(crate) size: RingSize,
    pub(crate) mode: RingFullMode,
    pub(crate) board: Mutex<Board>,
    pub(crate) board_changed: Condvar,
}

/// How far the reaper thread is, for those who watch it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Board {
    pub(crate) phase: State,
    /// Passes that take every page of every ring.
    pub(crate) full_passes_begun: u64,
    pub(crate) full_passes_done: u64,
    pub(crate) wakeups: u64,
    pub(crate) cpu_us: Option<u64>,
    pub(crate) last_step: Option<Step>,
    /// The thread has ended, for this reason if it failed.
    pub(crate) ended: bool,
    pub(crate) failure: Option<CollectError<KvmError>>,
}

impl Shared {
    pub(crate) fn board(&self) -> Board {
        *lock(&self.board)
    }

    fn post(&self, change: impl FnOnce(&mut Board)) {
        change(&mut lock(&self.board));
        self.board_changed.notify_all();
    }
}

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
    /// A reaper for `vm`, whose rings were enabled with `size`; pages go to `sink`.
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
        self.rings.add_slot(&slot)?;
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

    /// The same for a vCPU whose ring was reaped before, by a reaper that left it at `position`:
    /// KVM's own indices go on from there, whoever reaps.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn vcpu_at(mut self, vcpu: &VcpuFd, position: RingPosition) -> Result<Self, Error> {
        let ring = MappedRing::map(self.rings.rings().len(), vcpu, self.size)?;
        self.rings.add_ring(ring, position, self.clock.now_us());
        Ok(self)
    }

    /// What a vCPU does with its full ring; by default one chunk of it.
    #[must_use]
    pub fn ring_full_mode(mut self, mode: RingFullMode) -> Self {
        self.mode = mode;
        self
    }

    /// Who hears of each decision, on the reaper's thread: it must not wait for the reaper (no
    /// flush, no stop).
    #[must_use]
    pub fn events(self, events: impl Events + Send + 'static) -> Self {
        self.boxed_events(Box::new(events))
    }

    pub(crate) fn boxed_events(mut self, events: Box<dyn Events + Send>) -> Self {
        self.events = events;
        self
    }

    /// The rings without a thread, for a VMM that harvests, resets and publishes in a loop of its
    /// own. Signals are blocked during each reset.
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
        self.spawn(Reaper::new(controller))
    }

    /// Starts the reaper thread and goes on from a saved state.
    ///
    /// # Errors
    /// [`Error::State`], [`Error::Spawn`], [`Error::Signals`].
    pub fn resume<C>(
        self,
        controller: C,
        state: &ReaperState<C::State>,
    ) -> Result<ReaperHandle<C>, Error>
    where
        C: Controller + Send + 'static,
        C::State: Send,
    {
        self.spawn(Reaper::from_state(controller, state, 0)?)
    }

    fn spawn<C>(self, reaper: Reaper<C>) -> Result<ReaperHandle<C>, Error>
    where
        C: Controller + Send + 'static,
        C::State: Send,
    {
        let shared = Arc::new(Shared {
            handoff: Handoff::new(
                StdLock::new(Collector::new(self.rings)),
                StdPark::new(self.clock),
            ),
            clock: self.clock,
            size: self.size,
            mode: self.mode,
            board: Mutex::new(Board {
                phase: State::None,
                full_passes_begun: 0,
                full_passes_done: 0,
                wakeups: 0,
                cpu_us: None,
                last_step: None,
                ended: false,
                failure: None,
            }),
            board_changed: Condvar::new(),
        });
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("dirty-ring-reaper".into())
            .spawn({
                let shared = Arc::clone(&shared);
                let mut events = self.events;
                move || {
                    let _ending = Ending(&shared);
                    host::wake_precisely();
                    let blocked = host::block_signals();
                    let is_blocked = blocked.is_ok();
                    let _ = ready.send(blocked);
                    let mut reaper = reaper;
                    if is_blocked && let Err(failure) = run(&shared, &mut reaper, &mut *events) {
                        shared.post(|board| board.failure = Some(failure));
                    }
                    reaper
                }
            })
            .map_err(Error::Spawn)?;
        let handle = ReaperHandle::new(shared, thread);
        match is_ready.recv() {
            Ok(Ok(())) => Ok(handle),
            Ok(Err(error)) => Err(Error::Signals(error)),
            Err(_) => Err(Error::Ended),
        }
    }
}

/// Says that the thread has ended, even if it panicked.
struct Ending<'s>(&'s Shared);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.post(|board| {
            board.ended = true;
            board.phase = State::None;
        });
    }
}

/// The thread's whole life, with the board kept up to date.
fn run<C: Controller>(
    shared: &Shared,
    reaper: &mut Reaper<C>,
    events: &mut dyn Events,
) -> Result<(), CollectError<KvmError>> {
    let Shared { handoff, clock, .. } = shared;
    let watch = |moment, reaper: &Reaper<C>| match moment {
        Moment::Waiting => shared.post(|board| board.phase = State::Wait),
        Moment::Woken => shared.post(|board| board.wakeups += 1),
        Moment::Harvesting { begin: true, all } => shared.post(|board| {
            board.phase = State::Reaping;
            board.full_passes_begun += u64::from(all);
        }),
        Moment::Harvesting { begin: false, .. } | Moment::Resetting => {}
        Moment::Decided => {
            let last_step = reaper.last_step().copied();
            if let Some(step) = &last_step {
                events.on_step(step);
            }
            shared.post(|board| {
                board.full_passes_done = board.full_passes_begun;
                board.last_step = last_step;
                board.cpu_us = host::thread_cpu_us();
            });
        }
    };
    drive(reaper, handoff, || clock.now_us(), watch).map(|_| ())
}
