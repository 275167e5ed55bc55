//! A run on the simulated VM, in virtual time.

use dirty_ring::core::size::{MAX_ENTRIES, RingSize};
use dirty_ring::mock::{SimConfig, SimError, SimReport, Simulation};

use super::{PAGE_BYTES, Plan};
use crate::command::failure::{self, Failure};
use crate::command::policy::PolicyName;
use crate::command::report::{RunReport, Stall, VcpuReport, per_million, per_second};
use crate::command::safety::SafeRing;

/// Checks `plan`. Returns the rings and the simulation that it takes.
pub(super) fn check(plan: &Plan) -> Result<(RingSize, SimConfig), Failure> {
    let entries = plan.place.ring_entries.unwrap_or(MAX_ENTRIES);
    let size = RingSize::new(entries, PAGE_BYTES as u32, 0)
        .map_err(|error| Failure::Usage(failure::describe(&error)))?;
    plan.pages_per_vcpu()?;
    let config = SimConfig {
        vcpus: plan.place.vcpus.into(),
        workload: (*plan.what.workload).clone(),
        policy: plan.policy.controller(size),
        ring_full_mode: plan.what.ring_full.mode(),
        duration_us: u64::try_from(plan.duration.as_micros()).unwrap_or(u64::MAX),
        ..SimConfig::new(size)
    };
    config
        .check()
        .map_err(|error| Failure::Usage(failure::describe(&error)))?;
    Ok((size, config))
}

/// Runs `plan` on the mock.
pub(super) fn run(plan: &Plan) -> Result<RunReport, Failure> {
    let (size, config) = check(plan)?;
    let simulation =
        Simulation::new(config).map_err(|error| Failure::Usage(failure::describe(&error)))?;
    let observe = |step: &_| {
        if let Some(trace) = &plan.trace {
            trace.write(step);
        }
    };
    let (report, ()) = simulation.run(observe, |_| ()).map_err(failed)?;
    if !report.is_sound() {
        return Err(Failure::Run(format!(
            "the mock lost {} pages, published {} before their reset and {} that don't exist: this \
             is a defect of the reaper or of the mock; please report it with this command line",
            report.lost_pages, report.premature_publications, report.unregistered_publications
        )));
    }
    Ok(as_run(&report, plan, size))
}

fn failed(error: SimError) -> Failure {
    match error {
        SimError::Config(error) => Failure::Usage(failure::describe(&error)),
        error => Failure::Run(failure::describe(&error)),
    }
}

fn as_run(report: &SimReport, plan: &Plan, size: RingSize) -> RunReport {
    let seconds = report.duration_us as f64 / 1e6;
    let is_logged = plan.policy != PolicyName::NONE;
    RunReport {
        policy: plan.policy.to_string(),
        backend: "mock",
        workload: plan.what.workload.to_string(),
        ring_entries: size.entries(),
        ring_capacity: size.soft_limit(),
        vcpus: plan.place.vcpus,
        duration_s: seconds,
        page_writes: report.page_writes,
        page_writes_per_s: per_second(report.page_writes, seconds),
        ring_fulls: report.ring_fulls,
        ring_fulls_per_million_pages: per_million(report.ring_fulls, report.pages_harvested),
        ring_full_stall_us: Stall::of(&report.stalls),
        pages_harvested: report.pages_harvested,
        harvests: report.harvests,
        resets: report.resets,
        wakeups: report.wakeups,
        peeks: report.peeks,
        reaper_cpu_s: is_logged.then_some(report.reaper_busy_ns as f64 / 1e9),
        smallest_safe_ring: SafeRing::Unknown,
        per_vcpu: report
            .per_vcpu
            .iter()
            .map(|vcpu| VcpuReport {
                ring_fulls: vcpu.ring_fulls,
                pages_harvested: vcpu.pages_harvested,
                dirty_pages_per_s: is_logged.then(|| per_second(vcpu.pages_harvested, seconds)),
                peak_occupancy: is_logged.then_some(vcpu.peak_occupancy),
            })
            .collect(),
    }
}
