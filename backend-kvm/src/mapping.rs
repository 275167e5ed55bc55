//! A vCPU's dirty ring, mapped.

use std::sync::atomic::Ordering;

use dirty_ring_core::entry::{DirtyGfn, EntryFlags, EntryMemory, SlotId};
use dirty_ring_core::size::RingSize;
use kvm_bindings::KVM_DIRTY_LOG_PAGE_OFFSET;
use kvm_ioctls::VcpuFd;

use crate::error::Error;
use crate::host;
use crate::sys::{EntryMapping, SharedEntry};

/// The entries of one vCPU's ring, shared with KVM.
///
/// It owns its mapping, needs no `&VcpuFd` to be read, and is `Send`: another thread harvests it
/// while the vCPU runs. The mapping outlives the vCPU's descriptor.
#[derive(Debug)]
pub struct MappedRing {
    mapping: EntryMapping,
    size: RingSize,
}

impl MappedRing {
    /// Maps the ring of `vcpu_fd`, the vCPU of index `vcpu`, of a VM whose rings were enabled with
    /// `size`.
    ///
    /// # Errors
    /// [`Error::Map`].
    pub fn map(vcpu: usize, vcpu_fd: &VcpuFd, size: RingSize) -> Result<Self, Error> {
        let offset = i64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * i64::from(host::page_bytes());
        EntryMapping::new(vcpu_fd, size.entries() as usize, offset)
            .map(|mapping| Self { mapping, size })
            .map_err(|source| Error::Map { vcpu, source })
    }

    fn entry(&self, index: u32) -> &SharedEntry {
        let entries = self.mapping.entries();
        // A power of two: the mask keeps every index inside, and the compiler sees it.
        &entries[index as usize & (entries.len() - 1)]
    }
}

impl EntryMemory for MappedRing {
    fn size(&self) -> RingSize {
        self.size
    }

    fn load_flags(&self, index: u32) -> EntryFlags {
        EntryFlags::from_bits_retain(self.entry(index).flags.load(Ordering::Acquire))
    }

    fn read(&self, index: u32) -> DirtyGfn {
        let entry = self.entry(index);
        DirtyGfn {
            slot: SlotId(entry.slot.load(Ordering::Relaxed)),
            offset: entry.offset.load(Ordering::Relaxed),
        }
    }

    fn store_flags(&self, index: u32, flags: EntryFlags) {
        let entry = self.entry(index);
        entry.flags.store(flags.bits(), Ordering::Release);
    }
}
