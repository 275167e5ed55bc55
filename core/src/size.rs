//! Ring sizes and soft limits.

use core::fmt;

/// Bytes of one entry, `sizeof(struct kvm_dirty_gfn)`.
pub const ENTRY_BYTES: u32 = 16;
/// Most entries that one ring may have (`KVM_DIRTY_RING_MAX_ENTRIES`, virt/kvm/dirty_ring.c).
pub const MAX_ENTRIES: u32 = 65536;
/// Entries that KVM keeps free below a ring's end (`KVM_DIRTY_RING_RSVD_ENTRIES`).
pub const RESERVED_ENTRIES: u32 = 64;
/// Further entries kept free where the CPU logs pages itself (Intel PML: one buffer of 512).
pub const PML_ENTRIES: u32 = 512;

/// A ring's size, checked, and the soft limit that follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RingSize {
    entries: u32,
    soft_limit: u32,
}

/// Why a number of entries is no ring size. All figures are entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RingSizeError {
    /// Not a power of two.
    NotPowerOfTwo {
        /// The entries that were asked for.
        entries: u32,
    },
    /// Smaller than one page of memory.
    BelowOnePage {
        /// The entries that were asked for.
        entries: u32,
        /// The entries in one page.
        minimum: u32,
    },
    /// More than the kernel allows.
    AboveMaximum {
        /// The entries that were asked for.
        entries: u32,
        /// The most entries allowed.
        maximum: u32,
    },
    /// Nothing left once KVM's reserve is taken off.
    AllReserved {
        /// The entries that were asked for.
        entries: u32,
        /// The entries that KVM keeps free.
        reserved: u32,
    },
}

impl fmt::Display for RingSizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotPowerOfTwo { entries } => write!(
                f,
                "a dirty ring can't have {entries} entries: the number must be a power of two"
            ),
            Self::BelowOnePage { entries, minimum } => write!(
                f,
                "a dirty ring can't have {entries} entries: one page holds {minimum}, \
                 and that is the least"
            ),
            Self::AboveMaximum { entries, maximum } => write!(
                f,
                "a dirty ring can't have {entries} entries: KVM allows {maximum} at most"
            ),
            Self::AllReserved { entries, reserved } => write!(
                f,
                "a dirty ring of {entries} entries is all reserve: KVM keeps {reserved} free \
                 on this host, choose a larger ring"
            ),
        }
    }
}

impl core::error::Error for RingSizeError {}

impl RingSize {
    /// The largest ring that KVM has, on a host without a log of the CPU's own.
    pub const LARGEST: Self = Self {
        entries: MAX_ENTRIES,
        soft_limit: MAX_ENTRIES - RESERVED_ENTRIES,
    };

    /// Checks a ring of `entries` on a host with pages of `page_bytes`, where the CPU's own log
    /// holds `cpu_log_entries` ([`PML_ENTRIES`] with Intel PML, else 0).
    ///
    /// # Errors
    /// One for each way to be wrong, as api.rst 8.29 and `kvm_vm_ioctl_enable_dirty_log_ring`
    /// would refuse it.
    pub const fn new(
        entries: u32,
        page_bytes: u32,
        cpu_log_entries: u32,
    ) -> Result<Self, RingSizeError> {
        if !entries.is_power_of_two() {
            return Err(RingSizeError::NotPowerOfTwo { entries });
        }
        if entries > MAX_ENTRIES {
            return Err(RingSizeError::AboveMaximum {
                entries,
                maximum: MAX_ENTRIES,
            });
        }
        let minimum = page_bytes / ENTRY_BYTES;
        if entries < minimum {
            return Err(RingSizeError::BelowOnePage { entries, minimum });
        }
        let reserved = RESERVED_ENTRIES.saturating_add(cpu_log_entries);
        if entries <= reserved {
            return Err(RingSizeError::AllReserved { entries, reserved });
        }
        Ok(Self {
            entries,
            soft_limit: entries.saturating_sub(reserved),
        })
    }

    /// Returns the ring's entries.
    pub const fn entries(self) -> u32 {
        self.entries
    }

    /// Returns the entries at which KVM sends the vCPU out with `KVM_EXIT_DIRTY_RING_FULL`: the
    /// capacity that matters (virt/kvm/dirty_ring.c, `soft_limit`).
    pub const fn soft_limit(self) -> u32 {
        self.soft_limit
    }

    /// Returns the ring's size in bytes, as `KVM_ENABLE_CAP` expects it.
    pub const fn bytes(self) -> u32 {
        self.entries.saturating_mul(ENTRY_BYTES)
    }

    /// Returns the mask that turns a free-running counter into an index.
    pub(crate) const fn mask(self) -> u32 {
        self.entries.wrapping_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn soft_limits_are_those_of_the_kernel() {
        let plain = |n| RingSize::new(n, 4096, 0).unwrap().soft_limit();
        let pml = |n| RingSize::new(n, 4096, PML_ENTRIES).unwrap().soft_limit();
        assert_eq!((plain(4096), pml(4096), pml(1024)), (4032, 3520, 448));
        assert_eq!(RingSize::new(65536, 4096, 0).unwrap().bytes(), 1 << 20);
    }

    #[test]
    fn each_wrong_size_has_an_error_of_its_own() {
        for entries in [0, 3, 4095, u32::MAX] {
            assert_eq!(
                RingSize::new(entries, 4096, 0),
                Err(RingSizeError::NotPowerOfTwo { entries })
            );
        }
        assert_eq!(
            RingSize::new(128, 4096, 0),
            Err(RingSizeError::BelowOnePage {
                entries: 128,
                minimum: 256
            })
        );
        assert_eq!(
            RingSize::new(1 << 17, 4096, 0),
            Err(RingSizeError::AboveMaximum {
                entries: 1 << 17,
                maximum: 65536
            })
        );
        let reserved = RingSize::new(512, 4096, PML_ENTRIES).unwrap_err();
        assert!(reserved.to_string().contains("keeps 576 free"));
    }
}
