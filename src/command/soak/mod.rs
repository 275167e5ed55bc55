//! `dirty-ring soak`: all that a VMM may do to a tracker, at random, and a search for lost pages.

#[cfg(target_arch = "x86_64")]
mod kvm;
mod mock;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use indicatif::ProgressBar;
use serde::Serialize;

use super::args::SoakArguments;
use super::failure::Failure;
use super::host::KvmHost;
use super::output;
use super::progress;
use super::table::{self, counted};

/// What a soak did.
#[derive(Debug, Serialize)]
struct Soak {
    seed: u64,
    backend: &'static str,
    duration_s: f64,
    vms: u64,
    vms_per_minute: f64,
    /// `null` where the backend doesn't count them.
    page_writes: Option<u64>,
    /// `null` where the backend doesn't count them.
    interrupted_resets: Option<u64>,
    pages_checked: u64,
    pages_lost: u64,
    doings: BTreeMap<String, u64>,
    /// Where a page was lost, and how to run that VM again: two lines.
    #[serde(skip)]
    loss: Option<String>,
}

/// Shows how far a soak is, on a terminal.
struct Watch {
    bar: ProgressBar,
}

impl Watch {
    fn new(duration: Duration) -> Self {
        Self {
            bar: progress::bar(duration.as_secs()),
        }
    }

    fn show(&self, elapsed: Duration, vms: u64, pages_checked: u64) {
        self.bar.set_position(elapsed.as_secs());
        self.bar.set_message(format!(
            "s, {}, {} checked",
            counted(vms, "VM"),
            counted(pages_checked, "page")
        ));
    }
}

impl SoakArguments {
    /// Says how to run a VM again.
    fn again(&self, backend: &str, seed: u64, vm: u64) -> String {
        let mut command =
            format!("dirty-ring soak --backend {backend} --seed {seed} --first-vm {vm}");
        if let Some(entries) = self.ring_entries {
            command += &format!(" --ring-entries {entries}");
        }
        if let Some(vcpus) = self.vcpus {
            command += &format!(" --vcpus {vcpus}");
        }
        if let Some(bytes) = self.mem {
            command += &format!(" --mem {bytes}");
        }
        format!("please report it, and run that VM again with '{command}'")
    }
}

/// Runs `dirty-ring soak`.
pub(crate) fn soak(arguments: &SoakArguments) -> Result<(), Failure> {
    let kvm = KvmHost::choose(arguments.backend)?;
    // 32 bits are easier to type.
    let seed = arguments
        .seed
        .unwrap_or_else(|| RandomState::new().hash_one(0) >> 32);
    let watch = Watch::new(arguments.duration);
    let soak = match &kvm {
        #[cfg(target_arch = "x86_64")]
        Some(host) => kvm::soak(host, arguments, seed, &watch),
        // `KvmHost::open` fails where the guest can't run.
        #[cfg(not(target_arch = "x86_64"))]
        Some(_) => mock::soak(arguments, seed, &watch),
        None => mock::soak(arguments, seed, &watch),
    };
    watch.bar.finish_and_clear();
    let soak = soak?;
    if arguments.json {
        output::print_json(&soak)?;
    } else {
        output::print(&soak.text())?;
    }
    soak.loss.map_or(Ok(()), |loss| Err(Failure::Run(loss)))
}

impl Soak {
    fn new(backend: &'static str, seed: u64) -> Self {
        Self {
            seed,
            backend,
            duration_s: 0.0,
            vms: 0,
            vms_per_minute: 0.0,
            page_writes: None,
            interrupted_resets: None,
            pages_checked: 0,
            pages_lost: 0,
            doings: BTreeMap::new(),
            loss: None,
        }
    }

    /// Notes how long the soak and its `vms` VMs took.
    fn took(&mut self, vms: u64, duration: Duration) {
        self.vms = vms;
        self.duration_s = duration.as_secs_f64();
        self.vms_per_minute = vms as f64 / self.duration_s * 60.0;
    }

    fn text(&self) -> String {
        let lines = [
            (
                "soak",
                format!(
                    "{} on {}, seed {}",
                    table::micros(Some(self.duration_s * 1e6)),
                    self.backend,
                    self.seed
                ),
            ),
            (
                "VMs",
                format!("{}, {:.0} a minute", self.vms, self.vms_per_minute),
            ),
            (
                "page writes",
                table::unknown_or(self.page_writes, |writes| writes.to_string()),
            ),
            (
                "interrupted",
                table::unknown_or(self.interrupted_resets, |resets| counted(resets, "reset")),
            ),
            ("pages checked", self.pages_checked.to_string()),
            ("pages lost", self.pages_lost.to_string()),
        ];
        let lines = lines.map(|(name, value)| format!("{name:<15} {value}\n"));
        let doings = self.doings.iter();
        let rows: Vec<_> = doings
            .map(|(name, times)| vec![name.clone(), times.to_string()])
            .collect();
        lines.concat() + "\n" + &table::of_figures(&["what was done", "times"], &rows)
    }
}
