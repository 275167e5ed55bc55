//! A simulated VM with dirty rings, in virtual time: everything about reaping, without KVM.
//!
//! The virtual CPUs write memory as a [`Workload`] says, a simulated KVM logs the pages in dirty
//! rings, and the real reaper (the core crate's planner, reaper and collector, the very code that
//! drives KVM) reaps them. Only the clock, the lock and the sleep are simulated, so an hour of
//! guest time takes seconds, the same seed gives the same run to the last bit, and faults
//! ([`Faults`]) come on demand. At the end an exact oracle says whether a page was lost.
//!
//! ```
//! use dirty_ring_core::controller::Policy;
//! use dirty_ring_core::size::RingSize;
//! use dirty_ring_core::time::Micros;
//! use dirty_ring_mock::{Faults, SimConfig, simulate};
//!
//! let ring = RingSize::new(4096, 4096, 0)?;
//! let report = simulate(SimConfig {
//!     vcpus: 2,
//!     workload: "storm".parse()?,
//!     policy: Some(Policy::fixed(Micros::from_millis(5))?),
//!     duration_us: 500_000,
//!     faults: Faults { interrupted_reset_permille: 100, ..Faults::NONE },
//!     ..SimConfig::new(ring)
//! })?;
//! assert_eq!((report.ring_fulls, report.lost_pages), (0, 0));
//! assert!(report.page_writes > 100_000);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What it is made of, from the outside in:
//!
//! * [`Simulation`] is the discrete-event simulation, [`SimConfig`] its input and [`SimReport`] its
//!   result.
//! * [`Vm`] is the VM alone, a [`Backend`](dirty_ring_core::backend::Backend) that passes time
//!   when it works. Use it to test a reaper of your own: nothing in it knows this one.
//! * [`soak()`] lives a VM of random make through random doings and counts the pages that are lost.
//! * [`CostModel`] says what everything costs, [`Faults`] what goes wrong.
//!
//! # What is simulated, and what isn't
//!
//! Each vCPU has a core of its own and memory of its own, and the reaper has one more core. A page
//! is write-protected from the start and after each reset of its entry; a write to it costs a
//! fault, which logs the page and makes it writable. At the soft limit the vCPU leaves. A reset goes
//! through the rings as virt/kvm/dirty_ring.c does, and a signal ends it as there. Harvests and
//! resets take time during which the guest goes on, a reset flushes the vCPUs' TLBs, and the
//! lock goes to its callers in the order of arrival. Not simulated: the CPU's own page log
//! (PML), huge pages, dirty logging by anything but a vCPU, and competition for cores.
#![forbid(unsafe_code)]

mod config;
mod cost;
mod error;
mod faults;
mod kernel;
mod layout;
mod machine;
mod memory;
mod pages;
mod report;
mod sim;
mod soak;
mod sync;
mod truth;
mod vcpu;
mod vm;

pub use dirty_ring_workload::{self as workload, Phase, Stalls, Workload, WorkloadError};

pub use config::{
    ConfigError, MAX_DURATION_US, MAX_RING_ENTRIES, MAX_TOTAL_PAGES, MAX_VCPUS, SimConfig,
};
pub use cost::CostModel;
pub use error::VmError;
pub use faults::{Faults, Overrun};
pub use machine::VirtualBackend;
pub use memory::RingMemory;
pub use pages::PageSet;
pub use report::{SimReport, VcpuReport};
pub use sim::{SimError, Simulation, simulate};
pub use soak::{SoakConfig, SoakError, SoakReport, soak, soak_around};
pub use vm::{VcpuState, Vm};
