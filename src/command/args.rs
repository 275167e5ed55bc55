//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dirty_ring::core::collector::RingFullMode;
use dirty_ring::core::size::MAX_ENTRIES;

use super::policy::PolicyName;
use super::units;
use super::workload::NamedWorkload;

/// The most rounds of a comparison.
const MAX_ROUNDS: u32 = 1000;

/// Adaptive reaping of KVM dirty rings: probe this host, run a guest, compare policies.
///
/// Without a command, runs `compare --quick`.
#[derive(Debug, Parser)]
#[command(version, disable_help_subcommand = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print what this host's KVM offers, and measure what dirty logging costs here
    Probe(ProbeArguments),
    /// Run a guest under one policy
    Run(RunArguments),
    /// Run policies in interleaved rounds on the same guest, and rank them
    Compare(CompareArguments),
    /// Feed a recorded trace to a policy and print what it decides
    Replay(ReplayArguments),
    /// Do at random all that a VMM may do to a tracker, and look for lost pages
    Soak(SoakArguments),
}

/// Where to run.
#[derive(Clone, Debug, Args)]
pub(crate) struct Where {
    /// Where to run: auto takes KVM where it works, else the mock, and says why on stderr
    #[arg(long, value_enum, default_value_t = BackendName::Auto)]
    pub(crate) backend: BackendName,

    /// Entries of each vCPU's ring, a power of two  [default: the most that the host offers]
    #[arg(long, value_name = "N", value_parser = ring_entries, allow_negative_numbers = true)]
    pub(crate) ring_entries: Option<u32>,

    /// vCPUs of the guest
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = vcpus, allow_negative_numbers = true)]
    pub(crate) vcpus: u16,

    /// Guest memory that is tracked, all vCPUs together, as in 64M; by default as much as the
    /// workload writes
    #[arg(long, value_name = "SIZE", value_parser = units::size_bytes, allow_hyphen_values = true)]
    pub(crate) mem: Option<u64>,
}

/// What to run.
#[derive(Clone, Debug, Args)]
pub(crate) struct What {
    /// A preset (idle, trickle, hot, storm, burst, skew) or a specification such as
    /// 'pages=16384,spin=0,ms=1000/pages=512,spin=0,ms=1000|pages=64,spin=3000'
    #[arg(long, value_name = "W", default_value = "storm")]
    pub(crate) workload: NamedWorkload,

    /// How long each run lasts, as in 4s or 250ms  [default: 4s; 2s with compare --quick]
    #[arg(long, value_parser = units::run_duration, allow_hyphen_values = true)]
    pub(crate) duration: Option<Duration>,

    /// What a vCPU does on ring-full: harvest one chunk and kick the reaper, or harvest the whole
    /// of all rings, as QEMU does
    #[arg(long, value_enum, default_value_t = RingFullName::Chunk)]
    pub(crate) ring_full: RingFullName,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ProbeArguments {
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    pub(crate) place: Where,
    #[command(flatten)]
    pub(crate) what: What,

    /// deadline, ladder, seed, halving or fixed:DURATION, as in fixed:10ms; none runs without
    /// logging
    #[arg(long, value_name = "P", default_value = "deadline")]
    pub(crate) policy: PolicyName,

    /// Write a row for each pass of the reaper to this file, for replay
    #[arg(long, value_name = "FILE.csv")]
    pub(crate) trace: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct CompareArguments {
    #[command(flatten)]
    pub(crate) place: Where,
    #[command(flatten)]
    pub(crate) what: What,

    /// Policies to compare; a baseline without logging is always run too
    /// [default: deadline,ladder,seed,halving,fixed:1s]
    #[arg(long, value_name = "P,P,...", value_delimiter = ',')]
    pub(crate) policies: Option<Vec<PolicyName>>,

    /// Rounds, each of which runs every policy once  [default: 5; 3 with --quick]
    #[arg(long, value_name = "N", value_parser = rounds, allow_negative_numbers = true)]
    pub(crate) rounds: Option<u32>,

    /// Run fewer and shorter rounds and no sweep: takes less than a minute
    #[arg(long)]
    pub(crate) quick: bool,

    /// Run fixed intervals from 1 s to 1 ms too, and compare each policy with the best of them in
    /// hindsight  [default: yes, unless --quick or --policies is given]
    #[arg(long)]
    pub(crate) sweep: bool,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ReplayArguments {
    /// deadline, ladder, seed, halving or fixed:DURATION, as in fixed:10ms
    #[arg(long, value_name = "P")]
    pub(crate) policy: PolicyName,

    /// Entries of each vCPU's ring, a power of two; its soft limit is the recorded one if the trace
    /// is of such rings, else that of a host without Intel PML
    #[arg(long, value_name = "N", value_parser = ring_entries, allow_negative_numbers = true)]
    pub(crate) ring_entries: u32,

    /// vCPUs of the recorded guest; without a column 'fullest', each is taken to have dirtied an
    /// even share
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = vcpus, allow_negative_numbers = true)]
    pub(crate) vcpus: u16,

    /// Print one JSON object on each line
    #[arg(long)]
    pub(crate) json: bool,

    /// The trace, or - for standard input
    #[arg(value_name = "FILE.csv")]
    pub(crate) file: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SoakArguments {
    /// Where to run: auto takes KVM where it works, else the mock, and says why on stderr
    #[arg(long, value_enum, default_value_t = BackendName::Auto)]
    pub(crate) backend: BackendName,

    /// Entries of each vCPU's ring, a power of two; on the mock, the most of them  [default: all
    /// sizes that the host offers]
    #[arg(long, value_name = "N", value_parser = ring_entries, allow_negative_numbers = true)]
    pub(crate) ring_entries: Option<u32>,

    /// vCPUs of each guest; on the mock, the most of them  [default: 1 to 4; 1 to 8 on the mock]
    #[arg(long, value_name = "N", value_parser = vcpus, allow_negative_numbers = true)]
    pub(crate) vcpus: Option<u16>,

    /// Memory of each guest on KVM, all vCPUs together, as in 64M  [default: 2 to 100 MiB]
    #[arg(long, value_name = "SIZE", value_parser = units::size_bytes, allow_hyphen_values = true)]
    pub(crate) mem: Option<u64>,

    /// How long to go on, as in 10m or 30s
    #[arg(long, default_value = "10m", value_parser = units::run_duration, allow_hyphen_values = true)]
    pub(crate) duration: Duration,

    /// Decides what is done  [default: another one each time]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) seed: Option<u64>,

    /// Number of the first guest, to run one of an earlier soak again
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub(crate) first_vm: u64,

    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendName {
    Auto,
    Kvm,
    Mock,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RingFullName {
    Chunk,
    Whole,
}

/// Parses a number of entries. Which powers of two are allowed depends on the host.
fn ring_entries(text: &str) -> Result<u32, String> {
    units::whole(text, 0, u32::MAX)
        .map_err(|_| format!("give a power of two up to {MAX_ENTRIES}, as in 4096"))
}

fn vcpus(text: &str) -> Result<u16, String> {
    units::whole(text, 1, u16::MAX)
}

fn rounds(text: &str) -> Result<u32, String> {
    units::whole(text, 1, MAX_ROUNDS)
}

impl RingFullName {
    pub(crate) fn mode(self) -> RingFullMode {
        match self {
            Self::Chunk => RingFullMode::default(),
            Self::Whole => RingFullMode::Whole,
        }
    }
}

/// The ring of the main job: the presets are made for it. The hot set fits, and the storm doesn't.
const QUICK_RING_ENTRIES: &str = "4096";

impl CompareArguments {
    /// Returns the arguments of the main job: `compare --quick` with its ring.
    pub(crate) fn quick() -> Self {
        Self::parse(&["--quick", "--ring-entries", QUICK_RING_ENTRIES])
    }

    /// Parses arguments of `compare`, which must be valid.
    pub(crate) fn parse(arguments: &[&str]) -> Self {
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            arguments: CompareArguments,
        }
        Alone::parse_from(["dirty-ring"].iter().chain(arguments)).arguments
    }
}
