//! What the deadline controller has to reach, in the figures that its users go by.

use dirty_ring_core::controller::Policy;
use dirty_ring_core::size::RingSize;
use dirty_ring_mock::{SimConfig, SimReport, Simulation, simulate};

fn config(entries: u32, vcpus: u32, workload: &str, duration_us: u64) -> SimConfig {
    let ring = RingSize::new(entries, 4096, 0).unwrap();
    SimConfig {
        vcpus,
        workload: workload.parse().unwrap(),
        duration_us,
        policy: Some(Policy::deadline(ring)),
        ..SimConfig::new(ring)
    }
}

fn run(config: SimConfig) -> SimReport {
    let report = simulate(config).unwrap();
    assert!(report.is_sound(), "{report:?}");
    report
}

/// The guest's speed, in per mille of what it does without dirty logging.
fn speed_permille(config: &SimConfig) -> u64 {
    let undisturbed = run(SimConfig {
        policy: None,
        ..config.clone()
    });
    run(config.clone()).page_writes * 1000 / undisturbed.page_writes
}

#[test]
fn a_working_set_that_fits_runs_at_98_percent_with_any_number_of_vcpus() {
    for (entries, vcpus, pages) in [
        (4096, 1, 2048),
        (4096, 64, 2048),
        (4096, 256, 2048),
        (4096, 1, 3500),
        (4096, 4, 3950),
        (8192, 1, 6000),
    ] {
        let workload = format!("pages={pages},spin=0");
        let permille = speed_permille(&config(entries, vcpus, &workload, 4_000_000));
        assert!(permille >= 980, "{vcpus} vCPUs, {pages}: {permille}");
    }
}

#[test]
fn a_storm_fills_no_ring_with_1_16_or_64_vcpus() {
    for (entries, vcpus) in [(1024, 1), (4096, 1), (4096, 16), (4096, 64), (1024, 64)] {
        let report = run(config(entries, vcpus, "storm", 300_000));
        assert_eq!(report.ring_fulls, 0, "{entries} entries, {vcpus} vCPUs");
    }
}

#[test]
fn an_idle_guest_costs_a_few_wakes_in_its_first_second_and_none_after() {
    for (entries, vcpus) in [(1024, 1), (4096, 4), (65536, 1), (65536, 64)] {
        let mut passes = Vec::new();
        let simulation = Simulation::new(config(entries, vcpus, "idle", 10_000_000)).unwrap();
        simulation
            .run(|pass| passes.push(pass.now), |_| ())
            .unwrap();
        // The last one is the final drain.
        let last = passes.pop().unwrap();
        assert!(last.0 >= 10_000_000);
        assert!(passes.len() <= 7, "{entries} entries: {passes:?}");
        assert!(passes.iter().all(|pass| pass.0 < 1_000_000), "{passes:?}");
    }
}
