//! Where harvested pages go.

use dirty_ring_core::entry::{DirtyGfn, SlotId};
use vm_memory::bitmap::Bitmap;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use crate::backlog::Backlog;
use crate::host;
use crate::slots::MemorySlot;

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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "guest memory has no region for the {pages} pages at {address:#x} of memory slot {slot}: \
     register the slot with the address and size of its region"
)]
pub struct SinkError {
    /// The slot's number.
    pub slot: u16,
    /// Its guest physical address.
    pub address: u64,
    /// Its size, in pages.
    pub pages: u64,
}

impl SinkError {
    fn of(slot: &MemorySlot) -> Self {
        Self {
            slot: slot.id.slot(),
            address: slot.address.0,
            pages: slot.pages,
        }
    }
}

/// Marks pages in the dirty bitmaps of a [`GuestMemoryBackend`], the way rust-vmm's VMMs keep
/// them: read and clear them through `region.bitmap()`.
#[derive(Debug)]
pub struct BitmapSink<M> {
    memory: M,
    page_bytes: u64,
}

impl<M: GuestMemoryBackend> BitmapSink<M> {
    /// Creates a sink for `memory`; a clone of a `GuestMemoryMmap` shares its regions and bitmaps.
    pub fn new(memory: M) -> Self {
        Self {
            memory,
            page_bytes: host::page_bytes().into(),
        }
    }

    /// Returns the region around `slot`, which `add_slot` found.
    fn region(&self, slot: &MemorySlot) -> Result<&M::R, SinkFailure> {
        let region = self.memory.find_region(slot.address);
        Ok(region.ok_or_else(|| SinkError::of(slot))?)
    }
}

impl<M: GuestMemoryBackend + Send> PageSink for BitmapSink<M> {
    fn add_slot(&mut self, slot: MemorySlot) -> Result<(), SinkError> {
        let bytes = slot.pages.checked_mul(self.page_bytes);
        let last = bytes.and_then(|bytes| slot.address.checked_add(bytes.checked_sub(1)?));
        let region = self.memory.find_region(slot.address);
        match (region, last) {
            (Some(region), Some(last)) if last <= region.last_addr() => Ok(()),
            _ => Err(SinkError::of(&slot)),
        }
    }

    fn publish(&mut self, slot: &MemorySlot, pages: &[DirtyGfn]) -> Result<(), SinkFailure> {
        let region = self.region(slot)?;
        let slot_offset = slot.address.unchecked_offset_from(region.start_addr());
        // Guests write runs of pages.
        for run in pages.chunk_by(|one, next| one.offset.checked_add(1) == Some(next.offset)) {
            if let [first, ..] = run {
                let begin = slot_offset + first.offset * self.page_bytes;
                let bytes = run.len() as u64 * self.page_bytes;
                region.bitmap().mark_dirty(begin as usize, bytes as usize);
            }
        }
        Ok(())
    }

    fn publish_all(&mut self, slot: &MemorySlot) -> Result<(), SinkFailure> {
        let region = self.region(slot)?;
        let begin = slot.address.unchecked_offset_from(region.start_addr());
        let bytes = slot.pages * self.page_bytes;
        region.bitmap().mark_dirty(begin as usize, bytes as usize);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::bitmap::AtomicBitmap;
    use vm_memory::{GuestAddress, GuestMemoryMmap};

    type Memory = GuestMemoryMmap<AtomicBitmap>;

    fn memory() -> Memory {
        let ranges = [
            (GuestAddress(0x1_0000), 16 << 12),
            (GuestAddress(0x10_0000), 16 << 12),
        ];
        Memory::from_ranges(&ranges).unwrap()
    }

    fn dirty(memory: &Memory) -> Vec<u64> {
        memory
            .iter()
            .flat_map(|region| {
                (0..16u64)
                    .filter(|page| region.bitmap().dirty_at((*page as usize) << 12))
                    .map(|page| region.start_addr().0 + (page << 12))
            })
            .collect()
    }

    #[test]
    fn pages_land_in_the_bitmap_of_their_region_and_nowhere_else() {
        let memory = memory();
        let mut sink = BitmapSink::new(memory.clone());
        // A slot may begin inside a region.
        let low = MemorySlot::new(3, GuestAddress(0x1_2000), 14);
        let high = MemorySlot::new(4, GuestAddress(0x10_0000), 16);
        sink.add_slot(low).unwrap();
        sink.add_slot(high).unwrap();
        let gfn = |slot: &MemorySlot, offset| DirtyGfn {
            slot: slot.id,
            offset,
        };
        sink.publish(&low, &[gfn(&low, 0), gfn(&low, 1), gfn(&low, 13)])
            .unwrap();
        sink.publish(&high, &[gfn(&high, 14), gfn(&high, 15)])
            .unwrap();
        assert_eq!(
            dirty(&memory),
            [0x1_2000, 0x1_3000, 0x1_f000, 0x10_e000, 0x10_f000]
        );
    }

    #[test]
    fn a_slot_outside_its_region_is_refused_with_its_place() {
        let mut sink = BitmapSink::new(memory());
        for (address, pages) in [
            (0x1_0000, 17),
            (0x2_0000, 1),
            (0x10_0000, u64::MAX),
            (0x10_0000, 0),
        ] {
            let slot = MemorySlot::new(1, GuestAddress(address), pages);
            let error = sink.add_slot(slot).unwrap_err();
            assert_eq!((error.address, error.pages), (address, pages));
        }
    }
}
