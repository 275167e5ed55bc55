//! A drain: everything that is in the rings, outside of the reaper's passes.

use super::pass::CHECKED_AT_A_TIME;
use super::{CollectError, Collector, add};
use crate::backend::Backend;
use crate::time::Instant;

/// How far a drain is. It takes what was in each ring when it came to it, and no more, so a guest
/// that writes on can't keep it busy without end.
///
/// Its fields are public for callers that keep it in a format of their own between two batches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Drain {
    /// The ring where it goes on.
    pub ring: usize,
    /// Entries that are still to be taken from that ring; `None` before it began.
    pub left: Option<u32>,
}

impl<B: Backend, const BATCH: usize> Collector<B, BATCH> {
    /// Harvests, resets and publishes everything that is in the rings: before a memory slot changes,
    /// or when a consumer needs every page that was dirtied so far. Returns whether all is settled.
    ///
    /// # Errors
    /// Those of [`drain_batch`](Self::drain_batch).
    pub fn drain(&mut self, now: Instant) -> Result<bool, CollectError<B::Error>> {
        let mut drain = Drain::default();
        loop {
            if self.drain_batch(&mut drain, now)? {
                return Ok(true);
            }
            if self.outstanding != 0 {
                return Ok(false);
            }
        }
    }

    /// Takes one batch of `drain`; returns whether the drain is over: all rings emptied, reset and
    /// published. For callers that give up the lock between two batches.
    ///
    /// # Errors
    /// Those of [`harvest`](Self::harvest) and [`settle`](Self::settle); those of
    /// [`check`](Self::check) as well, after all has been published that could be.
    pub fn drain_batch(
        &mut self,
        drain: &mut Drain,
        now: Instant,
    ) -> Result<bool, CollectError<B::Error>> {
        self.check_reaping()?;
        self.locate_rings(now)?;
        let harvested_all = self.drain_harvest(drain, now)?;
        if !self.settle()? || !harvested_all {
            return Ok(false);
        }
        self.publish_suspects()?;
        self.check()?;
        Ok(true)
    }

    /// Harvests until the batch is full, or enough rings were checked; returns whether all are done.
    fn drain_harvest(
        &mut self,
        drain: &mut Drain,
        now: Instant,
    ) -> Result<bool, CollectError<B::Error>> {
        let mut checked = 0u32;
        while let room = self.room()
            && let Some(ring) = self.backend.rings_mut().get_mut(drain.ring)
        {
            if room == 0 {
                return Ok(false);
            }
            let left = match drain.left {
                Some(left) => left,
                None => {
                    ring.note_taken(now);
                    ring.look(now)
                }
            };
            let is_first = drain.left.is_none();
            let taken = self.harvest_ring(drain.ring, left)?;
            add(&mut self.totals.drain_harvested, taken);
            if is_first
                && taken != 0
                && let Some(ring) = self.backend.rings_mut().get_mut(drain.ring)
            {
                ring.note_harvest();
            }
            let left = left.saturating_sub(taken);
            // `taken` counts refused entries, whose places in the batch are free again: the harvest
            // ended because the batch was full all the same.
            if left != 0 && taken == room {
                drain.left = Some(left);
                return Ok(false);
            }
            checked = checked.saturating_add(self.end_request(drain.ring)?);
            // Where less was found than the look saw, another caller has taken the rest.
            *drain = Drain {
                ring: drain.ring.saturating_add(1),
                left: None,
            };
            if checked >= CHECKED_AT_A_TIME {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
