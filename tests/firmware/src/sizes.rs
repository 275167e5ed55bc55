//! The sizes of the core's types on this machine.

use dirty_ring_core::controller::Policy;
use dirty_ring_core::planner::Planner;
use dirty_ring_core::reaper::Reaper;
use dirty_ring_core::ring::Ring;

use crate::kernel::Kernel;
use crate::print::{Console, Printer};
use crate::reap::{SmallCollector, SmallReaper};

/// Prints a line for each type: `size NAME BYTES`.
pub(crate) fn print(printer: &mut Printer<'_, impl Console>) {
    let sizes = [
        ("policy", size_of::<Policy>()),
        ("planner", size_of::<Planner>()),
        ("reaper", size_of::<Reaper>()),
        ("smallest-reaper", size_of::<SmallReaper>()),
        // Without its memory.
        ("ring", size_of::<Ring<()>>()),
        // With all but the rings: its batch and its suspects.
        (
            "collector",
            size_of::<SmallCollector>().saturating_sub(size_of::<Kernel>()),
        ),
    ];
    for (name, bytes) in sizes {
        printer.text("size ").text(name).text(" ");
        printer.number(bytes as u64).end();
    }
}
