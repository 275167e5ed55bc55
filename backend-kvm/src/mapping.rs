//! A vCPU's dirty ring, mapped.

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use dirty_ring_core::entry::{DirtyGfn, EntryFlags, EntryMemory, SlotId};
use dirty_ring_core::size::RingSize;

use crate::error::Error;
use crate::host;
use crate::sys::{self, EntryMapping, SharedEntry};

/// The entries of one vCPU's ring, shared with KVM.
///
/// It owns its mapping, needs no descriptor to be read, and is `Send`: another thread harvests it
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
    /// [`Error::Map`] where it can't be mapped or is smaller, [`Error::LargerRing`].
    pub fn map(vcpu: usize, vcpu_fd: &impl AsRawFd, size: RingSize) -> Result<Self, Error> {
        let offset = i64::from(sys::RING_FIRST_PAGE) * i64::from(host::page_bytes());
        let refused = |source| Error::Map {
            vcpu,
            entries: size.entries(),
            source,
        };
        let mapping =
            EntryMapping::new(vcpu_fd, size.entries() as usize, offset).map_err(refused)?;
        mapping.populate().map_err(refused)?;
        if sys::ring_goes_on(vcpu_fd, offset + i64::from(size.bytes())) {
            return Err(Error::LargerRing {
                vcpu,
                entries: size.entries(),
            });
        }
        Ok(Self { mapping, size })
    }

    /// Returns whether `other` maps the same ring: a mark that is left in the one is seen in the
    /// other. The mark is left in the page number of entry `index`, which must not be in use.
    pub(crate) fn is_same_ring(&self, other: &Self, index: u32) -> bool {
        const MARKS: [u64; 2] = [0x5555_5555_5555_5555, 0xaaaa_aaaa_aaaa_aaaa];
        let (mine, others) = (&self.entry(index).offset, &other.entry(index).offset);
        let before = mine.load(Ordering::Relaxed);
        let is_seen = MARKS.iter().all(|mark| {
            mine.store(*mark, Ordering::Release);
            others.load(Ordering::Acquire) == *mark
        });
        mine.store(before, Ordering::Release);
        is_seen
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

    fn replace_flags(&self, index: u32, old: EntryFlags, new: EntryFlags) {
        let flags = &self.entry(index).flags;
        // Where it fails, the entry isn't what the caller took it for any more.
        let _ = flags.compare_exchange(old.bits(), new.bits(), Ordering::AcqRel, Ordering::Relaxed);
    }
}
