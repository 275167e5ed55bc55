//! KVM dirty rings: negotiation, mmapped rings, the reaper thread and the vCPU's side.
//!
//! What a VMM does, in order:
//!
//! 1. [`Support::probe`] and [`Support::enable`], before the first vCPU exists;
//! 2. [`ReaperBuilder`]: give it the memory slots, the vCPUs and a [`PageSink`], start it;
//! 3. on `KVM_EXIT_DIRTY_RING_FULL` ([`EXIT_DIRTY_RING_FULL`]) call
//!    [`VcpuHandle::on_ring_full`] on the vCPU's thread;
//! 4. [`ReaperHandle::kick`], [`flush`](ReaperHandle::flush), [`stats`](ReaperHandle::stats) at
//!    any time; [`stop`](ReaperHandle::stop) drains the rings once more and ends.
//!
//! ```no_run
//! use dirty_ring_core::controller::Policy;
//! use dirty_ring_kvm::{BitmapSink, EXIT_DIRTY_RING_FULL, MemorySlot, ReaperBuilder, Support};
//! use kvm_ioctls::{Kvm, VcpuExit};
//! use vm_memory::{GuestAddress, GuestMemoryMmap, bitmap::AtomicBitmap};
//!
//! # fn embed(memory: GuestMemoryMmap<AtomicBitmap>) -> Result<(), Box<dyn std::error::Error>> {
//! let kvm = Kvm::new()?;
//! let vm = kvm.create_vm()?;
//! let size = Support::probe(&kvm)?.enable(&vm, 4096)?;
//! // ... KVM_SET_USER_MEMORY_REGION with KVM_MEM_LOG_DIRTY_PAGES ...
//! let mut vcpu = vm.create_vcpu(0)?;
//!
//! let reaper = ReaperBuilder::new(&vm, size, BitmapSink::new(memory))?
//!     .slot(MemorySlot::new(0, GuestAddress(0), 1 << 18))?
//!     .vcpu(&vcpu)?
//!     .start(Policy::deadline(size))?;
//! let ring = reaper.vcpu(0)?;
//! std::thread::spawn(move || loop {
//!     match vcpu.run().expect("KVM_RUN") {
//!         VcpuExit::Unsupported(EXIT_DIRTY_RING_FULL) => {
//!             ring.on_ring_full().expect("the dirty ring is sound");
//!         }
//!         _ => { /* the VMM's other exits */ }
//!     }
//! });
//! # Ok(())
//! # }
//! ```
//!
//! A VMM with a seccomp filter has to let the reaper's thread call `ioctl` (`KVM_RESET_DIRTY_RINGS`),
//! `futex`, `rt_sigprocmask`, `prctl` (`PR_SET_TIMERSLACK`), `sched_getattr`, `sched_setattr` and
//! `clock_gettime`. vCPU threads (on ring-full) and the thread that flushes call `ioctl`, `futex`,
//! `rt_sigprocmask` and `clock_gettime`; the thread that maps a ring calls `mmap` and `madvise`.
//!
//! Pages appear in the sink only after the reset that follows their harvest. Writes that the VMM
//! itself makes to guest memory never reach a ring and must be OR-ed in. vm-memory does so by
//! itself when it writes through regions with a bitmap.

#![deny(unsafe_code)]

mod arch;
mod backlog;
mod error;
mod host;
mod mapping;
mod reaper;
mod rings;
mod session;
mod sink;
mod slots;
mod stats;
mod support;
mod tracker;
// All `unsafe` blocks of the crate are here.
#[allow(unsafe_code)]
mod sys;

pub use error::{Error, RingsError};
pub use mapping::MappedRing;
pub use reaper::{ReaperBuilder, ReaperHandle, Stopped};
pub use rings::KvmRings;
pub use sink::{BitmapSink, PageSink, SinkError, SinkFailure};
pub use slots::MemorySlot;
pub use stats::{BadEntry, ReaperStats, VcpuStats};
pub use support::{EXIT_DIRTY_RING_FULL, Flavour, Support};
pub use tracker::{MemoryUpdate, Tracker, TrackerState, VcpuHandle};
