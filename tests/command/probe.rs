//! `dirty-ring probe`.

use crate::contract::{number, whole};
use crate::kvm::kvm;
use crate::support::dirty_ring;

#[test]
fn a_probe_prints_what_kvm_offers_and_what_logging_costs() {
    let Some(kvm) = kvm() else { return };
    let json = dirty_ring("probe --json").json();
    let host = &json["host"];
    assert!(whole(host, "cpus") > 0);
    let offer = &host["kvm"];
    assert_eq!(offer["api_version"], kvm.get_api_version());
    let support = dirty_ring::kvm::Support::probe(&kvm).unwrap();
    assert_eq!(offer["max_ring_entries"], support.max_entries);
    assert_eq!(offer["with_bitmap"], support.with_bitmap);
    assert_eq!(offer["pml"], support.cpu_log_entries > 0);
    let reserved = 64 + u64::from(support.cpu_log_entries);
    assert_eq!(whole(offer, "reserved_entries"), reserved);

    let safe = &json["smallest_safe_ring"];
    let is_ring = |entries: u64| entries.is_power_of_two() && entries <= 65536;
    assert!(
        safe.is_null() || safe.as_u64().is_some_and(is_ring),
        "{json}"
    );

    // On a host that is too busy, a cost is unknown; it is never 0.
    let costs = &json["costs"];
    for cost in [
        "page_writes_per_s",
        "dirty_pages_per_s",
        "dirty_fault_ns",
        "harvest_ns_per_page",
        "reset_ns_per_page",
    ] {
        let is_known = !costs[cost].is_null();
        assert!(!is_known || number(costs, cost) > 0.0, "{cost}: {costs}");
    }
    assert!(
        safe.is_null() || costs["dirty_pages_per_s"].is_number(),
        "{json}"
    );
    let late = &costs["wake_latency_us"];
    let [p50, p99, max] = ["p50", "p99", "max"].map(|field| number(late, field));
    assert!(p50 <= p99 && p99 <= max, "{late}");
}

#[test]
fn a_probe_prints_a_line_for_each_figure() {
    if kvm().is_none() {
        return;
    }
    let text = dirty_ring("probe").good();
    for name in [
        "kernel",
        "dirty ring",
        "largest ring",
        "harvest",
        "reset",
        "wake-up",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{text}");
    }
}
