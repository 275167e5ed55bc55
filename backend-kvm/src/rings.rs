//! The rings of one VM as core's backend.

use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use dirty_ring_core::backend::{Backend, Reset};
use dirty_ring_core::entry::{DirtyGfn, EntryMemory, SlotId};
use dirty_ring_core::ring::{Ring, RingPosition, RingState};
use dirty_ring_core::size::RingSize;

use crate::backlog::Backlog;
use crate::error::{Error, RingsError};
use crate::host::{self, Clock};
use crate::mapping::MappedRing;
use crate::sink::{PageSink, SinkFailure};
use crate::slots::{MemorySlot, Slots};
use crate::sys;

/// Times that a ring is checked against its position while its vCPU may be logging.
const POSITION_CHECKS: u32 = 5;

/// The dirty rings of one VM, which [`Support::enable`](crate::Support::enable) returns: their mappings
/// and positions, the registered memory slots, and the sink.
///
/// It lives as long as the VM. Give it to a [`Tracker`](crate::Tracker), or to a
/// [`Collector`](dirty_ring_core::collector::Collector) of your own. There is one for each VM, so no two
/// reapers can reap its rings, and no position is ever forgotten.
pub struct KvmRings {
    vm: OwnedFd,
    clock: Clock,
    size: RingSize,
    rings: Vec<Ring<MappedRing>>,
    slots: Slots,
    sink: Option<Box<dyn PageSink>>,
    /// What was published while there was no sink.
    backlog: Backlog,
}

impl fmt::Debug for KvmRings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmRings")
            .field("vm", &self.vm)
            .field("size", &self.size)
            .field("rings", &self.rings)
            .finish_non_exhaustive()
    }
}

impl KvmRings {
    /// Creates the rings of `vm`, which were enabled with `size` elsewhere: by the process that this
    /// one took the VM over from, or by the VMM itself. Give each vCPU's ring with its saved state.
    ///
    /// # Errors
    /// [`Error::Duplicate`].
    pub fn enabled_elsewhere(vm: &impl AsRawFd, size: RingSize) -> Result<Self, Error> {
        Ok(Self {
            vm: sys::duplicate(vm).map_err(Error::Duplicate)?,
            clock: Clock::start(),
            size,
            rings: Vec::new(),
            slots: Slots::default(),
            sink: None,
            backlog: Backlog::default(),
        })
    }

    /// Returns the size of each ring.
    pub const fn size(&self) -> RingSize {
        self.size
    }

    /// Maps the ring of the next vCPU, and returns its index: the first one is vCPU 0.
    ///
    /// # Errors
    /// [`Error::Map`], [`Error::LargerRing`], [`Error::MappedTwice`], [`Error::NotFresh`].
    pub fn add_vcpu(&mut self, vcpu: &impl AsRawFd) -> Result<usize, Error> {
        self.add_vcpu_at(vcpu, RingPosition::START)
    }

    /// Maps the ring of the next vCPU where it was reaped before, by another process: `state` is what
    /// that one saved of it, or at least its position.
    ///
    /// # Errors
    /// [`Error::Map`], [`Error::LargerRing`], [`Error::MappedTwice`], and [`Error::NotFresh`] or
    /// [`Error::WrongPosition`] where the ring's entries show it. A position that is wrong in a ring
    /// without entries is found by the first pass or drain that meets one.
    pub fn add_vcpu_at(
        &mut self,
        vcpu: &impl AsRawFd,
        state: impl Into<RingState>,
    ) -> Result<usize, Error> {
        let memory = MappedRing::map(self.rings.len(), vcpu, self.size)?;
        self.add_mapped(memory, state)
    }

    /// Adds the ring of the next vCPU, which is mapped already: by the thread that owns the vCPU's
    /// descriptor, for one. `state` is what was saved of it, or its position;
    /// [`RingPosition::START`](dirty_ring_core::ring::RingPosition::START) for a fresh one.
    ///
    /// # Errors
    /// [`Error::OtherSize`], and those of [`add_vcpu_at`](Self::add_vcpu_at).
    pub fn add_mapped(
        &mut self,
        memory: MappedRing,
        state: impl Into<RingState>,
    ) -> Result<usize, Error> {
        let index = self.rings.len();
        if memory.size() != self.size {
            return Err(Error::OtherSize {
                vcpu: index,
                entries: memory.size().entries(),
                expected: self.size.entries(),
            });
        }
        let state = state.into();
        let ring = Ring::from_state(memory, &state, self.clock.now());
        check_position(index, &ring)?;
        let unused = state.position.index().wrapping_sub(1);
        let mut others = self.rings.iter();
        // In a lost ring any entry may be in use. One that is mapped twice parts as soon as it is found.
        if !ring.is_lost()
            && let Some(other) =
                others.position(|other| ring.memory().is_same_ring(other.memory(), unused))
        {
            return Err(Error::MappedTwice { vcpu: index, other });
        }
        self.rings.push(ring);
        Ok(index)
    }

    /// Registers a memory slot whose pages are logged.
    ///
    /// # Errors
    /// [`Error::Slot`], [`Error::Sink`].
    pub fn add_slot(&mut self, slot: MemorySlot) -> Result<(), Error> {
        self.slots.check(&slot)?;
        // A slot that the sink refuses was never there: entries that name it are lost pages, not late
        // ones.
        if let Some(sink) = &mut self.sink {
            sink.add_slot(slot)?;
        }
        self.slots.insert(slot)?;
        Ok(())
    }

    /// Counts all pages of a slot as dirty; where the sink fails, for the next one.
    pub(crate) fn publish_all_of(&mut self, slot: &MemorySlot) -> Result<(), RingsError> {
        let taken = match &mut self.sink {
            Some(sink) => guarded(|| sink.publish_all(slot)),
            None => {
                self.backlog.insert_all(slot);
                return Ok(());
            }
        };
        taken.inspect_err(|_| self.backlog.insert_all(slot))
    }

    /// Forgets a slot that was removed; returns whether it was there. Drain the rings before.
    pub fn remove_slot(&mut self, slot: SlotId) -> bool {
        let known = self.slots.remove(slot);
        if known {
            self.backlog.remove(slot);
            if let Some(sink) = &mut self.sink {
                sink.remove_slot(slot);
            }
        }
        known
    }

    /// Sets the sink, which gets all slots, and all pages that were published without one.
    ///
    /// # Errors
    /// [`Error::Sink`] where it refuses a slot, [`Error::Collect`] where it doesn't take the pages; it
    /// isn't set then.
    pub fn set_sink(&mut self, mut sink: Box<dyn PageSink>) -> Result<(), Error> {
        for slot in self.slots.iter() {
            sink.add_slot(*slot)?;
        }
        for slot in self.slots.iter() {
            let given = guarded(|| {
                self.backlog
                    .give(slot.id, |pages| sink.publish(slot, pages))
            });
            given.map_err(dirty_ring_core::collector::CollectError::Publish)?;
        }
        self.backlog.clear();
        self.sink = Some(sink);
        Ok(())
    }

    /// Returns a registered slot.
    pub(crate) fn slot(&self, slot: SlotId) -> Option<&MemorySlot> {
        self.slots.get(slot)
    }

    /// Takes the dirty log of `slot`: what was published since it was taken last; `None` for a slot that
    /// isn't registered.
    ///
    /// # Errors
    /// [`Error::HasSink`].
    pub fn take_log(&mut self, slot: SlotId) -> Result<Option<Vec<u64>>, Error> {
        if self.sink.is_some() {
            return Err(Error::HasSink);
        }
        let slot = self.slots.get(slot);
        Ok(slot.map(|slot| self.backlog.take(slot)))
    }

    /// Takes the dirty logs of all slots.
    ///
    /// # Errors
    /// [`Error::HasSink`].
    pub fn take_logs(&mut self) -> Result<Vec<(MemorySlot, Vec<u64>)>, Error> {
        if self.sink.is_some() {
            return Err(Error::HasSink);
        }
        let Self { slots, backlog, .. } = self;
        let logs = slots.iter().map(|slot| (*slot, backlog.take(slot)));
        Ok(logs.collect())
    }

    /// Removes the sink and returns it. What is published from now on is kept for the next one.
    pub fn take_sink(&mut self) -> Option<Box<dyn PageSink>> {
        self.sink.take()
    }

    /// Returns how many pages were published without a sink and are kept for the next one.
    pub fn backlog(&self) -> u64 {
        self.backlog.len()
    }

    /// Returns those pages.
    pub(crate) fn backlog_pages(&self) -> impl Iterator<Item = DirtyGfn> {
        self.backlog.pages()
    }

    /// Returns the clock by which the rings are watched.
    pub(crate) const fn clock(&self) -> Clock {
        self.clock
    }
}

/// Checks whether the entries of a ring can be those of a ring at its position.
fn check_position(vcpu: usize, ring: &Ring<MappedRing>) -> Result<(), Error> {
    if ring.is_lost() {
        // Its entries will tell its position.
        return Ok(());
    }
    let position = ring.position();
    // A vCPU that logs pages meanwhile may make a sound ring look odd once.
    let fits = (0..POSITION_CHECKS).any(|_| match position {
        RingPosition::START => ring.is_fresh(),
        _ => ring.fits_position(),
    });
    match position {
        _ if fits => Ok(()),
        RingPosition::START => Err(Error::NotFresh { vcpu }),
        _ => Err(Error::WrongPosition {
            vcpu,
            position: position.index(),
        }),
    }
}

/// Calls a sink; a panic is an error like any other.
fn guarded(call: impl FnOnce() -> Result<(), SinkFailure>) -> Result<(), RingsError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(RingsError::Sink(error.into())),
        Err(panic) => Err(RingsError::SinkPanicked(
            host::panic_message(&*panic).into(),
        )),
    }
}

impl Backend for KvmRings {
    type Memory = MappedRing;
    type Error = RingsError;

    fn rings(&self) -> &[Ring<MappedRing>] {
        &self.rings
    }

    fn rings_mut(&mut self) -> &mut [Ring<MappedRing>] {
        &mut self.rings
    }

    fn is_registered(&self, gfn: &DirtyGfn) -> bool {
        self.slots.contains(gfn)
    }

    fn was_removed(&self, slot: SlotId) -> bool {
        self.slots.was_removed(slot)
    }

    fn reject(&mut self, ring: usize, gfn: &DirtyGfn) {
        // The first of each ring is logged; all are counted.
        let is_first = self
            .rings
            .get(ring)
            .is_some_and(|ring| ring.stats().bad_entries == 0);
        if !is_first {
            return;
        }
        log::warn!(
            "a dirty ring entry of vCPU {ring} names no registered page: page {} of slot {} in address \
             space {} is lost",
            gfn.offset,
            gfn.slot.slot(),
            gfn.slot.address_space()
        );
    }

    fn reset(&mut self) -> Result<Reset, RingsError> {
        // An interrupted reset forgets to protect the last pages that it counted, up to 64
        // (virt/kvm/dirty_ring.c, `kvm_dirty_ring_reset`).
        let (before, entries, after) = host::without_signals(|| {
            let before = host::times_stopped();
            let entries = sys::reset_dirty_rings(&self.vm);
            (before, entries, host::times_stopped())
        })
        .map_err(RingsError::Signals)?;
        Ok(Reset {
            entries: entries.map_err(RingsError::Reset)?,
            maybe_interrupted: before.is_none() || before != after,
        })
    }

    fn publish(&mut self, pages: &[DirtyGfn]) -> Result<(), RingsError> {
        for pages in pages.chunk_by(|one, next| one.slot == next.slot) {
            // The slots don't change between harvest and publication: a change drains the rings.
            let Some(slot) = pages.first().and_then(|page| self.slots.get(page.slot)) else {
                continue;
            };
            match &mut self.sink {
                Some(sink) => guarded(|| sink.publish(slot, pages))?,
                None => self.backlog.insert(slot.id, pages),
            }
        }
        Ok(())
    }

    fn publish_all(&mut self) -> Result<(), RingsError> {
        for slot in self.slots.iter() {
            match &mut self.sink {
                Some(sink) => guarded(|| sink.publish_all(slot))?,
                None => self.backlog.insert_all(slot),
            }
        }
        Ok(())
    }
}
