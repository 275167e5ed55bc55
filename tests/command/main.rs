//! Tests the `dirty-ring` command from outside: on the mock always, on KVM where the host has it.
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
mod soak;
mod support;
