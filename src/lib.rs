#![doc = include_str!("../README.md")]
//!
//! # The crates behind this face
//!
//! * [`core`]: the `no_std` part: ring protocol, controllers, reaper machine.
//! * [`kvm`]: real rings of this host's KVM, and the reaper thread.
//! * [`mock`]: a simulated VM in virtual time, for tests without KVM.
#![forbid(unsafe_code)]

pub use dirty_ring_core as core;
pub use dirty_ring_kvm as kvm;
pub use dirty_ring_mock as mock;
