//! The dirty ring as this host's KVM offers it, and how it is enabled.

use std::os::fd::AsRawFd;

use dirty_ring_core::size::{ENTRY_BYTES, MAX_ENTRIES, RingSize};

use crate::arch::{self, Arch};
use crate::error::Error;
use crate::host;
use crate::rings::KvmRings;
use crate::sys;

/// The exit reason of a vCPU whose ring reached its soft limit (`KVM_EXIT_DIRTY_RING_FULL`).
///
/// kvm-ioctls 0.25 has no variant for it and shows it as `VcpuExit::Unsupported(EXIT_DIRTY_RING_FULL)`.
/// The day it gets one, match that variant as well: the number in `kvm_run.exit_reason` stays.
pub const EXIT_DIRTY_RING_FULL: u32 = 31;

// Numbers of capabilities (include/uapi/linux/kvm.h). The tests compare them with kvm-bindings.
const KVM_CAP_DIRTY_LOG_RING: u32 = 192;
const KVM_CAP_DIRTY_LOG_RING_ACQ_REL: u32 = 223;
const KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP: u32 = 225;

/// The capability that enables the rings (api.rst 8.29).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// `KVM_CAP_DIRTY_LOG_RING_ACQ_REL`, for every architecture.
    AcquireRelease,
    /// `KVM_CAP_DIRTY_LOG_RING`, only for CPUs that keep stores in order, which is x86.
    Ordered,
}

impl Flavour {
    /// Returns the capability's number.
    pub const fn capability(self) -> u32 {
        match self {
            Self::AcquireRelease => KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
            Self::Ordered => KVM_CAP_DIRTY_LOG_RING,
        }
    }

    /// Returns the capability's name.
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
    /// Maximum number of entries per ring.
    pub max_entries: u32,
    /// Whether KVM offers `KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP`, with which `KVM_GET_DIRTY_LOG`
    /// reads the writes that no vCPU made.
    pub with_bitmap: bool,
    /// Whether this architecture's KVM writes guest memory outside any vCPU (arm64: vGIC and ITS),
    /// so that the rings alone miss pages.
    pub needs_bitmap: bool,
    /// Entries of the CPU's own log (Intel PML), which KVM keeps free; 0 without one.
    pub cpu_log_entries: u32,
}

impl Support {
    /// Returns what `kvm` offers.
    ///
    /// # Errors
    /// [`Error::Unsupported`].
    pub fn probe(kvm: &impl AsRawFd) -> Result<Self, Error> {
        let offers = |capability| sys::check_extension(kvm, capability);
        Self::choose(
            &arch::HOST,
            offers(KVM_CAP_DIRTY_LOG_RING_ACQ_REL),
            offers(KVM_CAP_DIRTY_LOG_RING),
            offers(KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP) > 0,
        )
    }

    /// Chooses the flavour from the answers of `KVM_CHECK_EXTENSION`, which are the maximum size of
    /// a ring in bytes, or 0.
    fn choose(
        arch: &Arch,
        acq_rel_bytes: u32,
        ordered_bytes: u32,
        with_bitmap: bool,
    ) -> Result<Self, Error> {
        let (flavour, bytes) = if acq_rel_bytes > 0 {
            (Flavour::AcquireRelease, acq_rel_bytes)
        } else if ordered_bytes > 0 && arch.allows_ordered_ring {
            (Flavour::Ordered, ordered_bytes)
        } else {
            return Err(Error::Unsupported);
        };
        Ok(Self {
            flavour,
            max_entries: (bytes / ENTRY_BYTES).min(MAX_ENTRIES),
            with_bitmap,
            needs_bitmap: arch.writes_without_vcpu,
            cpu_log_entries: (arch.cpu_log_entries)(),
        })
    }

    /// Checks a number of entries against the rules and this host, without calling KVM.
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

    /// Enables rings of `entries` entries per vCPU, and returns them, without any vCPU as yet. Call it
    /// once, before the first vCPU exists.
    ///
    /// Do not enable `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`: with its `KVM_DIRTY_LOG_INITIALLY_SET`,
    /// the pages of a slot begin unprotected, and their first writes never reach a ring.
    ///
    /// # Errors
    /// Those of [`size`](Self::size), [`Error::Enable`], [`Error::Duplicate`].
    pub fn enable(&self, vm: &impl AsRawFd, entries: u32) -> Result<KvmRings, Error> {
        let size = self.size(entries)?;
        sys::enable_capability(vm, self.flavour.capability(), size.bytes().into())
            .map_err(|source| Error::Enable { entries, source })?;
        KvmRings::enabled_elsewhere(vm, size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_CPU_LOG: Arch = Arch {
        cpu_log_entries: || 0,
        ..arch::HOST
    };
    const CPU_LOG: Arch = Arch {
        cpu_log_entries: || 512,
        ..arch::HOST
    };

    #[test]
    fn the_numbers_are_those_of_kvm_bindings() {
        assert_eq!(
            [
                EXIT_DIRTY_RING_FULL,
                KVM_CAP_DIRTY_LOG_RING,
                KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
                KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
            ],
            [
                kvm_bindings::KVM_EXIT_DIRTY_RING_FULL,
                kvm_bindings::KVM_CAP_DIRTY_LOG_RING,
                kvm_bindings::KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
                kvm_bindings::KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
            ]
        );
    }

    #[test]
    fn the_acquire_release_flavour_is_preferred() {
        let both = Support::choose(&NO_CPU_LOG, 1 << 20, 1 << 20, false).unwrap();
        assert_eq!(both.flavour, Flavour::AcquireRelease);
        assert_eq!(both.max_entries, 65536);
    }

    #[test]
    fn the_ordered_flavour_serves_on_x86_alone() {
        for (name, arch) in arch::ALL {
            let old = Support::choose(&arch, 0, 1 << 19, false);
            let chosen = old.ok().map(|old| (old.flavour, old.max_entries));
            let expected = (name == "x86_64").then_some((Flavour::Ordered, 32768));
            assert_eq!(chosen, expected, "{name}");
        }
    }

    #[test]
    fn only_arm64_needs_a_bitmap_beside_its_rings() {
        for (name, arch) in arch::ALL {
            let support = Support::choose(&arch, 1 << 20, 0, true).unwrap();
            assert_eq!(support.needs_bitmap, name == "aarch64", "{name}");
        }
    }

    #[test]
    fn no_capability_is_an_error_that_says_what_is_missing() {
        let error = Support::choose(&NO_CPU_LOG, 0, 0, true).unwrap_err();
        assert!(error.to_string().contains("KVM_CAP_DIRTY_LOG_RING_ACQ_REL"));
    }

    #[test]
    fn a_size_is_checked_against_rules_and_host() {
        let support = Support::choose(&CPU_LOG, 1 << 16, 0, false).unwrap();
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
