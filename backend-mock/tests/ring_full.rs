//! The ring-full path where many vCPUs take it at once, in chunks.

use dirty_ring_core::collector::{Collector, DEFAULT_BATCH, DEFAULT_CHUNK, RingFullMode};
use dirty_ring_core::controller::Policy;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::{Instant, Micros};
use dirty_ring_mock::{
    CostModel, Faults, Overrun, SimConfig, SimError, SimReport, VcpuState, Vm, simulate,
};

const VCPUS: u32 = 100;
const CHUNK: RingFullMode = RingFullMode::Chunk(DEFAULT_CHUNK);
const BATCH: u32 = DEFAULT_BATCH as u32;

/// vCPUs whose chunks fit into one batch, and so into one reset.
const SERVED_AT_ONCE: u32 = BATCH / DEFAULT_CHUNK;

/// All vCPUs fill their rings of 4032 usable entries 9.5 ms from the start, and write for less than
/// another chunk's time after that.
const FILL_ONCE: &str = "pages=16384,spin=0,ms=10/pages=0,spin=0,ms=1000";

fn config(vcpus: u32, workload: &str) -> SimConfig {
    SimConfig {
        vcpus,
        workload: workload.parse().unwrap(),
        policy: Some(Policy::fixed(Micros(1_000_000)).unwrap()),
        ring_full_mode: CHUNK,
        duration_us: 100_000,
        ..SimConfig::new(RingSize::new(4096, 4096, 0).unwrap())
    }
}

fn run(config: SimConfig) -> SimReport {
    let report = simulate(config).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert_eq!(report.pages_published, report.pages_harvested);
    report
}

#[test]
fn one_reset_serves_as_many_full_rings_as_have_their_chunk_in_the_batch() {
    let mut vm = Vm::new(&config(VCPUS, "storm")).unwrap();
    vm.run_until_us(10_000);
    let mut collector: Collector<Vm> = Collector::new(vm);
    let vcpus = 0..VCPUS as usize;
    for vcpu in vcpus.clone() {
        collector.ring_full(vcpu, CHUNK, Instant(10_000)).unwrap();
    }
    let totals = collector.totals();
    assert_eq!(totals.resets, u64::from(VCPUS.div_ceil(SERVED_AT_ONCE)));
    // To each its chunk, on whatever path.
    assert_eq!(totals.published, u64::from(VCPUS * DEFAULT_CHUNK));
    let vm = collector.backend_mut();
    let now_ps = vm.now_ps();
    for vcpu in vcpus {
        vm.enter(vcpu, now_ps);
        assert_eq!(vm.state(vcpu), VcpuState::Running, "vCPU {vcpu}");
    }
}

#[test]
fn a_hundred_rings_that_fill_together_cost_few_resets() {
    let report = run(config(VCPUS, FILL_ONCE));
    assert_eq!(report.ring_fulls, u64::from(VCPUS));
    // The batches are all but full, whether vCPUs or the reaper fill them.
    let batches = report.pages_harvested.div_ceil(BATCH.into());
    let resets = batches..=batches + report.ring_fulls / 20;
    assert!(resets.contains(&report.resets), "{report:?}");
}

/// The last vCPU waits for the resets of those before it: one for each batch of chunks. Each costs
/// what its entries cost, the looks at all the rings and the call itself.
#[test]
fn the_longest_stall_is_that_of_the_batches_before_it() {
    let cost = CostModel::MEASURED;
    let entry_ns = cost.harvest_entry_ns + cost.reset_entry_ns;
    let looks_ns = 2 * VCPUS * cost.peek_load_ns;
    let batch_ns = BATCH * entry_ns + looks_ns + cost.reset_call_ns;
    for vcpus in [1, SERVED_AT_ONCE, SERVED_AT_ONCE + 1, VCPUS] {
        let batches = vcpus.div_ceil(SERVED_AT_ONCE);
        // Each vCPU looks how full its own ring is, in at most 16 loads.
        let own_looks_ns = 16 * vcpus * cost.peek_load_ns;
        let bound_ns = batches * batch_ns + own_looks_ns + cost.ring_full_exit_ns;
        let longest_ns = run(config(vcpus, FILL_ONCE)).stalls.max_ns();
        assert!(longest_ns > 0);
        assert!(
            longest_ns <= bound_ns.into(),
            "{vcpus} vCPUs: {longest_ns} ns, {bound_ns} ns allowed"
        );
    }
}

#[test]
fn an_overrun_among_many_busy_vcpus_is_reported_for_the_vcpu_that_did_it() {
    let overrun = |entries_beyond| SimConfig {
        policy: Some(Policy::fixed(Micros(5_000)).unwrap()),
        faults: Faults {
            overrun: Some(Overrun {
                vcpu: 0,
                at_us: 20_000,
                entries_beyond,
            }),
            ..Faults::NONE
        },
        ..config(64, "storm")
    };
    for entries_beyond in [1, 5_000] {
        let error = simulate(overrun(entries_beyond)).unwrap_err();
        let SimError::Overrun { vcpu, at_us, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(vcpu, 0);
        assert!((20_000..40_000).contains(&at_us), "{at_us}");
    }
}

#[test]
fn a_hundred_vcpus_that_storm_on_share_their_resets() {
    let report = run(SimConfig {
        policy: Some(Policy::fixed(Micros(1_000_000)).unwrap()),
        duration_us: 100_000,
        ..config(100, "storm")
    });
    assert!(report.resets * 3 <= report.ring_fulls, "{report:?}");
}
