//! The memory of a simulated ring, shared by the simulated kernel and the collector.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use dirty_ring_core::entry::{DirtyGfn, EntryFlags, EntryMemory, SlotId};
use dirty_ring_core::size::RingSize;

/// A ring's entries, laid out as `struct kvm_dirty_gfn`. Clones share them.
#[derive(Clone, Debug)]
pub struct RingMemory {
    entries: Arc<[Entry]>,
    size: RingSize,
    meter: Arc<AccessMeter>,
    /// The entry whose flags were loaded last.
    last_loaded: Arc<AtomicU32>,
}

#[derive(Debug, Default)]
struct Entry {
    flags: AtomicU32,
    slot: AtomicU32,
    offset: AtomicU64,
}

/// Counts what userspace did to the rings of one VM, so that the time can be charged.
#[derive(Debug, Default)]
pub(crate) struct AccessMeter {
    loads: AtomicU64,
    scanned: AtomicU64,
    harvested: AtomicU64,
    /// Entries that are marked RESET.
    waiting: AtomicU64,
}

/// What userspace did to the rings of one VM so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Accesses {
    /// Loads of the flags of an entry somewhere.
    pub(crate) loads: u64,
    /// Loads of the flags of the entry behind the one whose flags were loaded before: the processor
    /// fetches that one ahead. Those of harvested entries are among them.
    pub(crate) scanned: u64,
    /// Entries that were harvested.
    pub(crate) harvested: u64,
}

impl AccessMeter {
    pub(crate) fn accesses(&self) -> Accesses {
        Accesses {
            loads: self.loads.load(Ordering::Relaxed),
            scanned: self.scanned.load(Ordering::Relaxed),
            harvested: self.harvested.load(Ordering::Relaxed),
        }
    }

    /// Returns the entries that wait for a reset, of all rings.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Counts an entry whose flags change.
    fn note_change(&self, old: u32, new: u32) {
        let is_marked = |flags| u64::from(flags & EntryFlags::RESET.bits() != 0);
        let waiting = self.waiting.load(Ordering::Relaxed) + is_marked(new) - is_marked(old);
        self.waiting.store(waiting, Ordering::Relaxed);
    }
}

/// Counts one more. The simulation has one thread, so this needs no read-modify-write.
fn bump(count: &AtomicU64) {
    count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

impl RingMemory {
    pub(crate) fn new(size: RingSize, meter: &Arc<AccessMeter>) -> Self {
        Self {
            entries: (0..size.entries()).map(|_| Entry::default()).collect(),
            size,
            meter: Arc::clone(meter),
            last_loaded: Arc::default(),
        }
    }

    fn note_load(&self, index: u32) {
        let last = self.last_loaded.load(Ordering::Relaxed);
        self.last_loaded.store(index, Ordering::Relaxed);
        let is_next = last.wrapping_add(1) & (self.size.entries() - 1) == index;
        bump(if is_next {
            &self.meter.scanned
        } else {
            &self.meter.loads
        });
    }

    fn entry(&self, index: u32) -> &Entry {
        &self.entries[(index & (self.size.entries() - 1)) as usize]
    }

    /// Publishes an entry, as the kernel does.
    pub(crate) fn publish(&self, index: u32, gfn: DirtyGfn) {
        let entry = self.entry(index);
        entry.slot.store(gfn.slot.0, Ordering::Relaxed);
        entry.offset.store(gfn.offset, Ordering::Relaxed);
        self.set_flags(entry, EntryFlags::DIRTY.bits());
    }

    fn set_flags(&self, entry: &Entry, flags: u32) {
        let before = entry.flags.swap(flags, Ordering::AcqRel);
        self.meter.note_change(before, flags);
    }

    /// Returns an entry if it was harvested (`kvm_dirty_gfn_harvested`).
    pub(crate) fn harvested(&self, index: u32) -> Option<DirtyGfn> {
        let entry = self.entry(index);
        let flags = entry.flags.load(Ordering::Acquire);
        (flags & EntryFlags::RESET.bits() != 0).then(|| read(entry))
    }

    /// Takes an entry back if it was harvested, as the kernel's reset does.
    pub(crate) fn take_harvested(&self, index: u32) -> Option<DirtyGfn> {
        let gfn = self.harvested(index)?;
        self.set_flags(self.entry(index), 0);
        Some(gfn)
    }
}

fn read(entry: &Entry) -> DirtyGfn {
    DirtyGfn {
        slot: SlotId(entry.slot.load(Ordering::Relaxed)),
        offset: entry.offset.load(Ordering::Relaxed),
    }
}

impl EntryMemory for RingMemory {
    fn size(&self) -> RingSize {
        self.size
    }

    fn load_flags(&self, index: u32) -> EntryFlags {
        self.note_load(index);
        EntryFlags::from_bits_retain(self.entry(index).flags.load(Ordering::Acquire))
    }

    fn read(&self, index: u32) -> DirtyGfn {
        read(self.entry(index))
    }

    fn store_flags(&self, index: u32, flags: EntryFlags) {
        if flags.contains(EntryFlags::RESET) {
            bump(&self.meter.harvested);
        }
        self.set_flags(self.entry(index), flags.bits());
    }

    fn replace_flags(&self, index: u32, old: EntryFlags, new: EntryFlags) {
        self.note_load(index);
        let flags = &self.entry(index).flags;
        let (old, new) = (old.bits(), new.bits());
        let changed = flags.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed);
        if changed.is_ok() {
            self.meter.note_change(old, new);
        }
    }
}
