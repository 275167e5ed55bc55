//! A soak on the host's KVM.

use dirty_ring_guest::PAGE_BYTES;
use dirty_ring_guest::soak::{self, MOST_PAGES, SoakConfig, SoakReport};

use super::{Soak, Watch};
use crate::command::args::SoakArguments;
use crate::command::failure::{self, Failure};
use crate::command::host::{self, KvmHost};

/// The least memory of a guest, in pages: several slots have some each.
const LEAST_PAGES: u64 = 16;

/// Runs a soak on `host`.
pub(super) fn soak(
    host: &KvmHost,
    arguments: &SoakArguments,
    seed: u64,
    watch: &Watch,
) -> Result<Soak, Failure> {
    let config = check(host, arguments, seed)?;
    let report = soak::run(&host.kvm, config, |report| {
        watch.show(report.duration, report.vms, report.pages_checked);
    });
    match report {
        Ok(report) => Ok(of_report(report, arguments)),
        Err(error) => Err(Failure::Run(format!(
            "{}\n{}",
            failure::describe(&error),
            arguments.again("kvm", error.seed(), error.vm())
        ))),
    }
}

fn check(host: &KvmHost, arguments: &SoakArguments, seed: u64) -> Result<SoakConfig, Failure> {
    let vcpus = arguments.vcpus.map(usize::from);
    host.check_vcpus(vcpus.unwrap_or(1))?;
    if let Some(entries) = arguments.ring_entries {
        let size = host.support.size(entries);
        size.map_err(|error| Failure::Usage(failure::describe(&error)))?;
    }
    let pages = arguments.mem.map(|bytes| bytes / PAGE_BYTES);
    if pages.is_some_and(|pages| pages < LEAST_PAGES) {
        return Err(Failure::Usage(format!(
            "--mem leaves too few pages for several memory slots: give {}K or more",
            LEAST_PAGES * PAGE_BYTES / 1024
        )));
    }
    host::check_memory(pages.unwrap_or(MOST_PAGES) * PAGE_BYTES)?;
    Ok(SoakConfig {
        first_vm: arguments.first_vm,
        vcpus,
        ring_entries: arguments.ring_entries,
        pages,
        ..SoakConfig::new(arguments.duration, seed)
    })
}

fn of_report(report: SoakReport, arguments: &SoakArguments) -> Soak {
    let mut soak = Soak::new("kvm", report.seed);
    soak.took(report.vms, report.duration);
    let doings = report.doings.into_iter();
    Soak {
        page_writes: Some(report.page_writes),
        interrupted_resets: Some(report.interrupted_resets),
        pages_checked: report.pages_checked,
        pages_lost: report.pages_lost,
        doings: doings.map(|(name, times)| (name.into(), times)).collect(),
        loss: report.first_lost.map(|lost| {
            let again = arguments.again("kvm", lost.seed(), lost.vm());
            format!("{lost}\n{again}")
        }),
        ..soak
    }
}
