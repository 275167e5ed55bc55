//! Entries of one ring into the batch, and the refusal of those that name no page.

use super::{CollectError, Collector, add};
use crate::backend::Backend;
use crate::entry::DirtyGfn;

impl<B: Backend, const BATCH: usize> Collector<B, BATCH> {
    /// Returns the pages that the batch still has room for.
    pub(super) fn room(&self) -> u32 {
        u32::try_from(BATCH.saturating_sub(self.batch.len())).unwrap_or(u32::MAX)
    }

    /// Harvests at most `limit` entries of `ring` into the batch and refuses those that name no
    /// registered page. Returns how many it took, the refused included.
    pub(super) fn harvest_ring(
        &mut self,
        ring: usize,
        limit: u32,
    ) -> Result<u32, CollectError<B::Error>> {
        let limit = limit.min(self.room());
        let begin = self.batch.len();
        let epoch = self.epoch;
        let Some(source) = self.backend.rings_mut().get_mut(ring) else {
            return Ok(0);
        };
        if source.was_lapped() {
            return Err(self.fail(CollectError::Parted { ring }));
        }
        source.note_unreset(epoch);
        let batch = &mut self.batch;
        let begun_at = source.position();
        let taken = source.harvest_without_reset(limit, |gfn| {
            // There is room: `limit` saw to that.
            let _ = batch.push(gfn);
        });
        let was_lapped = source.was_lapped_since(begun_at);
        add(&mut self.outstanding, taken);
        self.refuse_unregistered(ring, begin);
        let harvested = self.batch.get(begin..).unwrap_or_default();
        self.suspects.drop_harvested(harvested);
        if was_lapped {
            return Err(self.fail(CollectError::Parted { ring }));
        }
        Ok(taken)
    }

    /// Takes the entries from `begin` on out of the batch that name no registered page.
    pub(super) fn refuse_unregistered(&mut self, ring: usize, begin: usize) {
        let mut kept = begin;
        for at in begin..self.batch.len() {
            let Some(&gfn) = self.batch.get(at) else {
                break;
            };
            if !self.backend.is_registered(&gfn) {
                self.refuse(ring, gfn);
                continue;
            }
            if let Some(place) = self.batch.get_mut(kept) {
                *place = gfn;
            }
            kept = kept.saturating_add(1);
        }
        self.batch.truncate(kept);
    }

    /// Counts an entry of `ring` that names no registered page.
    fn refuse(&mut self, ring: usize, gfn: DirtyGfn) {
        let is_late = self.backend.was_removed(gfn.slot);
        if !is_late {
            add(&mut self.bad_entries, 1u32);
            self.last_bad_entry = Some((ring, gfn));
            self.backend.reject(ring, &gfn);
        }
        if let Some(source) = self.backend.rings_mut().get_mut(ring) {
            if is_late {
                source.note_late_entry();
            } else {
                source.note_bad_entry(gfn);
            }
        }
    }
}
