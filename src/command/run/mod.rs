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
use super::safety::SafeRing;
use super::table;
use super::trace::TraceWriter;

/// How long a run lasts by default.
pub(crate) const DEFAULT_DURATION: Duration = Duration::from_secs(4);

/// What to run, and where.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) place: Where,
    pub(crate) what: What,
    pub(crate) policy: PolicyName,
    pub(crate) duration: Duration,
    pub(crate) trace: Option<TraceWriter>,
}

impl Plan {
    /// Returns the distinct pages that the workload writes on the vCPU that writes most.
    pub(crate) fn needed_pages(&self) -> u64 {
        (0..usize::from(self.place.vcpus))
            .map(|vcpu| u64::from(self.what.workload.max_pages(vcpu)))
            .max()
            .unwrap_or(0)
    }

    /// Returns the distinct pages that each vCPU has: what the workload writes, or its share of
    /// `--mem`.
    pub(crate) fn pages_per_vcpu(&self) -> Result<u64, Failure> {
        let vcpus = u64::from(self.place.vcpus);
        let needed = self.needed_pages().max(1);
        let Some(bytes) = self.place.mem else {
            return Ok(needed);
        };
        let given = bytes / PAGE_BYTES / vcpus;
        if given < needed {
            return Err(Failure::Usage(format!(
                "--mem leaves each vCPU {}, but the workload writes {needed}: give {}K or more \
                 for {}",
                table::counted(given, "page"),
                needed * vcpus * PAGE_BYTES / 1024,
                table::counted(vcpus, "vCPU"),
            )));
        }
        Ok(given)
    }
}

/// Bytes of a guest page.
const PAGE_BYTES: u64 = 4096;

/// Runs the plan on `kvm`, or on the mock where that is `None`.
pub(crate) fn run(kvm: Option<&KvmHost>, plan: &Plan) -> Result<RunReport, Failure> {
    match kvm {
        #[cfg(target_arch = "x86_64")]
        Some(host) => kvm::run(host, plan),
        // `KvmHost::open` fails where the guest can't run.
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

/// Runs `dirty-ring run`.
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
    // What was recorded is kept even if the run failed.
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

/// Warns that the ring is too small for the deadline controller on this host.
fn warn_if_ring_is_small(plan: &Plan, report: &RunReport) {
    if !plan.policy.is_deadline() || report.backend == "mock" || report.wakeups == 0 {
        return;
    }
    let advice = match report.smallest_safe_ring {
        SafeRing::Entries(entries) if entries > report.ring_entries => {
            format!("use --ring-entries {entries} or more")
        }
        SafeRing::NoneIsSafe => "no larger ring would be safe either".into(),
        SafeRing::Entries(_) | SafeRing::Unknown => return,
    };
    failure::warn(&format!(
        "warning: a ring of {} entries is small for this host: at the dirty rates and wake-ups of \
         this run it can be full before it is reaped; {advice}",
        report.ring_entries
    ));
}
