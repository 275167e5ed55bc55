//! What the VM of a seed is like.

use dirty_ring_core::collector::{DEFAULT_CHUNK, RingFullMode};
use dirty_ring_core::controller::{Argument, Policy, PolicySpec};
use dirty_ring_core::planner::SHORTEST_WAIT;
use dirty_ring_core::size::{PML_ENTRIES, RingSize};
use dirty_ring_core::time::Micros;
use dirty_ring_workload::Workload;

use super::SoakConfig;
use crate::config::SimConfig;
use crate::faults::{Dice, Faults};

/// Entries of the smallest ring.
const LEAST_ENTRIES: u32 = 256;
/// Entries that three of four VMs' rings have at most: larger ones take long to fill.
const USUAL_ENTRIES: u32 = 4096;
/// Longer than any soak lasts.
const FOR_GOOD_US: u64 = 10 * 24 * 3600 * 1_000_000;
/// Empty loop turns of slow writers between two writes.
const MOST_SPIN: u64 = 20_000;

/// Draws a VM that logs from the beginning.
pub(super) fn draw(dice: &mut Dice, soak: &SoakConfig, seed: u64) -> SimConfig<PolicySpec> {
    let ring = ring(dice, soak.most_ring_entries);
    let vcpus = 1 + dice.below(soak.most_vcpus.max(1).into()) as u32;
    let workload = (0..vcpus).map(|_| phases(dice, ring)).collect::<Vec<_>>();
    let workload: Workload = workload
        .join("|")
        .parse()
        .expect("every draw is a workload");
    SimConfig {
        vcpus,
        workload,
        policy: Some(policy(dice)),
        ring_full_mode: ring_full_mode(dice, ring),
        duration_us: FOR_GOOD_US,
        faults: weather(dice),
        seed,
        ..SimConfig::new(ring)
    }
}

fn ring(dice: &mut Dice, most: u32) -> RingSize {
    let usual = if dice.below(4) == 0 {
        most
    } else {
        most.min(USUAL_ENTRIES)
    };
    let sizes = (usual / LEAST_ENTRIES).max(1).ilog2() + 1;
    let entries = LEAST_ENTRIES << dice.below(sizes.into());
    let log = if entries > PML_ENTRIES + LEAST_ENTRIES && dice.below(3) == 0 {
        PML_ENTRIES
    } else {
        0
    };
    RingSize::new(entries, 4096, log).expect("a power of two from 256 to 65536")
}

/// Draws what one vCPU writes: sets smaller and larger than its ring, fast and slow, and nothing.
fn phases(dice: &mut Dice, ring: RingSize) -> String {
    let soft = u64::from(ring.soft_limit());
    let count = 1 + dice.below(3);
    let phase = |dice: &mut Dice| {
        let pages = match dice.below(8) {
            0 => 0,
            1 => 1 + dice.below(70),
            2 => soft - 2 + dice.below(5),
            3..6 => 1 + dice.below(soft),
            _ => soft + dice.below(soft),
        };
        let spin = match dice.below(3) {
            0 => 0,
            1 => dice.below(200),
            _ => dice.below(MOST_SPIN),
        };
        format!("pages={pages},spin={spin},ms={}", 1 + dice.below(8))
    };
    let phases: Vec<_> = (0..count).map(|_| phase(dice)).collect();
    phases.join("/")
}

/// Draws one of all policies.
pub(super) fn policy(dice: &mut Dice) -> PolicySpec {
    let (name, takes) = Policy::NAMES[dice.below(Policy::NAMES.len() as u64) as usize];
    let length = Micros(SHORTEST_WAIT.0 + dice.below(50_000));
    let has_argument = match takes {
        Argument::None => false,
        Argument::Optional => dice.below(2) == 0,
        Argument::Required => true,
    };
    let spec = PolicySpec::new(name, has_argument.then_some(length));
    spec.expect("every policy takes such a length")
}

fn ring_full_mode(dice: &mut Dice, ring: RingSize) -> RingFullMode {
    match dice.below(3) {
        0 => RingFullMode::Whole,
        1 => RingFullMode::Chunk(DEFAULT_CHUNK),
        _ => RingFullMode::Chunk(1 + dice.below(ring.entries().into()) as u32),
    }
}

/// Draws what goes wrong from now on; now and then nothing.
pub(super) fn weather(dice: &mut Dice) -> Faults {
    if dice.below(4) == 0 {
        return Faults::NONE;
    }
    let mut up_to = |most: u64| dice.below(most + 1) as u16;
    Faults {
        interrupted_reset_permille: up_to(100),
        barren_reset_permille: up_to(400),
        late_wake_permille: up_to(500),
        late_wake_us: up_to(5_000).into(),
        lost_wake_permille: up_to(300),
        ..Faults::NONE
    }
}
