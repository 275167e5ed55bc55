//! What the tests share: rings in cells and a VM that plays KVM, a lock and a bed for one thread,
//! and numbers that look random.

use core::cell::{Cell, RefCell};
use core::ops::Range;
use std::collections::{HashMap, HashSet, VecDeque};
use std::vec::Vec;

use crate::backend::{Backend, Reset};
use crate::collector::Collector;
use crate::controller::Measurement;
use crate::doorbell::Wakes;
use crate::entry::{DirtyGfn, EntryFlags, EntryMemory, SlotId};
use crate::ring::Ring;
use crate::size::{PML_ENTRIES, RingSize};
use crate::sync::{Lock, Park, Parked};
use crate::time::{Instant, Micros};

/// Returns a ring of `entries` on a host with pages of 4 KiB and without PML.
pub(crate) const fn ring_size(entries: u32) -> RingSize {
    sized(entries, 0)
}

/// Returns a ring of `entries` on a host with pages of 4 KiB and with PML.
pub(crate) const fn pml_ring_size(entries: u32) -> RingSize {
    sized(entries, PML_ENTRIES)
}

const fn sized(entries: u32, cpu_log_entries: u32) -> RingSize {
    match RingSize::new(entries, 4096, cpu_log_entries) {
        Ok(size) => size,
        Err(_) => panic!("a test wants a ring that can't be"),
    }
}

/// Returns page `offset` of slot 0.
pub(crate) const fn page(offset: u64) -> DirtyGfn {
    DirtyGfn {
        slot: SlotId(0),
        offset,
    }
}

/// A ring's entries in cells, with KVM's two indices; the test is the kernel.
#[derive(Debug)]
pub(crate) struct Cells {
    size: RingSize,
    flags: Vec<Cell<u32>>,
    gfns: Vec<Cell<DirtyGfn>>,
    /// Where KVM publishes next, free-running (`dirty_index`).
    dirty: Cell<u32>,
    /// Where KVM resets next, free-running (`reset_index`).
    reset: Cell<u32>,
    loads: Cell<u32>,
    /// The vCPU logs so many pages (the second) at every so manieth access to the flags (the first);
    /// 0: it doesn't run.
    bursts: Cell<(u32, u32)>,
    accesses: Cell<u32>,
    /// The vCPU overruns the ring: it logs pages of these offsets after so many more accesses.
    overrun: RefCell<Option<(u32, Range<u64>)>>,
}

impl Cells {
    pub(crate) fn new(size: RingSize) -> Self {
        Self::starting_at(size, 0)
    }

    /// Creates entries with both of KVM's indices at `index`.
    pub(crate) fn starting_at(size: RingSize, index: u32) -> Self {
        let entries = size.entries();
        Self {
            size,
            flags: (0..entries).map(|_| Cell::new(0)).collect(),
            gfns: (0..entries).map(|_| Cell::default()).collect(),
            dirty: Cell::new(index),
            reset: Cell::new(index),
            loads: Cell::new(0),
            bursts: Cell::new((0, 0)),
            accesses: Cell::new(0),
            overrun: RefCell::new(None),
        }
    }

    /// Lets the vCPU log `pages` after so many accesses of the reaper to the flags, whether there is
    /// room or not.
    pub(crate) fn overrun_after(&self, accesses: u32, pages: Range<u64>) {
        *self.overrun.borrow_mut() = Some((accesses, pages));
    }

    /// Lets the vCPU run from now on: it logs `pages` pages at each `accesses`th access of the reaper
    /// to the flags, as long as KVM lets it. 0 stops it.
    pub(crate) fn run_vcpu(&self, accesses: u32, pages: u32) {
        self.bursts.set((accesses, pages));
    }

    /// Notes an access to the flags.
    fn access(&self) {
        let accesses = self.accesses.get().wrapping_add(1);
        self.accesses.set(accesses);
        let overrun = &mut *self.overrun.borrow_mut();
        if let Some((left, _)) = overrun {
            *left = left.saturating_sub(1);
        }
        if let Some((_, pages)) = overrun.take_if(|(left, _)| *left == 0) {
            self.log_pages(pages);
        }
        let (every, pages) = self.bursts.get();
        if accesses.checked_rem(every) == Some(0) {
            for offset in 0..pages {
                if !self.is_soft_full() {
                    self.log(page((accesses + offset).into()));
                }
            }
        }
    }

    /// Publishes an entry, as `kvm_dirty_ring_push`.
    pub(crate) fn log(&self, gfn: DirtyGfn) {
        let at = self.slot(self.dirty.get());
        self.gfns[at].set(gfn);
        self.flags[at].set(EntryFlags::DIRTY.bits());
        self.dirty.set(self.dirty.get().wrapping_add(1));
    }

    /// Publishes pages of slot 0.
    pub(crate) fn log_pages(&self, offsets: Range<u64>) {
        offsets.map(page).for_each(|gfn| self.log(gfn));
    }

    /// Resets the next entry if it was harvested, as one turn of `kvm_dirty_ring_reset`.
    pub(crate) fn reset_one(&self) -> Option<DirtyGfn> {
        let at = self.slot(self.reset.get());
        if self.flags[at].get() != EntryFlags::RESET.bits() {
            return None;
        }
        self.flags[at].set(0);
        self.reset.set(self.reset.get().wrapping_add(1));
        Some(self.gfns[at].get())
    }

    /// Returns the entries published and not reset (`kvm_dirty_ring_used`).
    pub(crate) fn used(&self) -> u32 {
        self.dirty.get().wrapping_sub(self.reset.get())
    }

    /// Returns whether KVM sends the vCPU out (`kvm_dirty_ring_soft_full`).
    pub(crate) fn is_soft_full(&self) -> bool {
        self.used() >= self.size.soft_limit()
    }

    pub(crate) fn flags(&self, index: u32) -> u32 {
        self.flags[index as usize].get()
    }

    pub(crate) fn set_flags(&self, index: u32, flags: u32) {
        self.flags[index as usize].set(flags);
    }

    /// Returns the loads of flags so far.
    pub(crate) fn loads(&self) -> u32 {
        self.loads.get()
    }

    fn slot(&self, index: u32) -> usize {
        (index % self.size.entries()) as usize
    }
}

impl EntryMemory for Cells {
    fn size(&self) -> RingSize {
        self.size
    }
    fn load_flags(&self, index: u32) -> EntryFlags {
        self.loads.set(self.loads.get() + 1);
        self.access();
        EntryFlags::from_bits_retain(self.flags(index))
    }
    fn read(&self, index: u32) -> DirtyGfn {
        self.gfns[index as usize].get()
    }
    fn store_flags(&self, index: u32, flags: EntryFlags) {
        self.set_flags(index, flags.bits());
    }
    fn replace_flags(&self, index: u32, old: EntryFlags, new: EntryFlags) {
        self.access();
        if self.flags(index) == old.bits() {
            self.set_flags(index, new.bits());
        }
    }
}

/// How one reset goes; without any, it resets all that was harvested.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Weather {
    /// It ends after so many entries, all of which are protected.
    Short(u32),
    /// A signal ends it after so many entries, and KVM forgets the last ones.
    Interrupted(u32),
    /// It fails before it did anything.
    Fails,
    /// It counts so many entries more than it reset, as if another reaper had harvested them.
    Foreign(u32),
}

/// What [`Kvm`]'s reset fails with.
pub(crate) const RESET_FAILS: &str = "EIO";

/// What [`Kvm`]'s publication fails with.
pub(crate) const PUBLICATION_FAILS: &str = "ENOSPC";

/// Pages of slot 0, the one slot that [`Kvm`] has.
pub(crate) const SLOT_PAGES: u64 = 1 << 32;

/// The rings of a VM. Whatever a test does with it, a page published before its reset panics.
#[derive(Debug)]
pub(crate) struct Kvm {
    rings: Vec<Ring<Cells>>,
    /// How the next resets go.
    pub(crate) weather: VecDeque<Weather>,
    pub(crate) resets: u32,
    /// Offsets of the published pages.
    pub(crate) published: Vec<u64>,
    pub(crate) rejected: Vec<(usize, DirtyGfn)>,
    /// This slot was removed.
    pub(crate) removed: Option<SlotId>,
    /// A reset was interrupted: pages may be published again.
    was_interrupted: bool,
    /// Publications fail from now on.
    pub(crate) publication_fails: bool,
    /// Times that all memory was counted as dirty.
    pub(crate) published_all: u32,
    /// Pages that were reset and not published yet, and how often.
    reset_pages: HashMap<DirtyGfn, u32>,
    /// Pages that [`write`](Self::write) wrote since their last reset: they aren't protected.
    pub(crate) writable: HashSet<DirtyGfn>,
}

impl Kvm {
    pub(crate) fn new(rings: usize, size: RingSize) -> Self {
        Self {
            rings: (0..rings)
                .map(|_| Ring::new(Cells::new(size), Instant(0)))
                .collect(),
            weather: VecDeque::new(),
            resets: 0,
            published: Vec::new(),
            rejected: Vec::new(),
            removed: None,
            was_interrupted: false,
            publication_fails: false,
            published_all: 0,
            reset_pages: HashMap::new(),
            writable: HashSet::new(),
        }
    }

    /// Creates a VM with one ring, which is taken for fresh whatever is in it.
    pub(crate) fn with_memory(memory: Cells) -> Self {
        let mut kvm = Self::new(0, memory.size);
        kvm.rings.push(Ring::new(memory, Instant(0)));
        kvm
    }

    /// Forgets which pages may be published, because all were.
    pub(crate) fn forget_resets(&mut self) {
        self.reset_pages.clear();
    }

    pub(crate) fn memory(&self, ring: usize) -> &Cells {
        self.rings[ring].memory()
    }

    /// Lets the vCPU of `ring` write a page: logs it if it is protected.
    pub(crate) fn write(&mut self, ring: usize, gfn: DirtyGfn) {
        if self.writable.insert(gfn) {
            self.memory(ring).log(gfn);
        }
    }

    /// Returns the offsets published so far, sorted.
    pub(crate) fn published_sorted(&self) -> Vec<u64> {
        let mut offsets = self.published.clone();
        offsets.sort_unstable();
        offsets
    }
}

impl Backend for Kvm {
    type Memory = Cells;
    type Error = &'static str;

    fn rings(&self) -> &[Ring<Cells>] {
        &self.rings
    }
    fn rings_mut(&mut self) -> &mut [Ring<Cells>] {
        &mut self.rings
    }
    fn is_registered(&self, gfn: &DirtyGfn) -> bool {
        gfn.slot == SlotId(0) && gfn.offset < SLOT_PAGES
    }
    fn was_removed(&self, slot: SlotId) -> bool {
        self.removed == Some(slot)
    }
    fn reject(&mut self, ring: usize, gfn: &DirtyGfn) {
        self.rejected.push((ring, *gfn));
    }
    fn reset(&mut self) -> Result<Reset, &'static str> {
        self.resets += 1;
        let (limit, extra, is_interrupted) = match self.weather.pop_front() {
            None => (u32::MAX, 0, false),
            Some(Weather::Short(entries)) => {
                self.was_interrupted = true;
                (entries, 0, false)
            }
            Some(Weather::Interrupted(entries)) => (entries, 0, true),
            Some(Weather::Fails) => return Err(RESET_FAILS),
            Some(Weather::Foreign(entries)) => (u32::MAX, entries, false),
        };
        self.was_interrupted |= is_interrupted;
        let mut done = 0;
        for ring in &self.rings {
            // The pages that KVM has counted in this ring and not protected yet.
            let mut mask: Vec<DirtyGfn> = Vec::new();
            while done < limit
                && let Some(gfn) = ring.memory().reset_one()
            {
                *self.reset_pages.entry(gfn).or_default() += 1;
                done += 1;
                let fits = mask
                    .iter()
                    .all(|other| other.slot == gfn.slot && other.offset.abs_diff(gfn.offset) < 64);
                if !fits {
                    mask.drain(..)
                        .for_each(|gfn| _ = self.writable.remove(&gfn));
                }
                mask.push(gfn);
            }
            if is_interrupted && done == limit {
                break;
            }
            mask.drain(..)
                .for_each(|gfn| _ = self.writable.remove(&gfn));
        }
        Ok(Reset {
            entries: done + extra,
            maybe_interrupted: is_interrupted,
        })
    }
    fn publish(&mut self, pages: &[DirtyGfn]) -> Result<(), &'static str> {
        if self.publication_fails {
            return Err(PUBLICATION_FAILS);
        }
        for gfn in pages {
            let times = self.reset_pages.get_mut(gfn);
            let times = times.unwrap_or_else(|| panic!("{gfn:?} published before its reset"));
            *times = times
                .checked_sub(1)
                .or(self.was_interrupted.then_some(0))
                .unwrap_or_else(|| panic!("{gfn:?} published once more than it was reset"));
            self.published.push(gfn.offset);
        }
        Ok(())
    }
    fn publish_all(&mut self) -> Result<(), &'static str> {
        if self.publication_fails {
            return Err(PUBLICATION_FAILS);
        }
        self.published_all += 1;
        Ok(())
    }
}

/// Creates a collector over `rings` fresh rings of 256 entries (192 usable).
pub(crate) fn collector<const BATCH: usize>(rings: usize) -> Collector<Kvm, BATCH> {
    Collector::new(Kvm::new(rings, ring_size(256)))
}

/// A lock for one thread, which panics where a real one would deadlock.
#[derive(Debug)]
pub(crate) struct OneThread<T> {
    guarded: RefCell<T>,
    /// Critical sections so far.
    sections: Cell<u32>,
}

impl<T> OneThread<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            guarded: RefCell::new(value),
            sections: Cell::new(0),
        }
    }

    /// Returns how often the lock was taken so far.
    pub(crate) fn sections(&self) -> u32 {
        self.sections.get()
    }
}

impl<T> Lock for OneThread<T> {
    type Guarded = T;
    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R {
        self.sections.set(self.sections.get() + 1);
        critical(&mut self.guarded.borrow_mut())
    }
}

/// A sleep that is over at once: by a token, for no reason if so told, or by the deadline.
#[derive(Debug, Default)]
pub(crate) struct Bed {
    token: Cell<bool>,
    /// So many sleeps end for no reason.
    pub(crate) restless: Cell<u32>,
    /// Deadlines of the sleeps so far.
    pub(crate) sleeps: RefCell<Vec<Instant>>,
}

impl Park for &Bed {
    fn park_until(&self, until: Instant) -> Parked {
        self.sleeps.borrow_mut().push(until);
        if self.token.take() {
            return Parked::Woken;
        }
        match self.restless.get().checked_sub(1) {
            Some(left) => {
                self.restless.set(left);
                Parked::Woken
            }
            None => Parked::TimedOut,
        }
    }
    fn unpark(&self) {
        self.token.set(true);
    }
}

/// Numbers that look random and are the same in each run (xorshift64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// Returns a number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Returns what a pass over a ring of 4096 entries may find: calm, load and ring-fulls by
    /// turns.
    pub(crate) fn measurement(&mut self) -> Measurement {
        let ring_fulls = self.below(40).saturating_sub(37) as u32;
        let most = [16, 1024, 4096][self.below(3) as usize];
        let fullest = self.below(most) as u32;
        Measurement {
            elapsed: Micros(1 + self.below(1_200_000)),
            harvested: fullest.into(),
            ring_full_harvested: u64::from(ring_fulls) * 4032,
            fullest: fullest + ring_fulls * 4032,
            ring_fulls,
            wakes: Wakes::TIMER,
            late: Micros(self.below(300)),
            took: Micros(self.below(500)),
        }
    }
}

mod tests;
