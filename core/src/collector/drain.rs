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
        if !self.locate_rings(now)? {
            return Ok(false);
        }
        let harvested_all = self.drain_harvest(drain, now)?;
        if !self.settle()? || !harvested_all {
            return Ok(false);
        }
        self.publish_suspects()?;
        self.check()?;
        Ok(true)
    }

    /// Takes what the rings hold at the moment when KVM has removed a slot, so that no entry which still
    /// names it is taken for one of a slot that gets its number next. Worse than a wrong page: KVM's reset
    /// protects none of up to 64 neighbours if one of them lies beyond the end of the slot
    /// (virt/kvm/dirty_ring.c, `kvm_reset_dirty_gfn`). Returns whether all is settled.
    ///
    /// Stops in each ring at an entry that names no page which is or was registered: it may belong to a slot
    /// that is about to be.
    ///
    /// # Errors
    /// Those of [`harvest`](Self::harvest) and [`settle`](Self::settle).
    pub fn drain_late(&mut self, now: Instant) -> Result<bool, CollectError<B::Error>> {
        self.check_reaping()?;
        if !self.locate_rings(now)? {
            return Ok(false);
        }
        for index in 0..self.backend.rings().len() {
            let size = self.backend.rings().get(index).map(|ring| ring.size());
            // No more than was there: a guest that writes on can't keep this busy.
            let mut left = size.map_or(0, |size| size.entries());
            loop {
                let backend = &self.backend;
                let known = backend.rings().get(index).map_or(0, |ring| {
                    ring.leading(left.min(self.room()), |gfn| {
                        backend.is_registered(gfn) || backend.was_removed(gfn.slot)
                    })
                });
                let taken = self.harvest_ring(index, known)?;
                add(&mut self.totals.drain_harvested, taken);
                left = left.saturating_sub(taken);
                if !self.settle()? {
                    return Ok(false);
                }
                if taken == 0 {
                    break;
                }
            }
        }
        self.settle()
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
