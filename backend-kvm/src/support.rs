//! What this host's KVM offers, and enabling it.

use dirty_ring_core::size::{ENTRY_BYTES, MAX_ENTRIES, PML_ENTRIES, RingSize};
use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP,
    KVM_EXIT_DIRTY_RING_FULL, kvm_enable_cap,
};
use kvm_ioctls::{Kvm, VmFd};

use crate::error::Error;
use crate::host;

/// The exit reason of a vCPU whose ring reached its soft limit; kvm-ioctls shows it as
/// `VcpuExit::Unsupported(EXIT_DIRTY_RING_FULL)`.
pub const EXIT_DIRTY_RING_FULL: u32 = KVM_EXIT_DIRTY_RING_FULL;

/// Which of the two capabilities the rings are enabled by (api.rst 8.29).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// `KVM_CAP_DIRTY_LOG_RING_ACQ_REL`: for every architecture.
    AcquireRelease,
    /// `KVM_CAP_DIRTY_LOG_RING`: only where the hardware keeps stores in order, so on x86.
    Ordered,
}

impl Flavour {
    /// The capability's number.
    pub const fn capability(self) -> u32 {
        match self {
            Self::AcquireRelease => KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
            Self::Ordered => KVM_CAP_DIRTY_LOG_RING,
        }
    }

    /// The capability's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AcquireRelease => "KVM_CAP_DIRTY_LOG_RING_ACQ_REL",
            Self::Ordered => "KVM_CAP_DIRTY_LOG_RING",
        }
    }
}

/// The dirty ring as this host's KVM offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Support {
    /// The capability that will be used.
    pub flavour: Flavour,
    /// Most entries per ring.
    pub max_entries: u32,
    /// `KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP` is there: writes by no vCPU (arm64's vGIC and ITS) can
    /// be read with `KVM_GET_DIRTY_LOG`.
    pub with_bitmap: bool,
    /// Entries of the CPU's own log (Intel PML), which KVM keeps free; 0 where it has none.
    pub cpu_log_entries: u32,
}

impl Support {
    /// Asks `kvm` what it offers.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn probe(kvm: &Kvm) -> Result<Self, Error> {
        let offers = |capability: u32| kvm.check_extension_raw(capability.into());
        Self::choose(
            offers(KVM_CAP_DIRTY_LOG_RING_ACQ_REL),
            offers(KVM_CAP_DIRTY_LOG_RING),
            offers(KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP) > 0,
            if host::logs_with_pml() {
                PML_ENTRIES
            } else {
                0
            },
        )
    }

    /// Chooses by what `KVM_CHECK_EXTENSION` said: the largest ring in bytes, or 0.
    fn choose(
        acq_rel_bytes: i32,
        ordered_bytes: i32,
        with_bitmap: bool,
        cpu_log_entries: u32,
    ) -> Result<Self, Error> {
        let ordered_is_enough = cfg!(any(target_arch = "x86_64", target_arch = "x86"));
        let (flavour, bytes) = if acq_rel_bytes > 0 {
            (Flavour::AcquireRelease, acq_rel_bytes)
        } else if ordered_bytes > 0 && ordered_is_enough {
            (Flavour::Ordered, ordered_bytes)
        } else {
            return Err(Error::Unsupported);
        };
        Ok(Self {
            flavour,
            max_entries: (bytes.unsigned_abs() / ENTRY_BYTES).min(MAX_ENTRIES),
            with_bitmap,
            cpu_log_entries,
        })
    }

    /// Checks a number of entries against the rules and this host, without KVM's help.
    ///
    /// # Errors
    /// [`Error::RingSize`], [`Error::AboveKernelMaximum`].
    pub fn size(&self, entries: u32) -> Result<RingSize, Error> {
        let size = RingSize::new(entries, host::page_bytes(), self.cpu_log_entries)?;
        if entries > self.max_entries {
            return Err(Error::AboveKernelMaximum {
                entries,
                maximum: self.max_entries,
            });
        }
        Ok(size)
    }

    /// Enables rings of `entries` entries per vCPU. Before the first vCPU exists, and once.
    ///
    /// Leave `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2` alone: with its `KVM_DIRTY_LOG_INITIALLY_SET` the
    /// pages of a slot begin unprotected, and their first writes never reach a ring.
    ///
    /// # Errors
    /// Those of [`size`](Self::size), and [`Error::Enable`].
    pub fn enable(&self, vm: &VmFd, entries: u32) -> Result<RingSize, Error> {
        let size = self.size(entries)?;
        let capability = kvm_enable_cap {
            cap: self.flavour.capability(),
            args: [size.bytes().into(), 0, 0, 0],
            ..Default::default()
        };
        vm.enable_cap(&capability)
            .map_err(|source| Error::Enable { entries, source })?;
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_acquire_release_flavour_is_preferred() {
        let both = Support::choose(1 << 20, 1 << 20, false, 0).unwrap();
        assert_eq!(both.flavour, Flavour::AcquireRelease);
        assert_eq!(both.max_entries, 65536);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_ordered_flavour_serves_on_x86_alone() {
        let old = Support::choose(0, 1 << 19, false, 0).unwrap();
        assert_eq!((old.flavour, old.max_entries), (Flavour::Ordered, 32768));
    }

    #[test]
    fn no_capability_is_an_error_that_says_what_is_missing() {
        let error = Support::choose(0, -1, true, 0).unwrap_err();
        assert!(error.to_string().contains("KVM_CAP_DIRTY_LOG_RING_ACQ_REL"));
    }

    #[test]
    fn a_size_is_checked_against_rules_and_host() {
        let support = Support::choose(1 << 16, 0, false, 512).unwrap();
        assert_eq!(support.size(4096).unwrap().soft_limit(), 3520);
        assert!(matches!(
            support.size(8192),
            Err(Error::AboveKernelMaximum {
                entries: 8192,
                maximum: 4096
            })
        ));
        assert!(matches!(support.size(512), Err(Error::RingSize(_))));
    }
}
