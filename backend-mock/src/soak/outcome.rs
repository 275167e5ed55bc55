//! What a soak did to its VM, and what became of the pages.

use std::collections::BTreeMap;

use dirty_ring_core::collector::CollectError;
use thiserror::Error;

use crate::error::VmError;

/// What was done to one VM, and what became of its pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SoakReport {
    /// The VM's seed.
    pub seed: u64,
    /// Its vCPUs, its rings, its workload and its policy, in words.
    pub shape: String,
    /// How long it ran, in microseconds of virtual time.
    pub virtual_us: u64,
    /// Page writes of all vCPUs.
    pub page_writes: u64,
    /// Pages compared with what was reported of them, at each checkpoint anew.
    pub pages_checked: u64,
    /// Pages that had a write at a checkpoint that was never reported, at each checkpoint anew. Must
    /// be 0.
    pub pages_lost: u64,
    /// What was done last before the first page was found lost.
    pub lost_after: Option<&'static str>,
    /// Pages that interrupted resets left unprotected.
    pub forgotten_pages: u64,
    /// Publications of a page while an entry of it waited for its reset. Must be 0.
    pub premature_publications: u64,
    /// Publications of pages that don't exist. Must be 0.
    pub unregistered_publications: u64,
    /// How often each thing was done.
    pub doings: BTreeMap<&'static str, u64>,
}

impl SoakReport {
    /// Returns whether nothing was lost, and nothing published that must not be.
    pub fn is_sound(&self) -> bool {
        [
            self.pages_lost,
            self.premature_publications,
            self.unregistered_publications,
        ] == [0; 3]
    }

    pub(super) fn count(&mut self, doing: &'static str) {
        *self.doings.entry(doing).or_default() += 1;
    }
}

/// A collector that failed although nothing was done for it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the VM of seed {seed} ({shape}) failed after {at_us} us, the last doing was {doing}")]
pub struct SoakError {
    /// The VM's seed.
    pub seed: u64,
    /// What the VM was like.
    pub shape: String,
    /// When, in microseconds of virtual time.
    pub at_us: u64,
    /// What was done last.
    pub doing: &'static str,
    /// What failed.
    pub source: CollectError<VmError>,
}
