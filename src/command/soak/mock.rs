//! A soak on the simulated VM.

use super::{Soak, Watch};
use crate::command::args::SoakArguments;
use crate::command::failure::Failure;

/// Runs a soak on the mock.
pub(super) fn soak(
    _arguments: &SoakArguments,
    _seed: u64,
    _watch: &Watch,
) -> Result<Soak, Failure> {
    Err(Failure::Host(
        "the mock has no soak yet: use --backend kvm".into(),
    ))
}
