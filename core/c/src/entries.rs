//! The entries of a ring that the caller has mapped.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use dirty_ring_core::entry::{DirtyGfn, EntryFlags, EntryMemory, SlotId};
use dirty_ring_core::size::{ENTRY_BYTES, RingSize};

/// `struct kvm_dirty_gfn`, which KVM writes at the same time.
#[derive(Debug, Default)]
#[repr(C)]
pub struct SharedEntry {
    flags: AtomicU32,
    slot: AtomicU32,
    offset: AtomicU64,
}

const _: () = assert!(size_of::<SharedEntry>() == ENTRY_BYTES as usize);

/// The memory of one ring.
#[derive(Debug)]
pub struct Entries {
    /// As many as `size` has: [`new`](Self::new) checks it.
    entries: &'static [SharedEntry],
    size: RingSize,
}

impl Entries {
    /// Takes the memory of a ring of `size`; `None` where it has another length.
    pub fn new(entries: &'static [SharedEntry], size: RingSize) -> Option<Self> {
        (entries.len() == size.entries() as usize).then_some(Self { entries, size })
    }

    /// Returns whether the two rings share memory.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (mine, others) = (self.entries.as_ptr_range(), other.entries.as_ptr_range());
        mine.start < others.end && others.start < mine.end
    }

    // The mask keeps every index inside.
    #[allow(clippy::indexing_slicing)]
    fn entry(&self, index: u32) -> &SharedEntry {
        &self.entries[index as usize & self.entries.len().wrapping_sub(1)]
    }
}

impl EntryMemory for Entries {
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
