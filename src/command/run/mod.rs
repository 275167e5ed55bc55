//! One run of a workload under a policy, on KVM or on the mock.

#[cfg(target_arch = "x86_64")]
mod kvm;
mod mock;

use std::time::Duration;

use super::args::{RunArguments, What, Where};
use super::failure::Failure;
use super::host::KvmHost;
use super::output;
use super::policy::PolicyName;
use super::progress;
use super::report::RunReport;
use super::table;
use super::trace::TraceWriter;

/// How long a run lasts by default.
pub(crate) const DEFAULT_DURATION: Duration = Duration::from_secs(4);

/// A run, planned.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) place: Where,
    pub(crate) what: What,
    pub(crate) policy: PolicyName,
    pub(crate) duration: Duration,
    pub(crate) trace: Option<TraceWriter>,
}

impl Plan {
    /// Distinct pages that each vCPU has: what the workload writes, or its share of `--mem`.
    pub(crate) fn pages_per_vcpu(&self) -> Result<u64, Failure> {
        let vcpus = u64::from(self.place.vcpus);
        let needed = (0..usize::from(self.place.vcpus))
            .map(|vcpu| u64::from(self.what.workload.max_pages(vcpu)))
            .max()
            .unwrap_or(0)
            .max(1);
        let Some(bytes) = self.place.mem else {
            return Ok(needed);
        };
        let given = bytes / PAGE_BYTES / vcpus;
        if given < needed {
            return Err(Failure::Usage(format!(
                "--mem leaves each vCPU (of {vcpus}) {}, and the workload writes {needed}: give \
                 {}K or more",
                table::counted(given, "page"),
                needed * vcpus * PAGE_BYTES / 1024
            )));
        }
        Ok(given)
    }
}

/// Bytes of a guest page.
const PAGE_BYTES: u64 = 4096;

/// Runs the plan: on `kvm`, or on the mock where there is none.
pub(crate) fn run(kvm: Option<&KvmHost>, plan: &Plan) -> Result<RunReport, Failure> {
    match kvm {
        #[cfg(target_arch = "x86_64")]
        Some(host) => kvm::run(host, plan),
        // `KvmHost::open` gives none where the guest can't run.
        #[cfg(not(target_arch = "x86_64"))]
        Some(_) => mock::run(plan),
        None => mock::run(plan),
    }
}

/// `dirty-ring run`.
pub(crate) fn command(arguments: &RunArguments) -> Result<(), Failure> {
    let kvm = KvmHost::choose(arguments.place.backend)?;
    let trace = arguments.trace.as_deref().map(TraceWriter::create);
    let plan = Plan {
        place: arguments.place.clone(),
        what: arguments.what.clone(),
        policy: arguments.policy,
        duration: arguments.what.duration.unwrap_or(DEFAULT_DURATION),
        trace: trace.transpose()?,
    };
    let bar = progress::bar(1);
    bar.set_message(format!("{} under {}", plan.what.workload, plan.policy));
    let report = run(kvm.as_ref(), &plan);
    bar.finish_and_clear();
    // What was recorded is kept, whatever became of the run.
    if let Some(trace) = &plan.trace {
        trace.finish()?;
    }
    let report = report?;
    if arguments.json {
        output::print_json(&report)
    } else {
        output::print(&table::of_run(&report))
    }
}
