//! Which pages each vCPU writes, and how fast.

mod parse;
#[cfg(test)]
mod tests;

pub use parse::{Place, WorkloadError};

use core::fmt;

/// Maximum number of pages of a phase: 64 GiB of guest memory.
pub const MAX_PAGES: u32 = 1 << 24;
/// Maximum number of loop iterations between two writes.
pub const MAX_SPIN: u32 = 1_000_000_000;
/// Maximum length of a phase in milliseconds: one hour.
pub const MAX_PHASE_MS: u32 = 3_600_000;
/// Maximum number of phases of a vCPU.
pub const MAX_PHASES: usize = 1024;
/// Maximum number of vCPUs that a workload specifies individually.
pub const MAX_GIVEN_VCPUS: usize = 4096;

/// Names and specifications of the presets.
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

/// A period in which a vCPU writes its pages in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Distinct pages, written round-robin, one word each; 0 writes nothing.
    pub pages: u32,
    /// Empty loop iterations between two writes.
    pub spin: u32,
    /// Milliseconds until the next phase. A single phase never ends, so it needs no length.
    pub ms: Option<u32>,
}

/// The phases of each vCPU, repeated until the run ends.
///
/// A workload is parsed from the name of a preset or from a specification. `pages=N,spin=N` is one
/// phase; `/` separates phases, each of which then needs `ms=N`; `|` separates vCPUs, and the last
/// specified one stands for all that remain. A workload is printed as a specification.
///
/// ```
/// use dirty_ring_workload::Workload;
///
/// let workload: Workload = "pages=512,spin=0,ms=20/pages=0,spin=0,ms=80|pages=64,spin=9".parse()?;
/// let (phase, until_us) = workload.phase_at(0, 110_000);
/// assert_eq!((phase.pages, until_us), (512, 120_000));
/// assert_eq!(workload.phase_at(7, 110_000).0.spin, 9);
/// assert_eq!(workload.to_string().parse(), Ok(workload));
/// # Ok::<(), dirty_ring_workload::WorkloadError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Not empty, and each vCPU has at least one phase.
    vcpus: Vec<Vec<Phase>>,
}

impl Workload {
    /// Creates a workload in which `phase` never ends on any vCPU, whatever its length. The limits
    /// of a parsed workload don't apply.
    pub fn endless(phase: Phase) -> Self {
        Self {
            vcpus: vec![vec![phase]],
        }
    }

    /// Returns the number of vCPUs specified individually; the last stands for all that remain.
    pub fn given_vcpus(&self) -> usize {
        self.vcpus.len()
    }

    /// Returns the phases of `vcpu`, at least one.
    pub fn phases(&self, vcpu: usize) -> &[Phase] {
        &self.vcpus[vcpu.min(self.vcpus.len() - 1)]
    }

    /// Returns the phase of `vcpu` at `elapsed_us` microseconds after its start, and the time at
    /// which this phase ends, on the same clock; `u64::MAX` if it never ends.
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
        // Reached only where the end of the phase exceeds the clock's range.
        (*first, u64::MAX)
    }

    /// Returns the largest number of pages that a phase of `vcpu` writes.
    pub fn max_pages(&self, vcpu: usize) -> u32 {
        let pages = self.phases(vcpu).iter().map(|phase| phase.pages);
        pages.max().unwrap_or(0)
    }
}

impl Phase {
    /// Returns the length in microseconds; 0 if none is given, which a single phase alone allows.
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
