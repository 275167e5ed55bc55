//! The whole state x input space of the controllers with run levels, against second opinions.

use dirty_ring_core::controller::{
    Controller, Decision, Ladder, LadderTable, LevelState, LevelTable, Measurement, Reasons,
    RunLevel, Seed,
};
use dirty_ring_core::doorbell::Wakes;
use dirty_ring_core::size::{PML_ENTRIES, RingSize};
use dirty_ring_core::time::Micros;
use dirty_ring_verification::reference_levels::{
    LadderInput, LadderRules, Move, Place, SEED_WAITS_US, seed_step, seed_wanted,
    seed_wanted_by_float, seed_wanted_by_single_float,
};

/// Returns the decision that belongs to a place and a move.
fn decision(place: Place, moved: Move, ring_full: bool, wait: Micros) -> Decision {
    let mut reasons = match moved {
        Move::Faster => Reasons::FASTER,
        Move::Slower => Reasons::SLOWER,
        Move::Filtered => Reasons::FILTERED,
        Move::Keep => Reasons::KEEP,
        Move::Stuck => Reasons::AT_FASTEST,
    };
    reasons.set(Reasons::RING_FULL, ring_full);
    Decision {
        wait,
        level: Some(RunLevel::from_number(place.level)),
        reasons,
    }
}

fn state(place: Place) -> LevelState {
    LevelState {
        level: RunLevel::from_number(place.level),
        lows: place.lows,
    }
}

fn places(lows: impl Iterator<Item = u32> + Clone) -> impl Iterator<Item = Place> {
    (0..6).flat_map(move |level| lows.clone().map(move |lows| Place { level, lows }))
}

/// Returns page counts at and around each tenth of the ring, and far beyond.
fn representative_pages(entries: u32) -> Vec<u64> {
    let entries = u64::from(entries);
    let mut pages: Vec<u64> = (0..=6)
        .map(|tenth| entries * tenth / 10)
        .flat_map(|at| [at.saturating_sub(1), at, at + 1])
        .chain([entries, 64 * entries, u64::from(u32::MAX), u64::MAX])
        .collect();
    pages.sort_unstable();
    pages.dedup();
    pages
}

#[test]
fn seed_does_what_the_patch_means_from_every_state_on_every_input() {
    let mut checked = 0u32;
    for entries in [1024, 4096, 65536] {
        let size = RingSize::new(entries, 4096, 0).unwrap();
        let all_lows = (0..=8).chain([100, u32::MAX - 1, u32::MAX]);
        for from in places(all_lows) {
            for ring_fulls in [0, 1, 2, 100, u32::MAX] {
                for harvested in representative_pages(entries) {
                    let mut seed = Seed::new(LevelTable::PATCH, size);
                    seed.restore(&state(from)).unwrap();
                    let wanted = seed_wanted(harvested, entries);
                    let (to, moved) = seed_step(from, ring_fulls != 0, wanted);
                    let wait = Micros(SEED_WAITS_US[usize::from(to.level)]);
                    let expected = decision(to, moved, ring_fulls != 0, wait);
                    let context = (from, ring_fulls, harvested);
                    // What the rules don't name must not matter.
                    let measurement = Measurement {
                        elapsed: Micros(u64::from(checked)),
                        harvested,
                        ring_full_harvested: u64::from(checked) << 16,
                        fullest: checked,
                        ring_fulls,
                        wakes: Wakes::from_bits_truncate(checked as u8),
                        late: Micros(u64::from(checked) << 3),
                        took: Micros(u64::from(checked) << 5),
                    };
                    assert_eq!(seed.on_reaped(&measurement), expected, "{context:?}");
                    assert_eq!(seed.state(), state(to), "{context:?}");
                    checked += 1;
                }
            }
        }
    }
    println!("{checked} steps of the patch's controller");
}

#[test]
fn integer_buckets_are_the_patch_s_float_buckets_for_every_size_and_count() {
    let mut checked = 0u32;
    for log2 in 6..=16 {
        let entries = 1u32 << log2;
        for pages in 0..=64 * entries {
            let wanted = LevelTable::PATCH.wanted(pages.into(), entries).number();
            let same = wanted == seed_wanted_by_float(pages, entries)
                && wanted == seed_wanted_by_single_float(pages, entries);
            assert!(same, "{pages} pages of {entries} entries want {wanted}");
            checked += 1;
        }
    }
    println!("{checked} pairs");
    assert_eq!(checked, 64 * ((1 << 17) - (1 << 6)) + 11);
}

/// Returns ladders whose high-water marks are whole entries.
fn ladders() -> impl Iterator<Item = (LadderTable, LadderRules, RingSize)> {
    let tables = [
        ([1_000_000, 300_000, 80_000, 24_000, 7_000, 2_000], 750, 5),
        ([6, 5, 4, 3, 2, 1], 500, 1),
        ([u32::MAX, 1_000_000, 999_999, 1_000, 999, 1], 1000, 40),
    ];
    let sizes = [
        RingSize::new(1024, 4096, PML_ENTRIES),
        RingSize::new(4096, 4096, 0),
        RingSize::new(65536, 4096, PML_ENTRIES),
    ];
    tables
        .into_iter()
        .flat_map(move |(waits_us, permille, stable)| {
            sizes.map(|size| {
                let size = size.unwrap();
                let table = LadderTable::new(waits_us, permille, stable).unwrap();
                let rules = LadderRules {
                    waits_us,
                    high_water_permille: permille,
                    stable,
                    soft_limit: size.soft_limit(),
                };
                (table, rules, size)
            })
        })
}

#[test]
fn ladder_keeps_its_rules_from_every_state_on_every_input() {
    let mut checked = 0u32;
    let (standard, ..) = ladders().next().unwrap();
    assert_eq!(standard, LadderTable::STANDARD);
    for (table, rules, size) in ladders() {
        let mark = u64::from(rules.soft_limit) * u64::from(rules.high_water_permille) / 1000;
        let elapsed = rules.waits_us.map(u64::from);
        for from in places(0..=rules.stable) {
            for ring_fulls in [0, 1, 2, 3, 4, 5, 6, 100, 251, 256, u32::MAX] {
                for elapsed_us in elapsed.into_iter().chain([0, 1, 37_000, u64::MAX]) {
                    // At and around the mark of each level at this elapsed time.
                    let marks = rules.waits_us.iter().flat_map(|&wait_us| {
                        let at = u128::from(mark) * u128::from(elapsed_us) / u128::from(wait_us);
                        let at = u32::try_from(at).unwrap_or(u32::MAX);
                        [
                            at.saturating_sub(2),
                            at.saturating_sub(1),
                            at,
                            at.saturating_add(1),
                        ]
                    });
                    for fullest in marks.chain([0, 1, size.entries(), u32::MAX]) {
                        let mut ladder = Ladder::new(table, size);
                        ladder.restore(&state(from)).unwrap();
                        let input = LadderInput {
                            fullest,
                            elapsed_us,
                            ring_fulls,
                        };
                        let (to, moved) = rules.step(from, &input);
                        let wait = Micros(rules.waits_us[usize::from(to.level)].into());
                        let expected = decision(to, moved, ring_fulls != 0, wait);
                        // What the rules don't name must not matter.
                        let measurement = Measurement {
                            elapsed: Micros(elapsed_us),
                            harvested: u64::from(checked),
                            ring_full_harvested: u64::from(checked) << 16,
                            fullest,
                            ring_fulls,
                            wakes: Wakes::from_bits_truncate(checked as u8),
                            late: Micros(u64::from(checked) << 3),
                            took: Micros(u64::from(checked) << 5),
                        };
                        let context = (rules, from, input);
                        assert_eq!(ladder.on_reaped(&measurement), expected, "{context:?}");
                        assert_eq!(ladder.state(), state(to), "{context:?}");
                        checked += 1;
                    }
                }
            }
        }
    }
    println!("{checked} steps of the ladder");
}

#[test]
fn a_ladder_refuses_a_count_that_its_filter_never_reaches() {
    for (table, rules, size) in ladders() {
        for from in places([rules.stable + 1, u32::MAX].into_iter()) {
            let mut ladder = Ladder::new(table, size);
            assert!(ladder.restore(&state(from)).is_err(), "{from:?}");
            assert_eq!(ladder, Ladder::new(table, size));
        }
    }
}
