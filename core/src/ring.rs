//! One dirty ring: bounded harvest, peek, wrap-around, and the signs of an overrun.
//!
//! The rules are those of api.rst 8.29 and virt/kvm/dirty_ring.c. KVM publishes entries at its own
//! index, userspace harvests them strictly in that order, and a reset by KVM follows in the same
//! order. So from the fetch index on, the dirty entries are one contiguous run, which is what lets
//! [`Ring::occupancy`] find its length by binary search.

use crate::entry::{DirtyGfn, EntryFlags, EntryMemory};
use crate::meter::RateMeter;
use crate::outlook::{Outlook, Recurrence};
use crate::size::RingSize;

/// Ring-full exits in a row with nothing to harvest and nothing to reset after which a ring counts
/// as overrun.
///
/// One such exit is a race that the reaper won: it emptied the ring while the vCPU was on its way
/// out. KVM takes the vCPU back in after that, so a second one in a row means little and a long
/// run means that KVM's indices have parted from the entries (DIRTY entries were overwritten).
pub const OVERRUN_EXITS: u32 = 16;

/// What happened to one ring since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RingStats {
    /// Entries harvested by anyone.
    pub harvested: u64,
    /// Passes that took at least one entry.
    pub harvests: u64,
    /// Entries that named no registered page; never published.
    pub bad_entries: u64,
    /// Ring-full exits of its vCPU.
    pub ring_fulls: u64,
    /// Most entries that were in it when somebody looked.
    pub peak_occupancy: u32,
}

/// How far a ring is harvested: what whoever goes on with it has to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingPosition(u32);

impl RingPosition {
    /// The first entry of a fresh ring.
    pub const START: Self = Self(0);

    /// The free-running index of the next entry to harvest, to be saved.
    pub const fn index(self) -> u32 {
        self.0
    }

    /// A position that was saved.
    pub const fn from_index(index: u32) -> Self {
        Self(index)
    }
}

/// A dirty ring and how far it has been harvested.
///
/// It owns its [`EntryMemory`] and wants `&mut` to harvest, so two harvesters can't take the same
/// entry: whoever shares a ring between threads has to put a lock around it.
#[derive(Debug)]
pub struct Ring<M> {
    memory: M,
    /// Free-running index of the next entry to harvest.
    fetch: u32,
    stats: RingStats,
    meter: RateMeter,
    pub(crate) outlook: Outlook,
    pub(crate) recurrence: Recurrence,
    /// Another vCPU's ring-full made room here, and this one hasn't come for it yet.
    pub(crate) is_served: bool,
    /// The reaper's present pass takes entries from it.
    pub(crate) is_wanted: bool,
    fruitless_exits: u32,
    /// The last harvest stopped for want of entries, not at its limit.
    emptied: bool,
    /// Entries that the ring-full path took since the reaper's last pass.
    taken_at_ring_full: u32,
    /// Entries taken in the reaper's present pass, those above included.
    taken_in_pass: u32,
}

impl<M: EntryMemory> Ring<M> {
    /// A ring whose memory is fresh: empty, the kernel's indices at 0. `now_us` starts its meter.
    pub const fn new(memory: M, now_us: u64) -> Self {
        Self::resuming(memory, RingPosition::START, now_us)
    }

    /// A ring that was harvested up to `position` before: the kernel's indices never go back.
    pub const fn resuming(memory: M, position: RingPosition, now_us: u64) -> Self {
        Self {
            memory,
            fetch: position.0,
            stats: RingStats {
                harvested: 0,
                harvests: 0,
                bad_entries: 0,
                ring_fulls: 0,
                peak_occupancy: 0,
            },
            meter: RateMeter::starting_at(now_us),
            outlook: Outlook::starting_at(now_us),
            recurrence: Recurrence::new(),
            is_served: false,
            is_wanted: true,
            fruitless_exits: 0,
            emptied: true,
            taken_at_ring_full: 0,
            taken_in_pass: 0,
        }
    }

    /// How far it is harvested.
    pub const fn position(&self) -> RingPosition {
        RingPosition(self.fetch)
    }

    /// The ring's memory.
    pub const fn memory(&self) -> &M {
        &self.memory
    }

    /// The ring's size.
    pub fn size(&self) -> RingSize {
        self.memory.size()
    }

    /// What happened to the ring so far.
    pub const fn stats(&self) -> RingStats {
        self.stats
    }

    /// The ring's dirty rate.
    pub const fn meter(&self) -> &RateMeter {
        &self.meter
    }

    /// Harvests at most `limit` entries, oldest first, and returns how many it took.
    ///
    /// This is the bare protocol, for models and benchmarks. The pages that it gives are not safe
    /// to read: a [`Collector`](crate::collector::Collector) keeps them until their reset.
    ///
    /// Stops at the first entry that isn't exactly [`DIRTY`](EntryFlags::DIRTY): none is skipped.
    /// Each entry is marked [`RESET`](EntryFlags::RESET); the pages are KVM's again only after its
    /// reset.
    pub fn harvest_without_reset(&mut self, limit: u32, mut take: impl FnMut(DirtyGfn)) -> u32 {
        let soft_limit = self.size().soft_limit();
        let mut taken = 0;
        while taken < limit {
            let index = self.index(0);
            if self.memory.load_flags(index) != EntryFlags::DIRTY {
                break;
            }
            let gfn = self.memory.read(index);
            self.recurrence.see(gfn, soft_limit);
            take(gfn);
            self.memory.store_flags(index, EntryFlags::RESET);
            self.fetch = self.fetch.wrapping_add(1);
            taken = taken.saturating_add(1);
        }
        self.emptied = taken < limit;
        self.stats.harvested = self.stats.harvested.saturating_add(taken.into());
        if taken != 0 {
            self.fruitless_exits = 0;
            self.is_served = false;
        }
        taken
    }

    /// Are at least `entries` waiting to be harvested? One load; costs the guest nothing.
    pub fn is_at_least(&self, entries: u32) -> bool {
        match entries.checked_sub(1) {
            None => true,
            Some(last) if last < self.size().entries() => {
                self.memory.load_flags(self.index(last)) == EntryFlags::DIRTY
            }
            Some(_) => false,
        }
    }

    /// Entries waiting to be harvested, in at most 16 loads; costs the guest nothing.
    ///
    /// Where KVM publishes meanwhile, the answer lies between the occupancy at the beginning and
    /// at the end. It is at most `entries - 1`: a sound ring, with its reserve, never holds more.
    pub fn occupancy(&self) -> u32 {
        let mut at_least = 0;
        let mut below = self.size().entries();
        // Invariant: at_least <= occupancy < below.
        while below.wrapping_sub(at_least) > 1 {
            let middle = at_least.midpoint(below);
            if self.is_at_least(middle) {
                at_least = middle;
            } else {
                below = middle;
            }
        }
        at_least
    }

    /// Was an entry harvested that KVM hasn't reset yet? One load.
    pub(crate) fn has_unreset(&self) -> bool {
        let last = self.index(u32::MAX);
        self.memory.load_flags(last) == EntryFlags::RESET
    }

    /// KVM's free-running index, where `occupancy` entries wait.
    pub(crate) const fn published(&self, occupancy: u32) -> u32 {
        self.fetch.wrapping_add(occupancy)
    }

    /// Counts `entries` that somebody found in the ring at once.
    pub(crate) fn note_occupancy(&mut self, entries: u32) {
        self.stats.peak_occupancy = self.stats.peak_occupancy.max(entries);
    }

    /// Counts an entry that named no registered page.
    pub(crate) fn note_bad_entry(&mut self) {
        self.stats.bad_entries = self.stats.bad_entries.saturating_add(1);
    }

    /// Counts a ring-full exit of the ring's vCPU.
    pub(crate) fn note_ring_full(&mut self) {
        self.stats.ring_fulls = self.stats.ring_fulls.saturating_add(1);
    }

    /// Counts what the ring-full path took, at `now_us`, until the reaper's next pass.
    /// `first`: it had taken nothing yet at this exit.
    pub(crate) fn note_taken_at_ring_full(&mut self, now_us: u64, entries: u32, first: bool) {
        if first && entries == 0 {
            return;
        }
        if first {
            self.stats.harvests = self.stats.harvests.saturating_add(1);
        }
        self.taken_at_ring_full = self.taken_at_ring_full.saturating_add(entries);
        self.measure(now_us, entries);
    }

    /// Begins a pass of the reaper; returns what the ring-full path took since the last.
    pub(crate) fn begin_pass(&mut self) -> u32 {
        let taken = core::mem::take(&mut self.taken_at_ring_full);
        self.taken_in_pass = taken;
        taken
    }

    /// Counts what the reaper took in its present pass, at `now_us`; returns the ring's whole
    /// share of the pass so far.
    pub(crate) fn note_taken_in_pass(&mut self, now_us: u64, entries: u32, first: bool) -> u32 {
        if first {
            let left_behind = if self.emptied { 0 } else { self.occupancy() };
            self.note_occupancy(entries.saturating_add(left_behind));
            if entries != 0 {
                self.stats.harvests = self.stats.harvests.saturating_add(1);
            }
        }
        self.measure(now_us, entries);
        self.taken_in_pass = self.taken_in_pass.saturating_add(entries);
        self.taken_in_pass
    }

    /// Tells the meter of the last harvest.
    fn measure(&mut self, now_us: u64, entries: u32) {
        if self.emptied {
            self.meter.record(now_us, entries.into());
        } else {
            self.meter.carry(entries.into());
        }
    }

    /// Counts a ring-full exit that found nothing to harvest and nothing to reset; returns whether
    /// the ring must be taken for overrun.
    pub(crate) fn note_fruitless_exit(&mut self) -> bool {
        self.fruitless_exits = self.fruitless_exits.saturating_add(1);
        self.fruitless_exits >= OVERRUN_EXITS
    }

    /// The memory index of the entry `ahead` of the fetch index.
    fn index(&self, ahead: u32) -> u32 {
        self.fetch.wrapping_add(ahead) & self.size().mask()
    }
}

#[cfg(test)]
mod tests;
