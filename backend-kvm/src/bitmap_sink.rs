//! A sink for the dirty bitmaps of vm-memory.

use std::ops::Deref;
use std::sync::Arc;

use dirty_ring_core::entry::DirtyGfn;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Address, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion};

use crate::host;
use crate::sink::{PageSink, SinkError, SinkFailure};
use crate::slots::MemorySlot;

/// Marks pages in the dirty bitmaps of guest memory, the way rust-vmm's VMMs keep them: read and clear
/// them through `region.bitmap()`.
///
/// `S` is an address space: an `Arc` of guest memory, or a `GuestMemoryAtomic` whose regions come and go.
#[derive(Debug)]
pub struct BitmapSink<S> {
    space: S,
    page_bytes: u64,
}

impl<M: GuestMemoryBackend> BitmapSink<Arc<M>> {
    /// Creates a sink for `memory`; a clone of a `GuestMemoryMmap` shares its regions and bitmaps.
    pub fn new(memory: M) -> Self {
        Self::over(Arc::new(memory))
    }
}

impl<S> BitmapSink<S>
where
    S: GuestAddressSpace,
    S::M: GuestMemoryBackend,
{
    /// Creates a sink for the memory that `space` has at each moment. Add a region before its slot is
    /// registered, and remove it after its slot was.
    pub fn over(space: S) -> Self {
        Self {
            space,
            page_bytes: host::page_bytes().into(),
        }
    }

    /// Marks `pages` pages of `slot` from page `first` on, in `memory`.
    fn mark(
        &self,
        memory: &S::M,
        slot: &MemorySlot,
        first: u64,
        pages: u64,
    ) -> Result<(), SinkFailure> {
        let address = GuestAddress(slot.address);
        let region = memory.find_region(address);
        let region = region.ok_or_else(|| SinkError::of(slot))?;
        let begin = address.unchecked_offset_from(region.start_addr()) + first * self.page_bytes;
        let bytes = pages * self.page_bytes;
        region.bitmap().mark_dirty(begin as usize, bytes as usize);
        Ok(())
    }
}

impl<S> PageSink for BitmapSink<S>
where
    S: GuestAddressSpace + Send,
    S::M: GuestMemoryBackend,
{
    fn add_slot(&mut self, slot: MemorySlot) -> Result<(), SinkError> {
        let bytes = slot.pages.checked_mul(self.page_bytes);
        let last = bytes.and_then(|bytes| slot.address.checked_add(bytes.checked_sub(1)?));
        let memory = self.space.memory();
        match (memory.find_region(GuestAddress(slot.address)), last) {
            (Some(region), Some(last)) if last <= region.last_addr().0 => Ok(()),
            _ => Err(SinkError::of(&slot)),
        }
    }

    fn publish(&mut self, slot: &MemorySlot, pages: &[DirtyGfn]) -> Result<(), SinkFailure> {
        let memory = self.space.memory();
        // Guests write runs of pages.
        for run in pages.chunk_by(|one, next| one.offset.checked_add(1) == Some(next.offset)) {
            if let [first, ..] = run {
                self.mark(memory.deref(), slot, first.offset, run.len() as u64)?;
            }
        }
        Ok(())
    }

    fn publish_all(&mut self, slot: &MemorySlot) -> Result<(), SinkFailure> {
        self.mark(self.space.memory().deref(), slot, 0, slot.pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::bitmap::AtomicBitmap;
    use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap, GuestRegionMmap};

    type Memory = GuestMemoryMmap<AtomicBitmap>;
    type Region = GuestRegionMmap<AtomicBitmap>;

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

    #[test]
    fn regions_may_come_and_go() {
        let space = GuestMemoryAtomic::new(memory());
        let mut sink = BitmapSink::over(space.clone());
        let plugged = MemorySlot::new(5, 0x20_0000, 16);
        assert!(sink.add_slot(plugged).is_err(), "there is no region yet");
        let region = Region::from_range(GuestAddress(plugged.address), 16 << 12, None).unwrap();
        let larger = space.memory().insert_region(Arc::new(region)).unwrap();
        space.lock().unwrap().replace(larger);
        sink.add_slot(plugged).unwrap();
        let page = DirtyGfn {
            slot: plugged.id,
            offset: 3,
        };
        sink.publish(&plugged, &[page]).unwrap();
        assert_eq!(dirty(&space.memory()), [0x20_3000]);
        let (smaller, _) = space
            .memory()
            .remove_region(GuestAddress(plugged.address), 16 << 12)
            .unwrap();
        space.lock().unwrap().replace(smaller);
        let failed = sink.publish(&plugged, &[page]).unwrap_err();
        assert!(failed.to_string().contains("no region"), "{failed}");
    }
}
