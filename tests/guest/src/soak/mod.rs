//! A soak: guests that write at random, a host that does at random all that a VMM may do to a
//! tracker, and a comparison of every page with its copy.
//!
//! The copy of a page is taken when the page is published, as a migration takes it. A page that
//! differs from its copy when everything was published is lost. This is checked in two ways: while
//! the vCPUs are paused, for every page; and at each flush of running vCPUs, for every page that
//! differed before the flush, which must have been copied again.
//!
//! Everything that the host decides follows from the seed and the VM's number. What the vCPUs and
//! the reaper do meanwhile depends on the host's scheduler.

mod copies;
mod dice;
mod doings;
mod outage;
mod outcome;
mod shape;
mod slots;
mod tracking;
mod vm;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kvm_ioctls::Kvm;

use dice::Dice;
use doings::Doing;
use outcome::{Ended, Tally};
pub use outcome::{LostPage, SoakError};
use vm::SoakVm;

/// What a soak does, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SoakConfig {
    /// How long it lasts. It ends between two doings.
    pub duration: Duration,
    /// Decides what is done.
    pub seed: u64,
    /// Number of the first VM, from 0 on: a VM of an earlier soak of the same seed can be run again.
    pub first_vm: u64,
    /// vCPUs of each VM; by default 1 to 4.
    pub vcpus: Option<usize>,
    /// Entries of each ring; by default all sizes from 1024 entries on that the host offers.
    pub ring_entries: Option<u32>,
    /// Data pages of each VM, all vCPUs together; by default 600 to 24000.
    pub pages: Option<u64>,
}

impl SoakConfig {
    /// Creates the configuration of a soak of `duration` that decides everything by `seed`.
    #[must_use]
    pub const fn new(duration: Duration, seed: u64) -> Self {
        Self {
            duration,
            seed,
            first_vm: 0,
            vcpus: None,
            ring_entries: None,
            pages: None,
        }
    }
}

/// What a soak did so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SoakReport {
    /// The seed.
    pub seed: u64,
    /// How long it has lasted.
    pub duration: Duration,
    /// VMs that were begun.
    pub vms: u64,
    /// Page writes of all vCPUs of VMs that have ended.
    pub page_writes: u64,
    /// Comparisons of a page with its copy that would have found the page lost.
    pub pages_checked: u64,
    /// Pages lost.
    pub pages_lost: u64,
    /// The first lost page. It ends the soak.
    pub first_lost: Option<LostPage>,
    /// How often each thing was done, by name. There is an entry for everything that a soak does.
    pub doings: BTreeMap<&'static str, u64>,
}

/// Runs one VM after another on `kvm`, until the duration is over or a page is lost. Calls
/// `progress` after each doing.
///
/// # Errors
///
/// If a guest or a tracker fails. A lost page is no error: see [`SoakReport::first_lost`].
pub fn run(
    kvm: &Kvm,
    config: SoakConfig,
    mut progress: impl FnMut(&SoakReport),
) -> Result<SoakReport, SoakError> {
    let begin = Instant::now();
    let mut report = SoakReport {
        seed: config.seed,
        duration: Duration::ZERO,
        vms: 0,
        page_writes: 0,
        pages_checked: 0,
        pages_lost: 0,
        first_lost: None,
        doings: doings::NAMES.into_iter().map(|name| (name, 0)).collect(),
    };
    for number in config.first_vm.. {
        report.vms += 1;
        let mut tally = Tally::default();
        let ended = run_vm(kvm, &config, number, &mut tally, |tally| {
            report.pages_checked += std::mem::take(&mut tally.pages_checked);
            report.page_writes += std::mem::take(&mut tally.page_writes);
            for (name, times) in std::mem::take(&mut tally.doings) {
                *report.doings.entry(name).or_default() += times;
            }
            report.duration = begin.elapsed();
            progress(&report);
            report.duration < config.duration
        });
        let place = tally.place(config.seed, number);
        match ended {
            Ok(()) => {}
            Err(Ended::Lost(loss)) => {
                report.pages_lost = loss.pages;
                report.first_lost = Some(LostPage::new(place, loss));
            }
            Err(Ended::Failed(source)) => return Err(SoakError::new(place, source)),
        }
        report.duration = begin.elapsed();
        if report.first_lost.is_some() || report.duration >= config.duration {
            break;
        }
    }
    Ok(report)
}

/// Runs VM `number`. After each doing, `goes_on` takes the tally's figures and says whether there
/// is time for another.
fn run_vm(
    kvm: &Kvm,
    config: &SoakConfig,
    number: u64,
    tally: &mut Tally,
    mut goes_on: impl FnMut(&mut Tally) -> bool,
) -> Result<(), Ended> {
    let mut dice = Dice::new(config.seed, number);
    let mut vm = SoakVm::start(kvm, config, &mut dice, tally)?;
    let mut played = Ok(());
    for doing in Doing::deck(&mut dice) {
        doings::rest(&mut dice);
        played = vm.perform(doing, &mut dice, tally);
        played = played.and_then(|()| vm.check_vcpus());
        if !goes_on(tally) || played.is_err() {
            break;
        }
    }
    let ended = match played {
        Ok(()) => vm.end(&mut dice, tally),
        Err(ended) => Err(vm.why(ended)),
    };
    goes_on(tally);
    ended
}
