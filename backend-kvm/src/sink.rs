//! Where harvested pages go.

use std::fmt;

use crate::backlog::Backlog;
use crate::slots::MemorySlot;
use dirty_ring_core::entry::{DirtyGfn, SlotId};

/// Why a sink didn't take pages.
pub type SinkFailure = Box<dyn std::error::Error + Send + Sync>;

/// Takes the pages that were dirtied, after the reset that makes them safe to read.
///
/// # What an implementer MUST do
///
/// * Keep every page of [`publish`](Self::publish), or return an error: a page is offered again only
///   after an error, or where its reset was interrupted.
/// * Be brief and not block: a vCPU may be waiting behind the same lock.
/// * Not call back into the tracker: the lock is held, and the call returns
///   [`Error::Reentrant`](crate::Error::Reentrant).
pub trait PageSink: Send {
    /// Adds a slot whose pages may be published from now on.
    ///
    /// # Errors
    /// [`SinkError`] where the sink has no place for them; the slot is not registered then.
    fn add_slot(&mut self, slot: MemorySlot) -> Result<(), SinkError> {
        let _ = slot;
        Ok(())
    }

    /// Removes a slot: all its pages have been published, and no more will be.
    fn remove_slot(&mut self, slot: SlotId) {
        let _ = slot;
    }

    /// Takes dirty pages of `slot`, which was added. There is at least one, in the order in which
    /// they were logged; a page may come more than once.
    ///
    /// # Errors
    /// Where it can't keep them. The sink is not called again; all the pages are kept for the next
    /// one, and every caller of the tracker learns of the failure. A panic counts as an error.
    fn publish(&mut self, slot: &MemorySlot, pages: &[DirtyGfn]) -> Result<(), SinkFailure>;

    /// Takes all pages of `slot`, after a resynchronisation.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), which the default calls with portions of the slot.
    fn publish_all(&mut self, slot: &MemorySlot) -> Result<(), SinkFailure> {
        let mut all = Backlog::default();
        all.insert_all(slot);
        all.give(slot.id, |pages| self.publish(slot, pages))
    }
}

impl<S: PageSink + ?Sized> PageSink for Box<S> {
    fn add_slot(&mut self, slot: MemorySlot) -> Result<(), SinkError> {
        (**self).add_slot(slot)
    }

    fn remove_slot(&mut self, slot: SlotId) {
        (**self).remove_slot(slot);
    }

    fn publish(&mut self, slot: &MemorySlot, pages: &[DirtyGfn]) -> Result<(), SinkFailure> {
        (**self).publish(slot, pages)
    }

    fn publish_all(&mut self, slot: &MemorySlot) -> Result<(), SinkFailure> {
        (**self).publish_all(slot)
    }
}

/// A slot that a sink has no place for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkError {
    /// The slot's number.
    pub slot: SlotId,
    /// Its guest physical address.
    pub address: u64,
    /// Its size, in pages.
    pub pages: u64,
}

impl SinkError {
    /// Creates the error for `slot`.
    pub const fn of(slot: &MemorySlot) -> Self {
        Self {
            slot: slot.id,
            address: slot.address,
            pages: slot.pages,
        }
    }
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "guest memory has no region for the {} pages at {:#x} of memory slot {}: register the \
             slot with the address and size of its region",
            self.pages, self.address, self.slot.0
        )
    }
}

impl std::error::Error for SinkError {}
