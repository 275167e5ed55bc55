//! `dirty-ring probe`: what this host's KVM offers, and what dirty logging costs here.

mod costs;
#[cfg(target_arch = "x86_64")]
mod measure;

use serde::Serialize;

use super::args::ProbeArguments;
use super::failure::{self, Failure};
use super::host::{Host, KvmHost};
use super::output;
use super::progress;
use super::safety::SafeRing;
use super::table::{per_second, unknown_or, yes_or_no};
use costs::Costs;

/// What `--json` prints.
#[derive(Serialize)]
struct Probe {
    host: Host,
    costs: Costs,
    /// In entries; `null` where it is unknown, or no ring is safe.
    smallest_safe_ring: SafeRing,
}

/// Runs `dirty-ring probe`.
pub(crate) fn probe(arguments: &ProbeArguments) -> Result<(), Failure> {
    let kvm = KvmHost::open()?;
    let bar = progress::bar(1);
    bar.set_message("measuring");
    #[cfg(target_arch = "x86_64")]
    let costs =
        measure::measure(&kvm).map_err(|error| Failure::Run(failure::describe(error.as_ref())))?;
    // `KvmHost::open` fails where the guest can't run.
    #[cfg(not(target_arch = "x86_64"))]
    let costs: Costs = return Err(Failure::Host("the test guest is written for x86_64".into()));
    bar.finish_and_clear();
    let probe = Probe {
        host: Host::describe(Some(&kvm)),
        smallest_safe_ring: costs.smallest_safe_ring(|entries| kvm.support.size(entries).ok()),
        costs,
    };
    if arguments.json {
        return output::print_json(&probe);
    }
    output::print(&probe.text())
}

impl Probe {
    fn text(&self) -> String {
        let text = |known: &Option<String>| unknown_or(known.as_deref(), str::to_owned);
        let mut lines = vec![
            ("kernel", text(&self.host.kernel)),
            ("CPU", text(&self.host.cpu)),
            ("CPUs", self.host.cpus.to_string()),
        ];
        if let Some(kvm) = &self.host.kvm {
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
                ("with bitmap", yes_or_no(kvm.with_bitmap)),
                ("PML", yes_or_no(kvm.pml)),
            ]);
        }
        lines.extend(self.cost_lines());
        lines.push(("safe ring", self.safe_ring()));
        let text: Vec<String> = lines
            .iter()
            .map(|(name, value)| format!("{name:<13} {value}\n"))
            .collect();
        text.concat()
    }

    fn cost_lines(&self) -> [(&'static str, String); 6] {
        let costs = &self.costs;
        let latency = &costs.wake_latency_us;
        [
            (
                "page writes",
                unknown_or(costs.page_writes_per_s, per_second),
            ),
            (
                "dirty pages",
                unknown_or(costs.dirty_pages_per_s, |rate| {
                    format!("{} at most", per_second(rate))
                }),
            ),
            (
                "dirty fault",
                unknown_or(costs.dirty_fault_ns, |ns| format!("{ns:.0} ns a page")),
            ),
            (
                "harvest",
                unknown_or(costs.harvest_ns_per_page, |ns| format!("{ns:.1} ns a page")),
            ),
            (
                "reset",
                unknown_or(costs.reset_ns_per_page, |ns| format!("{ns:.1} ns a page")),
            ),
            (
                "wake-up",
                format!(
                    "{:.0} us late in the median, {:.0} us in 1 of 100, {:.0} us at worst",
                    latency.p50, latency.p99, latency.max
                ),
            ),
        ]
    }

    fn safe_ring(&self) -> String {
        match self.smallest_safe_ring {
            SafeRing::Entries(entries) => {
                format!("{entries} entries or more: no ring-full at that rate and latency")
            }
            SafeRing::NoneIsSafe => {
                "none: at that rate and latency even the largest ring can be full before it is \
                 reaped"
                    .to_owned()
            }
            SafeRing::Unknown => {
                "unknown: the guest was too slow to fill a ring; probe again when \
                                  the host is less busy"
                    .to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::costs::{Latency, Reaped, Storm};
    use super::*;

    #[test]
    fn what_was_not_measured_is_unknown() {
        let latency = Latency {
            p50: 60.0,
            p99: 90.0,
            max: 200.0,
        };
        let costs = Costs::of(
            Storm::default(),
            Storm::default(),
            Reaped::default(),
            latency,
        );
        let probe = Probe {
            host: Host::describe(None),
            smallest_safe_ring: costs.smallest_safe_ring(|_| None),
            costs,
        };
        let text = probe.text();
        for name in [
            "page writes",
            "dirty pages",
            "dirty fault",
            "harvest",
            "reset",
            "safe ring",
        ] {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            let value = line[name.len()..].trim();
            assert!(value.starts_with("unknown"), "{line}");
        }
        let json = serde_json::to_value(&probe).unwrap();
        assert!(json["smallest_safe_ring"].is_null(), "{json}");
        assert!(json["costs"]["harvest_ns_per_page"].is_null(), "{json}");
    }
}
