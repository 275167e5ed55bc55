//! The guest's VM, its memory and its slots.

use std::sync::Arc;
use std::time::Duration;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, KVM_MEM_LOG_DIRTY_PAGES};
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::bitmap::{AtomicBitmap, Bitmap, NewBitmap};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};
use vmm_sys_util::errno;

use crate::code::CODE;
use crate::error::GuestError;
use crate::layout::{GuestConfig, GuestLayout, GuestSlot, PAGE_BYTES};
use crate::params::VcpuParams;
use crate::random::Stamp;
use crate::sys;
use crate::tables::write_page_tables;
use crate::threads::RunningGuest;
use crate::vcpu::{GuestVcpu, Start};

/// The guest's memory, with a dirty bitmap per region.
pub type GuestRam = GuestMemoryMmap<AtomicBitmap>;

/// Interval at which a warm-up checks the page writes.
const WARM_UP_LOOK: Duration = Duration::from_millis(1);

/// A VM with the test guest loaded.
#[derive(Debug)]
pub struct Guest {
    // Declared before the memory that it points to, so that it is dropped first.
    vm: Arc<VmFd>,
    layout: GuestLayout,
    cpuid: CpuId,
    params: Vec<VcpuParams>,
    ram: GuestRam,
}

impl Guest {
    /// Creates a VM with the guest's memory and code, without vCPUs.
    ///
    /// All of its memory is resident, and logging is off.
    ///
    /// # Errors
    ///
    /// If `config` is out of range, memory can't be allocated, or KVM refuses the VM or a slot.
    pub fn new(kvm: &Kvm, config: GuestConfig) -> Result<Self, GuestError> {
        let layout = GuestLayout::new(config)?;
        let ram = allocate(&layout)?;
        write_page_tables(&layout, &ram)?;
        ram.write_slice(&CODE, GuestAddress(layout.code_address()))
            .map_err(GuestError::memory("load the guest's code"))?;

        let vm =
            uninterrupted(|| kvm.create_vm()).map_err(GuestError::kvm("create the guest's VM"))?;
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(GuestError::kvm("list the supported CPUID leaves"))?;
        let params = (0..config.vcpus)
            .map(|vcpu| VcpuParams::new(&layout, &ram, vcpu))
            .collect();
        let guest = Self {
            vm: Arc::new(vm),
            layout,
            cpuid,
            params,
            ram,
        };
        guest.set_slot(&guest.layout.system_slot(), 0)?;
        guest.set_logging(false)?;
        Ok(guest)
    }

    /// Returns the VM. Enable its dirty rings before [`create_vcpus`](Self::create_vcpus).
    ///
    /// A vCPU that is created through it directly must not run after the guest and its vCPUs are
    /// dropped, because its memory is unmapped then.
    #[must_use]
    pub const fn vm(&self) -> &Arc<VmFd> {
        &self.vm
    }

    /// Returns the guest's memory; clones share it.
    #[must_use]
    pub const fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Returns the guest's physical memory map.
    #[must_use]
    pub const fn layout(&self) -> &GuestLayout {
        &self.layout
    }

    /// Returns the data slots, which are those that [`set_logging`](Self::set_logging) logs.
    #[must_use]
    pub fn data_slots(&self) -> &[GuestSlot] {
        self.layout.data_slots()
    }

    /// Returns the parameters of each vCPU, by index, which set what it does.
    #[must_use]
    pub fn params(&self) -> &[VcpuParams] {
        &self.params
    }

    /// Switches dirty logging of all data slots on or off, even while the guest runs.
    ///
    /// A dirty ring must be harvested and reset before a slot changes (api.rst 8.29), or its
    /// entries name pages that are no longer logged.
    ///
    /// # Errors
    ///
    /// Names the slot that KVM refused to change; the slots before it have changed.
    pub fn set_logging(&self, on: bool) -> Result<(), GuestError> {
        self.data_slots()
            .iter()
            .try_for_each(|slot| self.set_slot_logging(slot, on))
    }

    /// Switches dirty logging of one data slot on or off, or creates the slot anew. See
    /// [`set_logging`](Self::set_logging).
    pub fn set_slot_logging(&self, slot: &GuestSlot, on: bool) -> Result<(), GuestError> {
        self.set_slot(slot, if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 })
    }

    /// Removes a data slot. A vCPU that touches its pages from then on fails; their contents stay
    /// in the guest's memory.
    pub fn remove_slot(&self, slot: &GuestSlot) -> Result<(), GuestError> {
        uninterrupted(|| sys::remove_memory_slot(&self.vm, slot.id))
            .map_err(GuestError::kvm(format!("remove memory slot {}", slot.id)))
    }

    /// Creates all vCPUs. They idle until their [`params`](Self::params) are set, and can be
    /// created only once.
    ///
    /// # Errors
    ///
    /// If KVM refuses a vCPU or its state, and on a second call.
    pub fn create_vcpus(&self) -> Result<Vec<GuestVcpu>, GuestError> {
        self.params
            .iter()
            .enumerate()
            .map(|(index, params)| {
                let fd = uninterrupted(|| self.vm.create_vcpu(index as u64))
                    .map_err(GuestError::kvm(format!("create vCPU {index}")))?;
                let start = Start {
                    privilege: self.layout.config().privilege,
                    pml4: self.layout.pml4_address(),
                    code: self.layout.code_address(),
                    params: self.layout.params_address(index),
                };
                GuestVcpu::new(
                    index,
                    fd,
                    &self.cpuid,
                    start,
                    params.clone(),
                    self.ram.clone(),
                )
            })
            .collect()
    }

    /// Makes each vCPU of `running` write its first `pages` pages once and then idle again, so that
    /// no measurement includes the mapping that the first access to a page costs KVM. Returns the
    /// page writes of each vCPU so far.
    ///
    /// # Errors
    ///
    /// If `pages` is out of range, or a vCPU has failed or does not answer.
    pub fn warm_up(&self, running: &RunningGuest, pages: u64) -> Result<Vec<u64>, GuestError> {
        for params in &self.params {
            params.set(pages, 0)?;
        }
        while running.page_writes()?.iter().any(|&writes| writes < pages) {
            std::thread::sleep(WARM_UP_LOOK);
        }
        for params in &self.params {
            params.set(0, 0)?;
        }
        // A vCPU may still be at its last write; it is idle once two counts are equal.
        let mut before = running.page_writes()?;
        loop {
            std::thread::sleep(WARM_UP_LOOK);
            let now = running.page_writes()?;
            if now == before {
                return Ok(now);
            }
            before = now;
        }
    }

    /// Counts the data pages that a vCPU, in whichever kind of phase, has written last and after its
    /// first `since` page writes (by vCPU index, 0 if missing) and that are clean in the memory's dirty bitmaps. The count is 0 once
    /// everything was logged, harvested and published there, as
    /// [`BitmapSink`](dirty_ring_kvm::BitmapSink) does, unless the bitmaps were cleared.
    ///
    /// # Errors
    ///
    /// If the guest's memory can't be read.
    pub fn unlogged_pages(&self, since: &[u64]) -> Result<u64, GuestError> {
        let config = self.layout.config();
        let mut unlogged = 0;
        for vcpu in 0..config.vcpus {
            for page in 0..config.data_pages_per_vcpu {
                let address = GuestAddress(self.layout.data_address(vcpu) + page * PAGE_BYTES);
                let word: u64 = self
                    .ram
                    .read_obj(address)
                    .map_err(GuestError::memory("read the guest's pages"))?;
                let is_logged = self.ram.find_region(address).is_some_and(|region| {
                    let offset = address.0 - region.start_addr().0;
                    region.bitmap().dirty_at(offset as usize)
                });
                // The word is the count of its writer at the last write to the page. Words without
                // the writer's index come from the vCPU whose page it is.
                let stamp = Stamp::from_word(word).unwrap_or(Stamp { vcpu, count: word });
                let since = since.get(stamp.vcpu).copied().unwrap_or(0);
                unlogged += u64::from(stamp.count > since && !is_logged);
            }
        }
        Ok(unlogged)
    }

    fn set_slot(&self, slot: &GuestSlot, flags: u32) -> Result<(), GuestError> {
        let region = self
            .ram
            .find_region(GuestAddress(slot.guest_address))
            .ok_or(vm_memory::GuestMemoryError::InvalidGuestAddress(
                GuestAddress(slot.guest_address),
            ))
            .map_err(GuestError::memory("find the memory of a slot"))?;
        uninterrupted(|| sys::set_memory_slot(&self.vm, slot, region, flags))
            .map_err(GuestError::kvm(format!("set memory slot {}", slot.id)))
    }
}

/// Calls KVM again where a signal, or a stop of the whole process, interrupted it: KVM starts threads and
/// takes locks for some requests, and gives up then.
fn uninterrupted<R>(mut call: impl FnMut() -> errno::Result<R>) -> errno::Result<R> {
    loop {
        match call() {
            Err(error) if error.errno() == libc::EINTR => {}
            done => return done,
        }
    }
}

/// Maps one region per slot, resident from the start so that no page fault of the host disturbs a
/// measurement.
fn allocate(layout: &GuestLayout) -> Result<GuestRam, GuestError> {
    let slots = [layout.system_slot()];
    let regions = slots
        .iter()
        .chain(layout.data_slots())
        .map(allocate_slot)
        .collect::<Result<Vec<_>, _>>()?;
    GuestRam::from_regions(regions).map_err(GuestError::memory("put the guest's memory together"))
}

/// Maps the memory of one slot.
pub(crate) fn allocate_slot(slot: &GuestSlot) -> Result<GuestRegionMmap<AtomicBitmap>, GuestError> {
    let bytes = slot.bytes() as usize;
    let mapping = MmapRegionBuilder::new_with_bitmap(bytes, AtomicBitmap::with_len(bytes))
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE)
        .build()
        .map_err(GuestError::memory("allocate the guest's memory"))?;
    let address = GuestAddress(slot.guest_address);
    GuestRegionMmap::new(mapping, address)
        .ok_or(vm_memory::GuestMemoryError::InvalidGuestAddress(address))
        .map_err(GuestError::memory("place the guest's memory"))
}
