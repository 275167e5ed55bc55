//! Workloads of test guests and histograms of their stalls, for the mock and for runs on KVM.
//!
//! A [`Workload`] says which pages each vCPU writes, and how fast. [`Stalls`] records how long
//! vCPUs stood still meanwhile. Both are independent of what runs the vCPUs: the mock simulates a
//! workload, the command also runs it on a real guest, and both report stalls in the same way.
#![forbid(unsafe_code)]

mod stalls;
mod workload;

pub use stalls::Stalls;
pub use workload::{
    MAX_GIVEN_VCPUS, MAX_PAGES, MAX_PHASE_MS, MAX_PHASES, MAX_SPIN, PRESETS, Phase, Place,
    Workload, WorkloadError,
};
