//! The rings of one VM as core's backend.

use std::fmt;
use std::os::fd::OwnedFd;

use dirty_ring_core::backend::Backend;
use dirty_ring_core::entry::{DirtyGfn, SlotId};
use dirty_ring_core::ring::{Ring, RingState};
use dirty_ring_core::slots::SlotTable;
use dirty_ring_core::time::Instant;
use kvm_ioctls::Error as KvmError;
use vm_memory::GuestAddress;

use crate::error::Error;
use crate::host;
use crate::mapping::MappedRing;
use crate::sink::PageSink;
use crate::sys;

/// Memory slots that one VM may have here.
pub const MAX_SLOTS: usize = 512;

/// A memory slot of the VM, as it was given to `KVM_SET_USER_MEMORY_REGION` with
/// `KVM_MEM_LOG_DIRTY_PAGES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySlot {
    /// Slot and address space.
    pub id: SlotId,
    /// Guest physical address of its first page.
    pub address: GuestAddress,
    /// Pages.
    pub pages: u64,
}

impl MemorySlot {
    /// Slot `slot` of address space 0, `pages` pages from `address` on.
    pub const fn new(slot: u16, address: GuestAddress, pages: u64) -> Self {
        Self {
            id: SlotId::new(0, slot),
            address,
            pages,
        }
    }
}

/// The mapped rings of one VM, its registered memory and its sink.
pub struct KvmRings {
    vm: OwnedFd,
    rings: Vec<Ring<MappedRing>>,
    slots: SlotTable<MAX_SLOTS>,
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
            slots: SlotTable::new(),
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

    pub(crate) fn add_slot(&mut self, slot: &MemorySlot) -> Result<(), Error> {
        self.slots.insert(slot.id, slot.pages)?;
        if let Err(error) = self.sink.add_slot(slot) {
            self.slots.remove(slot.id);
            return Err(error.into());
        }
        Ok(())
    }

    /// Removes a slot; returns whether it was there. The rings must be drained.
    pub(crate) fn remove_slot(&mut self, slot: SlotId) -> bool {
        let known = self.slots.remove(slot).is_some();
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
        self.sink.publish(pages);
    }
}
