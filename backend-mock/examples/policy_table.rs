//! Prints what each policy makes of each workload: ring-fulls, guest throughput, stalls, and what
//! the reaper costs. Four seconds of virtual time each, one vCPU, a ring of 4096 entries.

use dirty_ring_core::collector::{DEFAULT_CHUNK, RingFullMode};
use dirty_ring_core::controller::Policy;
use dirty_ring_core::size::RingSize;
use dirty_ring_mock::{SimConfig, simulate};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ring = RingSize::new(4096, 4096, 0)?;
    let policies = [
        ("none", None),
        ("fixed:1s", Some(Policy::fixed(1_000_000)?)),
        ("fixed:100ms", Some(Policy::fixed(100_000)?)),
        ("fixed:10ms", Some(Policy::fixed(10_000)?)),
        ("fixed:5ms", Some(Policy::fixed(5_000)?)),
        ("seed", Some(Policy::seed(ring))),
        ("ladder", Some(Policy::ladder(ring))),
        ("halving", Some(Policy::halving(ring))),
        ("deadline", Some(Policy::deadline(ring))),
    ];
    let modes = [
        ("whole", RingFullMode::Whole),
        ("chunk", RingFullMode::Chunk(DEFAULT_CHUNK)),
    ];
    println!(
        "{:<8} {:<6} {:<12} {:>6} {:>10} {:>9} {:>9} {:>9} {:>8} {:>8}",
        "workload",
        "mode",
        "policy",
        "fulls",
        "writes/s",
        "p50 us",
        "max us",
        "total us",
        "wakeups",
        "busy us"
    );
    for workload in ["storm", "hot", "trickle"] {
        for (mode, ring_full_mode) in modes {
            for (name, policy) in policies {
                let report = simulate(SimConfig {
                    workload: workload.parse()?,
                    policy,
                    ring_full_mode,
                    ..SimConfig::new(ring)
                })?;
                assert!(report.is_sound(), "{workload} under {name} lost pages");
                println!(
                    "{workload:<8} {mode:<6} {name:<12} {:>6} {:>10} {:>9} {:>9} {:>9} {:>8} {:>8}",
                    report.ring_fulls,
                    report.page_writes_per_s(),
                    report.stalls.p50_ns() / 1_000,
                    report.stalls.max_ns() / 1_000,
                    report.stalls.total_ns() / 1_000,
                    report.wakeups,
                    report.reaper_busy_ns / 1_000,
                );
            }
        }
    }
    Ok(())
}
