//! A resynchronisation: the rings are had back after an overrun, or where positions are unknown.
//!
//! An overrun ends a migration and not a guest. What it takes is described in `ring/resync.rs`; here it
//! is done for all rings of the VM, around the one thing that only the embedder can do: switch logging
//! off and on for every slot, so that all memory is protected again.

use super::suspects::Suspects;
use super::{CollectError, Collector, PATIENCE_RESETS, add};
use crate::backend::Backend;
use crate::ring::{PARTS, Ring};
use crate::time::Instant;

/// Resets in a row that did nothing and may have been interrupted, after which nothing is left that is
/// marked. Each is one short system call.
const BARREN_RESETS: u32 = 64;

impl<B: Backend, const BATCH: usize> Collector<B, BATCH> {
    /// Begins a resynchronisation: takes every entry out of every ring and forgets it, what was
    /// harvested and not published, and what went wrong. vCPUs may run.
    ///
    /// Then switch logging off and on for every slot, without letting go of the collector, and call
    /// [`end_resync`](Self::end_resync).
    ///
    /// # Errors
    /// [`CollectError::Reset`].
    pub fn begin_resync(&mut self) -> Result<(), CollectError<B::Error>> {
        // What another resynchronisation left half done is no failure of a ring.
        let failure = self.failure.take();
        let had_failed = failure.is_some_and(|failure| !matches!(failure, CollectError::Resyncing));
        self.batch.clear();
        self.outstanding = 0;
        self.epoch = self.epoch.saturating_add(1);
        self.barren_resets = 0;
        self.suspects = Suspects::NONE;
        self.bad_entries = 0;
        self.last_bad_entry = None;
        self.reset_marked()?;
        for index in 0..self.backend.rings().len() {
            let barrier = self
                .ring_mut(index)
                .and_then(|ring| ring.begin_clear(had_failed));
            if barrier.is_some() {
                self.reset_marked()?;
            }
            if let Some(ring) = self.ring_mut(index) {
                ring.end_clear(barrier);
            }
        }
        self.failure = Some(CollectError::Resyncing);
        Ok(())
    }

    /// Ends a resynchronisation: counts all memory as dirty ([`Backend::publish_all`]).
    ///
    /// A ring is found again when its vCPU has logged a page, by whichever caller comes first; its
    /// vCPU may find it full up to a few times before.
    ///
    /// # Errors
    /// [`CollectError::Publish`] where the consumer didn't take that: the resynchronisation hasn't ended
    /// then, and can be ended again. [`CollectError::Reset`].
    pub fn end_resync(&mut self, now: Instant) -> Result<(), CollectError<B::Error>> {
        let counted = self.backend.publish_all();
        counted.map_err(CollectError::Publish)?;
        self.failure = None;
        self.locate_rings(now).map(|_| ())
    }

    /// Finds the rings again that were cleared and have an entry by now. Returns whether it has looked
    /// for all: where KVM makes no progress, an entry may be in a ring that is still lost.
    pub(super) fn locate_rings(&mut self, now: Instant) -> Result<bool, CollectError<B::Error>> {
        if self.failure.is_some() || !self.backend.rings().iter().any(|ring| ring.is_lost()) {
            return Ok(true);
        }
        // Marks are counted by nobody: nothing else may wait for a reset meanwhile.
        if !self.settle()? {
            return Ok(false);
        }
        for index in 0..self.backend.rings().len() {
            let Some(ring) = self
                .backend
                .rings()
                .get(index)
                .filter(|ring| ring.is_lost())
            else {
                continue;
            };
            let Some(run) = ring.find_run() else {
                if ring.is_all_dirty() {
                    return Err(self.fail(CollectError::Parted { ring: index }));
                }
                continue;
            };
            ring.mark_empty();
            self.reset_marked()?;
            if let Some(ring) = self.ring_mut(index) {
                ring.settle_at(run, now);
            }
        }
        Ok(true)
    }

    /// Makes way for the vCPU of a cleared ring that is still full for KVM, at its `exit`th ring-full
    /// in a row.
    pub(super) fn make_way(
        &mut self,
        ring: usize,
        exit: u32,
    ) -> Result<(), CollectError<B::Error>> {
        // The first exit may be older than the resynchronisation. KVM found the ring full before the
        // second, and nothing has been reset since.
        let is_full = exit >= 2;
        let cleared = self.backend.rings().get(ring);
        // A caller may come without an exit. A ring that was sound has no entry to give way, and would be
        // full for ever if KVM's index were moved beyond it.
        if !is_full || !cleared.is_some_and(|ring| ring.may_be_full()) {
            return Ok(());
        }
        for part in 0..PARTS {
            if let Some(ring) = self.backend.rings().get(ring) {
                ring.mark_part(part);
            }
            let entries = self.reset_marked()?;
            if let Some(ring) = self.backend.rings().get(ring) {
                ring.unmark();
            }
            if entries != 0 {
                break;
            }
        }
        Ok(())
    }

    fn ring_mut(&mut self, index: usize) -> Option<&mut Ring<B::Memory>> {
        self.backend.rings_mut().get_mut(index)
    }

    /// Lets KVM reset all that is marked; returns how many entries that were.
    fn reset_marked(&mut self) -> Result<u64, CollectError<B::Error>> {
        let mut entries = 0u64;
        let (mut barren, mut uninterrupted) = (0u32, 0u32);
        // A reset that was interrupted may come back with nothing done, and nobody counts the marks:
        // only one that was not interrupted proves that none is left.
        while barren < BARREN_RESETS && uninterrupted < PATIENCE_RESETS {
            let done = self.backend.reset();
            let done = done.map_err(|error| self.fail(CollectError::Reset(error)))?;
            add(&mut self.totals.resets, 1u32);
            add(&mut entries, done.entries);
            if done.entries != 0 {
                (barren, uninterrupted) = (0, 0);
                continue;
            }
            barren = barren.saturating_add(1);
            if !done.maybe_interrupted {
                uninterrupted = uninterrupted.saturating_add(1);
            }
        }
        Ok(entries)
    }
}
