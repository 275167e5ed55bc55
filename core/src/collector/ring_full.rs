//! What a vCPU does with its full ring.

use super::{CollectError, Collector, add};
use crate::backend::Backend;
use crate::ring::OVERRUN_EXITS;
use crate::time::Instant;

/// How a vCPU deals with its full ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingFullMode {
    /// Harvests and resets at most so many entries of its own ring, and of those that are full at
    /// the same moment, and leaves the rest to the reaper.
    Chunk(u32),
    /// Harvests and resets the whole of all rings, as QEMU does. The reaper isn't woken for it: a
    /// controller whose waits only a ring-full ends, as [`Deadline`](crate::controller::Deadline)'s
    /// after an idle time, needs chunks.
    Whole,
}

/// Entries that a vCPU takes from its full ring in the chunked mode, by default.
pub const DEFAULT_CHUNK: u32 = 256;

impl Default for RingFullMode {
    fn default() -> Self {
        Self::Chunk(DEFAULT_CHUNK)
    }
}

/// What a vCPU's ring-full exit did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingFullReport {
    /// Entries harvested, of all the rings that it took from.
    pub harvested: u32,
    /// Whether everything harvested so far is reset and published. `false` where signals kept KVM
    /// from it: the deficit is carried, and the vCPU may try to go on.
    pub settled: bool,
}

impl<B: Backend, const BATCH: usize> Collector<B, BATCH> {
    /// Makes room for a vCPU that left guest mode on ring-full: counts the exit, harvests as `mode`
    /// says, resets and publishes.
    ///
    /// # Errors
    /// Those of [`harvest`](Self::harvest) and [`settle`](Self::settle), an index without a ring, or
    /// [`CollectError::Overrun`]. Lost pages keep no vCPU out: see [`check`](Self::check).
    pub fn ring_full(
        &mut self,
        ring: usize,
        mode: RingFullMode,
        now: Instant,
    ) -> Result<RingFullReport, CollectError<B::Error>> {
        let rings = self.backend.rings().len();
        let Some(own) = self.backend.rings_mut().get_mut(ring) else {
            return Err(CollectError::NoSuchRing { ring, rings });
        };
        own.note_ring_full(now);
        let was_served = own.take_service();
        add(&mut self.totals.ring_fulls, 1u32);
        self.check_reaping()?;
        self.locate_rings(now)?;
        if was_served && self.outstanding == 0 && self.batch.is_empty() {
            // Another vCPU made room while this one was on its way.
            return Ok(RingFullReport {
                harvested: 0,
                settled: true,
            });
        }
        // What other rings give doesn't count: busy neighbours must not hide an overrun.
        let own = self.backend.rings().get(ring);
        let nothing_to_reset = own.is_some_and(|own| !own.has_unreset());
        let own_harvested = match mode {
            RingFullMode::Chunk(entries) => self.take(ring, entries.max(1))?,
            RingFullMode::Whole => self.take(ring, u32::MAX)?,
        };
        let mut harvested = own_harvested;
        for other in (0..rings).filter(|other| *other != ring) {
            let taken = match mode {
                RingFullMode::Chunk(entries) => self.serve(other, entries.max(1))?,
                RingFullMode::Whole => self.take(other, u32::MAX)?,
            };
            harvested = harvested.saturating_add(taken);
        }
        let settled = self.settle()?;
        // A full batch that can't be settled keeps the entries in the ring: that is no overrun.
        if settled
            && nothing_to_reset
            && own_harvested == 0
            && let Some(own) = self.backend.rings_mut().get_mut(ring)
        {
            let fruitless = own.note_fruitless_exit();
            if fruitless >= OVERRUN_EXITS {
                return Err(self.fail(CollectError::Overrun { ring }));
            }
            self.make_way(ring, fruitless)?;
        }
        Ok(RingFullReport { harvested, settled })
    }

    /// Takes a chunk of ring `other` if it is full as well and the batch has room for the chunk: its
    /// vCPU is on its way to the lock, and one reset does for both.
    fn serve(&mut self, other: usize, chunk: u32) -> Result<u32, CollectError<B::Error>> {
        let is_full = self
            .backend
            .rings()
            .get(other)
            .is_some_and(|ring| ring.is_at_least(ring.size().soft_limit()));
        if !is_full || chunk > self.room() {
            return Ok(0);
        }
        let taken = self.take(other, chunk)?;
        if taken != 0
            && let Some(other) = self.backend.rings_mut().get_mut(other)
        {
            other.serve();
        }
        Ok(taken)
    }

    /// Takes at most `limit` entries of one ring, and no more than its size. Settles whenever the
    /// batch is full on the way, but not at the end. Returns the entries harvested.
    fn take(&mut self, ring: usize, limit: u32) -> Result<u32, CollectError<B::Error>> {
        let size = self.backend.rings().get(ring).map(|ring| ring.size());
        let limit = limit.min(size.map_or(0, |size| size.entries()));
        let mut harvested = 0u32;
        loop {
            let room = self.room();
            let left = limit.saturating_sub(harvested);
            let taken = self.harvest_ring(ring, left)?;
            harvested = harvested.saturating_add(taken);
            add(&mut self.totals.ring_full_harvested, taken);
            let batch_is_full = taken == room && taken < left;
            if !batch_is_full || !self.settle()? {
                break;
            }
        }
        if harvested != 0
            && let Some(ring) = self.backend.rings_mut().get_mut(ring)
        {
            ring.note_harvest();
        }
        Ok(harvested)
    }
}
