//! The copy of the guest's memory that a migration would make, and the sink that makes it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dirty_ring_core::entry::DirtyGfn;
use dirty_ring_kvm::{MemorySlot, PageSink, SinkFailure};
use vm_memory::{Bytes, GuestAddress};

use crate::layout::PAGE_BYTES;
use crate::machine::{Guest, GuestRam};

/// Pages that are looked at in one hold of the lock. A sink, and so a vCPU, may be waiting for it.
const PORTION_PAGES: usize = 512;

/// The first word of each data page as it was when the page was last published; a page is named by
/// its index in the data area.
///
/// A word is read and kept in one hold of the lock, so that no copy replaces a later one.
#[derive(Debug)]
pub(super) struct Copies {
    ram: GuestRam,
    first_address: u64,
    words: Mutex<Vec<u64>>,
    mishap: Mutex<Option<Mishap>>,
}

/// How a sink fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mishap {
    Error,
    Panic,
}

/// A page whose copy was not what its memory held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) page: u64,
    pub(super) in_memory: u64,
    pub(super) in_copy: u64,
}

impl Copies {
    pub(super) fn new(guest: &Guest) -> Self {
        Self {
            ram: guest.ram().clone(),
            first_address: guest.layout().data_address(0),
            words: Mutex::new(vec![0; guest.layout().data_pages() as usize]),
            mishap: Mutex::new(None),
        }
    }

    /// Copies pages.
    pub(super) fn copy(&self, pages: impl IntoIterator<Item = u64>) -> Result<(), SinkFailure> {
        let mut pages = pages.into_iter().peekable();
        while pages.peek().is_some() {
            let mut words = lock(&self.words);
            for page in pages.by_ref().take(PORTION_PAGES) {
                words[page as usize] = self.in_memory(page)?;
            }
        }
        Ok(())
    }

    /// Returns which of `pages` differ from their copies, each looked at for itself.
    pub(super) fn differences(
        &self,
        pages: impl IntoIterator<Item = u64>,
    ) -> Result<Vec<Difference>, SinkFailure> {
        let mut differences = Vec::new();
        let mut pages = pages.into_iter().peekable();
        while pages.peek().is_some() {
            let words = lock(&self.words);
            for page in pages.by_ref().take(PORTION_PAGES) {
                let (in_memory, in_copy) = (self.in_memory(page)?, words[page as usize]);
                if in_memory != in_copy {
                    differences.push(Difference {
                        page,
                        in_memory,
                        in_copy,
                    });
                }
            }
        }
        Ok(differences)
    }

    /// Returns which of `before` were not copied since. No two writes of a guest leave the same word,
    /// so a copy that is the same is the same copy, and older than the write that `before` saw.
    pub(super) fn not_copied_since(&self, before: &[Difference]) -> Vec<Difference> {
        let words = lock(&self.words);
        let is_same = |seen: &&Difference| words[seen.page as usize] == seen.in_copy;
        before.iter().filter(is_same).copied().collect()
    }

    /// Makes the next publication fail.
    pub(super) fn let_sink_fail(&self, mishap: Mishap) {
        *lock(&self.mishap) = Some(mishap);
    }

    /// Returns whether that publication is still to come.
    pub(super) fn is_failure_to_come(&self) -> bool {
        lock(&self.mishap).is_some()
    }

    fn in_memory(&self, page: u64) -> Result<u64, SinkFailure> {
        let address = GuestAddress(self.first_address + page * PAGE_BYTES);
        Ok(self
            .ram
            .load(address, std::sync::atomic::Ordering::Acquire)?)
    }
}

/// A sink that copies pages when they are published.
#[derive(Debug)]
pub(super) struct CopyingSink(pub(super) Arc<Copies>);

impl PageSink for CopyingSink {
    fn publish(&mut self, slot: &MemorySlot, pages: &[DirtyGfn]) -> Result<(), SinkFailure> {
        let first = (slot.address - self.0.first_address) / PAGE_BYTES;
        let mishap = lock(&self.0.mishap).take();
        // A sink that fails has taken some of the pages.
        let taken = match mishap {
            None => pages,
            Some(_) => &pages[..pages.len() / 2],
        };
        self.0.copy(taken.iter().map(|page| first + page.offset))?;
        match mishap {
            None => Ok(()),
            Some(Mishap::Error) => Err("a failure on purpose".into()),
            // Without the hook that prints a message.
            Some(Mishap::Panic) => std::panic::resume_unwind(Box::new("a panic on purpose")),
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
