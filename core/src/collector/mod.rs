//! Harvest, reset, publish: the one way in which the rings of a VM give up their pages.
//!
//! A page's contents may be read only after the *reset* that follows its harvest, or a write in
//! between is lost: until then KVM has the page writable and logs nothing (api.rst 8.29). So
//! harvested pages stay inside the [`Collector`]; the only door is [`Collector::reset`], which
//! gives a [`Publishable`] once KVM has reset everything that was ever harvested:
//!
//! ```compile_fail
//! # use dirty_ring_core::collector::{Backend, Collector};
//! fn publish_before_reset<B: Backend>(mut collector: Collector<B>) {
//!     collector.harvest(0, true);
//!     collector.publish(); // no such method: it is `Publishable` that has it
//! }
//! ```
//!
//! Reset and publish have to happen under the same lock as well. `KVM_RESET_DIRTY_RINGS` flushes
//! the TLBs *after* it has let go of the VM's slots lock (virt/kvm/kvm_main.c,
//! `kvm_vm_ioctl_reset_dirty_pages`), so a second reset may return while the first one's flush is
//! still to come, and a vCPU may still write through a stale translation to a page that the second
//! caller takes for protected. [`Handoff`](crate::handoff::Handoff) provides that lock.

mod error;
mod figures;
mod ring_full;

pub use error::CollectError;
pub use figures::{Harvested, PassTally, Totals};
pub use ring_full::{DEFAULT_CHUNK, RingFullMode, RingFullReport};

use heapless::Vec;

use crate::entry::{DirtyGfn, EntryMemory};
use crate::ring::Ring;

/// Harvested pages that a collector holds at most until their reset, in pages (64 KiB of memory).
/// A full ring of QEMU's and our default size fits; a larger one takes several resets.
pub const DEFAULT_BATCH: usize = 4096;

/// Resets in a row that may reset nothing, although entries wait for it, before
/// [`CollectError::Stalled`].
pub const STALLED_RESETS: u32 = 1000;

/// Resets in a row without progress after which a caller that has something better to do leaves
/// the deficit to the next one.
const PATIENCE_RESETS: u32 = 4;

/// The rings of one VM and what can be done to them.
///
/// # What an implementer MUST give
///
/// * [`rings`](Self::rings) and [`rings_mut`](Self::rings_mut) are the same slice; a ring's index
///   is its vCPU's index and stays the same while it is there.
/// * [`reset`](Self::reset) resets harvested entries of all the rings and returns how many.
///   It may return fewer than there are, even 0, when it was interrupted; it MUST NOT count an
///   entry that was not harvested through these rings.
/// * When `reset` returns, writes to the pages that it counted are logged again, for every vCPU.
/// * [`publish`](Self::publish) MUST take every page that it is given: nobody will offer it again.
pub trait Backend {
    /// The memory of a ring.
    type Memory: EntryMemory;
    /// What a reset may fail with.
    type Error;

    /// The rings.
    fn rings(&self) -> &[Ring<Self::Memory>];
    /// The rings, to harvest them.
    fn rings_mut(&mut self) -> &mut [Ring<Self::Memory>];
    /// Does `gfn` name a page of the registered memory?
    fn is_registered(&self, gfn: &DirtyGfn) -> bool;
    /// Is told of an entry of ring `ring` that [`is_registered`](Self::is_registered) refused.
    fn reject(&mut self, ring: usize, gfn: &DirtyGfn) {
        let _ = (ring, gfn);
    }
    /// Lets KVM reset the harvested entries; returns how many it did.
    ///
    /// # Errors
    /// The backend's own. Nothing is lost: the pages stay with the collector.
    fn reset(&mut self) -> Result<u32, Self::Error>;
    /// Hands out pages whose reset is done.
    fn publish(&mut self, pages: &[DirtyGfn]);
}

/// The answer to [`Collector::reset`].
#[must_use]
pub enum Reset<'c, B, const BATCH: usize> {
    /// Everything harvested is reset; the pages may go out.
    Settled(Publishable<'c, B, BATCH>),
    /// KVM came back early. Call again; nothing is lost.
    Short {
        /// Entries that it did reset.
        entries: u32,
        /// Entries that still wait.
        outstanding: u64,
    },
}

/// The right to publish: proof that every page in the batch has been reset since its harvest.
///
/// Dropping it loses nothing: the pages go out with the next one.
#[must_use = "the harvested pages reach the consumer only through publish()"]
pub struct Publishable<'c, B, const BATCH: usize> {
    collector: &'c mut Collector<B, BATCH>,
    entries: u32,
}

impl<B: Backend, const BATCH: usize> Publishable<'_, B, BATCH> {
    /// Entries that the last reset did.
    pub const fn entries(&self) -> u32 {
        self.entries
    }

    /// Hands the pages to [`Backend::publish`]; returns how many.
    pub fn publish(self) -> usize {
        let pages = self.collector.batch.len();
        if pages != 0 {
            self.collector.backend.publish(&self.collector.batch);
            self.collector.batch.clear();
            let published = &mut self.collector.totals.published;
            *published = published.saturating_add(pages as u64);
        }
        pages
    }
}

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
    pass: PassTally,
    /// The ring where the present pass goes on, and what it may still take from it.
    cursor: PassCursor,
}

#[derive(Clone, Copy, Debug, Default)]
struct PassCursor {
    ring: usize,
    /// `None`: the ring wasn't begun.
    left: Option<u32>,
}

impl<B: Backend, const BATCH: usize> Collector<B, BATCH> {
    /// A collector of the rings of `backend`.
    pub const fn new(backend: B) -> Self {
        const { assert!(BATCH > 0, "a batch of no pages would never end a pass") };
        Self {
            backend,
            batch: Vec::new(),
            outstanding: 0,
            barren_resets: 0,
            totals: Totals {
                reaper_harvested: 0,
                ring_full_harvested: 0,
                resets: 0,
                short_resets: 0,
                entries_reset: 0,
                published: 0,
                peeks: 0,
            },
            pass: PassTally {
                harvested: 0,
                ring_full_harvested: 0,
                fullest: 0,
            },
            cursor: PassCursor {
                ring: 0,
                left: None,
            },
        }
    }

    /// The backend.
    pub const fn backend(&self) -> &B {
        &self.backend
    }

    /// The backend, to add a ring or to change slots. Settle first (see
    /// [`drain`](Self::drain)) where a slot goes away.
    pub const fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// Takes the collector apart. Pages that were not published are lost with it.
    pub fn into_backend(self) -> B {
        self.backend
    }

    /// Totals so far.
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// Entries harvested and not yet reset: the deficit that the next reset has to make up for.
    pub const fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Harvests for the reaper: all rings, each at most once over, as far as the batch has room.
    ///
    /// `begin` starts a new pass; without it the pass goes on where the batch was full. A pass
    /// takes no more from a ring than its size, so a guest that is faster than the reaper can't
    /// keep it for ever.
    pub fn harvest(&mut self, now_us: u64, begin: bool) -> Harvested {
        if begin {
            self.begin_pass();
        }
        self.harvest_wanted(now_us)
    }

    /// The same, but looks first and harvests only the rings that `wants` asks for; it is asked
    /// at the beginning of the pass.
    pub fn harvest_where(
        &mut self,
        now_us: u64,
        begin: bool,
        mut wants: impl FnMut(&mut Ring<B::Memory>) -> bool,
    ) -> Harvested {
        if begin {
            self.begin_pass();
            for ring in self.backend.rings_mut() {
                ring.is_wanted = wants(ring);
            }
            let rings = self.backend.rings().len();
            self.totals.peeks = self.totals.peeks.saturating_add(rings as u64);
        }
        self.harvest_wanted(now_us)
    }

    fn harvest_wanted(&mut self, now_us: u64) -> Harvested {
        let mut entries = 0u32;
        let mut more = false;
        while let Some(ring) = self.backend.rings().get(self.cursor.ring) {
            if !ring.is_wanted {
                self.cursor.ring = self.cursor.ring.saturating_add(1);
                continue;
            }
            let left = self.cursor.left.unwrap_or(ring.size().entries());
            let first = self.cursor.left.is_none();
            let room = self.room();
            let taken = self.harvest_ring(self.cursor.ring, left.min(room));
            if let Some(ring) = self.backend.rings_mut().get_mut(self.cursor.ring) {
                let share = ring.note_taken_in_pass(now_us, taken, first);
                self.pass.fullest = self.pass.fullest.max(share);
            }
            self.pass.harvested = self.pass.harvested.saturating_add(taken.into());
            entries = entries.saturating_add(taken);
            if taken == room && taken < left {
                // The batch is full and there may be more behind it. A ring that it was full for
                // from the first has not been begun.
                if taken != 0 {
                    self.cursor.left = Some(left.saturating_sub(taken));
                }
                more = true;
                break;
            }
            self.cursor = PassCursor {
                ring: self.cursor.ring.saturating_add(1),
                left: None,
            };
        }
        self.totals.reaper_harvested = self.totals.reaper_harvested.saturating_add(entries.into());
        Harvested {
            entries,
            more,
            tally: self.pass,
        }
    }

    /// Lets the backend reset what was harvested. Once nothing is left to reset, the pages may go
    /// out.
    ///
    /// # Errors
    /// The backend's, or a count that can't be: see [`CollectError`]. The pages stay here.
    pub fn reset(&mut self) -> Result<Reset<'_, B, BATCH>, CollectError<B::Error>> {
        let mut entries = 0;
        if self.outstanding != 0 {
            entries = self.backend.reset().map_err(CollectError::Reset)?;
            self.totals.resets = self.totals.resets.saturating_add(1);
            self.totals.entries_reset = self.totals.entries_reset.saturating_add(entries.into());
            let Some(outstanding) = self.outstanding.checked_sub(entries.into()) else {
                return Err(CollectError::ForeignReset {
                    reset: entries,
                    outstanding: self.outstanding,
                });
            };
            self.outstanding = outstanding;
            if entries != 0 {
                self.barren_resets = 0;
            }
        }
        if self.outstanding == 0 {
            return Ok(Reset::Settled(Publishable {
                collector: self,
                entries,
            }));
        }
        self.totals.short_resets = self.totals.short_resets.saturating_add(1);
        if entries == 0 {
            self.barren_resets = self.barren_resets.saturating_add(1);
            if self.barren_resets >= STALLED_RESETS {
                return Err(CollectError::Stalled {
                    outstanding: self.outstanding,
                });
            }
        }
        Ok(Reset::Short {
            entries,
            outstanding: self.outstanding,
        })
    }

    /// Resets until everything is reset and published, or until KVM makes no progress for a few
    /// calls (a signal is pending on this thread). Returns the entries reset and whether all is
    /// settled.
    ///
    /// # Errors
    /// Those of [`reset`](Self::reset).
    pub fn settle(&mut self) -> Result<(u64, bool), CollectError<B::Error>> {
        let mut total = 0u64;
        let mut barren = 0u32;
        while barren < PATIENCE_RESETS {
            let entries = match self.reset()? {
                Reset::Settled(publishable) => {
                    let entries = publishable.entries();
                    publishable.publish();
                    return Ok((total.saturating_add(entries.into()), true));
                }
                Reset::Short { entries, .. } => entries,
            };
            total = total.saturating_add(entries.into());
            barren = if entries == 0 {
                barren.saturating_add(1)
            } else {
                0
            };
        }
        Ok((total, false))
    }

    /// Harvests, resets and publishes everything in all rings: before a memory slot changes, or
    /// when the dirty log ends. Returns whether all is settled.
    ///
    /// # Errors
    /// Those of [`reset`](Self::reset).
    pub fn drain(&mut self, now_us: u64) -> Result<bool, CollectError<B::Error>> {
        // Outside of the reaper's passes, whose tally and turn stay as they are.
        for ring in 0..self.backend.rings().len() {
            let taken = self.take_outside_pass(ring, u32::MAX, now_us)?;
            self.totals.reaper_harvested =
                self.totals.reaper_harvested.saturating_add(taken.into());
        }
        Ok(self.settle()?.1)
    }

    fn begin_pass(&mut self) {
        self.cursor = PassCursor::default();
        self.pass = PassTally::default();
        for ring in self.backend.rings_mut() {
            ring.is_wanted = true;
            let taken = ring.begin_pass();
            self.pass.ring_full_harvested =
                self.pass.ring_full_harvested.saturating_add(taken.into());
            self.pass.fullest = self.pass.fullest.max(taken);
        }
    }

    /// Pages that the batch still has room for.
    fn room(&self) -> u32 {
        u32::try_from(BATCH.saturating_sub(self.batch.len())).unwrap_or(u32::MAX)
    }

    /// Harvests at most `limit` entries of `ring` into the batch, refuses those that name no
    /// registered page, and returns how many it took, the refused included.
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
        self.outstanding = self.outstanding.saturating_add(taken.into());
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
