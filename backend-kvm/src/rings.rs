//! The rings of one VM as core's backend.

use std::fmt;
use std::os::fd::OwnedFd;

use dirty_ring_core::backend::Backend;
use dirty_ring_core::entry::{DirtyGfn, SlotId};
use dirty_ring_core::ring::{Ring, RingState};
use dirty_ring_core::time::Instant;
use kvm_ioctls::Error as KvmError;

use crate::error::Error;
use crate::host;
use crate::mapping::MappedRing;
use crate::sink::PageSink;
use crate::slots::{MemorySlot, Slots};
use crate::sys;

/// The mapped rings of one VM, its registered memory and its sink.
pub struct KvmRings {
    vm: OwnedFd,
    rings: Vec<Ring<MappedRing>>,
    slots: Slots,
    sink: Box<dyn PageSink>,
}

impl fmt::Debug for KvmRings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmRings")
            .field("vm", &self.vm)
            .field("rings", &self.rings)
            .finish_non_exhaustive()
    }
}

impl KvmRings {
    pub(crate) fn new(vm: OwnedFd, sink: Box<dyn PageSink>) -> Self {
        Self {
            vm,
            rings: Vec::new(),
            slots: Slots::default(),
            sink,
        }
    }

    /// Adds the ring of the next vCPU; returns its index.
    pub(crate) fn add_ring(
        &mut self,
        memory: MappedRing,
        state: &RingState,
        now: Instant,
    ) -> usize {
        self.rings.push(Ring::from_state(memory, state, now));
        self.rings.len() - 1
    }

    pub(crate) fn add_slot(&mut self, slot: MemorySlot) -> Result<(), Error> {
        self.slots.insert(slot)?;
        if let Err(error) = self.sink.add_slot(slot) {
            self.slots.remove(slot.id);
            return Err(error.into());
        }
        Ok(())
    }

    /// Removes a slot; returns whether it was there. The rings must be drained.
    pub(crate) fn remove_slot(&mut self, slot: SlotId) -> bool {
        let known = self.slots.remove(slot);
        if known {
            self.sink.remove_slot(slot);
        }
        known
    }
}

impl Backend for KvmRings {
    type Memory = MappedRing;
    type Error = KvmError;

    fn rings(&self) -> &[Ring<MappedRing>] {
        &self.rings
    }

    fn rings_mut(&mut self) -> &mut [Ring<MappedRing>] {
        &mut self.rings
    }

    fn is_registered(&self, gfn: &DirtyGfn) -> bool {
        self.slots.contains(gfn)
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
        tracing::warn!(
            vcpu = ring,
            address_space = gfn.slot.address_space(),
            slot = gfn.slot.slot(),
            offset = gfn.offset,
            "a dirty ring entry names no registered page; not published"
        );
    }

    fn reset(&mut self) -> Result<u32, KvmError> {
        // A signal would not only end the reset early: KVM forgets the entries that it has counted
        // and not yet write-protected (up to 64, virt/kvm/dirty_ring.c, `kvm_dirty_ring_reset`),
        // and the next write to them would be lost.
        host::without_signals(|| sys::reset_dirty_rings(&self.vm))
    }

    fn publish(&mut self, pages: &[DirtyGfn]) {
        for pages in pages.chunk_by(|one, next| one.slot == next.slot) {
            // The slots don't change between harvest and publication: a change drains the rings.
            if let Some(slot) = pages.first().and_then(|page| self.slots.get(page.slot)) {
                self.sink.publish(slot, pages);
            }
        }
    }
}
