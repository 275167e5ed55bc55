//! A run on the host's KVM.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dirty_ring::core::controller::{Measurement, Policy};
use dirty_ring::core::planner::PassRecord;
use dirty_ring::core::size::RingSize;
use dirty_ring::kvm::ReaperStats;
use dirty_ring_guest::{
    CallbackError, Guest, GuestConfig, GuestError, ReapedGuest, Reaping, RunningGuest, VcpuParams,
};
use dirty_ring_workload::{Stalls, Workload};

use super::{PAGE_BYTES, Plan};
use crate::command::failure::{self, Failure};
use crate::command::host::{self, KvmHost};
use crate::command::report::{RunReport, Stall, VcpuReport, per_million, per_second};
use crate::command::safety::SafeRing;

/// Memory slots of the guest: more than one, as in any real VMM.
const DATA_SLOTS: u64 = 2;

/// The longest time between two checks whether a vCPU has failed.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Checks `plan` against `host`. Returns the rings and the guest that it takes.
pub(super) fn check(host: &KvmHost, plan: &Plan) -> Result<(RingSize, GuestConfig), Failure> {
    let size = host
        .support
        .size(plan.place.ring_entries.unwrap_or(host.support.max_entries))
        .map_err(|error| Failure::Usage(failure::describe(&error)))?;
    let vcpus = plan.place.vcpus.into();
    host.check_vcpus(vcpus)?;
    let data_pages_per_vcpu = plan.pages_per_vcpu()?;
    let config = GuestConfig {
        vcpus,
        data_pages_per_vcpu,
        // A slot has at least one page.
        data_slots: DATA_SLOTS.min(data_pages_per_vcpu * vcpus as u64) as usize,
        ..GuestConfig::default()
    };
    host::check_memory(config.data_pages_per_vcpu * PAGE_BYTES * config.vcpus as u64)?;
    Ok((size, config))
}

/// Runs `plan` on `host`.
pub(super) fn run(host: &KvmHost, plan: &Plan) -> Result<RunReport, Failure> {
    let (size, config) = check(host, plan)?;
    let window = match plan.policy.controller(size) {
        None => without_logging(host, plan, config),
        Some(controller) => with_reaper(host, plan, size, config, controller),
    };
    window
        .map(|window| window.report(host, plan, size))
        .map_err(|error| failed(&error))
}

/// Returns wrong usage for a guest that can't be configured, and a failed run for all else.
fn failed(error: &CallbackError) -> Failure {
    match error.downcast_ref() {
        Some(
            GuestError::VcpuCount { .. }
            | GuestError::DataPages { .. }
            | GuestError::SlotCount { .. }
            | GuestError::PagesOutOfRange { .. },
        ) => Failure::Usage(failure::describe(error.as_ref())),
        _ => Failure::Run(failure::describe(error.as_ref())),
    }
}

/// The figures of a run, from the beginning to the end of the workload.
struct Window {
    seconds: f64,
    page_writes: u64,
    stats: Option<ReaperStats>,
    stall: Stall,
    /// The 99th percentile of the time from a planned wake-up to the end of its pass.
    reaction_us: Option<f64>,
}

/// Runs the guest without logging.
fn without_logging(
    host: &KvmHost,
    plan: &Plan,
    config: GuestConfig,
) -> Result<Window, CallbackError> {
    let guest = Guest::new(&host.kvm, config)?;
    let running = RunningGuest::start(guest.create_vcpus()?, |_| {
        Ok::<(), std::convert::Infallible>(())
    })?;
    let before = guest.warm_up(&running, plan.needed_pages())?;
    let (seconds, page_writes) = play(&guest, running, &before, plan)?;
    Ok(Window {
        seconds,
        page_writes,
        stats: None,
        stall: Stall::default(),
        reaction_us: None,
    })
}

/// Runs the guest with a reaper.
fn with_reaper(
    host: &KvmHost,
    plan: &Plan,
    size: RingSize,
    config: GuestConfig,
    controller: Policy,
) -> Result<Window, CallbackError> {
    let stalls = Arc::new(Mutex::new(Stalls::default()));
    let reactions = Arc::new(Mutex::new(Stalls::default()));
    let reaping = Reaping::new(size.entries())
        .ring_full_mode(plan.what.ring_full.mode())
        .warm_up(plan.needed_pages())
        .around_ring_full({
            let stalls = Arc::clone(&stalls);
            move |handle| {
                let begin = Instant::now();
                handle();
                let stall_ns = u64::try_from(begin.elapsed().as_nanos());
                lock(&stalls).record(stall_ns.unwrap_or(u64::MAX));
            }
        })
        .events({
            let trace = plan.trace.clone();
            let reactions = Arc::clone(&reactions);
            move |pass: &PassRecord| {
                let Measurement { late, took, .. } = pass.measurement;
                let reaction = late + took;
                lock(&reactions).record(reaction.0.saturating_mul(1000));
                if let Some(trace) = &trace {
                    trace.write(pass);
                }
            }
        });
    let vm = ReapedGuest::start(&host.kvm, config, reaping, |_| controller)?;
    let (seconds, page_writes) = play(&vm.guest, vm.running, &vm.warm_up_writes, plan)?;
    let stopped = vm.reaper.stop()?;
    check_lost(&vm.guest, &vm.warm_up_writes)?;
    Ok(Window {
        seconds,
        page_writes,
        stats: Some(stopped.stats),
        stall: Stall::of(&lock(&stalls)),
        reaction_us: Stall::of(&lock(&reactions)).p99,
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the workload's phases for the plan's duration and stops the vCPUs, which had made `before`
/// page writes. Returns the seconds that passed and the page writes in them.
fn play(
    guest: &Guest,
    running: RunningGuest,
    before: &[u64],
    plan: &Plan,
) -> Result<(f64, u64), CallbackError> {
    let begin = Instant::now();
    let mut ends_us = vec![0; guest.params().len()];
    loop {
        let elapsed = begin.elapsed();
        if elapsed >= plan.duration {
            break;
        }
        begin_phases(&plan.what.workload, guest.params(), &mut ends_us, elapsed)?;
        if running.failed().is_some() {
            // The stop returns the error.
            break;
        }
        let next_us = ends_us.iter().copied().min().unwrap_or(u64::MAX);
        let next = Duration::from_micros(next_us).min(plan.duration);
        std::thread::sleep(next.saturating_sub(begin.elapsed()).min(CHECK_INTERVAL));
    }
    let outcomes = running.stop()?;
    let seconds = begin.elapsed().as_secs_f64();
    let all: u64 = outcomes.iter().map(|vcpu| vcpu.page_writes).sum();
    Ok((seconds, all - before.iter().sum::<u64>()))
}

/// Begins the next phase of each vCPU whose last one has ended.
fn begin_phases(
    workload: &Workload,
    params: &[VcpuParams],
    ends_us: &mut [u64],
    elapsed: Duration,
) -> Result<(), CallbackError> {
    let now_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    for (vcpu, (params, end_us)) in params.iter().zip(ends_us).enumerate() {
        if now_us >= *end_us {
            let (phase, until_us) = workload.phase_at(vcpu, now_us);
            params.set(phase.pages.into(), phase.spin.into())?;
            *end_us = until_us;
        }
    }
    Ok(())
}

/// Checks that every page written since logging began was published.
fn check_lost(guest: &Guest, since: &[u64]) -> Result<(), CallbackError> {
    let lost = guest.unlogged_pages(since)?;
    if lost > 0 {
        return Err(format!(
            "{lost} pages were written and never logged: this host's dirty ring loses pages; don't \
             rely on it, and report the kernel's version"
        )
        .into());
    }
    Ok(())
}

impl Window {
    /// Finds the smallest ring that would have been safe in this run.
    fn smallest_safe_ring(&self, host: &KvmHost) -> SafeRing {
        let vcpus = self.stats.iter().flat_map(|stats| &stats.vcpus);
        let rate_per_s = vcpus.map(|vcpu| vcpu.max_rate_per_s).max();
        let (Some(rate_per_s), Some(reaction_us)) = (rate_per_s, self.reaction_us) else {
            return SafeRing::Unknown;
        };
        let size = |entries| host.support.size(entries).ok();
        SafeRing::find(size, rate_per_s as f64, |_| reaction_us)
    }

    fn report(self, host: &KvmHost, plan: &Plan, size: RingSize) -> RunReport {
        let stats = self.stats.as_ref();
        let totals = stats.map(|stats| stats.totals).unwrap_or_default();
        let pages_harvested = totals.reaper_harvested + totals.ring_full_harvested;
        let ring_fulls = stats.map_or(0, ReaperStats::ring_fulls);
        let per_vcpu = match stats {
            Some(stats) => stats
                .vcpus
                .iter()
                .map(|vcpu| VcpuReport {
                    ring_fulls: vcpu.ring.ring_fulls,
                    pages_harvested: vcpu.ring.harvested,
                    dirty_pages_per_s: Some(per_second(vcpu.ring.harvested, self.seconds)),
                    peak_occupancy: Some(vcpu.ring.peak_occupancy),
                })
                .collect(),
            None => vec![VcpuReport::default(); plan.place.vcpus.into()],
        };
        RunReport {
            policy: plan.policy.to_string(),
            backend: "kvm",
            workload: plan.what.workload.to_string(),
            ring_entries: size.entries(),
            ring_capacity: size.soft_limit(),
            vcpus: plan.place.vcpus,
            duration_s: self.seconds,
            page_writes: self.page_writes,
            page_writes_per_s: per_second(self.page_writes, self.seconds),
            ring_fulls,
            ring_fulls_per_million_pages: per_million(ring_fulls, pages_harvested),
            ring_full_stall_us: self.stall,
            pages_harvested,
            harvests: stats.map_or(0, ReaperStats::harvests),
            resets: totals.resets,
            wakeups: stats.map_or(0, |stats| stats.wakeups),
            peeks: totals.peeks,
            reaper_cpu_s: stats
                .and_then(|stats| stats.cpu)
                .map(|cpu| cpu.0 as f64 / 1e6),
            smallest_safe_ring: self.smallest_safe_ring(host),
            per_vcpu,
        }
    }
}
