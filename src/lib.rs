#![doc = include_str!("../README.md")]
//!
//! The [guide] is for authors of VMMs.
//!
//! # The crates behind this face
//!
//! * [`core`]: the `no_std` part: ring protocol, controllers, reaper machine.
//! * [`kvm`]: real rings of this host's KVM, and the reaper thread.
//! * `mock` (with the feature `mock`): a simulated VM in virtual time, for tests without KVM.
//!
//! # Features
//!
//! * `command` (default) builds the `dirty-ring` command and its dependencies. Embedders of the
//!   library turn off the default features.
//! * `vm-memory` (default): a sink for the dirty bitmaps of the vm-memory crate.
//! * `mock` re-exports the simulated VM; `command` implies it.
#![forbid(unsafe_code)]

pub mod guide;

pub use dirty_ring_core as core;
pub use dirty_ring_kvm as kvm;
#[cfg(feature = "mock")]
pub use dirty_ring_mock as mock;
