//! KVM dirty rings: negotiation, mmapped rings, the tracker of a VM, the reaper thread and the vCPU's
//! side.
//!
//! What a VMM does, in order:
//!
//! 1. [`Support::probe`] and [`Support::enable`], before the first vCPU exists;
//! 2. give the [`KvmRings`] that it gets the vCPUs and the memory slots, and make a [`Tracker`] of them,
//!    for as long as the VM lives;
//! 3. on `KVM_EXIT_DIRTY_RING_FULL` ([`EXIT_DIRTY_RING_FULL`]) call [`VcpuHandle::on_ring_full`] on the
//!    vCPU's thread;
//! 4. when tracking begins, switch logging of the slots on and start a [reaper](Tracker::reaper) with a
//!    [`PageSink`]; when it ends, switch logging off and [`stop`](ReaperHandle::stop) the reaper. Both as
//!    often as need be, with vCPUs running;
//! 5. [`Tracker::flush`] and [`stats`](Tracker::stats) at any time.
//!
//! ```no_run
//! use dirty_ring_core::controller::Policy;
//! use dirty_ring_kvm::{BitmapSink, EXIT_DIRTY_RING_FULL, MemorySlot, Support, Tracker};
//! use kvm_ioctls::{Kvm, VcpuExit};
//! use vm_memory::{GuestMemoryMmap, bitmap::AtomicBitmap};
//!
//! # fn embed(memory: GuestMemoryMmap<AtomicBitmap>) -> Result<(), Box<dyn std::error::Error>> {
//! let kvm = Kvm::new()?;
//! let vm = kvm.create_vm()?;
//! let support = Support::probe(&kvm)?;
//! let mut rings = support.enable(&vm, support.max_entries)?;
//! let mut vcpu = vm.create_vcpu(0)?;
//! rings.add_vcpu(&vcpu)?;
//! rings.add_slot(MemorySlot::new(0, 0x0, 1 << 18))?;
//! let size = rings.size();
//! let tracker = Tracker::new(rings)?;
//!
//! let ring = tracker.vcpu(0)?;
//! std::thread::spawn(move || loop {
//!     match vcpu.run().expect("KVM_RUN") {
//!         VcpuExit::Unsupported(EXIT_DIRTY_RING_FULL) => {
//!             ring.on_ring_full().expect("the dirty ring is sound");
//!         }
//!         _ => { /* the VMM's other exits */ }
//!     }
//! });
//!
//! // A migration begins: KVM_SET_USER_MEMORY_REGION with KVM_MEM_LOG_DIRTY_PAGES, and:
//! let reaper = tracker.reaper(BitmapSink::new(memory)).start(Policy::deadline(size))?;
//! tracker.flush(|| Ok::<(), std::io::Error>(/* kick each vCPU out of guest mode */ ()))?;
//! // ... KVM_SET_USER_MEMORY_REGION without it, and:
//! reaper.stop()?;
//! # Ok(())
//! # }
//! ```
//!
//! Descriptors are anything that has a raw one (`&VmFd` and `&VcpuFd` of kvm-ioctls, an `OwnedFd`), and
//! errors carry an [`Errno`]: no other crate's types, and so no other crate's version, are in this
//! interface. What the crate has to say goes to [`log`], which programs with `tracing` hear through
//! `tracing-log`.
//!
//! # Features
//!
//! * `vm-memory` (default): [`BitmapSink`], a sink for the dirty bitmaps of the vm-memory crate.
//!
//! # When something goes wrong
//!
//! No failure is told only once. [`CollectError`](dirty_ring_core::collector::CollectError) says which
//! there are:
//!
//! | what happened | vCPUs | `flush`, `stop` | what to do |
//! |---|---|---|---|
//! | an entry named no registered page | go on | an error each time | register every slot that is logged; begin the migration again after a [`resync`](Tracker::resync) |
//! | resets were interrupted | go on | nothing is lost: the pages concerned are published with each flush | nothing; an error only where they were too many |
//! | a ring overran, or a position is wrong | an error at ring-full | an error each time | stop the reaper, [`resync`](Tracker::resync), begin again |
//! | the sink failed or panicked | an error at ring-full | an error each time | stop the reaper; the next one's sink gets the pages |
//! | a controller or a listener panicked | an error at ring-full | an error each time | stop the reaper, start another |
//!
//! What can't be seen: a reset that was interrupted after its last entry by something that doesn't make
//! the thread sleep, which is a SIGSTOP and a SIGCONT within a few microseconds, or task work of io_uring
//! on the thread that resets. What is seen may be no interruption: a reset that has to wait for a lock of
//! KVM's counts as one as well, which makes suspects and loses nothing.
//!
//! # System calls
//!
//! [`system_calls`] lists them for each role, for VMMs with seccomp filters. A test runs each role under a
//! filter of exactly its list.
//!
//! Pages appear in the sink only after the reset that follows their harvest. Writes that the VMM
//! itself makes to guest memory never reach a ring and must be OR-ed in. vm-memory does so by
//! itself when it writes through regions with a bitmap.

#![deny(unsafe_code)]

mod arch;
mod backlog;
#[cfg(feature = "vm-memory")]
mod bitmap_sink;
mod errno;
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
pub mod system_calls;
mod tracker;
// All `unsafe` blocks of the crate are here.
#[allow(unsafe_code)]
mod sys;

#[cfg(feature = "vm-memory")]
pub use bitmap_sink::BitmapSink;
pub use errno::Errno;
pub use error::{Error, RingsError};
pub use mapping::MappedRing;
pub use reaper::{Next, ReaperBody, ReaperBuilder, ReaperHandle, Stopped};
pub use rings::KvmRings;
pub use sink::{PageSink, SinkError, SinkFailure};
pub use slots::MemorySlot;
pub use stats::{BadEntry, ReaperStats, VcpuStats};
pub use support::{EXIT_DIRTY_RING_FULL, Flavour, Support};
pub use tracker::{MemoryUpdate, Tracker, TrackerState, VcpuHandle, no_kick};
