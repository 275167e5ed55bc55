//! What can go wrong, and what to do about it.

use std::fmt;
use std::sync::Arc;

use crate::errno::Errno;
use crate::sink::SinkError;
use dirty_ring_core::collector::CollectError;
use dirty_ring_core::controller::StateError;
use dirty_ring_core::entry::SlotId;
use dirty_ring_core::size::RingSizeError;
use dirty_ring_core::slots::SlotError;

/// What the rings' backend may fail with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RingsError {
    /// `KVM_RESET_DIRTY_RINGS` failed.
    Reset(Errno),

    /// The signals that would interrupt a reset can't be blocked.
    Signals(Errno),

    /// The sink returned this.
    Sink(Arc<dyn std::error::Error + Send + Sync>),

    /// The sink panicked.
    SinkPanicked(Arc<str>),
}

/// An error of the KVM backend.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// This kernel has no dirty ring.
    Unsupported,

    /// The ring's size is wrong.
    RingSize(RingSizeError),

    /// The kernel allows less than this.
    AboveKernelMaximum {
        /// Entries asked for.
        entries: u32,
        /// Entries allowed.
        maximum: u32,
    },

    /// `KVM_ENABLE_CAP` failed.
    Enable {
        /// Entries asked for.
        entries: u32,
        /// KVM's error.
        source: Errno,
    },

    /// Mapping a vCPU's ring failed.
    Map {
        /// The vCPU's index.
        vcpu: usize,
        /// Entries asked for.
        entries: u32,
        /// The error of `mmap` or `madvise`.
        source: Errno,
    },

    /// The ring has more entries than it was said to have.
    LargerRing {
        /// The vCPU's index.
        vcpu: usize,
        /// Entries that it was said to have.
        entries: u32,
    },

    /// A mapped ring isn't of the size of the others.
    OtherSize {
        /// The vCPU's index.
        vcpu: usize,
        /// Entries that it was mapped with.
        entries: u32,
        /// Entries of the others.
        expected: u32,
    },

    /// Two vCPUs were given the same ring.
    MappedTwice {
        /// The vCPU's index.
        vcpu: usize,
        /// The vCPU that has the ring already.
        other: usize,
    },

    /// A ring that was said to be new was reaped before.
    NotFresh {
        /// The vCPU's index.
        vcpu: usize,
    },

    /// The entries of a ring don't fit its saved position.
    WrongPosition {
        /// The vCPU's index.
        vcpu: usize,
        /// The position.
        position: u32,
    },

    /// The VM's file descriptor can't be duplicated.
    Duplicate(Errno),

    /// A memory slot was refused.
    Slot(SlotError),

    /// The sink refused a memory slot.
    Sink(SinkError),

    /// The rings can't be reaped any more.
    Collect(CollectError<RingsError>),

    /// A saved state doesn't fit.
    State(StateError),

    /// A vCPU index without a ring.
    NoSuchVcpu {
        /// The index asked for.
        vcpu: usize,
        /// How many there are.
        vcpus: usize,
    },

    /// A memory slot that isn't registered.
    NoSuchSlot {
        /// The slot asked for.
        slot: SlotId,
    },

    /// The pages go to a sink, and not to the tracker's dirty log.
    HasSink,

    /// A flush took longer than it was allowed to.
    TimedOut,

    /// A reaper of this tracker is there already.
    HasReaper,

    /// A sink, a listener or a change of memory slots called the tracker that called it.
    Reentrant,

    /// The thread can't be started.
    Spawn(std::io::Error),

    /// Blocking the signals of the reaper thread failed.
    Signals(Errno),

    /// The reaper's thread panicked: a controller or a listener did.
    Panicked(String),

    /// The embedder's way of kicking vCPUs out of guest mode failed.
    KickVcpus(Box<dyn std::error::Error + Send + Sync>),
}

impl fmt::Display for RingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset(_) => f.write_str("KVM_RESET_DIRTY_RINGS failed"),
            Self::Signals(_) => {
                f.write_str("signals can't be blocked around a reset: is rt_sigprocmask allowed?")
            }
            Self::Sink(_) => f.write_str("the sink failed"),
            Self::SinkPanicked(message) => write!(f, "the sink panicked: {message}"),
        }
    }
}

impl std::error::Error for RingsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Reset(error) | Self::Signals(error) => Some(error),
            Self::Sink(error) => Some(&**error),
            Self::SinkPanicked(_) => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported => f.write_str(
                "this host's KVM offers no dirty ring (KVM_CAP_DIRTY_LOG_RING_ACQ_REL, or \
                 KVM_CAP_DIRTY_LOG_RING on x86): use a kernel of 5.11 or later, built for it",
            ),
            Self::RingSize(error) => error.fmt(f),
            Self::AboveKernelMaximum { entries, maximum } => write!(
                f,
                "this kernel allows dirty rings of {maximum} entries at most, not {entries}"
            ),
            Self::Enable { entries, .. } => write!(
                f,
                "KVM did not enable dirty rings of {entries} entries: enable them once, before the \
                 VM's first vCPU"
            ),
            Self::Map { vcpu, entries, .. } => write!(
                f,
                "the dirty ring of vCPU {vcpu} can't be mapped with {entries} entries: were rings of \
                 that size enabled before the vCPU was created?"
            ),
            Self::LargerRing { vcpu, entries } => write!(
                f,
                "the dirty ring of vCPU {vcpu} has more than {entries} entries: give the size that \
                 was enabled for this VM"
            ),
            Self::OtherSize {
                vcpu,
                entries,
                expected,
            } => write!(
                f,
                "the dirty ring of vCPU {vcpu} was mapped with {entries} entries, and rings of \
                 {expected} were enabled: map it with that size"
            ),
            Self::MappedTwice { vcpu, other } => write!(
                f,
                "vCPU {vcpu} has the same dirty ring as vCPU {other}: give each vCPU's descriptor \
                 once"
            ),
            Self::NotFresh { vcpu } => write!(
                f,
                "the dirty ring of vCPU {vcpu} is not fresh: it was reaped before; go on with the \
                 tracker that reaped it, or give the ring's saved state"
            ),
            Self::WrongPosition { vcpu, position } => write!(
                f,
                "the dirty ring of vCPU {vcpu} does not fit its saved position {position}: it \
                 belongs to another ring or another time; resync the rings and count all memory as \
                 dirty"
            ),
            Self::Duplicate(_) => f.write_str("the VM's file descriptor can't be duplicated"),
            Self::Slot(error) => error.fmt(f),
            Self::Sink(error) => error.fmt(f),
            Self::Collect(error) => error.fmt(f),
            Self::State(error) => error.fmt(f),
            Self::NoSuchVcpu { vcpu, vcpus } => {
                write!(f, "there is no vCPU {vcpu}: this tracker has {vcpus}")
            }
            Self::NoSuchSlot { slot } => write!(
                f,
                "memory slot {} of address space {} is not registered",
                slot.slot(),
                slot.address_space()
            ),
            Self::HasSink => f.write_str(
                "the dirty pages go to a sink, so the dirty log has none: start the reaper for the log",
            ),
            Self::TimedOut => f.write_str(
                "the flush took longer than it was allowed to: what it took is published, flush again \
                 for the rest",
            ),
            Self::HasReaper => f.write_str("this tracker has a reaper already: stop it first"),
            Self::Reentrant => f.write_str(
                "the tracker was called from inside a sink, a listener or a change of memory slots, or \
                 stopped by the loop that takes its turns: make the call after that has ended",
            ),
            Self::Spawn(_) => f.write_str("the reaper thread can't be started"),
            Self::Signals(_) => f.write_str("the reaper thread can't block its signals"),
            Self::Panicked(message) => write!(
                f,
                "the reaper has ended, its thread panicked (in a controller or a listener?): \
                 {message}; stop it and start another"
            ),
            Self::KickVcpus(_) => f.write_str("the vCPUs can't be kicked out of guest mode"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Enable { source, .. } | Self::Map { source, .. } => Some(source),
            Self::Duplicate(error) | Self::Signals(error) => Some(error),
            Self::Spawn(error) => Some(error),
            Self::KickVcpus(error) => Some(&**error),
            // These say all of it themselves.
            Self::RingSize(error) => error.source(),
            Self::Slot(error) => error.source(),
            Self::Sink(error) => error.source(),
            Self::Collect(error) => error.source(),
            Self::State(error) => error.source(),
            _ => None,
        }
    }
}

impl From<RingSizeError> for Error {
    fn from(error: RingSizeError) -> Self {
        Self::RingSize(error)
    }
}

impl From<SlotError> for Error {
    fn from(error: SlotError) -> Self {
        Self::Slot(error)
    }
}

impl From<SinkError> for Error {
    fn from(error: SinkError) -> Self {
        Self::Sink(error)
    }
}

impl From<CollectError<RingsError>> for Error {
    fn from(error: CollectError<RingsError>) -> Self {
        Self::Collect(error)
    }
}

impl From<StateError> for Error {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}
