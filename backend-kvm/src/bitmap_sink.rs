//! A sink for the dirty bitmaps of vm-memory.

use dirty_ring_core::entry::DirtyGfn;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::host;
use crate::sink::{PageSink, SinkError, SinkFailure};
use crate::slots::MemorySlot;

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
        let region = self.memory.find_region(GuestAddress(slot.address));
        Ok(region.ok_or_else(|| SinkError::of(slot))?)
    }
}

impl<M: GuestMemoryBackend + Send> PageSink for BitmapSink<M> {
    fn add_slot(&mut self, slot: MemorySlot) -> Result<(), SinkError> {
        let bytes = slot.pages.checked_mul(self.page_bytes);
        let last = bytes.and_then(|bytes| slot.address.checked_add(bytes.checked_sub(1)?));
        let last = last.map(GuestAddress);
        let region = self.memory.find_region(GuestAddress(slot.address));
        match (region, last) {
            (Some(region), Some(last)) if last <= region.last_addr() => Ok(()),
            _ => Err(SinkError::of(&slot)),
        }
    }

    fn publish(&mut self, slot: &MemorySlot, pages: &[DirtyGfn]) -> Result<(), SinkFailure> {
        let region = self.region(slot)?;
        let slot_offset = GuestAddress(slot.address).unchecked_offset_from(region.start_addr());
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
        let begin = GuestAddress(slot.address).unchecked_offset_from(region.start_addr());
        let bytes = slot.pages * self.page_bytes;
        region.bitmap().mark_dirty(begin as usize, bytes as usize);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestMemoryMmap;
    use vm_memory::bitmap::AtomicBitmap;

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
        let low = MemorySlot::new(3, 0x1_2000, 14);
        let high = MemorySlot::new(4, 0x10_0000, 16);
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
            let slot = MemorySlot::new(1, address, pages);
            let error = sink.add_slot(slot).unwrap_err();
            assert_eq!((error.address, error.pages), (address, pages));
        }
    }
}
