//! What can go wrong, and what to do about it.

use std::sync::Arc;

use dirty_ring_core::collector::CollectError;
use dirty_ring_core::controller::StateError;
use dirty_ring_core::size::RingSizeError;
use dirty_ring_core::slots::SlotError;
use kvm_ioctls::Error as KvmError;

use crate::sink::SinkError;

/// What the rings' backend may fail with.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingsError {
    /// `KVM_RESET_DIRTY_RINGS` failed.
    #[error("KVM_RESET_DIRTY_RINGS failed")]
    Reset(#[source] KvmError),

    /// The signals that would interrupt a reset can't be blocked.
    #[error("signals can't be blocked around a reset: is rt_sigprocmask allowed?")]
    Signals(#[source] Arc<std::io::Error>),

    /// The sink returned this.
    #[error("the sink failed")]
    Sink(#[source] Arc<dyn std::error::Error + Send + Sync>),

    /// The sink panicked.
    #[error("the sink panicked: {0}")]
    SinkPanicked(Arc<str>),
}

/// An error of the KVM backend.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This kernel has no dirty ring.
    #[error(
        "this host's KVM offers no dirty ring (KVM_CAP_DIRTY_LOG_RING_ACQ_REL, or \
         KVM_CAP_DIRTY_LOG_RING on x86): use a kernel of 5.11 or later, built for it"
    )]
    Unsupported,

    /// The ring's size is wrong.
    #[error(transparent)]
    RingSize(#[from] RingSizeError),

    /// The kernel allows less than this.
    #[error("this kernel allows dirty rings of {maximum} entries at most, not {entries}")]
    AboveKernelMaximum {
        /// Entries asked for.
        entries: u32,
        /// Entries allowed.
        maximum: u32,
    },

    /// `KVM_ENABLE_CAP` failed.
    #[error(
        "KVM did not enable dirty rings of {entries} entries: enable them once, before the VM's \
         first vCPU"
    )]
    Enable {
        /// Entries asked for.
        entries: u32,
        /// KVM's error.
        source: KvmError,
    },

    /// Mapping a vCPU's ring failed.
    #[error(
        "the dirty ring of vCPU {vcpu} can't be mapped with {entries} entries: were rings of that \
         size enabled before the vCPU was created?"
    )]
    Map {
        /// The vCPU's index.
        vcpu: usize,
        /// Entries asked for.
        entries: u32,
        /// The error of `mmap` or `madvise`.
        source: KvmError,
    },

    /// The ring has more entries than it was said to have.
    #[error(
        "the dirty ring of vCPU {vcpu} has more than {entries} entries: give the size that was \
         enabled for this VM"
    )]
    LargerRing {
        /// The vCPU's index.
        vcpu: usize,
        /// Entries that it was said to have.
        entries: u32,
    },

    /// Two vCPUs were given the same ring.
    #[error(
        "vCPU {vcpu} has the same dirty ring as vCPU {other}: give each vCPU's descriptor once"
    )]
    MappedTwice {
        /// The vCPU's index.
        vcpu: usize,
        /// The vCPU that has the ring already.
        other: usize,
    },

    /// A ring that was said to be new was reaped before.
    #[error(
        "the dirty ring of vCPU {vcpu} is not fresh: it was reaped before; go on with the tracker \
         that reaped it, or give the ring's saved state"
    )]
    NotFresh {
        /// The vCPU's index.
        vcpu: usize,
    },

    /// The entries of a ring don't fit its saved position.
    #[error(
        "the dirty ring of vCPU {vcpu} does not fit its saved position {position}: it belongs to \
         another ring or another time; resync the rings and count all memory as dirty"
    )]
    WrongPosition {
        /// The vCPU's index.
        vcpu: usize,
        /// The position.
        position: u32,
    },

    /// The VM's file descriptor can't be duplicated.
    #[error("the VM's file descriptor can't be duplicated")]
    Duplicate(#[source] std::io::Error),

    /// A memory slot was refused.
    #[error(transparent)]
    Slot(#[from] SlotError),

    /// The sink refused a memory slot.
    #[error(transparent)]
    Sink(#[from] SinkError),

    /// The rings can't be reaped any more.
    #[error(transparent)]
    Collect(#[from] CollectError<RingsError>),

    /// A saved state doesn't fit.
    #[error(transparent)]
    State(#[from] StateError),

    /// A vCPU index without a ring.
    #[error("there is no vCPU {vcpu}: this tracker has {vcpus}")]
    NoSuchVcpu {
        /// The index asked for.
        vcpu: usize,
        /// How many there are.
        vcpus: usize,
    },

    /// A reaper of this tracker is there already.
    #[error("this tracker has a reaper already: stop it first")]
    HasReaper,

    /// A sink, a listener or a change of memory slots called the tracker that called it.
    #[error(
        "the tracker was called from inside a sink, a listener or a change of memory slots: make \
         the call after that has returned"
    )]
    Reentrant,

    /// The thread can't be started.
    #[error("the reaper thread can't be started")]
    Spawn(#[source] std::io::Error),

    /// Blocking the signals of the reaper thread failed.
    #[error("the reaper thread can't block its signals")]
    Signals(#[source] std::io::Error),

    /// The reaper's thread panicked: a controller or a listener did.
    #[error(
        "the reaper has ended, its thread panicked (in a controller or a listener?): {0}; stop it \
         and start another"
    )]
    Panicked(String),

    /// The embedder's way of kicking vCPUs out of guest mode failed.
    #[error("the vCPUs can't be kicked out of guest mode")]
    KickVcpus(#[source] Box<dyn std::error::Error + Send + Sync>),
}
