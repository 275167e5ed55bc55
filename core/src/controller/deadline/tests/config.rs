//! What may be asked of it.

use std::string::ToString;

use super::*;

#[test]
fn each_wrong_bound_has_its_own_error_that_says_what_to_do() {
    let fresh = STANDARD.freshness(Micros::ZERO).unwrap_err();
    assert_eq!(fresh, DeadlineError::ZeroFreshness);
    assert!(fresh.to_string().contains("give it a length"));
    let rate = STANDARD.assured(0, Micros(1), SIZE).unwrap_err();
    assert_eq!(rate, DeadlineError::ZeroRate);
    assert!(rate.to_string().contains("give the highest rate"));
    let small = STANDARD.assured(1_000_000, Micros(2000), SIZE);
    let small = small.unwrap_err();
    // The latency, and the shortest wait of 100 us.
    let expected = DeadlineError::RingTooSmall {
        needed: 4 * 2101,
        soft_limit: 4032,
    };
    assert_eq!(small, expected);
    let message = small.to_string();
    assert!(message.contains("full at 4032 entries is too small"));
    assert!(message.contains("full at 8404 or later"));
}

#[test]
fn the_ring_that_an_error_asks_for_is_large_enough() {
    for latency in [0, 1, 100, 5000] {
        for rate_per_s in [1, 999_999, 1_000_000, 3_000_001] {
            let needed = (8..=16).find(|power| {
                let size = ring_size(1 << power);
                match STANDARD.assured(rate_per_s, Micros(latency), size) {
                    Ok(_) => true,
                    Err(DeadlineError::RingTooSmall { needed, soft_limit }) => {
                        assert!(needed > soft_limit.into());
                        assert_eq!(soft_limit, size.soft_limit());
                        false
                    }
                    Err(other) => panic!("{other}"),
                }
            });
            assert!(needed.is_some(), "{rate_per_s}/s, {latency} us");
        }
    }
}

#[test]
fn bounds_out_of_all_proportion_are_refused_and_not_overflowed() {
    let refused = STANDARD.assured(u64::MAX, Micros::MAX, SIZE);
    let needed = u64::MAX;
    let soft_limit = SOFT_LIMIT;
    assert_eq!(
        refused,
        Err(DeadlineError::RingTooSmall { needed, soft_limit })
    );
}

#[test]
fn an_assured_rate_is_the_highest_rate_whatever_is_measured() {
    let config = STANDARD.assured(1000, Micros(500), SIZE).unwrap();
    let mut deadline = Deadline::new(config, SIZE);
    for _ in 0..100 {
        let _ = deadline.on_reaped(&Measurement {
            elapsed: Micros(1000),
            fullest: 4000,
            ..Measurement::default()
        });
        assert_eq!(deadline.peak_per_s(), 1000);
    }
}

#[test]
fn until_a_peak_is_measured_it_is_a_million_pages_a_second_and_an_eighth_more_than_that_then() {
    let mut deadline = Deadline::new(STANDARD, SIZE);
    assert_eq!(deadline.peak_per_s(), 1_000_000);
    let state = DeadlineState {
        peak_per_s: 400_000,
        reaction: Micros(0),
    };
    deadline.restore(&state).unwrap();
    assert_eq!(deadline.peak_per_s(), 450_000);
}

#[test]
fn a_restored_controller_expects_what_the_first_had_learned() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 1);
    vm.vcpus[0].load = Load::Stream(400_000);
    vm.run(SECOND / 4);
    let state = vm.deadline().state();
    assert_ne!(state, Deadline::new(STANDARD, SIZE).state());
    let mut restored = Deadline::new(STANDARD, SIZE);
    restored.restore(&state).unwrap();
    assert_eq!(restored.state(), state);
    let rate = restored.peak_per_s();
    assert_eq!(rate, vm.deadline().peak_per_s());
    assert!((400_000..500_000).contains(&rate), "{rate}");
}
