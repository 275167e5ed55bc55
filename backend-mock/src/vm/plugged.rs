//! A memory slot that is added and removed while vCPUs run, as memory is plugged in and out.

use dirty_ring_core::entry::{DirtyGfn, SlotId};

use super::{VcpuState, Vm};
use crate::kernel::Mask;
use crate::pages::PageSet;

/// The slot.
pub(super) const SLOT: SlotId = SlotId::new(0, 11);

/// Its pages; none while it isn't there.
#[derive(Debug)]
pub(super) struct Plugged {
    protected: PageSet,
    /// Writes so far.
    count: u64,
    /// The count at the last write to each page, and when the page was last published.
    written: Vec<u64>,
    seen: Vec<u64>,
    was_removed: bool,
}

impl Plugged {
    pub(super) fn none() -> Self {
        Self {
            protected: PageSet::empty(0),
            count: 0,
            written: Vec::new(),
            seen: Vec::new(),
            was_removed: false,
        }
    }

    pub(super) fn pages(&self) -> usize {
        self.written.len()
    }

    pub(super) fn was_removed(&self) -> bool {
        self.was_removed
    }

    /// Write-protects the pages of `mask`: none if one of them isn't there.
    pub(super) fn protect(&mut self, mask: &Mask) {
        if mask.last().offset < self.pages() as u64 {
            for gfn in mask.pages() {
                self.protected.insert(gfn.offset as usize);
            }
        }
    }

    pub(super) fn protect_all(&mut self) {
        self.protected = PageSet::full(self.pages());
    }

    /// Notes that a page was published; returns whether it exists.
    pub(super) fn on_published(&mut self, gfn: &DirtyGfn) -> bool {
        let seen = self.seen.get_mut(gfn.offset as usize);
        seen.map(|seen| *seen = self.count).is_some()
    }

    pub(super) fn on_all_published(&mut self) {
        self.seen.fill(self.count);
    }

    pub(super) fn unseen_pages(&self) -> u64 {
        let pages = self.written.iter().zip(&self.seen);
        pages.filter(|(written, seen)| written > seen).count() as u64
    }
}

impl Vm {
    /// Adds the slot that comes and goes, with `pages` pages, at least one. Drain the rings before.
    pub fn plug(&mut self, pages: usize) {
        self.unplug();
        let added = self.slots.insert(SLOT, pages as u64);
        added.expect("there is a place for it");
        self.plugged = Plugged {
            protected: PageSet::full(pages),
            written: vec![0; pages],
            seen: vec![0; pages],
            ..Plugged::none()
        };
    }

    /// Removes the slot that comes and goes; returns it, if it was there. Drain the rings before.
    pub fn unplug(&mut self) -> Option<SlotId> {
        self.slots.remove(SLOT)?;
        self.plugged = Plugged {
            was_removed: true,
            ..Plugged::none()
        };
        Some(SLOT)
    }

    /// Returns the pages of the slot that comes and goes; 0 while it isn't there.
    pub fn plugged_pages(&self) -> usize {
        self.plugged.pages()
    }

    /// Lets `vcpu` write page `page` of the slot that comes and goes, if both are there, the vCPU is in
    /// guest mode, and its ring doesn't become full.
    pub fn write_plugged(&mut self, vcpu: usize, page: usize) {
        let is_in = !self.is_held && self.state(vcpu) == VcpuState::Running;
        let Some(ring) = self.kernel.get_mut(vcpu).filter(|_| is_in) else {
            return;
        };
        let Some(written) = self.plugged.written.get_mut(page) else {
            return;
        };
        if self.plugged.protected.contains(page) {
            if ring.headroom() <= 1 {
                return;
            }
            ring.push(DirtyGfn {
                slot: SLOT,
                offset: page as u64,
            });
            self.plugged.protected.remove(page);
        }
        self.plugged.count += 1;
        *written = self.plugged.count;
        self.forecast_anew(vcpu);
    }
}
