//! The `dirty-ring` command from outside, end to end: on the mock always, on KVM where there is
//! one.
#![cfg(feature = "command")]

mod bad_input;
mod bad_trace;
mod compare;
mod contract;
mod host;
#[path = "../support/kvm.rs"]
mod kvm;
mod output;
mod probe;
mod replay;
mod run;
mod support;
