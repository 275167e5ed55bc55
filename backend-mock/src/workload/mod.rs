//! Workloads: which pages a vCPU writes, and how fast.

mod parse;
#[cfg(test)]
mod tests;

pub use parse::{Place, WorkloadError};

use core::fmt;

/// Most pages of one phase: 64 GiB of guest memory.
pub const MAX_PAGES: u32 = 1 << 24;
/// Most loop turns between two writes.
pub const MAX_SPIN: u32 = 1_000_000_000;
/// Longest phase, in milliseconds: an hour.
pub const MAX_PHASE_MS: u32 = 3_600_000;
/// Most phases of one vCPU.
pub const MAX_PHASES: usize = 1024;
/// Most vCPUs that are given one by one.
pub const MAX_GIVEN_VCPUS: usize = 4096;

/// The presets with their specifications.
pub const PRESETS: [(&str, &str); 6] = [
    ("idle", "pages=0,spin=0"),
    ("trickle", "pages=16384,spin=3000"),
    ("hot", "pages=2048,spin=0"),
    ("storm", "pages=16384,spin=0"),
    (
        "burst",
        "pages=16384,spin=0,ms=1000/pages=512,spin=0,ms=1000/\
         pages=16384,spin=20000,ms=1000/pages=3000,spin=0,ms=1000",
    ),
    ("skew", "pages=16384,spin=0|pages=64,spin=3000"),
];

/// Microseconds in a millisecond.
const US_PER_MS: u64 = 1_000;

/// What a vCPU does for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Distinct pages, written round-robin, one word each; 0: it writes nothing.
    pub pages: u32,
    /// Empty loop turns between two writes.
    pub spin: u32,
    /// Milliseconds until the next phase. A single phase may have none: it never ends anyway.
    pub ms: Option<u32>,
}

/// What each vCPU does: its phases, again and again until the run ends.
///
/// Parsed from a preset's name or a specification: `pages=N,spin=N` is one phase; phases are
/// joined with `/` and then each has `ms=N`; `|` separates vCPUs, and the last one given serves
/// all that remain. Printed as a specification.
///
/// ```
/// use dirty_ring_mock::Workload;
///
/// let workload: Workload = "pages=512,spin=0,ms=20/pages=0,spin=0,ms=80|pages=64,spin=9".parse()?;
/// let (phase, until_us) = workload.phase_at(0, 110_000);
/// assert_eq!((phase.pages, until_us), (512, 120_000));
/// assert_eq!(workload.phase_at(7, 110_000).0.spin, 9);
/// assert_eq!(workload.to_string().parse(), Ok(workload));
/// # Ok::<(), dirty_ring_mock::WorkloadError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Never empty, and no vCPU without a phase.
    vcpus: Vec<Vec<Phase>>,
}

impl Workload {
    /// Every vCPU does the same, for ever: `phase`, whatever its length.
    pub(crate) fn endless(phase: Phase) -> Self {
        Self {
            vcpus: vec![vec![phase]],
        }
    }

    /// The vCPUs that were given one by one; the last serves all that remain.
    pub fn given_vcpus(&self) -> usize {
        self.vcpus.len()
    }

    /// The phases of `vcpu`, at least one.
    pub fn phases(&self, vcpu: usize) -> &[Phase] {
        &self.vcpus[vcpu.min(self.vcpus.len() - 1)]
    }

    /// The phase of `vcpu` at `elapsed_us` microseconds from its start, and when that ends, on the
    /// same clock; `u64::MAX` for one that never does.
    pub fn phase_at(&self, vcpu: usize, elapsed_us: u64) -> (Phase, u64) {
        let phases = self.phases(vcpu);
        let [first, _, ..] = phases else {
            return (phases[0], u64::MAX);
        };
        let lengths = || phases.iter().map(|phase| phase.length_us());
        let cycle_us: u64 = lengths().sum();
        let mut end_us = elapsed_us - elapsed_us % cycle_us;
        for (phase, length_us) in phases.iter().zip(lengths()) {
            end_us = end_us.saturating_add(length_us);
            if elapsed_us < end_us {
                return (*phase, end_us);
            }
        }
        // Only where the clock itself ends.
        (*first, u64::MAX)
    }

    /// The most pages that any phase of `vcpu` writes.
    pub fn max_pages(&self, vcpu: usize) -> u32 {
        let pages = self.phases(vcpu).iter().map(|phase| phase.pages);
        pages.max().unwrap_or(0)
    }
}

impl Phase {
    /// Microseconds; one without a length has 0, but then it is the only one.
    fn length_us(&self) -> u64 {
        u64::from(self.ms.unwrap_or(0)) * US_PER_MS
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pages={},spin={}", self.pages, self.spin)?;
        self.ms.map_or(Ok(()), |ms| write!(f, ",ms={ms}"))
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (vcpu, phases) in self.vcpus.iter().enumerate() {
            f.write_str(if vcpu == 0 { "" } else { "|" })?;
            for (at, phase) in phases.iter().enumerate() {
                write!(f, "{}{phase}", if at == 0 { "" } else { "/" })?;
            }
        }
        Ok(())
    }
}
