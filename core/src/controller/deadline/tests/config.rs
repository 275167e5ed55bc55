//! What may be asked of it.

use std::string::ToString;

use super::*;

#[test]
fn each_wrong_bound_has_its_own_error_that_says_what_to_do() {
    let fresh = DeadlineConfig::new(0).unwrap_err();
    assert_eq!(fresh, DeadlineError::ZeroFreshness);
    assert!(fresh.to_string().contains("give it a length"));
    let rate = DeadlineConfig::STANDARD.assured(0, 1, SIZE).unwrap_err();
    assert_eq!(rate, DeadlineError::ZeroRate);
    assert!(rate.to_string().contains("give the highest rate"));
    let small = DeadlineConfig::STANDARD.assured(1_000_000, 2000, SIZE);
    let small = small.unwrap_err();
    let expected = DeadlineError::RingTooSmall {
        needed: 4 * 2002,
        soft_limit: 4032,
    };
    assert_eq!(small, expected);
    let message = small.to_string();
    assert!(message.contains("full at 4032 entries is too small"));
    assert!(message.contains("full at 8008 or later"));
}

#[test]
fn the_ring_that_an_error_asks_for_is_large_enough() {
    for latency_us in [0, 1, 100, 5000] {
        for rate_per_s in [1, 999_999, 1_000_000, 3_000_001] {
            let needed = (8..=16).find(|power| {
                let size = ring_size(1 << power);
                match DeadlineConfig::STANDARD.assured(rate_per_s, latency_us, size) {
                    Ok(_) => true,
                    Err(DeadlineError::RingTooSmall { needed, soft_limit }) => {
                        assert!(needed > soft_limit.into());
                        assert_eq!(soft_limit, size.soft_limit());
                        false
                    }
                    Err(other) => panic!("{other}"),
                }
            });
            assert!(needed.is_some(), "{rate_per_s}/s, {latency_us} us");
        }
    }
}

#[test]
fn bounds_out_of_all_proportion_are_refused_and_not_overflowed() {
    let refused = DeadlineConfig::STANDARD.assured(u64::MAX, u64::MAX, SIZE);
    let needed = u64::MAX;
    let soft_limit = SOFT_LIMIT;
    assert_eq!(
        refused,
        Err(DeadlineError::RingTooSmall { needed, soft_limit })
    );
}

#[test]
fn an_assured_rate_is_the_highest_rate_whatever_is_measured() {
    let config = DeadlineConfig::STANDARD.assured(1000, 500, SIZE).unwrap();
    let mut deadline = Deadline::new(config, SIZE);
    for _ in 0..100 {
        let _ = deadline.on_reaped(&Measurement {
            elapsed_us: 1000,
            fullest: 4000,
            ..Measurement::default()
        });
        assert_eq!(deadline.highest_rate_per_s(), 1000);
    }
}

#[test]
fn a_restored_controller_expects_what_the_first_had_learned() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 1);
    vm.vcpus[0].load = Load::Stream(400_000);
    vm.run(SECOND_US / 4);
    let state = vm.reaper.controller().state();
    assert_ne!(state, Deadline::new(DeadlineConfig::STANDARD, SIZE).state());
    let mut restored = Deadline::new(DeadlineConfig::STANDARD, SIZE);
    restored.restore(&state).unwrap();
    assert_eq!(restored.state(), state);
    let rate = restored.highest_rate_per_s();
    assert_eq!(rate, vm.reaper.controller().highest_rate_per_s());
    assert!((400_000..500_000).contains(&rate), "{rate}");
}
