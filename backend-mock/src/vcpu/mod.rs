//! A virtual CPU: it writes its phase's pages round-robin, and faults on those that are protected.
//!
//! The rules, write by write (the tests hold the fast code below against a plain one):
//!
//! * A write begins when the one before is done. First come the loop turns and the access itself
//!   (one *step*), then, if the page is protected at that moment, the fault: it takes its time, and
//!   at its end the page is logged and writable and the write done.
//! * The phase is looked up when a write begins. A new phase keeps the pages as they are and goes
//!   on at the next page (at the first, where the new phase has fewer).
//! * A vCPU whose ring is at its soft limit after it logged a page leaves guest mode at once.
//!
//! All times are picoseconds of virtual time.

mod forecast;
mod mishaps;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use dirty_ring_workload::{Phase, Workload};

use crate::cost::{CostModel, PS_PER_US, ps};
use crate::faults::Overrun;
use crate::kernel::KernelRing;
use crate::layout::{Region, SlotMap};
use crate::pages::PageSet;
use mishaps::{Garbage, overrun_ps};

/// A simulated vCPU.
#[derive(Debug)]
pub(crate) struct Vcpu {
    index: usize,
    workload: Arc<Workload>,
    cost: CostModel,
    region: Region,
    slots: SlotMap,

    /// How far it has been simulated.
    local_ps: u64,
    /// When it last went into guest mode.
    entered_ps: u64,
    /// When it left on ring-full, while it is out.
    left_ps: Option<u64>,
    /// When the next write begins; while it faults, when the fault ends.
    next_ps: u64,
    faulting: bool,

    /// Distinct pages of the phase.
    pages: usize,
    /// A write of the phase to a writable page.
    step_ps: u64,
    /// When the phase ends.
    until_ps: u64,
    /// The page that is written next, inside the region.
    cursor: usize,

    protected: PageSet,
    /// Page writes so far.
    writes: u64,
    /// Page writes before the present phase.
    writes_before_phase: u64,
    /// The number of the last write to each page in earlier phases, from 1; empty in the first.
    last_writes: Vec<u64>,

    garbage: Option<Garbage>,
    overrun: Option<Overrun>,
}

impl Vcpu {
    /// Creates a vCPU at the beginning of its workload, with all its pages protected if they are
    /// `logged`.
    pub(crate) fn new(
        index: usize,
        workload: Arc<Workload>,
        cost: CostModel,
        region: Region,
        slots: SlotMap,
        logged: bool,
    ) -> Self {
        let protected = if logged {
            PageSet::full(region.pages)
        } else {
            PageSet::empty(region.pages)
        };
        let mut vcpu = Self {
            index,
            workload,
            cost,
            region,
            slots,
            local_ps: 0,
            entered_ps: 0,
            left_ps: None,
            next_ps: 0,
            faulting: false,
            pages: 0,
            step_ps: 0,
            until_ps: 0,
            cursor: 0,
            protected,
            writes: 0,
            writes_before_phase: 0,
            last_writes: Vec::new(),
            garbage: None,
            overrun: None,
        };
        vcpu.load_phase();
        vcpu
    }

    /// Returns the page writes so far.
    pub(crate) fn writes(&self) -> u64 {
        self.writes
    }

    /// Returns when it left guest mode, if it is out.
    pub(crate) fn left_ps(&self) -> Option<u64> {
        self.left_ps
    }

    /// Returns the number of the last write to `page` of its region, from 1; 0 if there was none.
    pub(crate) fn last_write(&self, page: usize) -> u64 {
        if page < self.pages {
            let ago = (self.cursor + self.pages - 1 - page) % self.pages;
            if (ago as u64) < self.writes - self.writes_before_phase {
                return self.writes - ago as u64;
            }
        }
        self.last_writes.get(page).copied().unwrap_or(0)
    }

    /// Write-protects `page` of its region, as the kernel's reset does.
    pub(crate) fn protect(&mut self, page: usize) {
        self.protected.insert(page);
    }

    /// Write-protects all its pages.
    pub(crate) fn protect_all(&mut self) {
        self.protected = PageSet::full(self.region.pages);
    }

    /// Lets it go on at `at_ps`, after it was held since the time that it has been simulated up to.
    pub(crate) fn resume(&mut self, at_ps: u64) {
        self.local_ps = self.local_ps.max(at_ps);
        if self.left_ps.is_none() {
            self.next_ps = self.next_ps.max(at_ps);
        }
    }

    /// Interrupts it for `pause_ps`, if it is in guest mode.
    pub(crate) fn interrupt(&mut self, pause_ps: u64) {
        if self.left_ps.is_none() && self.entered_ps <= self.local_ps {
            self.next_ps = self.next_ps.saturating_add(pause_ps);
        }
    }

    /// Lets it go back in at `at_ps`. Where its ring is still at the soft limit, it leaves again.
    pub(crate) fn enter(&mut self, at_ps: u64, ring: &KernelRing) {
        self.entered_ps = at_ps;
        self.next_ps = at_ps;
        self.left_ps = ring.is_soft_full().then_some(at_ps);
    }

    /// Simulates it up to `to_ps`, everything that happens at that time included, or until it
    /// leaves guest mode.
    pub(crate) fn advance(&mut self, to_ps: u64, ring: &mut KernelRing) {
        if let Some(overrun) = self.overrun {
            let at_ps = overrun_ps(&overrun);
            if at_ps <= to_ps {
                self.run(at_ps, ring);
                if self.left_ps.is_none() && self.next_ps <= to_ps {
                    self.overrun_ring(overrun.entries_beyond, at_ps, ring);
                }
            }
        }
        self.run(to_ps, ring);
        self.local_ps = self.local_ps.max(to_ps);
    }

    fn run(&mut self, to_ps: u64, ring: &mut KernelRing) {
        while self.left_ps.is_none() && self.next_ps <= to_ps {
            if self.faulting {
                self.finish_fault(ring);
            } else if self.next_ps >= self.until_ps {
                self.change_phase();
            } else if self.pages == 0 {
                if self.until_ps > to_ps {
                    return;
                }
                self.next_ps = self.until_ps;
            } else if !self.write_on(to_ps) {
                return;
            }
        }
    }

    /// Writes up to the next fault, the end of the phase, or `to_ps`; returns whether there is
    /// more to do by then.
    fn write_on(&mut self, to_ps: u64) -> bool {
        if self.protected.contains(self.cursor) {
            return self.begin_fault(to_ps);
        }
        let writable = self.writes_until_fault();
        let in_time = (to_ps - self.next_ps) / self.step_ps;
        let in_phase = (self.until_ps - self.next_ps).div_ceil(self.step_ps);
        let writes = writable.min(in_time).min(in_phase);
        self.writes += writes;
        self.next_ps = self.next_ps.saturating_add(writes * self.step_ps);
        // In two parts: the sum of a place and a count of days might not fit.
        let pages = self.pages as u64;
        self.cursor = ((self.cursor as u64 + writes % pages) % pages) as usize;
        writes != in_time || writes == in_phase
    }

    /// Begins the fault of the write that is due, whose page is protected; returns whether it
    /// begins by `to_ps`.
    fn begin_fault(&mut self, to_ps: u64) -> bool {
        let access_ps = self.next_ps.saturating_add(self.step_ps);
        if access_ps > to_ps {
            return false;
        }
        self.faulting = true;
        self.next_ps = access_ps.saturating_add(ps(self.cost.fault_ns));
        true
    }

    /// Returns the writes to writable pages that come before the next one to a protected page;
    /// `MAX` if none is protected.
    fn writes_until_fault(&self) -> u64 {
        if self.protected.is_empty() {
            return u64::MAX;
        }
        let ahead = self.protected.next_in(self.cursor, self.pages);
        let page = ahead.or_else(|| {
            let wrapped = self.protected.next_in(0, self.cursor)?;
            Some(self.pages + wrapped)
        });
        page.map_or(u64::MAX, |page| (page - self.cursor) as u64)
    }

    fn finish_fault(&mut self, ring: &mut KernelRing) {
        self.faulting = false;
        self.log_write(ring);
        if ring.is_soft_full() {
            self.left_ps = Some(self.next_ps);
        }
    }

    /// Writes one page and logs it.
    fn log_write(&mut self, ring: &mut KernelRing) {
        let page = self.cursor;
        self.protected.remove(page);
        self.writes += 1;
        self.cursor = if page + 1 == self.pages { 0 } else { page + 1 };
        ring.push(self.slots.gfn(self.region.first + page));
        self.log_garbage(ring);
    }

    fn change_phase(&mut self) {
        self.note_last_writes();
        self.load_phase();
        if self.cursor >= self.pages {
            self.cursor = 0;
        }
    }

    /// Keeps what the ending phase's arithmetic knows of its last writes.
    fn note_last_writes(&mut self) {
        let in_phase = self.writes - self.writes_before_phase;
        let pages = in_phase.min(self.pages as u64) as usize;
        if pages != 0 && self.last_writes.is_empty() {
            self.last_writes = vec![0; self.region.pages];
        }
        for ago in 0..pages {
            let page = (self.cursor + self.pages - 1 - ago) % self.pages;
            self.last_writes[page] = self.writes - ago as u64;
        }
        self.writes_before_phase = self.writes;
    }

    fn load_phase(&mut self) {
        let now_us = self.next_ps / PS_PER_US;
        let (Phase { pages, spin, .. }, until_us) = self.workload.phase_at(self.index, now_us);
        self.pages = pages as usize;
        self.step_ps = self.cost.step_ps(spin);
        self.until_ps = until_us.saturating_mul(PS_PER_US);
    }
}
