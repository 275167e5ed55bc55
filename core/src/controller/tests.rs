//! Rules that hold for every controller, and those of the simple ones. How `Seed` and `Ladder`
//! differ is tested in `differences`, the whole of `Seed` in `seed_matrix`.

mod checks;
mod policy;

use core::error::Error;
use std::string::{String, ToString};
use std::vec::Vec;

use super::*;
use crate::size::RingSize;
use crate::testing::{Random, ring_size};

const SIZE: RingSize = ring_size(4096);
const FALLING_US: [u32; LEVELS] = [60, 50, 40, 30, 20, 10];
const RISING_PERMILLE: [u16; LEVELS - 1] = [100, 200, 300, 400, 500];

fn policies(size: RingSize) -> [Policy; 5] {
    [
        Policy::fixed(Micros::SECOND).unwrap(),
        Policy::seed(size),
        Policy::ladder(size),
        Policy::halving(size),
        Policy::deadline(size),
    ]
}

/// Asserts that all errors differ in value and in message, and that each says what to do.
fn assert_distinct_and_helpful<E: Error + PartialEq>(errors: &[(E, &str)]) {
    let messages: Vec<String> = errors.iter().map(|(error, _)| error.to_string()).collect();
    for (at, (error, advice)) in errors.iter().enumerate() {
        assert!(messages[at].contains(advice), "{:?}", messages[at]);
        assert!(errors[..at].iter().all(|(other, _)| other != error));
        assert!(!messages[..at].contains(&messages[at]));
    }
}

#[test]
fn each_wrong_level_table_has_its_own_error_that_says_what_to_do() {
    let table = LevelTable::new;
    assert!(table(FALLING_US, RISING_PERMILLE, 1).is_ok());
    let wrong = [
        table([60, 50, 40, 30, 20, 0], RISING_PERMILLE, 5),
        table([60, 60, 40, 30, 20, 10], RISING_PERMILLE, 5),
        table(FALLING_US, [0, 200, 300, 400, 500], 5),
        table(FALLING_US, [100, 200, 300, 400, 400], 5),
        table(FALLING_US, RISING_PERMILLE, 0),
    ]
    .map(Result::unwrap_err);
    let expected = [
        (
            LevelTableError::Waits(WaitsError::Zero { level: 5 }),
            "level 5 is 0 us: the reaper would spin, give it a length",
        ),
        (
            LevelTableError::Waits(WaitsError::NotDecreasing { level: 1 }),
            "level 1 isn't shorter than that of the level before: list the waits from the longest",
        ),
        (
            LevelTableError::ZeroThreshold { level: 0 },
            "threshold of run level 0 is 0: no ratio is below that, raise it",
        ),
        (
            LevelTableError::ThresholdNotIncreasing { level: 4 },
            "level 4 isn't above that of the level before: list the thresholds from the lowest",
        ),
        (LevelTableError::ZeroStableLows, "give it 1 or more"),
    ];
    assert_eq!(wrong, expected.map(|(error, _)| error));
    assert_distinct_and_helpful(&expected);
}

#[test]
fn each_wrong_wait_is_found_at_its_level() {
    for level in 0..LEVELS {
        let mut waits = FALLING_US;
        waits[level] = 0;
        let level = level as u8;
        assert_eq!(Waits::new(waits), Err(WaitsError::Zero { level }));
    }
    for level in 1..LEVELS {
        let mut waits = FALLING_US;
        waits[level] = waits[level - 1];
        let level = level as u8;
        assert_eq!(Waits::new(waits), Err(WaitsError::NotDecreasing { level }));
    }
    let waits = Waits::new(FALLING_US).unwrap();
    assert_eq!(
        RunLevel::ALL.map(|level| waits.wait(level)),
        FALLING_US.map(|us| Micros(us.into()))
    );
}

#[test]
fn each_wrong_ladder_table_has_its_own_error_that_says_what_to_do() {
    let table = LadderTable::new;
    assert!(table(FALLING_US, 1, 1).is_ok() && table(FALLING_US, 1000, 1).is_ok());
    let wrong = [
        table([0, 50, 40, 30, 20, 10], 750, 5),
        table([60, 50, 40, 30, 20, 21], 750, 5),
        table(FALLING_US, 0, 5),
        table(FALLING_US, 1001, 5),
        table(FALLING_US, 750, 0),
    ]
    .map(Result::unwrap_err);
    let expected = [
        (
            LadderTableError::Waits(WaitsError::Zero { level: 0 }),
            "give it a length",
        ),
        (
            LadderTableError::Waits(WaitsError::NotDecreasing { level: 5 }),
            "list the waits from the longest to the shortest",
        ),
        (
            LadderTableError::HighWater { permille: 0 },
            "choose 1 to 1000",
        ),
        (
            LadderTableError::HighWater { permille: 1001 },
            "is 1001 per mille of the soft limit: choose 1 to 1000",
        ),
        (LadderTableError::ZeroStableLows, "give it 1 or more"),
    ];
    assert_eq!(wrong, expected.map(|(error, _)| error));
    assert_distinct_and_helpful(&expected);
}

#[test]
fn each_wrong_halving_or_fixed_constant_has_its_own_error_that_says_what_to_do() {
    let config = HalvingConfig::new;
    assert!(config(7, 7, 1, 0, 1).is_ok(), "the narrowest that can be");
    let wrong = [
        config(0, 1000, 20, 200, 800),
        config(1001, 1000, 20, 200, 800),
        config(100, 1000, 0, 200, 800),
        config(100, 1000, 20, 800, 800),
    ]
    .map(Result::unwrap_err);
    let expected = [
        (HalvingError::ZeroWait, "give it a length"),
        (HalvingError::WaitsCrossed, "longest: swap them"),
        (HalvingError::ZeroStep, "only shrink, give it a length"),
        (HalvingError::ThresholdsCrossed, "high one: swap them"),
    ];
    assert_eq!(wrong, expected.map(|(error, _)| error));
    assert_distinct_and_helpful(&expected);

    assert_eq!(Fixed::new(Micros::ZERO), Err(FixedError));
    assert_eq!(Policy::fixed(Micros::ZERO), Err(FixedError));
    assert!(FixedError.to_string().ends_with("give it a length"));
}

#[test]
fn run_levels_end_at_both_ends() {
    for (number, level) in RunLevel::ALL.into_iter().enumerate() {
        assert_eq!(usize::from(level.number()), number);
        assert_eq!(RunLevel::from_number(level.number()), level);
        assert_eq!(level.faster_by(0), level);
        assert_eq!(level.faster_by(u32::MAX), RunLevel::MaxSpeed);
    }
    assert_eq!(RunLevel::from_number(6), RunLevel::MaxSpeed);
    assert_eq!(RunLevel::Fast3.faster_by(1), RunLevel::Fast4);
    assert_eq!(RunLevel::Fast3.slower(), RunLevel::Fast2);
    assert_eq!(RunLevel::Normal.slower(), RunLevel::Normal);
}

fn halve(config: HalvingConfig, wait_us: u32, harvested: u64) -> (u64, Reasons) {
    let mut halving = Halving::new(config, SIZE);
    halving.restore(&HalvingState { wait_us }).unwrap();
    let found = Measurement {
        harvested,
        ..Measurement::default()
    };
    let decision = halving.on_reaped(&found);
    assert_eq!(decision.level, None);
    (decision.wait.0, decision.reasons)
}

#[test]
fn halving_halves_above_the_high_threshold_and_adds_up_to_the_low_one() {
    // Quarters, because the review's fifths of a power of two are no whole entries.
    let quarters = HalvingConfig::new(100_000, 1_000_000, 20_000, 250, 750).unwrap();
    let from = |harvested| halve(quarters, 600_000, harvested);
    assert_eq!(from(3073), (300_000, Reasons::FASTER), "just above 3/4");
    assert_eq!(from(3072), (600_000, Reasons::KEEP), "3/4 exactly");
    assert_eq!(from(1025), (600_000, Reasons::KEEP), "just above 1/4");
    assert_eq!(from(1024), (620_000, Reasons::SLOWER), "1/4 exactly");

    let from = |harvested| halve(HalvingConfig::REVIEW, 600_000, harvested).0;
    assert_eq!((from(3277), from(3276)), (300_000, 600_000), "0.8: 3276.8");
    assert_eq!((from(820), from(819)), (600_000, 620_000), "0.2: 819.2");
}

#[test]
fn halving_is_clamped_at_both_ends() {
    let from = |wait_us, harvested| halve(HalvingConfig::REVIEW, wait_us, harvested);
    assert_eq!(from(199_999, 4096), (100_000, Reasons::FASTER));
    assert_eq!(from(100_000, 4096), (100_000, Reasons::AT_FASTEST));
    assert_eq!(from(980_001, 0), (1_000_000, Reasons::SLOWER));
    assert_eq!(from(1_000_000, 0), (1_000_000, Reasons::AT_SLOWEST));
    let start = Halving::new(HalvingConfig::REVIEW, SIZE).current();
    assert_eq!(
        (start.wait, start.reasons),
        (Micros::SECOND, Reasons::START)
    );
}

#[test]
fn fixed_keeps_its_interval_and_notes_ring_fulls() {
    let mut fixed = Fixed::new(Micros(5)).unwrap();
    assert_eq!(fixed.current().reasons, Reasons::START);
    let mut random = Random::seeded(1);
    for _ in 0..1000 {
        let found = random.measurement();
        let decision = fixed.on_reaped(&found);
        assert_eq!((decision.wait, decision.level), (Micros(5), None));
        let full = decision.reasons.contains(Reasons::RING_FULL);
        assert_eq!(full, found.ring_fulls != 0);
    }
}

/// Saves `controller` again and again in a long series; the restored one has to go on alike.
fn goes_on_identically<C: Controller + Copy + fmt::Debug + PartialEq>(fresh: C) {
    let mut first = fresh;
    let mut random = Random::seeded(7);
    for _ in 0..300 {
        (0..random.below(20)).for_each(|_| {
            let found = random.measurement();
            first.on_reaped(&found);
        });
        let mut restored = fresh;
        restored.restore(&first.state()).unwrap();
        assert_eq!((restored, restored.current()), (first, first.current()));
        let (mut ahead, mut future) = (first, random.clone());
        for _ in 0..50 {
            let found = future.measurement();
            assert_eq!(restored.on_reaped(&found), ahead.on_reaped(&found));
        }
    }
}

#[test]
fn a_restored_controller_goes_on_as_the_first_would_have() {
    goes_on_identically(Fixed::new(Micros(1000)).unwrap());
    goes_on_identically(Seed::new(LevelTable::PATCH, SIZE));
    goes_on_identically(Ladder::new(LadderTable::STANDARD, SIZE));
    goes_on_identically(Halving::new(HalvingConfig::REVIEW, SIZE));
    policies(SIZE).into_iter().for_each(goes_on_identically);
}

#[test]
fn a_state_of_another_policy_is_refused_and_changes_nothing() {
    for saved in policies(SIZE) {
        for mut policy in policies(SIZE) {
            let before = policy;
            let same = core::mem::discriminant(&saved) == core::mem::discriminant(&policy);
            let restored = policy.restore(&saved.state());
            let expected = if same {
                Ok(())
            } else {
                Err(StateError::OtherPolicy)
            };
            assert_eq!((restored, policy), (expected, before));
        }
    }
}

#[test]
fn a_state_outside_the_configuration_is_refused_and_changes_nothing() {
    let mut ladder = Ladder::new(LadderTable::STANDARD, SIZE);
    let mut halving = Halving::new(HalvingConfig::REVIEW, SIZE);
    let before = (ladder, halving);
    let level = RunLevel::Fast3;
    for lows in [6, u32::MAX] {
        let refused = ladder.restore(&LevelState { level, lows });
        assert_eq!(refused, Err(StateError::OutOfRange));
    }
    for wait_us in [0, 99_999, 1_000_001] {
        let refused = halving.restore(&HalvingState { wait_us });
        assert_eq!(refused, Err(StateError::OutOfRange));
    }
    assert_eq!((ladder, halving), before);
    assert_distinct_and_helpful(&[
        (StateError::OtherPolicy, "restore it under that one"),
        (StateError::OutOfRange, "or start afresh"),
    ]);
}

#[test]
fn no_measurement_makes_a_policy_panic_or_wait_0() {
    let longs = [0, 1, u64::MAX];
    let shorts = [0, 1, u32::MAX];
    for size in [ring_size(256), ring_size(65536)] {
        for mut policy in policies(size) {
            for at in 0..3usize.pow(5) {
                let digit = |place: u32| at / 3usize.pow(place) % 3;
                let decision = policy.on_reaped(&Measurement {
                    elapsed: Micros(longs[digit(0)]),
                    harvested: longs[digit(1)],
                    ring_full_harvested: longs[digit(2)],
                    fullest: shorts[digit(3)],
                    ring_fulls: shorts[digit(4)],
                    wakes: Wakes::all(),
                    late: Micros(longs[digit(1)]),
                    took: Micros(longs[digit(2)]),
                });
                assert!(!decision.wait.is_zero(), "{policy:?}");
                if !matches!(policy, Policy::Deadline(_)) {
                    assert_eq!(policy.current().wait, decision.wait);
                }
            }
        }
    }
}

#[test]
fn under_the_lowest_mark_on_the_smallest_ring_an_idle_guest_still_lets_the_ladder_be_slow() {
    let mut lowest = Ladder::new(LadderTable::new(FALLING_US, 1, 1).unwrap(), ring_size(256));
    lowest
        .restore(&LevelState {
            level: RunLevel::MaxSpeed,
            lows: 0,
        })
        .unwrap();
    for _ in 0..10 {
        lowest.on_reaped(&Measurement::default());
    }
    assert_eq!(lowest.state().level, RunLevel::Normal);
}

#[test]
fn a_ring_of_no_entries_counts_as_full() {
    assert_eq!(permille(0, 0), u64::MAX);
    assert_eq!((permille(1, 3), permille(u64::MAX, 1)), (333, u64::MAX));
}
