//! The kernel's side of one dirty ring (virt/kvm/dirty_ring.c).

use dirty_ring_core::entry::DirtyGfn;
use dirty_ring_core::size::RingSize;

use crate::memory::RingMemory;

/// A ring as KVM sees it: free-running indices of the next entry to publish and the next to reset.
#[derive(Debug)]
pub(crate) struct KernelRing {
    memory: RingMemory,
    size: RingSize,
    dirty_index: u32,
    reset_index: u32,
}

impl KernelRing {
    pub(crate) fn new(memory: RingMemory, size: RingSize) -> Self {
        Self {
            memory,
            size,
            dirty_index: 0,
            reset_index: 0,
        }
    }

    /// Publishes an entry (`kvm_dirty_ring_push`). Like KVM it doesn't check whether there is room.
    pub(crate) fn push(&mut self, gfn: DirtyGfn) {
        self.memory.publish(self.dirty_index, gfn);
        self.dirty_index = self.dirty_index.wrapping_add(1);
    }

    /// Returns the entries published and not reset (`kvm_dirty_ring_used`).
    pub(crate) fn used(&self) -> u32 {
        self.dirty_index.wrapping_sub(self.reset_index)
    }

    /// Returns the entries that may still come until the vCPU has to leave.
    pub(crate) fn headroom(&self) -> u32 {
        self.size.soft_limit().saturating_sub(self.used())
    }

    /// Returns whether the ring is at its soft limit (`kvm_dirty_ring_soft_full`).
    pub(crate) fn is_soft_full(&self) -> bool {
        self.headroom() == 0
    }

    /// Returns the ring's entries.
    pub(crate) fn entries(&self) -> u32 {
        self.size.entries()
    }

    /// Returns the entries that were harvested and not reset, in order.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = DirtyGfn> {
        let indices = (0..self.size.entries()).map(|ahead| self.reset_index.wrapping_add(ahead));
        indices.map_while(|index| self.memory.harvested(index))
    }

    /// Resets the next entry and returns it, if it was harvested (one turn of
    /// `kvm_dirty_ring_reset`).
    pub(crate) fn reset_next(&mut self) -> Option<DirtyGfn> {
        let gfn = self.memory.take_harvested(self.reset_index)?;
        self.reset_index = self.reset_index.wrapping_add(1);
        Some(gfn)
    }
}
