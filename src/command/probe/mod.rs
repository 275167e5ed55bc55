//! `dirty-ring probe`: what this host's KVM offers, and what dirty logging costs here.

#[cfg(target_arch = "x86_64")]
mod costs;

use serde::Serialize;

use super::args::ProbeArguments;
use super::failure::Failure;
use super::host::{Host, KvmHost};
use super::output;
use super::progress;
use super::safety::smallest_ring;
use super::table;

/// What `--json` prints.
#[derive(Serialize)]
struct Probe {
    host: Host,
    costs: Costs,
    /// The smallest ring, in entries, that is safe here at the measured rate and latency; `null`
    /// if none is.
    smallest_safe_ring: Option<u32>,
}

/// What dirty logging costs on this host: one vCPU, one word in each of 16384 pages round-robin.
#[derive(Clone, Debug, Serialize)]
struct Costs {
    /// Without logging.
    page_writes_per_s: f64,
    /// With logging, as fast as the guest can dirty pages that are protected.
    dirty_pages_per_s: f64,
    /// What a page costs the guest that is written after its reset, over one that isn't logged.
    dirty_fault_ns: f64,
    harvest_ns_per_page: f64,
    reset_ns_per_page: f64,
    /// How late an ordinary sleeper wakes; the reaper, which asks the kernel for precise timers,
    /// wakes earlier.
    wake_latency_us: Latency,
}

#[derive(Clone, Debug, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    max: f64,
}

/// Probes.
pub(crate) fn probe(arguments: &ProbeArguments) -> Result<(), Failure> {
    let kvm = KvmHost::open()?;
    let bar = progress::bar(1);
    bar.set_message("measuring");
    #[cfg(target_arch = "x86_64")]
    let costs = costs::measure(&kvm).map_err(|error| Failure::Run(error.to_string()))?;
    // `KvmHost::open` gives none where the guest can't run.
    #[cfg(not(target_arch = "x86_64"))]
    let costs: Costs = return Err(Failure::Host("the test guest is written for x86_64".into()));
    bar.finish_and_clear();
    let probe = Probe {
        host: Host::look(Some(&kvm)),
        smallest_safe_ring: smallest_ring(&kvm.support, costs.dirty_pages_per_s, |entries| {
            costs.latency_us(entries)
        }),
        costs,
    };
    if arguments.json {
        return output::print_json(&probe);
    }
    output::print(&probe.text())
}

impl Costs {
    /// The longest wake-up seen, and a pass over a full ring of `entries`.
    fn latency_us(&self, entries: u32) -> f64 {
        let per_page_ns = self.harvest_ns_per_page + self.reset_ns_per_page;
        self.wake_latency_us.max + f64::from(entries) * per_page_ns / 1e3
    }
}

impl Probe {
    fn text(&self) -> String {
        let unknown = || "unknown".to_owned();
        let mut lines = vec![
            ("kernel", self.host.kernel.clone().unwrap_or_else(unknown)),
            ("CPU", self.host.cpu.clone().unwrap_or_else(unknown)),
            ("CPUs", self.host.cpus.to_string()),
        ];
        if let Some(kvm) = &self.host.kvm {
            let bitmap = if kvm.with_bitmap { "yes" } else { "no" };
            let pml = if kvm.pml { "yes" } else { "no" };
            lines.extend([
                ("dirty ring", kvm.capability.to_owned()),
                (
                    "largest ring",
                    format!("{} entries per vCPU", kvm.max_ring_entries),
                ),
                (
                    "kept free",
                    format!("{} entries of each ring", kvm.reserved_entries),
                ),
                ("with bitmap", bitmap.to_owned()),
                ("PML", pml.to_owned()),
            ]);
        }
        let costs = &self.costs;
        let latency = &costs.wake_latency_us;
        lines.extend([
            ("page writes", table::per_second(costs.page_writes_per_s)),
            (
                "dirty pages",
                format!("{} at most", table::per_second(costs.dirty_pages_per_s)),
            ),
            (
                "dirty fault",
                format!("{:.0} ns a page", costs.dirty_fault_ns),
            ),
            (
                "harvest",
                format!("{:.1} ns a page", costs.harvest_ns_per_page),
            ),
            ("reset", format!("{:.1} ns a page", costs.reset_ns_per_page)),
            (
                "wake-up",
                format!(
                    "{:.0} us late, 1 in 100 {:.0} us, at worst {:.0} us",
                    latency.p50, latency.p99, latency.max
                ),
            ),
            (
                "safe ring",
                match self.smallest_safe_ring {
                    Some(entries) => {
                        format!("{entries} entries or more: no ring-full at that rate and latency")
                    }
                    None => "none: this host is too slow to wake for its rate".to_owned(),
                },
            ),
        ]);
        let text: Vec<String> = lines
            .iter()
            .map(|(name, value)| format!("{name:<13} {value}\n"))
            .collect();
        text.concat()
    }
}
