//! The trace, fed to a policy as `dirty-ring replay` does.

use dirty_ring_core::controller::{Controller, Policy};

use crate::print::{Console, Printer};
use crate::trace::TRACE;

/// Prints a line for each step of the trace: the one that `dirty-ring replay` prints.
pub(crate) fn replay(mut policy: Policy, printer: &mut Printer<'_, impl Console>) {
    for row in &TRACE {
        let decision = policy.on_reaped(&row.measurement);
        printer.text("step ").padded(row.step, 6);
        printer.decision(&decision).end();
    }
}
