//! The core of dirty-ring at work, for machines without an operating system and for the host.
//!
//! [`run`] prints what the core decides, line by line: the `firmware` program on the console of a bare
//! machine, the `host` program on standard output. Both have to print the same.
#![no_std]
#![forbid(unsafe_code)]

mod kernel;
mod print;
mod reap;
mod replay;
mod single;
mod sizes;
mod trace;

pub use kernel::PlainMemory;
pub use print::Console;
pub use single::{Line, Single, Yard};

use dirty_ring_core::controller::{Policy, PolicySpec};
use dirty_ring_core::size::RingSize;
use print::Printer;

/// Entries of each ring: those of the recorded one.
pub const RING_ENTRIES: usize = 1024;

/// The size of each ring.
pub const RING_SIZE: RingSize = match RingSize::new(RING_ENTRIES as u32, 4096, 0) {
    Ok(size) => size,
    Err(_) => panic!("a power of two between a page and KVM's largest ring"),
};

/// Policies, as a user names them.
const POLICIES: [&str; 6] = [
    "seed",
    "ladder",
    "halving",
    "deadline",
    "deadline:50ms",
    "fixed:10ms",
];

/// Prints the sizes of the core's types, then what each policy decides: on the recorded trace, and
/// over rings that fill as recorded.
pub fn run(console: &mut impl Console) {
    let mut printer = Printer::new(console);
    sizes::print(&mut printer);
    for name in POLICIES {
        printer.text("replay ").text(name).end();
        if let Some(policy) = policy(name) {
            replay::replay(policy, &mut printer);
        }
    }
    for name in POLICIES {
        printer.text("reap ").text(name).end();
        if let Some(policy) = policy(name) {
            reap::reap(policy, &mut printer);
        }
    }
    printer.text("end").end();
}

fn policy(name: &str) -> Option<Policy> {
    let spec: PolicySpec = name.parse().ok()?;
    spec.build(RING_SIZE).ok()
}
