//! A pass of the reaper: look at every ring, plan, then take what the plan says batch by batch.

use super::{CollectError, Collector, PassTally, Totals, add};
use crate::backend::Backend;
use crate::entry::EntryMemory;
use crate::growth::Growth;
use crate::marks::Marks;
use crate::ring::Ring;
use crate::size::{MAX_ENTRIES, RingSize};
use crate::time::Instant;

/// Rings that a plan can leave alone: KVM's largest number of vCPUs. Rings beyond that are always
/// taken.
pub const MAX_PLANNED_RINGS: usize = 4096;

/// Entries that one critical section looks at to find out whether rings are sound: as many as the
/// largest ring has. It takes about as long as a small batch.
pub(super) const CHECKED_AT_A_TIME: u32 = MAX_ENTRIES;

const WORDS: usize = MAX_PLANNED_RINGS / u64::BITS as usize;

/// Which rings a pass takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Those that the controller's plan doesn't leave alone.
    #[default]
    Planned,
    /// All of them: every page was asked for.
    All,
}

/// The pass in progress.
#[derive(Debug)]
pub(super) struct Pass {
    scope: Scope,
    left_alone: Marks<WORDS>,
    /// The ring where the pass goes on.
    ring: usize,
    /// Entries that it may still take from that ring; `None` before it began.
    left: Option<u32>,
    harvested: u64,
    /// Whether it has looked for lost rings.
    has_located: bool,
    /// Totals when the last pass ended.
    before: Totals,
}

impl Pass {
    pub(super) const NONE: Self = Self {
        scope: Scope::All,
        left_alone: Marks::NONE,
        ring: 0,
        left: None,
        harvested: 0,
        has_located: false,
        before: Totals::ZERO,
    };

    fn is_left_alone(&self, ring: usize) -> bool {
        self.left_alone.contains(ring)
    }
}

/// The rings that a controller plans with, at the beginning of a pass and after a look at each. The
/// pass takes all that the plan doesn't leave alone.
#[derive(Debug)]
pub struct PassRings<'p, M> {
    rings: &'p [Ring<M>],
    scope: Scope,
    left_alone: &'p mut Marks<WORDS>,
    /// The plan read the rings.
    was_read: bool,
}

/// One ring, as a controller sees it.
#[derive(Clone, Copy, Debug)]
pub struct RingView<'p> {
    /// The ring's size and soft limit.
    pub size: RingSize,
    /// Entries that wait in it.
    pub occupancy: u32,
    /// How it grows, the present look included.
    pub growth: &'p Growth,
}

impl<'p, M: EntryMemory> PassRings<'p, M> {
    /// Lets `plan` plan with `rings` outside of any collector, and sets `told` for each ring that
    /// it left alone.
    pub(crate) fn play(
        rings: &'p [Ring<M>],
        told: &mut [bool],
        plan: impl FnOnce(&mut PassRings<'_, M>),
    ) {
        let mut pass = Pass {
            scope: Scope::Planned,
            ..Pass::NONE
        };
        plan(&mut PassRings {
            rings,
            scope: pass.scope,
            left_alone: &mut pass.left_alone,
            was_read: false,
        });
        for (ring, told) in told.iter_mut().enumerate() {
            *told = pass.is_left_alone(ring);
        }
    }

    /// Returns how many rings there are.
    pub fn len(&self) -> usize {
        self.rings.len()
    }

    /// Returns whether there is no ring.
    pub fn is_empty(&self) -> bool {
        self.rings.is_empty()
    }

    /// Returns which rings the pass takes. Under [`Scope::All`] nothing can be left alone.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Returns ring `ring`.
    pub fn get(&mut self, ring: usize) -> Option<RingView<'p>> {
        self.was_read = true;
        self.rings.get(ring).map(|ring| RingView {
            size: ring.size(),
            occupancy: ring.occupancy_seen(),
            growth: ring.growth(),
        })
    }

    /// Leaves ring `ring` alone in this pass, if the scope allows it; returns whether it does.
    pub fn leave(&mut self, ring: usize) -> bool {
        self.scope == Scope::Planned && self.left_alone.set(ring)
    }
}

/// What one batch of a pass did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Reaped {
    /// Entries that it took.
    pub entries: u32,
    /// Whether the pass is over: all its rings were taken, and all is reset and published.
    pub is_over: bool,
}

impl<B: Backend, const BATCH: usize> Collector<B, BATCH> {
    /// Begins a pass: looks at every ring, and lets `plan` leave some alone. A failure of the backend
    /// that this meets is returned by [`reap`](Self::reap).
    pub fn begin_pass(
        &mut self,
        now: Instant,
        scope: Scope,
        plan: impl FnOnce(&mut PassRings<'_, B::Memory>),
    ) {
        self.pass = Pass {
            scope,
            before: self.pass.before,
            ..Pass::NONE
        };
        self.pass.has_located = matches!(self.locate_rings(now), Ok(true));
        for ring in self.backend.rings_mut() {
            ring.look(now);
        }
        let mut rings = PassRings {
            rings: self.backend.rings(),
            scope,
            left_alone: &mut self.pass.left_alone,
            was_read: false,
        };
        plan(&mut rings);
        if rings.was_read {
            add(&mut self.totals.peeks, rings.rings.len() as u64);
        }
    }

    /// Takes one batch of the pass: harvests, resets, publishes. A pass takes no more from a ring
    /// than its size, so a guest that is faster than the reaper can't keep it busy without end.
    ///
    /// # Errors
    /// Those of [`harvest`](Self::harvest) and [`settle`](Self::settle). Lost pages are no failure of a
    /// pass: see [`check`](Self::check).
    pub fn reap(&mut self, now: Instant) -> Result<Reaped, CollectError<B::Error>> {
        if !self.pass.has_located {
            self.check_reaping()?;
            self.pass.has_located = self.locate_rings(now)?;
            if !self.pass.has_located {
                return Ok(Reaped {
                    entries: 0,
                    is_over: false,
                });
            }
        }
        let (entries, more) = self.harvest(now)?;
        let settled = self.settle()?;
        let is_over = settled && !more;
        if is_over && self.pass.scope == Scope::All {
            self.publish_suspects()?;
        }
        Ok(Reaped { entries, is_over })
    }

    /// The harvest of [`reap`](Self::reap) alone; returns the entries it took, and whether the
    /// batch was full before the pass was over. For benchmarks: [`settle`](Self::settle) has to
    /// follow.
    ///
    /// # Errors
    /// The failure that ended the reaping, or [`CollectError::Parted`].
    pub fn harvest(&mut self, now: Instant) -> Result<(u32, bool), CollectError<B::Error>> {
        self.check_reaping()?;
        let mut entries = 0u32;
        let mut checked = 0u32;
        let mut more = false;
        while let Some(ring) = self.backend.rings().get(self.pass.ring) {
            if self.pass.is_left_alone(self.pass.ring) {
                self.next_ring();
                continue;
            }
            let left = self.pass.left.unwrap_or(ring.size().entries());
            let room = self.room();
            if room == 0 {
                more = true;
                break;
            }
            let (index, first) = (self.pass.ring, self.pass.left.is_none());
            let taken = self.harvest_ring(index, left)?;
            entries = entries.saturating_add(taken);
            add(&mut self.pass.harvested, taken);
            add(&mut self.totals.reaper_harvested, taken);
            if first && let Some(ring) = self.backend.rings_mut().get_mut(index) {
                ring.note_taken(now);
                if taken != 0 {
                    ring.note_harvest();
                }
            }
            if taken == room && taken < left {
                // The batch is full, and there may be more behind it.
                self.pass.left = Some(left.saturating_sub(taken));
                more = true;
                break;
            }
            if self.pass.scope == Scope::All {
                checked = checked.saturating_add(self.end_request(index)?);
            }
            self.next_ring();
            if checked >= CHECKED_AT_A_TIME {
                more = true;
                break;
            }
        }
        Ok((entries, more))
    }

    /// Ends the pass; returns what it found, and what the ring-full path found since the last one.
    pub fn end_pass(&mut self) -> PassTally {
        let mut fullest = 0;
        for ring in self.backend.rings_mut() {
            fullest = ring.end_pass().max(fullest);
        }
        let (before, now) = (self.pass.before, self.totals);
        self.pass.before = now;
        let ring_fulls = now.ring_fulls.saturating_sub(before.ring_fulls);
        PassTally {
            harvested: self.pass.harvested,
            ring_full_harvested: now
                .ring_full_harvested
                .saturating_sub(before.ring_full_harvested),
            fullest,
            ring_fulls: u32::try_from(ring_fulls).unwrap_or(u32::MAX),
        }
    }

    /// Notes that `ring` was emptied because all pages were asked for, and checks that it was.
    /// Returns the entries that it looked at.
    pub(super) fn end_request(&mut self, ring: usize) -> Result<u32, CollectError<B::Error>> {
        let Some(emptied) = self.backend.rings_mut().get_mut(ring) else {
            return Ok(0);
        };
        emptied.note_emptied_on_request();
        if emptied.has_parted() {
            return Err(self.fail(CollectError::Parted { ring }));
        }
        let ring = self.backend.rings().get(ring);
        Ok(ring.map_or(0, |ring| ring.size().entries()))
    }

    fn next_ring(&mut self) {
        self.pass.ring = self.pass.ring.saturating_add(1);
        self.pass.left = None;
    }
}
