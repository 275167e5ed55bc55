//! Whether a controller settles where the guest dirties its memory at a constant rate.

use super::*;
use crate::size::RingSize;
use crate::testing::{pml_ring_size, ring_size};

/// Returns what a reap of one vCPU's ring finds `wait` after the last where the guest dirties
/// `rate_per_s`: at each ring-full the vCPU empties the ring itself.
fn found(rate_per_s: u64, wait: Micros, size: RingSize) -> Measurement {
    let pages = rate_per_s * wait.0 / Micros::SECOND.0;
    let soft_limit = u64::from(size.soft_limit());
    let harvested = pages % soft_limit;
    Measurement {
        elapsed: wait,
        harvested,
        ring_full_harvested: pages - harvested,
        fullest: pages as u32,
        ring_fulls: (pages / soft_limit) as u32,
        wakes: Wakes::TIMER,
        ..Measurement::default()
    }
}

/// Returns the level changes in the last 200 of 400 passes at a constant rate.
fn late_changes(mut controller: impl Controller, rate_per_s: u64, size: RingSize) -> u32 {
    let mut decision = controller.current();
    let mut changes = 0;
    for step in 0..400 {
        let next = controller.on_reaped(&found(rate_per_s, decision.wait, size));
        changes += u32::from(step >= 200 && next.level != decision.level);
        decision = next;
    }
    changes
}

/// Returns rates from 1 page a second to 20 million, about 1 % apart.
fn all_rates() -> impl Iterator<Item = u64> {
    core::iter::successors(Some(1u64), |rate| Some(rate + rate.div_ceil(100)))
        .take_while(|&rate| rate <= 20_000_000)
}

/// Returns 200 rates close to each one at which a level of the ladder begins to be too slow.
fn rates_at_the_marks(size: RingSize) -> impl Iterator<Item = u64> {
    let high_water = u64::from(size.soft_limit()) * 3 / 4;
    RunLevel::ALL.into_iter().flat_map(move |level| {
        let mut ladder = Ladder::new(LadderTable::STANDARD, size);
        ladder.restore(&LevelState { level, lows: 0 }).unwrap();
        let mark = high_water * Micros::SECOND.0 / ladder.current().wait.0;
        let step = 1 + mark / 10_000;
        (0..200).map(move |at| mark.saturating_sub(100 * step) + at * step)
    })
}

fn sizes() -> [RingSize; 6] {
    [
        ring_size(256),
        ring_size(1024),
        pml_ring_size(1024),
        ring_size(4096),
        pml_ring_size(4096),
        ring_size(65536),
    ]
}

#[test]
fn at_every_constant_rate_the_ladder_settles() {
    for size in sizes() {
        for rate in all_rates().chain(rates_at_the_marks(size)) {
            let changes = late_changes(Policy::ladder(size), rate, size);
            assert_eq!(changes, 0, "{rate} pages/s, {size:?}");
        }
    }
}

#[test]
fn at_most_rates_between_its_slowest_and_its_fastest_level_the_seed_hunts() {
    for size in sizes() {
        // NORMAL holds below 0.1 rings a second, MAX_SPEED from 0.5 rings in 80 ms on.
        let ring = u64::from(size.entries());
        let between = ring / 10..ring * 25 / 4;
        let (mut hunting, mut all) = (0, 0);
        for rate in all_rates().filter(|rate| between.contains(rate)) {
            all += 1;
            hunting += u32::from(late_changes(Policy::seed(size), rate, size) != 0);
        }
        assert!(100 * hunting >= 57 * all, "{hunting} of {all}, {size:?}");
    }
}
