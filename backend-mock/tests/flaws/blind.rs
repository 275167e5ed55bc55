//! A VM whose rings show DIRTY entries only where the next one is expected, and behind it in a run.

use std::cell::Cell;

use dirty_ring_core::backend::{Backend, Reset};
use dirty_ring_core::entry::{DirtyGfn, EntryFlags, EntryMemory, SlotId};
use dirty_ring_core::ring::{Ring, RingState};
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::Instant;
use dirty_ring_mock::{RingMemory, VirtualBackend, Vm, VmError};

/// The memory of a ring of which only sound looks are answered.
pub(crate) struct BlindMemory {
    memory: RingMemory,
    /// The entry behind the last one that was harvested.
    fetch: Cell<u32>,
}

impl BlindMemory {
    fn at(memory: RingMemory, index: u32) -> Self {
        Self {
            memory,
            fetch: Cell::new(index),
        }
    }

    fn is_at(&self, index: u32, fetch: u32) -> bool {
        (index ^ fetch) & (self.size().entries() - 1) == 0
    }
}

impl EntryMemory for BlindMemory {
    fn size(&self) -> RingSize {
        self.memory.size()
    }
    fn load_flags(&self, index: u32) -> EntryFlags {
        let flags = self.memory.load_flags(index);
        let fetch = self.fetch.get();
        let has_lapped = self.is_at(index, fetch.wrapping_sub(1));
        let has_parted = self.memory.load_flags(fetch & (self.size().entries() - 1))
            != EntryFlags::DIRTY
            && !self.is_at(index, fetch);
        if flags == EntryFlags::DIRTY && (has_lapped || has_parted) {
            EntryFlags::empty()
        } else {
            flags
        }
    }
    fn read(&self, index: u32) -> DirtyGfn {
        self.memory.read(index)
    }
    fn store_flags(&self, index: u32, flags: EntryFlags) {
        self.fetch.set(index.wrapping_add(1));
        self.memory.store_flags(index, flags);
    }
    fn replace_flags(&self, index: u32, old: EntryFlags, new: EntryFlags) {
        self.memory.replace_flags(index, old, new);
    }
}

/// A VM with such rings.
pub(crate) struct Blind {
    vm: Vm,
    rings: Vec<Ring<BlindMemory>>,
}

impl Backend for Blind {
    type Memory = BlindMemory;
    type Error = VmError;

    fn rings(&self) -> &[Ring<BlindMemory>] {
        &self.rings
    }
    fn rings_mut(&mut self) -> &mut [Ring<BlindMemory>] {
        &mut self.rings
    }
    fn is_registered(&self, gfn: &DirtyGfn) -> bool {
        self.vm.is_registered(gfn)
    }
    fn was_removed(&self, slot: SlotId) -> bool {
        self.vm.was_removed(slot)
    }
    fn reset(&mut self) -> Result<Reset, VmError> {
        self.vm.reset()
    }
    fn publish(&mut self, pages: &[DirtyGfn]) -> Result<(), VmError> {
        self.vm.publish(pages)
    }
    fn publish_all(&mut self) -> Result<(), VmError> {
        self.vm.publish_all()
    }
}

impl VirtualBackend for Blind {
    fn around(vm: Vm) -> Self {
        let memories = vm.rings().iter().map(|ring| ring.memory().clone());
        let ring = |memory| Ring::new(BlindMemory::at(memory, 0), Instant(0));
        Self {
            rings: memories.map(ring).collect(),
            vm,
        }
    }
    fn vm(&self) -> &Vm {
        &self.vm
    }
    fn vm_mut(&mut self) -> &mut Vm {
        &mut self.vm
    }
    fn restore_rings(&mut self, states: &[RingState], now: Instant) {
        for (ring, state) in self.rings.iter_mut().zip(states) {
            let memory = ring.memory().memory.clone();
            let memory = BlindMemory::at(memory, state.position.index());
            *ring = Ring::from_state(memory, state, now);
        }
    }
}
