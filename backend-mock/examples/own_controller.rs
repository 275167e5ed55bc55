//! A controller of one's own: checked against the rules of the trait, and compared with the others on a
//! simulated VM.
//!
//! ```sh
//! cargo run --release -p dirty-ring-mock --example own_controller
//! ```

use dirty_ring_core::collector::PassRings;
use dirty_ring_core::controller::{
    Controller, Decision, Measurement, Policy, Reasons, StateError, check,
};
use dirty_ring_core::entry::EntryMemory;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::{Instant, Micros};
use dirty_ring_mock::{SimConfig, SimReport, simulate};

/// Reaps a ring that is three quarters full and still grows, and looks again when the next may be.
///
/// A ring that is nearly full and does not grow holds the pages that its vCPU writes again and again: it
/// is left alone, since each page that is reset costs the guest a fault.
#[derive(Clone, Copy, Debug)]
struct ThreeQuarters {
    /// When to look again: the whole of what has to be saved.
    wait: Micros,
}

impl ThreeQuarters {
    /// Before anything is known, and where a burst may come at any time.
    const FIRST: Micros = Micros::from_millis(1);
    const LONGEST: Micros = Micros::from_millis(100);
    /// No look is worth its wake-up sooner.
    const SHORTEST: Micros = Micros(500);

    const fn new() -> Self {
        Self { wait: Self::FIRST }
    }

    const fn decision(&self, reasons: Reasons) -> Decision {
        Decision {
            wait: self.wait,
            level: None,
            reasons,
        }
    }
}

impl Controller for ThreeQuarters {
    type State = Micros;

    fn current(&self) -> Decision {
        self.decision(Reasons::START)
    }

    fn plan<M: EntryMemory>(&mut self, _now: Instant, rings: &mut PassRings<'_, M>) {
        self.wait = Self::LONGEST;
        for index in 0..rings.len() {
            let Some(ring) = rings.get(index) else {
                continue;
            };
            let mark = ring.size.soft_limit() / 4 * 3;
            let is_due = ring.occupancy >= mark && ring.growth.grown() != 0;
            // Where every page was asked for, no ring can be left.
            let occupancy = match !is_due && rings.leave(index) {
                true => ring.occupancy,
                false => 0,
            };
            if ring.growth.grown() != 0 {
                let left = mark.saturating_sub(occupancy);
                let left = Micros::of_entries(left.into(), ring.growth.peak_per_s());
                self.wait = self.wait.min(left);
            }
        }
        self.wait = self.wait.max(Self::SHORTEST);
    }

    fn on_reaped(&mut self, measurement: &Measurement) -> Decision {
        let mut reasons = Reasons::empty();
        reasons.set(Reasons::HEADROOM, measurement.harvested != 0);
        reasons.set(Reasons::RING_FULL, measurement.ring_fulls != 0);
        self.decision(reasons)
    }

    fn state(&self) -> Micros {
        self.wait
    }

    fn restore(&mut self, wait: &Micros) -> Result<(), StateError> {
        if !(Self::SHORTEST..=Self::LONGEST).contains(wait) {
            return Err(StateError::OutOfRange);
        }
        self.wait = *wait;
        Ok(())
    }
}

type Failure = Box<dyn std::error::Error>;

const WORKLOADS: [&str; 4] = ["hot", "storm", "trickle", "burst"];
const DURATION_US: u64 = 2_000_000;

/// Runs a guest under `policy`; without one, undisturbed.
fn run<C: Controller>(
    ring: RingSize,
    workload: &str,
    policy: Option<C>,
) -> Result<SimReport, Failure> {
    let report = simulate(SimConfig {
        workload: workload.parse()?,
        policy,
        duration_us: DURATION_US,
        ..SimConfig::new(ring)
    })?;
    match report.is_sound() {
        true => Ok(report),
        false => Err(format!("{workload}: pages were lost").into()),
    }
}

fn main() -> Result<(), Failure> {
    check(|_size| ThreeQuarters::new())?;
    println!("the rules of the trait hold");

    let ring = RingSize::new(4096, 4096, 0)?;
    let (deadline, fixed) = (Policy::deadline(ring), Policy::fixed(Micros::SECOND)?);
    let often = Policy::fixed(Micros::from_millis(10))?;
    println!("workload  controller       speed %  ring-fulls  wake-ups/s");
    for workload in WORKLOADS {
        let undisturbed = run::<Policy>(ring, workload, None)?.page_writes;
        let own = run(ring, workload, Some(ThreeQuarters::new()))?;
        let rows = [
            ("three quarters", &own),
            ("deadline", &run(ring, workload, Some(deadline))?),
            ("fixed:10ms", &run(ring, workload, Some(often))?),
            ("fixed:1s", &run(ring, workload, Some(fixed))?),
        ];
        for (name, report) in rows {
            let speed = 100.0 * report.page_writes as f64 / undisturbed as f64;
            let wakes_per_s = report.wakeups * 1_000_000 / DURATION_US;
            let fulls = report.ring_fulls;
            println!("{workload:<9} {name:<15} {speed:>8.2} {fulls:>11} {wakes_per_s:>11}");
        }
        let [_, _, _, (_, once_a_second)] = rows;
        if own.ring_fulls > once_a_second.ring_fulls {
            return Err(format!("{workload}: more ring-fulls than once a second").into());
        }
    }
    Ok(())
}
