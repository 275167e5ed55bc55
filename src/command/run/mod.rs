//! One run of a workload under a policy, on KVM or on the mock.

#[cfg(target_arch = "x86_64")]
mod kvm;
mod mock;

use std::time::Duration;

use dirty_ring::core::size::RingSize;

use super::args::{RunArguments, What, Where};
use super::failure::{self, Failure};
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
    /// Distinct pages that the workload writes, of the vCPU that writes most.
    pub(crate) fn needed_pages(&self) -> u64 {
        (0..usize::from(self.place.vcpus))
            .map(|vcpu| u64::from(self.what.workload.max_pages(vcpu)))
            .max()
            .unwrap_or(0)
    }

    /// Distinct pages that each vCPU has: what the workload writes, or its share of `--mem`.
    pub(crate) fn pages_per_vcpu(&self) -> Result<u64, Failure> {
        let vcpus = u64::from(self.place.vcpus);
        let needed = self.needed_pages().max(1);
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

/// Checks the plan before anything is created. Returns the size of its rings.
fn check(kvm: Option<&KvmHost>, plan: &Plan) -> Result<RingSize, Failure> {
    match kvm {
        #[cfg(target_arch = "x86_64")]
        Some(host) => kvm::check(host, plan).map(|(size, _)| size),
        #[cfg(not(target_arch = "x86_64"))]
        Some(_) => mock::check(plan).map(|(size, _)| size),
        None => mock::check(plan).map(|(size, _)| size),
    }
}

/// `dirty-ring run`.
pub(crate) fn command(arguments: &RunArguments) -> Result<(), Failure> {
    let kvm = KvmHost::choose(arguments.place.backend)?;
    let mut plan = Plan {
        place: arguments.place.clone(),
        what: arguments.what.clone(),
        policy: arguments.policy,
        duration: arguments.what.duration.unwrap_or(DEFAULT_DURATION),
        trace: None,
    };
    // A plan that is wrong must not empty an earlier trace.
    let size = check(kvm.as_ref(), &plan)?;
    if let Some(path) = &arguments.trace {
        plan.trace = Some(TraceWriter::create(path, arguments.policy, size)?);
    }
    let bar = progress::bar(1);
    bar.set_message(format!("{} under {}", plan.what.workload, plan.policy));
    let report = run(kvm.as_ref(), &plan);
    bar.finish_and_clear();
    // What was recorded is kept, whatever became of the run.
    let traced = plan.trace.as_ref().map_or(Ok(()), TraceWriter::finish);
    let report = report?;
    traced?;
    warn_if_ring_is_small(&plan, &report);
    if arguments.json {
        output::print_json(&report)
    } else {
        output::print(&table::of_run(&report))
    }
}

/// Where the deadline controller can't win it says so.
fn warn_if_ring_is_small(plan: &Plan, report: &RunReport) {
    if plan.policy != PolicyName::Deadline || report.backend == "mock" || report.wakeups == 0 {
        return;
    }
    let advice = match report.smallest_safe_ring {
        Some(entries) if entries > report.ring_entries => {
            format!("use --ring-entries {entries} or more")
        }
        Some(_) => return,
        None => "and no larger one would be safe".into(),
    };
    failure::tell(&format!(
        "warning: a ring of {} entries is small for this host: at the rates and wake-ups of this \
         run it can be full before it is reaped; {advice}",
        report.ring_entries
    ));
}
