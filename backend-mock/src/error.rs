//! What the simulated VM's operations fail with.

use thiserror::Error;

/// What the simulated VM's operations fail with, on request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum VmError {
    /// The reset of the rings failed: see [`Vm::break_reset`](crate::Vm::break_reset).
    #[error("the simulated reset failed")]
    Reset,
    /// The consumer took no pages: see [`Vm::break_sink`](crate::Vm::break_sink).
    #[error("the simulated sink failed")]
    Sink,
}
