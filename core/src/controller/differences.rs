//! What was wrong with the reaper of 2022, one test a rule: what `Seed` does, which is the patch
//! as meant, and what `Ladder` does instead. The table is in the documentation of `Ladder`.

use core::sync::atomic::AtomicU32;

use super::*;
use crate::counter::{EventCounter, Watermark};
use crate::size::RingSize;
use crate::testing::{pml_ring_size, ring_size};

use RunLevel::{Fast1, Fast2, Fast4, MaxSpeed, Normal};

const SIZE: RingSize = ring_size(4096);
const IDLE: Measurement = Measurement {
    elapsed: Micros(1_000_000),
    harvested: 0,
    ring_full_harvested: 0,
    fullest: 0,
    ring_fulls: 0,
    wakes: Wakes::TIMER,
    late: Micros(0),
    took: Micros(0),
};

/// Returns the measurement of a pass that found `pages`, in one ring, after `elapsed_us`.
fn found(pages: u32, elapsed_us: u64) -> Measurement {
    Measurement {
        elapsed: Micros(elapsed_us),
        harvested: pages.into(),
        fullest: pages,
        ..IDLE
    }
}

fn seed_at(size: RingSize, level: RunLevel, lows: u32) -> Seed {
    let mut seed = Seed::new(LevelTable::PATCH, size);
    seed.restore(&LevelState { level, lows }).unwrap();
    seed
}

fn ladder_at(size: RingSize, level: RunLevel, lows: u32) -> Ladder {
    let mut ladder = Ladder::new(LadderTable::STANDARD, size);
    ladder.restore(&LevelState { level, lows }).unwrap();
    ladder
}

/// Returns the level after one pass.
fn level_after(controller: &mut impl Controller, found: &Measurement) -> RunLevel {
    controller.on_reaped(found).level.unwrap()
}

/// Returns the levels after each of `N` passes that all find the same.
fn levels_after<const N: usize>(
    controller: &mut impl Controller,
    found: &Measurement,
) -> [RunLevel; N] {
    core::array::from_fn(|_| level_after(controller, found))
}

#[test]
fn defect_1_with_the_pointer_bug_no_step_down_is_ever_made() {
    let mut unrepaired = seed_at(SIZE, MaxSpeed, 0);
    for _ in 0..1000 {
        unrepaired.on_reaped(&IDLE);
        // `*speed_down_cnt++` moves a copy of the pointer: the count itself stays as it was.
        let level = unrepaired.state().level;
        unrepaired.restore(&LevelState { level, lows: 0 }).unwrap();
    }
    assert_eq!(unrepaired.state().level, MaxSpeed);

    let mut seed = seed_at(SIZE, MaxSpeed, 0);
    let levels: [_; 10] = levels_after(&mut seed, &IDLE);
    assert_eq!(levels[4..6], [MaxSpeed, Fast4], "the sixth low steps down");
    assert_eq!(levels[9], Normal);
}

#[test]
fn defect_2_lows_are_cumulative_in_the_seed_and_consecutive_in_the_ladder() {
    // Each keeps its level at what it calls a keep, between two lows.
    let (mut seed, mut ladder) = (seed_at(SIZE, Fast1, 0), ladder_at(SIZE, Fast1, 0));
    for _ in 0..5 {
        seed.on_reaped(&IDLE);
        assert_eq!(seed.on_reaped(&found(500, 1)).reasons, Reasons::KEEP);
        ladder.on_reaped(&IDLE);
        let keep = ladder.on_reaped(&found(1500, 300_000));
        assert_eq!(keep.reasons, Reasons::KEEP);
    }
    assert_eq!((seed.state().lows, ladder.state().lows), (5, 0));
    assert_eq!(level_after(&mut seed, &IDLE), Normal);
    assert_eq!(level_after(&mut ladder, &IDLE), Fast1);
}

#[test]
fn defect_2_a_ring_full_clears_the_lows_of_the_ladder_alone() {
    let full = Measurement {
        ring_fulls: 1,
        ..IDLE
    };
    let (mut seed, mut ladder) = (seed_at(SIZE, Fast1, 5), ladder_at(SIZE, Fast1, 5));
    assert_eq!(level_after(&mut seed, &full), Fast2);
    assert_eq!(level_after(&mut ladder, &full), Fast2);
    assert_eq!(level_after(&mut seed, &IDLE), Fast1, "the next low");
    assert_eq!(level_after(&mut ladder, &IDLE), Fast2);
}

#[test]
fn defect_2_after_a_step_down_the_seed_falls_at_every_low_and_the_ladder_counts_anew() {
    let (mut seed, mut ladder) = (seed_at(SIZE, MaxSpeed, 5), ladder_at(SIZE, MaxSpeed, 5));
    let fall: [_; 5] = levels_after(&mut seed, &IDLE);
    assert_eq!(fall.map(RunLevel::number), [4, 3, 2, 1, 0]);
    let fall: [_; 7] = levels_after(&mut ladder, &IDLE);
    assert_eq!(fall.map(RunLevel::number), [4, 4, 4, 4, 4, 4, 3]);
}

#[test]
fn defect_3_one_rate_wants_another_level_of_the_seed_at_each_wait_and_one_of_the_ladder() {
    let wanted_at = |rate_per_s: u64, wait_us: u64| {
        let pages = (rate_per_s * wait_us / 1_000_000) as u32;
        // From NORMAL the ladder goes straight to the level that it wants.
        let mut ladder = ladder_at(SIZE, Normal, 0);
        (
            LevelTable::PATCH.wanted(pages.into(), SIZE.entries()),
            level_after(&mut ladder, &found(pages, wait_us)),
        )
    };
    // Seed reaps these 4000 pages a second at NORMAL and wants MAX_SPEED; there it wants NORMAL.
    assert_eq!(wanted_at(4000, 1_000_000), (MaxSpeed, Fast1));
    assert_eq!(wanted_at(4000, 250_000), (Fast2, Fast1));
    assert_eq!(wanted_at(4000, 80_000), (Normal, Fast1));
}

#[test]
fn defect_4_many_idle_vcpus_look_like_a_storm_to_the_seed_alone() {
    // 64 vCPUs at 0.8 % of their rings each.
    let idle = Measurement {
        harvested: 64 * 33,
        fullest: 33,
        ..IDLE
    };
    let mut seed = seed_at(SIZE, Normal, 0);
    let levels: [_; 5] = levels_after(&mut seed, &idle);
    assert_eq!(levels.map(RunLevel::number), [1, 2, 3, 4, 5]);
    let mut ladder = ladder_at(SIZE, Normal, 0);
    assert_eq!(levels_after(&mut ladder, &idle), [Normal; 5]);
}

#[test]
fn defect_4_one_ring_on_the_brink_is_a_mean_of_many_to_the_seed_and_the_fullest_to_the_ladder() {
    let sum = Measurement {
        harvested: 4000,
        ..IDLE
    };
    let calm = Measurement {
        fullest: 4000 / 64,
        ..sum
    };
    let brink = Measurement {
        fullest: 4000,
        ..sum
    };
    let after = |controller: fn() -> Policy, found| controller().on_reaped(found);
    let (seed, ladder) = (|| Policy::seed(SIZE), || Policy::ladder(SIZE));
    assert_eq!(after(seed, &calm), after(seed, &brink), "it can't tell");
    assert_eq!(after(ladder, &calm).level, Some(Normal));
    assert_eq!(after(ladder, &brink).level, Some(Fast1));
}

#[test]
fn defect_5_the_seed_divides_by_the_size_and_the_ladder_by_the_soft_limit() {
    let size = pml_ring_size(1024);
    assert_eq!(size.soft_limit(), 448);
    // Short of a ring-full no reap of this ring can make the seed want MAX_SPEED.
    let most = LevelTable::PATCH.wanted(447, size.entries());
    assert_eq!(most, Fast4);
    let brink = found(447, 100_000);
    let mut seed = seed_at(size, Fast4, 0);
    assert_eq!(seed.on_reaped(&brink).reasons, Reasons::KEEP);
    // 336 entries are three quarters of 448; of 1024 they are a third.
    let mut ladder = ladder_at(size, Normal, 0);
    assert_eq!(level_after(&mut ladder, &found(335, 1_000_000)), Normal);
    assert_eq!(level_after(&mut ladder, &found(336, 1_000_000)), Fast1);
}

#[test]
fn defect_6_the_floor_is_80_ms_in_the_seed_and_2_ms_in_the_ladder() {
    let fastest = |policy: &mut dyn FnMut(&Measurement) -> Decision| {
        let storm = Measurement {
            ring_fulls: 1,
            ..found(4032, 10_000)
        };
        (0..100).map(|_| policy(&storm).wait).min().unwrap()
    };
    let (mut seed, mut ladder) = (Policy::seed(SIZE), Policy::ladder(SIZE));
    assert_eq!(fastest(&mut |found| seed.on_reaped(found)), Micros(80_000));
    assert_eq!(fastest(&mut |found| ladder.on_reaped(found)), Micros(2_000));
}

#[test]
fn defect_7_the_seed_takes_one_level_a_pass_and_the_ladder_goes_where_it_is_wanted() {
    let mut seed = seed_at(SIZE, Normal, 0);
    let mut to_max_speed = Micros::ZERO;
    while seed.state().level != MaxSpeed {
        to_max_speed = to_max_speed + seed.current().wait;
        seed.on_reaped(&found(4000, 10_000));
    }
    assert_eq!(to_max_speed, Micros(1_975_000));
    let mut ladder = ladder_at(SIZE, Normal, 0);
    assert_eq!(level_after(&mut ladder, &found(4000, 10_000)), Fast4);
}

#[test]
fn defect_7_a_hundred_ring_fulls_count_as_one_in_the_seed_and_one_by_one_in_the_ladder() {
    let after = |mut policy: Policy, ring_fulls| {
        let full = Measurement { ring_fulls, ..IDLE };
        policy.on_reaped(&full).level.unwrap()
    };
    let seed = [1, 2, 3, 100].map(|fulls| after(Policy::seed(SIZE), fulls));
    assert_eq!(seed, [Fast1; 4]);
    let ladder = [1, 2, 4, 100].map(|fulls| after(Policy::ladder(SIZE), fulls));
    assert_eq!(ladder, [Fast1, Fast2, Fast4, MaxSpeed]);
}

#[test]
fn defect_8_pages_of_the_ring_full_path_are_idleness_to_the_seed_and_load_to_the_ladder() {
    // The ring-fulls themselves were in the pass before.
    let aftermath = Measurement {
        elapsed: Micros(100_000),
        harvested: 10,
        ring_full_harvested: 4032,
        fullest: 4042,
        ..IDLE
    };
    let (mut seed, mut ladder) = (seed_at(SIZE, Fast2, 5), ladder_at(SIZE, Fast2, 5));
    let slower = seed.on_reaped(&aftermath);
    assert_eq!(
        (slower.level, slower.reasons),
        (Some(Fast1), Reasons::SLOWER)
    );
    let faster = ladder.on_reaped(&aftermath);
    assert_eq!(faster.reasons, Reasons::FASTER);
    assert!(faster.level > Some(Fast2));
}

#[test]
fn defect_9_a_second_sample_after_the_decision_loses_ring_fulls_and_one_sample_loses_none() {
    // Three ring-fulls before each decision, two between it and the top of the loop.
    let (mut lost_form, mut right_form) = (0, 0);
    let counter = EventCounter::<AtomicU32>::starting_at(u32::MAX - 7);
    let mut last = counter.load();
    let mut mark = Watermark::at(last);
    for _ in 0..10 {
        counter.add(3);
        lost_form += counter.load().wrapping_sub(last);
        right_form += mark.advance(counter.load());
        counter.add(2);
        last = counter.load();
    }
    right_form += mark.advance(counter.load());
    assert_eq!((lost_form, right_form), (30, 50));
}

#[test]
#[allow(clippy::float_arithmetic)]
fn defect_12_integers_give_the_buckets_that_floats_give() {
    for entries in [256, 1024, 4096] {
        for pages in 0..=entries + 1 {
            let ratio = f64::from(pages) / f64::from(entries);
            let bucket = [0.1, 0.2, 0.3, 0.4, 0.5]
                .iter()
                .position(|&below| ratio < below);
            let wanted = LevelTable::PATCH.wanted(pages.into(), entries);
            assert_eq!(usize::from(wanted.number()), bucket.unwrap_or(5));
        }
    }
}
