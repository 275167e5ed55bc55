//! What a vCPU does with its full ring.

use super::{Backend, CollectError, Collector};
use crate::ring::Ring;

/// How a vCPU deals with its full ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingFullMode {
    /// Harvest and reset at most so many entries of the own ring, and of those that are full at
    /// the same moment; kick the reaper for the rest.
    Chunk(u32),
    /// Harvest and reset the whole of all rings, as QEMU does.
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
    /// Entries harvested, of all the rings that it looked at.
    pub harvested: u32,
    /// Everything harvested so far is reset and published. `false` where signals kept KVM from
    /// it: the deficit is carried, the vCPU may try to go on.
    pub settled: bool,
}

impl<B: Backend, const BATCH: usize> Collector<B, BATCH> {
    /// What a vCPU does that left guest mode on ring-full: harvest as `mode` says, reset, publish.
    ///
    /// # Errors
    /// Those of [`reset`](Self::reset), an index without a ring, or [`CollectError::Overrun`].
    pub fn ring_full(
        &mut self,
        ring: usize,
        mode: RingFullMode,
        now_us: u64,
    ) -> Result<RingFullReport, CollectError<B::Error>> {
        let rings = self.backend.rings().len();
        let Some(own) = self.backend.rings_mut().get_mut(ring) else {
            return Err(CollectError::NoSuchRing { ring, rings });
        };
        own.note_ring_full();
        own.note_occupancy(own.occupancy());
        let is_served = core::mem::take(&mut own.is_served);
        if is_served && self.outstanding == 0 && self.batch.is_empty() {
            // Another vCPU made room while this one was on its way.
            return Ok(RingFullReport {
                harvested: 0,
                settled: true,
            });
        }
        // What other rings give doesn't count: busy neighbours must not hide an overrun.
        let nothing_to_reset = !own.has_unreset();
        let limit = match mode {
            RingFullMode::Chunk(entries) => entries.max(1),
            RingFullMode::Whole => u32::MAX,
        };
        let own_harvested = self.take_outside_pass(ring, limit, now_us)?;
        let mut harvested = own_harvested;
        for index in (0..rings).filter(|index| *index != ring) {
            let serves = matches!(mode, RingFullMode::Chunk(_));
            if serves && !self.can_serve(index, limit) {
                continue;
            }
            let taken = self.take_outside_pass(index, limit, now_us)?;
            harvested = harvested.saturating_add(taken);
            if serves && let Some(other) = self.backend.rings_mut().get_mut(index) {
                other.is_served = true;
            }
        }
        self.totals.ring_full_harvested = self
            .totals
            .ring_full_harvested
            .saturating_add(harvested.into());
        let (_, settled) = self.settle()?;
        if nothing_to_reset
            && own_harvested == 0
            && let Some(own) = self.backend.rings_mut().get_mut(ring)
            && own.note_fruitless_exit()
        {
            return Err(CollectError::Overrun { ring });
        }
        Ok(RingFullReport { harvested, settled })
    }

    /// Is ring `index` full as well, and room in the batch for a chunk of it? Then its vCPU is on
    /// its way to the lock, and one reset will do for both.
    fn can_serve(&self, index: usize, chunk: u32) -> bool {
        let is_full = |ring: &Ring<B::Memory>| ring.is_at_least(ring.size().soft_limit());
        chunk <= self.room() && self.backend.rings().get(index).is_some_and(is_full)
    }

    /// Takes at most `limit` entries of one ring, outside of the reaper's passes. Settles where the
    /// batch is full on the way, and not at the end. Returns the entries harvested.
    pub(super) fn take_outside_pass(
        &mut self,
        ring: usize,
        limit: u32,
        now_us: u64,
    ) -> Result<u32, CollectError<B::Error>> {
        let size = self
            .backend
            .rings()
            .get(ring)
            .map(|ring| ring.size().entries());
        let limit = limit.min(size.unwrap_or(0));
        let mut harvested = 0u32;
        loop {
            let room = self.room();
            let left = limit.saturating_sub(harvested);
            let taken = self.harvest_ring(ring, left);
            if let Some(own) = self.backend.rings_mut().get_mut(ring) {
                own.note_taken_at_ring_full(now_us, taken, harvested == 0);
            }
            harvested = harvested.saturating_add(taken);
            let batch_is_full = taken == room && taken < left;
            if !batch_is_full {
                return Ok(harvested);
            }
            let (_, settled) = self.settle()?;
            if !settled {
                return Ok(harvested);
            }
        }
    }
}
