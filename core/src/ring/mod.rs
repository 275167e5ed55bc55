//! One dirty ring: bounded harvest, look, wrap-around, and the signs of an overrun.
//!
//! The rules are those of api.rst 8.29 and virt/kvm/dirty_ring.c. KVM publishes entries at its own
//! index, userspace harvests them strictly in that order, and a reset by KVM follows in the same
//! order. So from the fetch index on, the dirty entries are one contiguous run, which is what lets
//! [`Ring::occupancy`] find its length by binary search.

mod interruption;
mod resync;
mod soundness;

use crate::entry::{DirtyGfn, EntryFlags, EntryMemory};
use crate::growth::{Growth, GrowthState};
use crate::size::RingSize;
use crate::time::Instant;
use interruption::Unreset;
pub(crate) use resync::PARTS;

/// Ring-full exits in a row with nothing to harvest and nothing to reset after which a ring counts
/// as overrun.
///
/// One such exit is a race that the reaper won: it emptied the ring while the vCPU was on its way
/// out. KVM takes the vCPU back in after that, so a second one in a row means little, and a long
/// run means that KVM's indices have parted from the entries (DIRTY entries were overwritten).
pub const OVERRUN_EXITS: u32 = 16;

/// What happened to one ring since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RingStats {
    /// Entries harvested, on all paths.
    pub harvested: u64,
    /// Harvests that took at least one entry; one that takes several batches counts once.
    pub harvests: u64,
    /// Entries that named no registered page; never published, so each is a lost page.
    pub bad_entries: u64,
    /// The last of them.
    pub last_bad_entry: Option<DirtyGfn>,
    /// Entries that came after the slot that they name had been removed; not published.
    pub late_entries: u64,
    /// Ring-full exits of its vCPU.
    pub ring_fulls: u64,
    /// Most entries that a look found in it, or that one harvest took.
    pub peak_occupancy: u32,
}

/// How far a ring is harvested: KVM's own indices go on from there, whatever reaps it next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingPosition(u32);

impl RingPosition {
    /// The first entry of a fresh ring.
    pub const START: Self = Self(0);

    /// Returns the free-running index of the next entry to harvest, to be saved.
    pub const fn index(self) -> u32 {
        self.0
    }

    /// Creates the position of a saved index.
    pub const fn from_index(index: u32) -> Self {
        Self(index)
    }
}

/// What has to be saved of a ring to go on with it elsewhere: after a live update, in another
/// reaper, or from a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingState {
    /// How far it is harvested.
    pub position: RingPosition,
    /// How it grew.
    pub growth: GrowthState,
    /// The position is unknown: the ring was emptied by a resynchronisation, and its vCPU has logged
    /// nothing since. It is found by the first entry that comes.
    pub is_lost: bool,
}

impl From<RingPosition> for RingState {
    /// Creates the state of a ring of which only the position is known.
    fn from(position: RingPosition) -> Self {
        Self {
            position,
            growth: GrowthState::default(),
            is_lost: false,
        }
    }
}

/// A dirty ring: its memory, how far it has been harvested, and how it grows.
///
/// A harvest takes `&mut self`, so two harvesters can't take the same entry: rings that threads
/// share need a lock around them.
#[derive(Debug)]
pub struct Ring<M> {
    memory: M,
    /// Free-running index of the next entry to harvest.
    fetch: u32,
    stats: RingStats,
    growth: Growth,
    /// Entries harvested since the last pass of the reaper ended.
    taken_since_pass: u32,
    at_ring_full: AtRingFull,
    unreset: Unreset,
    /// Where KVM publishes next is unknown: see the module `resync`.
    is_lost: bool,
    /// It is lost after a failure, so KVM may count entries that aren't there.
    may_be_full: bool,
}

/// What the ring-full path remembers of a ring.
#[derive(Clone, Copy, Debug)]
struct AtRingFull {
    /// Another vCPU's ring-full made room here, and this ring's own vCPU hasn't come for it yet.
    is_served: bool,
    /// Exits since the last harvest that found nothing to harvest and nothing to reset.
    fruitless: u32,
}

impl<M: EntryMemory> Ring<M> {
    /// Creates a ring whose memory is fresh: empty, with KVM's indices at 0.
    pub const fn new(memory: M, now: Instant) -> Self {
        Self {
            memory,
            fetch: 0,
            stats: RingStats {
                harvested: 0,
                harvests: 0,
                bad_entries: 0,
                last_bad_entry: None,
                late_entries: 0,
                ring_fulls: 0,
                peak_occupancy: 0,
            },
            growth: Growth::starting_at(now, 0),
            taken_since_pass: 0,
            at_ring_full: AtRingFull {
                is_served: false,
                fruitless: 0,
            },
            unreset: Unreset::NONE,
            is_lost: false,
            may_be_full: false,
        }
    }

    /// Creates a ring that was harvested before, from its saved state. Entries that came
    /// meanwhile are in the ring, but say nothing about its growth.
    pub fn from_state(memory: M, state: &RingState, now: Instant) -> Self {
        let mut ring = Self::new(memory, now);
        ring.fetch = state.position.0;
        ring.is_lost = state.is_lost;
        let published = ring.fetch.wrapping_add(ring.occupancy_from(0));
        ring.growth = Growth::starting_at(now, published);
        ring.growth.restore(&state.growth, now);
        ring
    }

    /// Returns what to save at `now`.
    pub fn state(&self, now: Instant) -> RingState {
        RingState {
            position: self.position(),
            growth: self.growth.state(now),
            is_lost: self.is_lost,
        }
    }

    /// Returns how far it is harvested.
    pub const fn position(&self) -> RingPosition {
        RingPosition(self.fetch)
    }

    /// Returns the ring's memory.
    pub const fn memory(&self) -> &M {
        &self.memory
    }

    /// Returns the ring's size.
    pub fn size(&self) -> RingSize {
        self.memory.size()
    }

    /// Returns what happened to the ring so far.
    pub const fn stats(&self) -> RingStats {
        self.stats
    }

    /// Returns how it grows, as of the last look.
    pub const fn growth(&self) -> &Growth {
        &self.growth
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
        if self.is_lost {
            return 0;
        }
        let soft_limit = self.size().soft_limit();
        let followed = self.growth.recurrence().page();
        let mut since_followed = 0u32;
        let mut last = None;
        let mut taken = 0u32;
        while taken < limit {
            let index = self.index(0);
            if self.memory.load_flags(index) != EntryFlags::DIRTY {
                break;
            }
            let gfn = self.memory.read(index);
            take(gfn);
            self.memory.store_flags(index, EntryFlags::RESET);
            self.fetch = self.fetch.wrapping_add(1);
            taken = taken.saturating_add(1);
            since_followed = since_followed.saturating_add(1);
            if gfn == followed {
                let recurrence = self.growth.recurrence_mut();
                recurrence.seen(core::mem::take(&mut since_followed), soft_limit);
            }
            last = Some(gfn);
        }
        if let Some(last) = last {
            let recurrence = self.growth.recurrence_mut();
            recurrence.harvested(since_followed, last, soft_limit);
            self.stats.harvested = self.stats.harvested.saturating_add(taken.into());
            self.stats.peak_occupancy = self.stats.peak_occupancy.max(taken);
            self.taken_since_pass = self.taken_since_pass.saturating_add(taken);
            self.at_ring_full = AtRingFull {
                is_served: false,
                fruitless: 0,
            };
        }
        taken
    }

    /// Returns whether at least `entries` wait to be harvested. One load; costs the guest nothing.
    pub fn is_at_least(&self, entries: u32) -> bool {
        match entries.checked_sub(1) {
            None => true,
            Some(_) if self.is_lost => false,
            Some(last) if last < self.size().entries() => {
                self.memory.load_flags(self.index(last)) == EntryFlags::DIRTY
            }
            Some(_) => false,
        }
    }

    /// Returns the entries that wait to be harvested, in at most 16 loads; costs the guest nothing.
    ///
    /// Where KVM publishes meanwhile, the answer lies between the occupancy at the beginning and
    /// at the end. It is at most `entries - 1`: a sound ring, with its reserve, never holds more.
    pub fn occupancy(&self) -> u32 {
        self.search(0, self.size().entries())
    }

    /// Returns the occupancy that the last [`look`](Self::look) found, less what was harvested
    /// since.
    pub const fn occupancy_seen(&self) -> u32 {
        let ahead = self.growth.published().wrapping_sub(self.fetch);
        // A harvest may have gone beyond the last look.
        if ahead.cast_signed() < 0 { 0 } else { ahead }
    }

    /// Looks at the ring: returns its occupancy, and tells [`growth`](Self::growth) of it. Takes at
    /// most two loads for a ring that stands still, some more for one that grows.
    pub fn look(&mut self, now: Instant) -> u32 {
        let occupancy = self.occupancy_from(self.occupancy_seen());
        self.stats.peak_occupancy = self.stats.peak_occupancy.max(occupancy);
        let published = self.fetch.wrapping_add(occupancy);
        let soft_limit = self.size().soft_limit();
        self.growth.look(now, published, occupancy, soft_limit);
        occupancy
    }

    /// Returns the occupancy, which is at least `at_least`: searches at distances that double, then
    /// by halves.
    fn occupancy_from(&self, at_least: u32) -> u32 {
        let entries = self.size().entries();
        let mut at_least = at_least.min(entries.saturating_sub(1));
        let mut step = 1u32;
        while let probe = at_least.saturating_add(step)
            && probe < entries
        {
            if !self.is_at_least(probe) {
                return self.search(at_least, probe);
            }
            at_least = probe;
            step = step.saturating_mul(2);
        }
        self.search(at_least, entries)
    }

    /// Returns the occupancy, which is at least `at_least` and below `below`.
    fn search(&self, mut at_least: u32, mut below: u32) -> u32 {
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

    /// Returns how many of the first `limit` entries that wait are, one after the other, as `is_meant`
    /// says.
    pub(crate) fn leading(&self, limit: u32, is_meant: impl Fn(&DirtyGfn) -> bool) -> u32 {
        if self.is_lost {
            return 0;
        }
        let mut leading = 0u32;
        while leading < limit
            && self.memory.load_flags(self.index(leading)) == EntryFlags::DIRTY
            && is_meant(&self.memory.read(self.index(leading)))
        {
            leading = leading.saturating_add(1);
        }
        leading
    }

    /// Returns whether an entry was harvested that KVM hasn't reset yet. One load.
    pub(crate) fn has_unreset(&self) -> bool {
        let last = self.index(u32::MAX);
        self.memory.load_flags(last) == EntryFlags::RESET
    }

    /// Counts an entry that names no registered page.
    pub(crate) fn note_bad_entry(&mut self, gfn: DirtyGfn) {
        self.stats.bad_entries = self.stats.bad_entries.saturating_add(1);
        self.stats.last_bad_entry = Some(gfn);
    }

    /// Counts an entry whose slot was removed.
    pub(crate) fn note_late_entry(&mut self) {
        self.stats.late_entries = self.stats.late_entries.saturating_add(1);
    }

    /// Counts a harvest that took something.
    pub(crate) fn note_harvest(&mut self) {
        self.stats.harvests = self.stats.harvests.saturating_add(1);
    }

    /// Counts a ring-full exit of the ring's vCPU.
    pub(crate) fn note_ring_full(&mut self, now: Instant) {
        self.stats.ring_fulls = self.stats.ring_fulls.saturating_add(1);
        self.look(now);
        self.growth.ring_full(now);
    }

    /// Notes that a pass or a drain begins to take the entries of the ring.
    pub(crate) fn note_taken(&mut self, now: Instant) {
        self.growth.taken(now);
    }

    /// Notes that the ring was emptied only because all pages were asked for.
    pub(crate) fn note_emptied_on_request(&mut self) {
        self.growth.recurrence_mut().interrupt();
    }

    /// Ends a pass: returns the entries harvested since the last one ended.
    pub(crate) fn end_pass(&mut self) -> u32 {
        core::mem::take(&mut self.taken_since_pass)
    }

    /// Notes that another vCPU's ring-full made room here.
    pub(crate) fn serve(&mut self) {
        self.at_ring_full.is_served = true;
    }

    /// Returns whether another vCPU's ring-full made room here, and forgets it.
    pub(crate) fn take_service(&mut self) -> bool {
        core::mem::take(&mut self.at_ring_full.is_served)
    }

    /// Counts a ring-full exit that found nothing to harvest and nothing to reset; returns how many
    /// there were in a row.
    pub(crate) fn note_fruitless_exit(&mut self) -> u32 {
        let fruitless = &mut self.at_ring_full.fruitless;
        *fruitless = fruitless.saturating_add(1);
        *fruitless
    }

    /// Returns the memory index of the entry `ahead` of the fetch index.
    fn index(&self, ahead: u32) -> u32 {
        self.fetch.wrapping_add(ahead) & self.size().mask()
    }
}

#[cfg(test)]
mod tests;
