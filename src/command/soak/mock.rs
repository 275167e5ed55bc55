//! A soak on the simulated VM.

use std::time::Instant;

use dirty_ring::core::size::RingSize;
use dirty_ring::mock::{self, SoakConfig, SoakReport};

use super::{Soak, Watch};
use crate::command::args::SoakArguments;
use crate::command::failure::{self, Failure};

/// Bytes of a page of the simulated host.
const PAGE_BYTES: u32 = 4096;

/// Runs a soak on the mock, one simulated VM after another until the duration is over.
pub(super) fn soak(arguments: &SoakArguments, seed: u64, watch: &Watch) -> Result<Soak, Failure> {
    let config = check(arguments)?;
    let begin = Instant::now();
    let mut soak = Soak::new("mock", seed);
    let mut vms = 0;
    for vm in arguments.first_vm.. {
        // All that happens to a VM follows from one number.
        let report = mock::soak(seed.wrapping_add(vm), &config);
        let report = report.map_err(|error| {
            Failure::Run(format!(
                "{}\n{}",
                failure::describe(&error),
                arguments.again("mock", seed, vm)
            ))
        })?;
        soak.add(report, || arguments.again("mock", seed, vm));
        vms += 1;
        let elapsed = begin.elapsed();
        watch.show(elapsed, vms, soak.pages_checked);
        if elapsed >= arguments.duration || soak.loss.is_some() {
            break;
        }
    }
    soak.took(vms, begin.elapsed());
    Ok(soak)
}

fn check(arguments: &SoakArguments) -> Result<SoakConfig, Failure> {
    if arguments.mem.is_some() {
        return Err(Failure::Usage(
            "--mem is for KVM: the mock's guests have the memory that they write; leave it out"
                .into(),
        ));
    }
    let mut config = SoakConfig::default();
    if let Some(vcpus) = arguments.vcpus {
        config.most_vcpus = vcpus.into();
    }
    if let Some(entries) = arguments.ring_entries {
        RingSize::new(entries, PAGE_BYTES, 0)
            .map_err(|error| Failure::Usage(failure::describe(&error)))?;
        config.most_ring_entries = entries;
    }
    Ok(config)
}

impl Soak {
    /// Adds what one simulated VM did; `again` says how to run it again.
    fn add(&mut self, report: SoakReport, again: impl FnOnce() -> String) {
        self.pages_checked += report.pages_checked;
        self.pages_lost += report.pages_lost;
        *self.page_writes.get_or_insert_default() += report.page_writes;
        if !report.is_sound() {
            self.loss = Some(format!(
                "the mock lost {} pages (last: {}), published {} before their reset and {} that don't \
                 exist, in VM {} ({})\n{}",
                report.pages_lost,
                report.lost_after.unwrap_or("nothing"),
                report.premature_publications,
                report.unregistered_publications,
                report.seed,
                report.shape,
                again()
            ));
        }
        for (name, times) in report.doings {
            *self.doings.entry(name.into()).or_default() += times;
        }
    }
}
