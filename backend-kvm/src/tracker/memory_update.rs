//! A change of the VM's memory slots.

use dirty_ring_core::entry::SlotId;

use crate::error::Error;
use crate::host::Clock;
use crate::session::Pages;
use crate::slots::MemorySlot;

/// `KVM_MEM_LOG_DIRTY_PAGES`.
const LOG_DIRTY_PAGES: u32 = 1;

/// A change of the VM's memory slots, while the rings are drained and nothing else reaps.
#[derive(Debug)]
pub struct MemoryUpdate<'t> {
    collector: &'t mut Pages,
    clock: Clock,
    /// Numbers of slots that were removed.
    removed: Vec<SlotId>,
}

impl<'t> MemoryUpdate<'t> {
    /// Begins a change; the rings were drained.
    pub(super) const fn new(collector: &'t mut Pages, clock: Clock) -> Self {
        Self {
            collector,
            clock,
            removed: Vec::new(),
        }
    }

    /// Registers a slot that was created, with logging. All its pages count as dirty if its number was
    /// that of a slot which was removed in the same change.
    ///
    /// # Errors
    /// [`Error::Slot`], [`Error::Sink`]; [`Error::Collect`] where the sink doesn't take the pages.
    pub fn add(&mut self, slot: MemorySlot) -> Result<(), Error> {
        self.collector.backend_mut().add_slot(slot)?;
        if self.removed.contains(&slot.id) {
            // Some of what was dropped with the old slot may have been logged of the new one.
            self.collector
                .publish_with(|rings| rings.publish_all_of(&slot))?;
        }
        Ok(())
    }

    /// Forgets a slot that KVM has removed; returns whether it was known. Entries that still name it are
    /// dropped from now on, and are no lost pages.
    ///
    /// Where another slot gets the same number, call it between the removal and that: what vCPUs logged of
    /// the old one must not be taken for pages of the new one.
    pub fn remove(&mut self, slot: SlotId) -> bool {
        self.collector.forget_suspects(slot);
        let was_known = self.collector.backend_mut().remove_slot(slot);
        // A failure is kept, and told to the next caller.
        if was_known {
            self.removed.push(slot);
        }
        while was_known && matches!(self.collector.drain_late(self.clock.now()), Ok(false)) {}
        was_known
    }

    /// Switches logging of a registered slot on or off: `set` gets the slot and the flags for its
    /// `KVM_SET_USER_MEMORY_REGION`, `KVM_MEM_LOG_DIRTY_PAGES` or 0. The rings are drained, so no entry is
    /// older than the change.
    ///
    /// When it is on, copy memory: what was written while it was off is in no log. With it all pages of the
    /// slot are protected again, those included that an interrupted reset may have forgotten.
    ///
    /// # Errors
    /// [`Error::NoSuchSlot`], or that of `set`.
    pub fn set_logging<E: From<Error>>(
        &mut self,
        slot: SlotId,
        on: bool,
        set: impl FnOnce(&MemorySlot, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        let registered = self.collector.backend().slot(slot);
        let registered = registered.ok_or(Error::NoSuchSlot { slot })?;
        set(registered, if on { LOG_DIRTY_PAGES } else { 0 })?;
        if on {
            self.collector.forget_suspects(slot);
        }
        Ok(())
    }
}
