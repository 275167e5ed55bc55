//! What a reaper tells: figures, states, and whether the log is complete.

use std::ffi::c_int;
use std::mem::MaybeUninit;

use dirty_ring_core::backend::Backend;
use dirty_ring_core::entry::DirtyGfn;
use dirty_ring_core::ring::Ring;
use dirty_ring_core::time::Instant;

use super::Reaper;
use crate::backend::Page;
use crate::entries::Entries;
use crate::error::{Code, Failure};
use crate::figures::{Pass, RingFigures, Totals};
use crate::handle::exclusively;
use crate::state::{PlannerState, RingState};

impl Reaper {
    /// Returns why the log is incomplete, if it is.
    ///
    /// # Errors
    /// The first failure that ended the reaping, or that pages were lost.
    pub fn check(&self) -> Result<c_int, Failure> {
        self.with(|collector| Ok(collector.check().map(|()| 0)?))
    }

    /// Returns the totals.
    ///
    /// # Errors
    /// [`Code::Busy`].
    pub fn totals(&self) -> Result<Totals, Failure> {
        let machine = exclusively(&self.machine)?;
        Ok(self.shared.with(|collector| Totals {
            passes: machine.reaper.planner().passes(),
            outstanding: collector.outstanding(),
            unpublished: collector.unpublished().len() as u64,
            suspects: collector.suspects().len() as u64,
            ..Totals::of(&collector.totals())
        }))
    }

    /// Returns the figures of one ring.
    ///
    /// # Errors
    /// [`Code::NoSuchRing`].
    pub fn ring_figures(&self, ring: u32) -> Result<RingFigures, Failure> {
        self.with_ring(ring, |ring| ring.into())
    }

    /// Returns what to save of one ring.
    ///
    /// # Errors
    /// [`Code::NoSuchRing`].
    pub fn ring_state(&self, ring: u32, now: Instant) -> Result<RingState, Failure> {
        self.with_ring(ring, |ring| (&ring.state(now)).into())
    }

    /// Returns what to save of the machine.
    ///
    /// # Errors
    /// [`Code::State`].
    pub fn planner_state(&self) -> Result<PlannerState, Failure> {
        let machine = exclusively(&self.machine)?;
        (&machine.reaper.planner().state()).try_into()
    }

    /// Returns the last pass that is over.
    ///
    /// # Errors
    /// [`Code::Busy`].
    pub fn last_pass(&self) -> Result<Pass, Failure> {
        let machine = exclusively(&self.machine)?;
        let pass = machine.reaper.planner().last_pass();
        Ok(pass.map(Pass::from).unwrap_or_default())
    }

    /// Copies the pages that were not published, as many as there is room for; returns how many there
    /// are.
    ///
    /// # Errors
    /// [`Code::Busy`].
    pub fn unpublished(&self, room: &mut [MaybeUninit<Page>]) -> Result<c_int, Failure> {
        self.with(|collector| Ok(copy(collector.unpublished(), room)))
    }

    /// Copies the suspects as [`unpublished`](Self::unpublished) does.
    ///
    /// # Errors
    /// [`Code::Busy`].
    pub fn suspects(&self, room: &mut [MaybeUninit<Page>]) -> Result<c_int, Failure> {
        self.with(|collector| Ok(copy(collector.suspects(), room)))
    }

    fn with_ring<T>(
        &self,
        index: u32,
        read: impl FnOnce(&Ring<Entries>) -> T,
    ) -> Result<T, Failure> {
        self.with(|collector| {
            let rings = collector.backend().rings();
            let ring = rings.get(index as usize);
            let rings = rings.len();
            ring.map(read).ok_or_else(|| {
                Failure::new(
                    Code::NoSuchRing,
                    format_args!("there is no ring {index}: this reaper has {rings}"),
                )
            })
        })
    }
}

/// Copies `pages` to `room`, as far as there is any; returns how many pages there are.
fn copy(pages: &[DirtyGfn], room: &mut [MaybeUninit<Page>]) -> c_int {
    for (room, page) in room.iter_mut().zip(pages) {
        room.write(page.into());
    }
    c_int::try_from(pages.len()).unwrap_or(c_int::MAX)
}
