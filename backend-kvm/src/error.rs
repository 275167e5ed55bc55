//! What can go wrong, and what to do about it.

use dirty_ring_core::collector::CollectError;
use dirty_ring_core::controller::StateError;
use dirty_ring_core::size::RingSizeError;
use dirty_ring_core::slots::SlotError;
use kvm_ioctls::Error as KvmError;

use crate::sink::SinkError;

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
        "the dirty ring of vCPU {vcpu} can't be mapped: was the ring enabled before the vCPU was \
         created?"
    )]
    Map {
        /// The vCPU's index.
        vcpu: usize,
        /// The error of `mmap`.
        source: KvmError,
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
    Collect(#[from] CollectError<KvmError>),

    /// A saved state doesn't fit.
    #[error(transparent)]
    State(#[from] StateError),

    /// A vCPU index without a ring.
    #[error("there is no vCPU {vcpu}: this reaper has {vcpus}")]
    NoSuchVcpu {
        /// The index asked for.
        vcpu: usize,
        /// How many there are.
        vcpus: usize,
    },

    /// The thread can't be started.
    #[error("the reaper thread can't be started")]
    Spawn(#[source] std::io::Error),

    /// Blocking the signals of the reaper thread failed.
    #[error("the reaper thread can't block its signals")]
    Signals(#[source] std::io::Error),

    /// The reaper has ended: it was stopped, or it failed and said why when it was stopped.
    #[error("the reaper has ended: nothing is reaped any more; see what stop() returned")]
    Ended,

    /// The thread panicked: a sink or a listener of the embedder's did.
    #[error("the reaper thread panicked (in a sink or a listener?): {0}")]
    Panicked(String),

    /// The embedder's way of kicking vCPUs out of guest mode failed.
    #[error("the vCPUs can't be kicked out of guest mode")]
    KickVcpus(#[source] Box<dyn std::error::Error + Send + Sync>),
}
