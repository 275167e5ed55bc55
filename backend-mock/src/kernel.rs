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

    /// `kvm_dirty_ring_push`: publishes an entry. Like KVM it doesn't look whether there is room.
    pub(crate) fn push(&mut self, gfn: DirtyGfn) {
        self.memory.publish(self.dirty_index, gfn);
        self.dirty_index = self.dirty_index.wrapping_add(1);
    }

    /// `kvm_dirty_ring_used`: entries published and not reset.
    pub(crate) fn used(&self) -> u32 {
        self.dirty_index.wrapping_sub(self.reset_index)
    }

    /// Entries that may still come until the vCPU has to leave.
    pub(crate) fn headroom(&self) -> u32 {
        self.size.soft_limit().saturating_sub(self.used())
    }

    /// `kvm_dirty_ring_soft_full`.
    pub(crate) fn is_soft_full(&self) -> bool {
        self.headroom() == 0
    }

    /// Entries of the ring.
    pub(crate) fn entries(&self) -> u32 {
        self.size.entries()
    }

    /// One turn of `kvm_dirty_ring_reset`: the next entry if it was harvested.
    pub(crate) fn reset_next(&mut self) -> Option<DirtyGfn> {
        let gfn = self.memory.take_harvested(self.reset_index)?;
        self.reset_index = self.reset_index.wrapping_add(1);
        Some(gfn)
    }
}
