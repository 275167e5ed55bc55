//! The test guest with a reaper: what tests, benches and the command run.

use std::fmt;

use dirty_ring_core::collector::RingFullMode;
use dirty_ring_core::controller::{Controller, Policy};
use dirty_ring_core::planner::{Events, NoEvents};
use dirty_ring_core::size::RingSize;
use kvm_ioctls::Kvm;
use vm_memory::GuestAddress;

use super::{CallbackError, Guest, GuestConfig, GuestSlot, RunningGuest};
use crate::{BitmapSink, MemorySlot, PageSink, ReaperBuilder, ReaperHandle, Support, VcpuHandle};

/// A guest that runs, idle at first, with logging on and its rings reaped.
#[derive(Debug)]
pub struct ReapedGuest<C: Controller = Policy> {
    /// The guest: begin a phase through its [`params`](Guest::params).
    pub guest: Guest,
    /// The vCPU threads. Stop them before the reaper.
    pub running: RunningGuest,
    /// The reaper.
    pub reaper: ReaperHandle<C>,
    /// The rings' size.
    pub size: RingSize,
    /// Page writes of each vCPU before logging began: those of the warm-up.
    pub warm_up_writes: Vec<u64>,
}

/// How the rings of a [`ReapedGuest`] are made and reaped.
pub struct Reaping {
    ring_entries: u32,
    mode: RingFullMode,
    warm_up_pages: u64,
    sink: Option<MakeSink>,
    events: Box<dyn Events + Send>,
    around_ring_full: Box<AroundRingFull>,
}

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
    /// Rings of `ring_entries` entries; pages go to the bitmaps of the guest's memory.
    pub fn new(ring_entries: u32) -> Self {
        Self {
            ring_entries,
            mode: RingFullMode::default(),
            warm_up_pages: 0,
            sink: None,
            events: Box::new(NoEvents),
            around_ring_full: Box::new(|handle| handle()),
        }
    }

    /// What a vCPU does with its full ring.
    #[must_use]
    pub fn ring_full_mode(mut self, mode: RingFullMode) -> Self {
        self.mode = mode;
        self
    }

    /// Lets each vCPU write so many of its pages before logging begins; see [`Guest::warm_up`].
    #[must_use]
    pub fn warm_up(mut self, pages: u64) -> Self {
        self.warm_up_pages = pages;
        self
    }

    /// Another sink, made once the guest's memory is there.
    #[must_use]
    pub fn sink<S: PageSink + 'static>(mut self, make: impl FnOnce(&Guest) -> S + 'static) -> Self {
        self.sink = Some(Box::new(|guest| Box::new(make(guest))));
        self
    }

    /// Who hears of the reaper's decisions.
    #[must_use]
    pub fn events(mut self, events: impl Events + Send + 'static) -> Self {
        self.events = Box::new(events);
        self
    }

    /// What goes round the handling of each ring-full exit, on the vCPU's thread: it is given the
    /// handling to call, once, and may time it.
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
    /// The slot as a reaper registers it.
    pub const fn memory_slot(&self) -> MemorySlot {
        // Slot numbers are below `MAX_DATA_SLOTS`, so they fit.
        MemorySlot::new(self.id as u16, GuestAddress(self.guest_address), self.pages)
    }
}

impl<C> ReapedGuest<C>
where
    C: Controller + Send + 'static,
    C::State: Send,
{
    /// Starts a guest of `config` and a reaper with the controller that `controller` makes for the
    /// rings' size.
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
        let size = Support::probe(kvm)?.enable(guest.vm(), reaping.ring_entries)?;
        let vcpus = guest.create_vcpus()?;
        let sink = match reaping.sink {
            Some(make) => make(&guest),
            None => Box::new(BitmapSink::new(guest.ram().clone())),
        };
        let mut builder = ReaperBuilder::new(guest.vm(), size, sink)?
            .ring_full_mode(reaping.mode)
            .boxed_events(reaping.events);
        for slot in guest.data_slots() {
            builder = builder.slot(slot.memory_slot())?;
        }
        for vcpu in &vcpus {
            builder = builder.vcpu(vcpu.fd())?;
        }
        let reaper = builder.start(controller(size))?;
        let rings: Vec<VcpuHandle> = (0..vcpus.len())
            .map(|vcpu| reaper.vcpu(vcpu))
            .collect::<Result<_, _>>()?;
        let around = reaping.around_ring_full;
        let running = RunningGuest::start(vcpus, move |vcpu| {
            let mut result = Ok(());
            if let Some(ring) = rings.get(vcpu) {
                around(&mut || result = ring.on_ring_full().map(|_| ()));
            }
            result
        })?;
        let warm_up_writes = match reaping.warm_up_pages {
            0 => vec![0; config.vcpus],
            pages => guest.warm_up(&running, pages)?,
        };
        guest.set_logging(true)?;
        Ok(Self {
            guest,
            running,
            reaper,
            size,
            warm_up_writes,
        })
    }
}
