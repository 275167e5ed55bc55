//! Errors of the test guest.

use std::error::Error;
use std::time::Duration;

use vmm_sys_util::{errno, signal};

/// The error of a caller's callback, unchanged.
pub type CallbackError = Box<dyn Error + Send + Sync + 'static>;

/// An error of the test guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The configured number of vCPUs is zero or above KVM's maximum.
    #[error("{vcpus} vCPUs are not possible; configure 1 to {max}")]
    VcpuCount {
        /// vCPUs requested.
        vcpus: usize,
        /// The maximum.
        max: usize,
    },
    /// The configured data area is empty or larger than the guest's page tables cover.
    #[error(
        "{vcpus} vCPUs with {pages_per_vcpu} data pages each are not possible; \
         configure at least 1 page each and at most {max_pages} pages in all"
    )]
    DataPages {
        /// vCPUs requested.
        vcpus: usize,
        /// Data pages requested for each vCPU.
        pages_per_vcpu: u64,
        /// The maximum number of data pages of all vCPUs together.
        max_pages: u64,
    },
    /// The configured number of data slots is zero or too large.
    #[error("{slots} data slots are not possible; configure 1 to {max}")]
    SlotCount {
        /// Data slots requested.
        slots: usize,
        /// The maximum: one slot per page, and KVM's own limit.
        max: usize,
    },
    /// A phase requested more pages than the guest has memory for.
    #[error(
        "a phase of {pages} pages is out of range; ask for at most {max_pages}, \
         or configure more data pages for each vCPU"
    )]
    PagesOutOfRange {
        /// Pages requested.
        pages: u64,
        /// Data pages that each vCPU has.
        max_pages: u64,
    },
    /// A phase of random writes requested pages outside the data area.
    #[error(
        "random writes to {pages} pages from page {first_page} on are out of range; \
         stay within the {data_pages} data pages of all vCPUs"
    )]
    RandomPagesOutOfRange {
        /// First page requested, counted from the beginning of the data area.
        first_page: u64,
        /// Pages requested.
        pages: u64,
        /// Data pages of all vCPUs together.
        data_pages: u64,
    },
    /// The guest's memory could not be allocated or accessed.
    #[error("cannot {action}; is there enough free memory?")]
    Memory {
        /// The operation that failed.
        action: &'static str,
        /// Why it failed.
        source: Box<dyn Error + Send + Sync + 'static>,
    },
    /// KVM refused an operation.
    #[error("KVM refused to {action}; check /dev/kvm and the order of the calls")]
    Kvm {
        /// The operation that failed.
        action: String,
        /// KVM's error number.
        source: errno::Error,
    },
    /// The kick signal could not be set up or delivered.
    #[error("cannot {action}; does something else use this real-time signal?")]
    Signal {
        /// The operation that failed.
        action: &'static str,
        /// The system call's error number.
        source: errno::Error,
    },
    /// The kick signal could not be blocked or removed from the pending signals of the vCPU's
    /// thread.
    #[error("cannot {action}: {cause}; does something else use this real-time signal?")]
    SignalMask {
        /// The operation that failed.
        action: &'static str,
        /// Why it failed (vmm-sys-util's type does not implement `std::error::Error`).
        cause: signal::Error,
    },
    /// The vCPU left guest mode for a reason that the guest's code never causes.
    #[error(
        "vCPU {vcpu} left guest mode with {exit} at rip {rip:#x}; \
         does this host run 64-bit code at CPL 3, and is the guest's memory intact?"
    )]
    UnexpectedExit {
        /// Index of the vCPU.
        vcpu: usize,
        /// The exit, as kvm-ioctls formats it.
        exit: String,
        /// Guest instruction pointer at the exit; 0 if it could not be read.
        rip: u64,
    },
    /// A kicked vCPU did not leave guest mode, or did not answer, within the time limit.
    #[error("vCPU {vcpu} did not answer a kick within {limit:?}; is its thread stuck?")]
    KickTimeout {
        /// Index of the vCPU.
        vcpu: usize,
        /// How long the caller waited.
        limit: Duration,
    },
    /// A vCPU was named that is not among those that were started.
    #[error("there is no vCPU {vcpu} in the running guest")]
    NoSuchVcpu {
        /// Index asked for.
        vcpu: usize,
    },
    /// A vCPU's thread could not be started.
    #[error("cannot start the thread of vCPU {vcpu}; is the thread limit reached?")]
    Spawn {
        /// Index of the vCPU.
        vcpu: usize,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The caller's ring-full callback failed, so the vCPU stopped.
    #[error("vCPU {vcpu} stopped because its ring-full callback failed")]
    RingFullCallback {
        /// Index of the vCPU.
        vcpu: usize,
        /// The callback's error.
        source: CallbackError,
    },
    /// A vCPU's thread panicked, which only the caller's callback can cause.
    #[error("the thread of vCPU {vcpu} panicked: {message}; see the ring-full callback")]
    Panicked {
        /// Index of the vCPU.
        vcpu: usize,
        /// The panic's message, if it was text.
        message: String,
    },
    /// A vCPU has failed, so its page writes can't be read.
    #[error("vCPU {vcpu} has failed; stop the guest to get its error")]
    VcpuFailed {
        /// Index of the vCPU.
        vcpu: usize,
    },
}

impl GuestError {
    /// Returns a conversion that says which `action` KVM refused.
    pub(crate) fn kvm(action: impl Into<String>) -> impl FnOnce(errno::Error) -> Self {
        let action = action.into();
        move |source| Self::Kvm { action, source }
    }

    /// Returns a conversion that says which `action` on the guest's memory failed.
    pub(crate) fn memory<E>(action: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Error + Send + Sync + 'static,
    {
        move |source| Self::Memory {
            action,
            source: Box::new(source),
        }
    }

    /// Returns a conversion that says which `action` on the signal mask failed.
    pub(crate) fn signal_mask(action: &'static str) -> impl FnOnce(signal::Error) -> Self {
        move |cause| Self::SignalMask { action, cause }
    }
}
