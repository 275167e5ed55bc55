//! The oracle: what a consumer of the published pages would have missed.

use crate::layout::Layout;
use crate::pages::PageSet;
use crate::vcpu::Vcpu;
use dirty_ring_core::entry::{DirtyGfn, SlotId};

/// Remembers when each page was published, by the count of its vCPU's writes, and whether one of its
/// entries was harvested and not reset at that time.
///
/// It knows writes, entries and publications alone, and nothing of the simulated kernel's own record
/// of a page.
#[derive(Debug)]
pub(crate) struct Truth {
    /// The writes of the owning vCPU when the page was last published: the consumer sees all of
    /// them, and none after them.
    seen_writes: Vec<u64>,
    published: [(SlotId, PageSet); 2],
    premature: u64,
    unregistered: u64,
}

impl Truth {
    /// Creates an oracle with nothing published yet. `logged`: pages will be.
    pub(crate) fn new(layout: &Layout, logged: bool) -> Self {
        let map = layout.slot_map();
        let pages = if logged { map.total() } else { 0 };
        Self {
            seen_writes: vec![0; pages],
            published: map.slots().map(|(slot, pages)| {
                let pages = if logged { pages } else { 0 };
                (slot, PageSet::empty(pages))
            }),
            premature: 0,
            unregistered: 0,
        }
    }

    /// Notes that a page was published. `waits`: an entry of it was harvested and not reset.
    pub(crate) fn on_published(
        &mut self,
        gfn: &DirtyGfn,
        waits: bool,
        layout: &Layout,
        vcpus: &[Vcpu],
    ) {
        let Some(page) = layout.slot_map().page(gfn) else {
            self.unregistered += 1;
            return;
        };
        self.premature += u64::from(waits);
        let (vcpu, _) = layout.owner(page);
        self.seen_writes[page] = vcpus[vcpu].writes();
        let [first, second] = &mut self.published;
        let (_, set) = if gfn.slot == first.0 { first } else { second };
        set.insert(gfn.offset as usize);
    }

    /// Returns the pages with a write that no publication followed.
    pub(crate) fn unseen_pages(&self, layout: &Layout, vcpus: &[Vcpu]) -> u64 {
        let pages = self.seen_writes.iter().enumerate();
        let unseen = pages.filter(|&(page, &seen)| {
            let (vcpu, offset) = layout.owner(page);
            vcpus[vcpu].last_write(offset) > seen
        });
        unseen.count() as u64
    }

    /// Notes that a page was published that another oracle keeps. `waits`: an entry of it was harvested
    /// and not reset.
    pub(crate) fn on_plugged_published(&mut self, waits: bool) {
        self.premature += u64::from(waits);
    }

    /// Notes that every page was published.
    pub(crate) fn on_all_published(&mut self, layout: &Layout, vcpus: &[Vcpu]) {
        for (page, seen) in self.seen_writes.iter_mut().enumerate() {
            let (vcpu, _) = layout.owner(page);
            *seen = vcpus[vcpu].writes();
        }
        for (_, set) in &mut self.published {
            *set = PageSet::full(set.capacity());
        }
    }

    /// Returns the publications of pages whose reset was still to come.
    pub(crate) fn premature(&self) -> u64 {
        self.premature
    }

    /// Returns the publications of pages that don't exist.
    pub(crate) fn unregistered(&self) -> u64 {
        self.unregistered
    }

    pub(crate) fn published(&self, slot: SlotId) -> Option<&PageSet> {
        let mut sets = self.published.iter();
        sets.find(|(id, _)| *id == slot).map(|(_, set)| set)
    }

    pub(crate) fn clear_published(&mut self) {
        for (_, set) in &mut self.published {
            *set = PageSet::empty(set.capacity());
        }
    }
}
