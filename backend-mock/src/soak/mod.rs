//! A soak: one simulated VM of random make, to which random things happen, one after another.
//!
//! Everything comes from the seed: the vCPUs, their rings and what they write, the policy, the weather,
//! and what is done to the VM while it runs. Now and then its vCPUs are held, the rings are drained,
//! and every page that was written since it was last reported counts as lost.
//!
//! ```
//! use dirty_ring_mock::{SoakConfig, soak};
//!
//! for seed in 0..10 {
//!     let report = soak(seed, &SoakConfig::default())?;
//!     assert_eq!(report.pages_lost, 0, "seed {seed}");
//!     assert_eq!(soak(seed, &SoakConfig::default())?, report);
//! }
//! # Ok::<(), dirty_ring_mock::SoakError>(())
//! ```

mod doings;
mod handover;
mod life;
mod outcome;
mod shape;
mod slot;

pub use outcome::{SoakError, SoakReport};

use crate::machine::VirtualBackend;
use crate::vm::Vm;
use life::Life;

/// How large a soak's VM may be, and how long it lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoakConfig {
    /// Most vCPUs, 1 at least.
    pub most_vcpus: u32,
    /// Most entries of a ring: from 256 to 65536.
    pub most_ring_entries: u32,
    /// How many things are done to the VM.
    pub doings: u32,
}

impl Default for SoakConfig {
    fn default() -> Self {
        Self {
            most_vcpus: 8,
            most_ring_entries: 65536,
            doings: 40,
        }
    }
}

/// Runs the VM of `seed` to its end.
///
/// # Errors
/// [`SoakError`] where something fails that nothing was done for. A lost page is no error: see
/// [`SoakReport::is_sound`].
pub fn soak(seed: u64, config: &SoakConfig) -> Result<SoakReport, SoakError> {
    soak_around::<Vm>(seed, config)
}

/// Runs the VM of `seed` inside of a backend that may break a rule, to see that it is found out.
///
/// # Errors
/// Those of [`soak`].
pub fn soak_around<B: VirtualBackend>(
    seed: u64,
    config: &SoakConfig,
) -> Result<SoakReport, SoakError> {
    Life::<B>::new(seed, config).live(config.doings)
}
