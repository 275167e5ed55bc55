//! The guest's physical memory map.
//!
//! ```text
//! 2 MiB  slot 0   code | one parameter page per vCPU | PML4 | PDPT | page directories
//! 4 GiB  slot 1.. data pages of vCPU 0 | of vCPU 1 | ...   (cut into slots of about equal size)
//! ```
//!
//! Page 0 stays unmapped so that a stray access faults. The data area starts at 4 GiB, above the
//! addresses of devices and of the local APIC.

use crate::error::GuestError;
use crate::mode::Privilege;

/// Size of a guest page in bytes, the unit of dirty logging.
pub const PAGE_BYTES: u64 = 4096;
/// Maximum number of data pages of a guest, all vCPUs together (256 GiB).
pub const MAX_DATA_PAGES: u64 = 1 << 26;
/// Maximum number of vCPUs of a guest; KVM's own limit may be lower.
pub const MAX_VCPUS: usize = 4096;
/// Maximum number of data slots of a guest: those of every kernel with dirty rings, minus slot 0.
pub const MAX_DATA_SLOTS: usize = 508;

/// Bytes that one page directory entry maps.
pub(crate) const LARGE_PAGE_BYTES: u64 = 2 << 20;
/// Bytes that one page directory maps.
pub(crate) const DIRECTORY_BYTES: u64 = 1 << 30;

const SYSTEM_BASE: u64 = LARGE_PAGE_BYTES;
const DATA_BASE: u64 = 4 << 30;
const SYSTEM_SLOT: u32 = 0;

/// The size and kind of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestConfig {
    /// Number of vCPUs, at least 1.
    pub vcpus: usize,
    /// Distinct data pages of each vCPU: the maximum that a phase can write.
    pub data_pages_per_vcpu: u64,
    /// Number of KVM memory slots that the data area is cut into, at least 1.
    pub data_slots: usize,
    /// Privilege level of the guest's code.
    pub privilege: Privilege,
}

impl Default for GuestConfig {
    /// Returns a configuration of one vCPU with 16384 data pages in one slot, at CPL 3.
    fn default() -> Self {
        Self {
            vcpus: 1,
            data_pages_per_vcpu: 16384,
            data_slots: 1,
            privilege: Privilege::User,
        }
    }
}

/// One KVM memory slot of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestSlot {
    /// KVM's slot number, in address space 0.
    pub id: u32,
    /// Guest physical address of the slot's first byte.
    pub guest_address: u64,
    /// Size in pages.
    pub pages: u64,
}

impl GuestSlot {
    /// Returns the size in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.pages * PAGE_BYTES
    }
}

/// The guest's memory map, computed from a validated [`GuestConfig`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestLayout {
    config: GuestConfig,
    system_slot: GuestSlot,
    data_slots: Vec<GuestSlot>,
}

impl GuestLayout {
    /// Computes the memory map of a guest of `config`.
    ///
    /// # Errors
    ///
    /// Names the number of `config` that is out of range, and the range.
    pub fn new(config: GuestConfig) -> Result<Self, GuestError> {
        if config.vcpus == 0 || config.vcpus > MAX_VCPUS {
            return Err(GuestError::VcpuCount {
                vcpus: config.vcpus,
                max: MAX_VCPUS,
            });
        }
        let data_pages = (config.vcpus as u64)
            .checked_mul(config.data_pages_per_vcpu)
            .filter(|pages| (1..=MAX_DATA_PAGES).contains(pages))
            .ok_or(GuestError::DataPages {
                vcpus: config.vcpus,
                pages_per_vcpu: config.data_pages_per_vcpu,
                max_pages: MAX_DATA_PAGES,
            })?;
        // data_pages is at most 2^26, so it fits a usize.
        let max_slots = MAX_DATA_SLOTS.min(data_pages as usize);
        if config.data_slots == 0 || config.data_slots > max_slots {
            return Err(GuestError::SlotCount {
                slots: config.data_slots,
                max: max_slots,
            });
        }

        let data_directories = (data_pages * PAGE_BYTES).div_ceil(DIRECTORY_BYTES);
        // Code, parameter pages, PML4, PDPT, the directory of the first GiB, data directories.
        let system_pages = 1 + config.vcpus as u64 + 1 + 1 + 1 + data_directories;
        Ok(Self {
            config,
            system_slot: GuestSlot {
                id: SYSTEM_SLOT,
                guest_address: SYSTEM_BASE,
                pages: system_pages,
            },
            data_slots: cut_into_slots(data_pages, config.data_slots),
        })
    }

    /// Returns the configuration of this layout.
    #[must_use]
    pub const fn config(&self) -> &GuestConfig {
        &self.config
    }

    /// Returns slot 0, which holds code, parameters and page tables. It is never logged, and the
    /// guest can't write to it.
    #[must_use]
    pub const fn system_slot(&self) -> GuestSlot {
        self.system_slot
    }

    /// Returns the data slots in ascending order of slot number and guest physical address, without
    /// gaps.
    #[must_use]
    pub fn data_slots(&self) -> &[GuestSlot] {
        &self.data_slots
    }

    /// Returns the guest physical address of the first data page of vCPU `vcpu`, an index below the
    /// configured number of vCPUs.
    #[must_use]
    pub const fn data_address(&self, vcpu: usize) -> u64 {
        DATA_BASE + vcpu as u64 * self.config.data_pages_per_vcpu * PAGE_BYTES
    }

    /// Returns the number of data pages of all vCPUs together.
    #[must_use]
    pub const fn data_pages(&self) -> u64 {
        self.config.vcpus as u64 * self.config.data_pages_per_vcpu
    }

    pub(crate) const fn code_address(&self) -> u64 {
        self.system_slot.guest_address
    }

    pub(crate) const fn params_address(&self, vcpu: usize) -> u64 {
        self.code_address() + (1 + vcpu as u64) * PAGE_BYTES
    }

    pub(crate) const fn pml4_address(&self) -> u64 {
        self.params_address(self.config.vcpus)
    }
}

/// Cuts the data area into `slots` slots whose sizes differ by at most one page.
fn cut_into_slots(data_pages: u64, slots: usize) -> Vec<GuestSlot> {
    let slots = slots as u64;
    let mut guest_address = DATA_BASE;
    (0..slots)
        .map(|index| {
            let pages = data_pages / slots + u64::from(index < data_pages % slots);
            let slot = GuestSlot {
                id: SYSTEM_SLOT + 1 + index as u32,
                guest_address,
                pages,
            };
            guest_address += slot.bytes();
            slot
        })
        .collect()
}
