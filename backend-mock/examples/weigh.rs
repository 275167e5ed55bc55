//! Weighs the deadline controller: guest speed, ring-fulls and wake-ups over groups of guests.
//!
//! Take a rule out of `core/src/controller/deadline/` and run it again to see what the rule buys; the
//! documentation of `Deadline` has the table of all of them:
//!
//! ```sh
//! cargo run --release -p dirty-ring-mock --example weigh
//! ```

use dirty_ring_core::controller::Policy;
use dirty_ring_core::size::RingSize;
use dirty_ring_mock::{Faults, SimConfig, simulate};

/// Ring entries, vCPUs, workload, milliseconds.
type Guest = (u32, u32, &'static str, u64);

struct Group {
    name: &'static str,
    read_every_us: Option<u64>,
    faults: Faults,
    guests: &'static [Guest],
}

const BURSTS: &str = "pages=16384,spin=0,ms=20/pages=0,spin=0,ms=80";
const SMALL_BURSTS: &str = "pages=16384,spin=0,ms=50/pages=300,spin=0,ms=150";
const ALTERNATING: &str = "pages=3000,spin=0,ms=300/pages=16384,spin=20000,ms=300";

const LATE: Faults = Faults {
    late_wake_permille: 30,
    late_wake_us: 3_000,
    ..Faults::NONE
};

const GROUPS: [Group; 8] = [
    Group {
        name: "read",
        read_every_us: Some(100_000),
        faults: Faults::NONE,
        guests: &[
            (4096, 1, "hot", 2000),
            (4096, 1, "pages=3500,spin=0", 2000),
            (65536, 1, "pages=30000,spin=0", 2000),
            (4096, 4, "pages=3900,spin=0", 1000),
            (4096, 1, "pages=1000,spin=0", 2000),
        ],
    },
    Group {
        name: "late",
        read_every_us: None,
        faults: LATE,
        guests: &[
            (1024, 1, "storm", 4000),
            (4096, 1, "storm", 4000),
            (4096, 1, "hot", 2000),
            (1024, 2, "storm", 2000),
            (4096, 1, "pages=3500,spin=0", 2000),
            (256, 1, "storm", 1000),
        ],
    },
    group(
        "storm 1024",
        &[
            (1024, 1, "storm", 2000),
            (1024, 4, "storm", 1000),
            (1024, 1, "trickle", 2000),
            (1024, 1, "skew", 1000),
        ],
    ),
    group(
        "storm 4096",
        &[
            (4096, 1, "storm", 2000),
            (4096, 4, "storm", 1000),
            (4096, 1, "trickle", 2000),
            (4096, 1, "pages=4100,spin=0", 2000),
        ],
    ),
    group(
        "fits",
        &[
            (4096, 1, "hot", 2000),
            (4096, 1, "pages=3500,spin=0", 2000),
            (4096, 1, "pages=3950,spin=0", 2000),
            (8192, 1, "pages=6000,spin=0", 2000),
            (4096, 4, "hot", 1000),
            (65536, 1, "storm", 2000),
        ],
    ),
    group(
        "burst",
        &[
            (1024, 1, "burst", 8000),
            (4096, 1, "burst", 8000),
            (4096, 4, "burst", 8000),
            (4096, 1, BURSTS, 4000),
            (1024, 1, SMALL_BURSTS, 4000),
            (4096, 1, ALTERNATING, 4000),
        ],
    ),
    group(
        "many vCPUs",
        &[
            (4096, 64, "storm", 300),
            (4096, 64, "trickle", 300),
            (4096, 64, "hot", 1000),
            (1024, 64, "storm", 300),
            (4096, 256, "hot", 1000),
            (4096, 64, "skew", 300),
        ],
    ),
    group(
        "idle",
        &[
            (1024, 1, "idle", 1000),
            (4096, 4, "idle", 1000),
            (65536, 1, "idle", 1000),
        ],
    ),
];

const fn group(name: &'static str, guests: &'static [Guest]) -> Group {
    Group {
        name,
        read_every_us: None,
        faults: Faults::NONE,
        guests,
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "{:<12} {:>8} {:>7} {:>8}",
        "group", "speed %", "fulls", "wakes/s"
    );
    for group in &GROUPS {
        let (mut log_speed, mut fulls, mut wakes_per_s) = (0.0, 0, 0.0);
        for &(entries, vcpus, workload, ms) in group.guests {
            let ring = RingSize::new(entries, 4096, 0)?;
            let undisturbed = SimConfig {
                vcpus,
                workload: workload.parse()?,
                duration_us: ms * 1000,
                ..SimConfig::<Policy>::new(ring)
            };
            let report = simulate(SimConfig {
                policy: Some(Policy::deadline(ring)),
                read_every_us: group.read_every_us,
                faults: group.faults,
                ..undisturbed.clone()
            })?;
            let writes = simulate(undisturbed)?.page_writes.max(1);
            log_speed += (report.page_writes.max(1) as f64 / writes as f64).ln();
            fulls += report.ring_fulls;
            wakes_per_s += report.wakeups as f64 * 1000.0 / ms as f64;
        }
        let guests = group.guests.len() as f64;
        println!(
            "{:<12} {:>8.2} {fulls:>7} {:>8.0}",
            group.name,
            100.0 * (log_speed / guests).exp(),
            wakes_per_s / guests
        );
    }
    Ok(())
}
