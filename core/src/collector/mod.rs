//! Harvest, reset, publish: the one way in which the rings of a VM give up their pages.
//!
//! A page's contents may be read only after the *reset* that follows its harvest, or a write in
//! between is lost: until then KVM has the page writable and logs nothing (api.rst 8.29). So
//! harvested pages stay inside the [`Collector`], and only [`Collector::settle`] lets them out, once
//! KVM has reset everything that was ever harvested. There is no other way to write it:
//!
//! ```compile_fail
//! # use dirty_ring_core::backend::Backend;
//! # use dirty_ring_core::collector::Collector;
//! # use dirty_ring_core::time::Instant;
//! fn publish_before_reset<B: Backend>(mut collector: Collector<B>) {
//!     collector.harvest(Instant(0));
//!     collector.publish(); // private
//! }
//! ```
//!
//! Reset and publication happen in one critical section as well. `KVM_RESET_DIRTY_RINGS` flushes
//! the TLBs *after* it has let go of the VM's slots lock (virt/kvm/kvm_main.c,
//! `kvm_vm_ioctl_reset_dirty_pages`), so a second reset may return while the first one's flush is
//! still to come, and a vCPU may still write through a stale translation to a page that looks
//! protected to the second caller. [`SharedCollector`](crate::shared::SharedCollector) has the lock
//! that prevents it.
//!
//! Three callers take entries, all through the same two steps: the reaper's pass
//! ([`begin_pass`](Collector::begin_pass), [`reap`](Collector::reap)), the ring-full path of a vCPU
//! ([`ring_full`](Collector::ring_full)), and a drain ([`drain`](Collector::drain)).
//!
//! Nothing goes wrong silently. The first failure that ends the reaping is kept, and every later
//! harvest, settle and drain returns it. A page that is lost while the rings are sound doesn't end the
//! reaping, for the guest's sake, but every later drain fails: see [`Collector::check`].

mod drain;
mod error;
mod figures;
mod harvest;
mod pass;
mod resync;
mod ring_full;
pub mod suspects;

pub use drain::Drain;
pub use error::CollectError;
pub use figures::{PassTally, Totals};
pub use pass::{MAX_PLANNED_RINGS, PassRings, Reaped, RingView, Scope};
pub use ring_full::{DEFAULT_CHUNK, RingFullMode, RingFullReport};

use heapless::Vec;

use crate::backend::Backend;
use crate::entry::{DirtyGfn, SlotId};
use figures::add;
use pass::Pass;
use suspects::Suspects;

/// Harvested pages that a collector holds at most until their reset, in pages (64 KiB of memory).
/// A vCPU on ring-full waits for one such batch of the reaper at most.
pub const DEFAULT_BATCH: usize = 4096;

/// Resets in a row that may reset nothing, although entries wait for one, before
/// [`CollectError::Stalled`].
pub const STALLED_RESETS: u32 = 1000;

/// Resets in a row without progress after which a caller leaves the deficit to the next one.
const PATIENCE_RESETS: u32 = 4;

/// Collects dirty pages from all the rings of one VM.
#[derive(Debug)]
pub struct Collector<B: Backend, const BATCH: usize = DEFAULT_BATCH> {
    backend: B,
    batch: Vec<DirtyGfn, BATCH>,
    /// Entries harvested and not yet reset, bad ones included.
    outstanding: u64,
    /// Times that nothing was outstanding any more, so that a ring knows whether its entries are.
    epoch: u64,
    /// Resets in a row that did nothing although entries waited.
    barren_resets: u32,
    suspects: Suspects,
    /// Entries that named no registered page, and the last of them with its ring.
    bad_entries: u64,
    last_bad_entry: Option<(usize, DirtyGfn)>,
    /// What ended the reaping.
    failure: Option<CollectError<B::Error>>,
    totals: Totals,
    pass: Pass,
}

impl<B: Backend, const BATCH: usize> Collector<B, BATCH> {
    /// Creates a collector of the rings of `backend`.
    pub const fn new(backend: B) -> Self {
        const { assert!(BATCH > 0, "a batch of no pages would never end a pass") };
        Self {
            backend,
            batch: Vec::new(),
            outstanding: 0,
            epoch: 1,
            barren_resets: 0,
            suspects: Suspects::NONE,
            bad_entries: 0,
            last_bad_entry: None,
            failure: None,
            totals: Totals::ZERO,
            pass: Pass::NONE,
        }
    }

    /// Returns the backend.
    pub const fn backend(&self) -> &B {
        &self.backend
    }

    /// Returns the backend, to add a ring or to change slots. [`drain`](Self::drain) first where a
    /// slot goes away.
    pub const fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Takes the collector apart. Pages that were not published are lost with it.
    pub fn into_backend(self) -> B {
        self.backend
    }

    /// Returns the totals so far.
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Returns the entries harvested and not yet reset: the deficit that the next reset has to make
    /// up for.
    pub const fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Returns the pages that were harvested and not yet published.
    pub fn unpublished(&self) -> &[DirtyGfn] {
        &self.batch
    }

    /// Returns the pages that may be writable without being logged: see [`suspects`].
    pub fn suspects(&self) -> &[DirtyGfn] {
        self.suspects.pages()
    }

    /// Returns the last entry that named no registered page, with the index of its ring.
    pub const fn last_bad_entry(&self) -> Option<(usize, DirtyGfn)> {
        self.last_bad_entry
    }

    /// Takes over what an earlier collector harvested of `ring` and KVM hasn't reset yet: the entries
    /// say which pages those are. Call it for a ring that was created from a saved state.
    ///
    /// # Errors
    /// [`CollectError::Parted`] where they are more than a collector ever leaves.
    pub fn inherit(&mut self, ring: usize) -> Result<(), CollectError<B::Error>> {
        let epoch = self.epoch;
        let begin = self.batch.len();
        let room = self.room();
        let Some(source) = self.backend.rings_mut().get_mut(ring) else {
            return Ok(());
        };
        let batch = &mut self.batch;
        let inherited = source.inherit(epoch, room, |gfn| _ = batch.push(gfn));
        add(&mut self.outstanding, inherited);
        self.refuse_unregistered(ring, begin);
        let source = self.backend.rings().get(ring);
        if inherited == room
            && source.is_some_and(|ring| !ring.is_lost() && ring.has_more_waiting(inherited))
        {
            return Err(self.fail(CollectError::Parted { ring }));
        }
        Ok(())
    }

    /// Notes that `slot` was removed, or that all its pages were protected again because its logging
    /// was switched off and on: it has no suspects any more.
    pub fn forget_suspects(&mut self, slot: SlotId) {
        self.suspects.drop_slot(slot);
    }

    /// Returns why the log is incomplete, if it is: the failure that ended the reaping, or the pages
    /// that were lost.
    ///
    /// # Errors
    /// See [`CollectError`]; the same one each time until [`end_resync`](Self::end_resync), but for the
    /// count and the last one of bad entries.
    pub fn check(&self) -> Result<(), CollectError<B::Error>> {
        self.check_reaping()?;
        self.check_pages()
    }

    /// Returns whether pages were lost while the rings are sound.
    ///
    /// # Errors
    /// [`CollectError::BadEntries`], [`CollectError::TooManySuspects`].
    pub fn check_pages(&self) -> Result<(), CollectError<B::Error>> {
        if let Some((ring, last)) = self.last_bad_entry {
            return Err(CollectError::BadEntries {
                entries: self.bad_entries,
                ring,
                last,
            });
        }
        if self.suspects.has_overflowed() {
            return Err(CollectError::TooManySuspects {
                suspects: self.suspects.pages().len(),
            });
        }
        Ok(())
    }

    /// Returns the failure that ended the reaping, if there was one.
    ///
    /// # Errors
    /// The first failure.
    pub fn check_reaping(&self) -> Result<(), CollectError<B::Error>> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// Forgets a failed publication, because the consumer was replaced. The pages are still here.
    pub fn forgive_publication(&mut self) {
        self.failure
            .take_if(|failure| matches!(failure, CollectError::Publish(_)));
    }

    /// Keeps `failure` if it is the first, and returns the first.
    fn fail(&mut self, failure: CollectError<B::Error>) -> CollectError<B::Error> {
        self.failure.get_or_insert(failure).clone()
    }

    /// Resets what was harvested until nothing is left, and then publishes it. Gives up for now
    /// where KVM makes no progress for a few calls, as with a signal pending on this thread: the
    /// next caller carries the deficit on. Returns whether all is reset and published.
    ///
    /// # Errors
    /// The backend's, or a count that can't be: see [`CollectError`]. The pages stay here, and every
    /// later call returns the same.
    pub fn settle(&mut self) -> Result<bool, CollectError<B::Error>> {
        self.check_reaping()?;
        let mut barren = 0u32;
        while self.outstanding != 0 {
            let entries = self.reset()?;
            barren = if entries == 0 {
                barren.saturating_add(1)
            } else {
                0
            };
            if barren == PATIENCE_RESETS {
                return Ok(false);
            }
        }
        self.publish()?;
        Ok(true)
    }

    /// Calls the backend's reset once and accounts for what it did.
    fn reset(&mut self) -> Result<u32, CollectError<B::Error>> {
        let done = self.backend.reset();
        let done = done.map_err(|error| self.fail(CollectError::Reset(error)))?;
        let entries = done.entries;
        add(&mut self.totals.resets, 1u32);
        add(&mut self.totals.entries_reset, entries);
        self.outstanding = match self.outstanding.checked_sub(entries.into()) {
            Some(outstanding) => outstanding,
            None => {
                return Err(self.fail(CollectError::ForeignReset {
                    reset: entries,
                    outstanding: self.outstanding,
                }));
            }
        };
        if entries != 0 {
            self.barren_resets = 0;
        }
        if self.outstanding != 0 {
            add(&mut self.totals.short_resets, 1u32);
            if entries == 0 {
                self.barren_resets = self.barren_resets.saturating_add(1);
            }
            if self.barren_resets >= STALLED_RESETS {
                return Err(self.fail(CollectError::Stalled {
                    outstanding: self.outstanding,
                }));
            }
        } else if done.maybe_interrupted {
            add(&mut self.totals.maybe_interrupted_resets, 1u32);
        }
        if entries != 0 && (self.outstanding != 0 || done.maybe_interrupted) {
            self.suspect_last_resets();
        }
        if self.outstanding == 0 {
            self.epoch = self.epoch.saturating_add(1);
        }
        Ok(entries)
    }

    /// Suspects the pages that the interrupted reset may have forgotten. All that it counted are in
    /// the batch: nothing is published before all is reset.
    fn suspect_last_resets(&mut self) {
        let epoch = self.epoch;
        // KVM write-protects all of a ring before it goes on to the next one: where it stopped in the
        // middle of a ring, only that one is concerned. It goes through the rings in the order in
        // which the vCPUs were created, which isn't known here.
        let mut is_partial = false;
        for ring in self.backend.rings_mut() {
            is_partial |= ring.find_last_reset(epoch);
        }
        for ring in self.backend.rings_mut() {
            let Some(last) = ring.take_last_reset(epoch) else {
                continue;
            };
            if is_partial && !ring.has_waiting(epoch) {
                continue;
            }
            for page in self
                .batch
                .iter()
                .filter(|page| last.may_have_forgotten(page))
            {
                self.suspects.insert(*page);
            }
        }
    }

    /// Hands the batch to [`Backend::publish`]. Only [`settle`](Self::settle) may, after the reset.
    fn publish(&mut self) -> Result<(), CollectError<B::Error>> {
        let pages = self.batch.len() as u64;
        if pages != 0 {
            let taken = self.backend.publish(&self.batch);
            taken.map_err(|error| self.fail(CollectError::Publish(error)))?;
            self.batch.clear();
            add(&mut self.totals.published, pages);
        }
        Ok(())
    }

    /// Lets `publish` hand out pages for another reason than their entries. A failure is kept.
    ///
    /// # Errors
    /// [`CollectError::Publish`].
    pub fn publish_with(
        &mut self,
        publish: impl FnOnce(&mut B) -> Result<(), B::Error>,
    ) -> Result<(), CollectError<B::Error>> {
        publish(&mut self.backend).map_err(|error| self.fail(CollectError::Publish(error)))
    }

    /// Publishes the suspects again, because all pages were asked for.
    fn publish_suspects(&mut self) -> Result<(), CollectError<B::Error>> {
        let pages = self.suspects.pages();
        if !pages.is_empty() {
            add(&mut self.totals.suspects_published, pages.len() as u64);
            let taken = self.backend.publish(pages);
            taken.map_err(|error| self.fail(CollectError::Publish(error)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
