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

mod drain;
mod error;
mod figures;
mod pass;
mod ring_full;

pub use drain::Drain;
pub use error::CollectError;
pub use figures::{PassTally, Totals};
pub use pass::{MAX_PLANNED_RINGS, PassRings, Reaped, RingView, Scope};
pub use ring_full::{DEFAULT_CHUNK, RingFullMode, RingFullReport};

use heapless::Vec;

use crate::backend::Backend;
use crate::entry::DirtyGfn;
use figures::add;
use pass::Pass;

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
pub struct Collector<B, const BATCH: usize = DEFAULT_BATCH> {
    backend: B,
    batch: Vec<DirtyGfn, BATCH>,
    /// Entries harvested and not yet reset, bad ones included.
    outstanding: u64,
    /// Resets in a row that did nothing although entries waited.
    barren_resets: u32,
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
            barren_resets: 0,
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

    /// Resets what was harvested until nothing is left, and then publishes it. Gives up for now
    /// where KVM makes no progress for a few calls, as with a signal pending on this thread: the
    /// next caller carries the deficit on. Returns whether all is reset and published.
    ///
    /// # Errors
    /// The backend's, or a count that can't be: see [`CollectError`]. The pages stay here.
    pub fn settle(&mut self) -> Result<bool, CollectError<B::Error>> {
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
        self.publish();
        Ok(true)
    }

    /// Calls the backend's reset once and accounts for what it did.
    fn reset(&mut self) -> Result<u32, CollectError<B::Error>> {
        let entries = self.backend.reset().map_err(CollectError::Reset)?;
        add(&mut self.totals.resets, 1u32);
        add(&mut self.totals.entries_reset, entries);
        self.outstanding = match self.outstanding.checked_sub(entries.into()) {
            Some(outstanding) => outstanding,
            None => {
                return Err(CollectError::ForeignReset {
                    reset: entries,
                    outstanding: self.outstanding,
                });
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
                return Err(CollectError::Stalled {
                    outstanding: self.outstanding,
                });
            }
        }
        Ok(entries)
    }

    /// Hands the batch to [`Backend::publish`]. Only [`settle`](Self::settle) may, after the reset.
    fn publish(&mut self) {
        let pages = self.batch.len() as u64;
        if pages != 0 {
            self.backend.publish(&self.batch);
            self.batch.clear();
            add(&mut self.totals.published, pages);
        }
    }

    /// Returns the pages that the batch still has room for.
    fn room(&self) -> u32 {
        u32::try_from(BATCH.saturating_sub(self.batch.len())).unwrap_or(u32::MAX)
    }

    /// Harvests at most `limit` entries of `ring` into the batch and refuses those that name no
    /// registered page. Returns how many it took, the refused included.
    fn harvest_ring(&mut self, ring: usize, limit: u32) -> u32 {
        let limit = limit.min(self.room());
        let begin = self.batch.len();
        let Some(source) = self.backend.rings_mut().get_mut(ring) else {
            return 0;
        };
        let batch = &mut self.batch;
        let taken = source.harvest_without_reset(limit, |gfn| {
            // There is room: `limit` saw to that.
            let _ = batch.push(gfn);
        });
        add(&mut self.outstanding, taken);
        self.refuse_unregistered(ring, begin);
        taken
    }

    /// Takes the entries from `begin` on out of the batch that name no registered page.
    fn refuse_unregistered(&mut self, ring: usize, begin: usize) {
        let mut kept = begin;
        for at in begin..self.batch.len() {
            let Some(&gfn) = self.batch.get(at) else {
                break;
            };
            if !self.backend.is_registered(&gfn) {
                self.backend.reject(ring, &gfn);
                if let Some(source) = self.backend.rings_mut().get_mut(ring) {
                    source.note_bad_entry();
                }
                continue;
            }
            if let Some(place) = self.batch.get_mut(kept) {
                *place = gfn;
            }
            kept = kept.saturating_add(1);
        }
        self.batch.truncate(kept);
    }
}

#[cfg(test)]
mod tests;
