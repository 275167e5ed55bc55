//! Suspects: pages that may be writable although KVM says that it reset them.
//!
//! An interrupted reset forgets the last entries that it counted (see
//! [`Backend::reset`](crate::backend::Backend::reset)). Their pages are published like all others, but
//! writes to them from then on are logged no more. So they are published again whenever all pages are
//! asked for, until they are harvested again, which proves that they were protected.

use heapless::Vec;

use crate::bounded;
use crate::entry::{DirtyGfn, SlotId};
use crate::marks::Marks;

/// Suspects that a collector remembers at most, in pages (64 KiB of memory). An interrupted reset makes
/// 127 at most for each ring.
pub const MAX_SUSPECTS: usize = 4096;

const WORDS: usize = MAX_SUSPECTS / u64::BITS as usize;

/// The suspects of one VM.
#[derive(Debug)]
pub(super) struct Suspects {
    /// Sorted by slot and offset.
    pages: Vec<DirtyGfn, MAX_SUSPECTS>,
    has_overflowed: bool,
}

impl Suspects {
    pub(super) const NONE: Self = Self {
        pages: Vec::new(),
        has_overflowed: false,
    };

    pub(super) fn pages(&self) -> &[DirtyGfn] {
        &self.pages
    }

    /// Returns whether a suspect found no room: its page may be lost.
    pub(super) const fn has_overflowed(&self) -> bool {
        self.has_overflowed
    }

    pub(super) fn insert(&mut self, page: DirtyGfn) {
        if let Err(at) = self.pages.binary_search(&page) {
            self.has_overflowed |= bounded::insert(&mut self.pages, at, page).is_err();
        }
    }

    /// Drops those of `pages`, which were harvested.
    pub(super) fn drop_harvested(&mut self, pages: &[DirtyGfn]) {
        if self.pages.is_empty() {
            return;
        }
        let mut dropped = Marks::<WORDS>::NONE;
        for page in pages {
            if let Ok(at) = self.pages.binary_search(page) {
                dropped.set(at);
            }
        }
        bounded::retain(&mut self.pages, |at, _| !dropped.contains(at));
    }

    /// Drops those of `slot`, which was removed, or whose pages were all protected again.
    pub(super) fn drop_slot(&mut self, slot: SlotId) {
        bounded::retain(&mut self.pages, |_, page| page.slot != slot);
    }
}
