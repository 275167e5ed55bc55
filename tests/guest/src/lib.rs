//! A small test guest for KVM on x86_64, for tests, benches and the command.
//!
//! Each vCPU writes one 8-byte word to each of its first `pages` pages, round after round, with
//! `spin` empty loop iterations between two writes; or it writes to pages at random, which it may
//! share with other vCPUs. All of this can be changed while it runs. The guest has no BIOS, no
//! kernel and no interrupts: it is a few dozen bytes of 64-bit code at CPL 3, which run natively on
//! every KVM host, including hosts without hardware virtualization; see [`Privilege`].
//!
//! 1. [`Guest::new`] creates the VM and its memory, but no vCPUs: enable the dirty rings now.
//! 2. [`Guest::create_vcpus`] creates the vCPUs: map their rings now.
//! 3. [`RunningGuest::start`] runs each vCPU on its own thread. To use other threads, call
//!    [`GuestVcpu::run`] in a loop instead.
//! 4. [`VcpuParams::set`] and [`VcpuParams::set_random`] begin a phase.
//! 5. [`RunningGuest::pause`] holds the vCPUs outside guest mode, [`RunningGuest::stop`] ends them.
//!
//! [`ReapedGuest`] does all of this and reaps the rings as well, and [`soak`] looks for lost pages.
//!
//! On other architectures this crate is empty.
//!
//! ```no_run
//! use std::convert::Infallible;
//! use dirty_ring_guest::{Guest, GuestConfig, RunningGuest};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let kvm = kvm_ioctls::Kvm::new()?;
//! let guest = Guest::new(&kvm, GuestConfig::default())?;
//! let vcpus = guest.create_vcpus()?;
//! let running = RunningGuest::start(vcpus, |_vcpu| Ok::<(), Infallible>(()))?;
//! guest.params()[0].set(2048, 0)?;
//! std::thread::sleep(std::time::Duration::from_millis(100));
//! let outcomes = running.stop()?;
//! println!("{} page writes", outcomes[0].page_writes);
//! # Ok(())
//! # }
//! ```

#![cfg(target_arch = "x86_64")]
#![deny(unsafe_code)]

mod code;
mod error;
mod gate;
mod kick;
mod kick_signal;
mod layout;
mod machine;
mod mailbox;
mod mode;
mod params;
mod pause;
mod random;
mod reaped;
pub mod soak;
#[allow(unsafe_code)]
mod sys;
mod tables;
mod threads;
mod vcpu;

#[cfg(test)]
mod tests;

pub use error::{CallbackError, GuestError};
pub use kick::{KICK_LIMIT, VcpuKicker};
pub use layout::{
    GuestConfig, GuestLayout, GuestSlot, MAX_DATA_PAGES, MAX_DATA_SLOTS, MAX_VCPUS, PAGE_BYTES,
};
pub use machine::{Guest, GuestRam};
pub use mode::Privilege;
pub use params::VcpuParams;
pub use pause::Pause;
pub use random::{RandomPages, Stamp};
pub use reaped::{ReapedGuest, Reaping};
pub use threads::{RunningGuest, VcpuOutcome};
pub use vcpu::{GuestExit, GuestVcpu};
