//! The test guest with a reaper, as tests, benches and the command run it.

use std::fmt;

use dirty_ring_core::collector::RingFullMode;
use dirty_ring_core::controller::{Controller, Policy};
use dirty_ring_core::planner::{Events, NoEvents, PassRecord};
use dirty_ring_core::size::RingSize;
use dirty_ring_kvm::{
    BitmapSink, Error, MemorySlot, PageSink, ReaperHandle, Support, Tracker, VcpuHandle,
};
use kvm_ioctls::Kvm;

use crate::error::CallbackError;
use crate::layout::{GuestConfig, GuestSlot};
use crate::machine::Guest;
use crate::threads::RunningGuest;

/// A running guest, idle at first, with logging on and a reaper for its rings.
#[derive(Debug)]
pub struct ReapedGuest<C: Controller = Policy> {
    /// The guest. Its [`params`](Guest::params) begin a phase.
    pub guest: Guest,
    /// The vCPU threads. Stop them before the reaper.
    pub running: RunningGuest,
    /// The tracker of its dirty pages.
    pub tracker: Tracker,
    /// The reaper.
    pub reaper: ReaperHandle<C>,
    /// The size of the rings.
    pub size: RingSize,
    /// Page writes of each vCPU before logging began, that is, during the warm-up.
    pub warm_up_writes: Vec<u64>,
}

/// How the rings of a [`ReapedGuest`] are set up and reaped.
pub struct Reaping {
    ring_entries: u32,
    mode: RingFullMode,
    warm_up_pages: u64,
    sink: Option<MakeSink>,
    events: Box<dyn Events + Send>,
    on_end: Box<OnEnd>,
    around_ring_full: Box<AroundRingFull>,
}

type OnEnd = dyn FnOnce(Result<(), &Error>) + Send;
type MakeSink = Box<dyn FnOnce(&Guest) -> Box<dyn PageSink>>;
type AroundRingFull = dyn Fn(&mut dyn FnMut()) + Send + Sync;

impl fmt::Debug for Reaping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reaping")
            .field("ring_entries", &self.ring_entries)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

impl Reaping {
    /// Creates a configuration with rings of `ring_entries` entries, whose pages go to the bitmaps
    /// of the guest's memory.
    pub fn new(ring_entries: u32) -> Self {
        Self {
            ring_entries,
            mode: RingFullMode::default(),
            warm_up_pages: 0,
            sink: None,
            events: Box::new(NoEvents),
            on_end: Box::new(|_| ()),
            around_ring_full: Box::new(|handle| handle()),
        }
    }

    /// Sets what a vCPU does with its full ring.
    #[must_use]
    pub fn ring_full_mode(mut self, mode: RingFullMode) -> Self {
        self.mode = mode;
        self
    }

    /// Makes each vCPU write its first `pages` pages before logging begins; see [`Guest::warm_up`].
    #[must_use]
    pub fn warm_up(mut self, pages: u64) -> Self {
        self.warm_up_pages = pages;
        self
    }

    /// Sets another sink. `make` runs once the guest's memory exists.
    #[must_use]
    pub fn sink<S: PageSink + 'static>(mut self, make: impl FnOnce(&Guest) -> S + 'static) -> Self {
        self.sink = Some(Box::new(|guest| Box::new(make(guest))));
        self
    }

    /// Sets the listener to the reaper's decisions.
    #[must_use]
    pub fn events(mut self, events: impl Events + Send + 'static) -> Self {
        self.events = Box::new(events);
        self
    }

    /// Sets what is called when the reaper ends.
    #[must_use]
    pub fn on_end(mut self, on_end: impl FnOnce(Result<(), &Error>) + Send + 'static) -> Self {
        self.on_end = Box::new(on_end);
        self
    }

    /// Sets a wrapper around the handling of each ring-full exit, on the vCPU's thread. The wrapper
    /// receives the handling as a function, must call it once, and may time it.
    #[must_use]
    pub fn around_ring_full(
        mut self,
        around: impl Fn(&mut dyn FnMut()) + Send + Sync + 'static,
    ) -> Self {
        self.around_ring_full = Box::new(around);
        self
    }
}

impl GuestSlot {
    /// Returns the slot as a reaper registers it.
    pub const fn memory_slot(&self) -> MemorySlot {
        MemorySlot::new(self.id, self.guest_address, self.pages)
    }
}

impl<C> ReapedGuest<C>
where
    C: Controller + Send + 'static,
    C::State: Send,
{
    /// Starts a guest of `config` and a reaper with the controller that `controller` creates for
    /// the size of the rings.
    ///
    /// # Errors
    /// Those of the guest and of the reaper.
    pub fn start(
        kvm: &Kvm,
        config: GuestConfig,
        reaping: Reaping,
        controller: impl FnOnce(RingSize) -> C,
    ) -> Result<Self, CallbackError> {
        let guest = Guest::new(kvm, config)?;
        let mut rings = Support::probe(kvm)?.enable(guest.vm(), reaping.ring_entries)?;
        let size = rings.size();
        let vcpus = guest.create_vcpus()?;
        let sink = match reaping.sink {
            Some(make) => make(&guest),
            None => Box::new(BitmapSink::new(guest.ram().clone())),
        };
        for slot in guest.data_slots() {
            rings.add_slot(slot.memory_slot())?;
        }
        for vcpu in &vcpus {
            rings.add_vcpu(vcpu.fd())?;
        }
        let tracker = Tracker::with_ring_full_mode(rings, reaping.mode)?;
        let handles = (0..config.vcpus).map(|vcpu| tracker.vcpu(vcpu));
        let handles = handles.collect::<Result<Vec<VcpuHandle>, _>>()?;
        let around = reaping.around_ring_full;
        let running = RunningGuest::start(vcpus, move |vcpu| {
            let mut result = Ok(());
            around(&mut || result = handles[vcpu].on_ring_full().map(|_| ()));
            result
        })?;
        let warm_up_writes = match reaping.warm_up_pages {
            0 => vec![0; config.vcpus],
            pages => guest.warm_up(&running, pages)?,
        };
        guest.set_logging(true)?;
        let mut events = reaping.events;
        let reaper = tracker
            .reaper(sink)
            .events(move |pass: &PassRecord| events.on_pass(pass))
            .on_end(reaping.on_end)
            .wakes_precisely(true)
            .start(controller(size))?;
        Ok(Self {
            guest,
            running,
            tracker,
            reaper,
            size,
            warm_up_writes,
        })
    }
}
