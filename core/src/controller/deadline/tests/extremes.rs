//! Without looks, and with times and figures that can't be.

use super::*;

/// What a replay of measurements gives: no ring, no `on_wake`.
#[test]
fn a_replay_without_looks_waits_as_long_as_the_measured_rate_allows() {
    let mut deadline = Deadline::new(DeadlineConfig::STANDARD, SIZE);
    let storm = Measurement {
        elapsed_us: 5000,
        harvested: 2000,
        fullest: 2000,
        took_us: 100,
        ..Measurement::default()
    };
    for _ in 0..100 {
        let _ = deadline.on_reaped(&storm);
    }
    let wait_us = deadline.on_reaped(&storm).wait_us;
    // 400 000 pages/s and an eighth fill 4032 in 8960 us.
    assert!((8000..=8960).contains(&wait_us), "{wait_us}");
}

#[test]
fn no_time_or_figure_makes_it_panic_or_wait_0() {
    let bed = Bed::default();
    let assured = DeadlineConfig::STANDARD.assured(1_000_000, 500, SIZE);
    let slow = DeadlineConfig::STANDARD.assured(1, 1_000_000, SIZE);
    let eager = DeadlineConfig::new(1);
    let patient = DeadlineConfig::new(u64::MAX);
    let standard = DeadlineConfig::STANDARD;
    for config in [
        assured.unwrap(),
        slow.unwrap(),
        eager.unwrap(),
        patient.unwrap(),
        standard,
    ] {
        let mut vm = Vm::new(&bed, 2, config);
        let instants = [0, 1, u64::MAX, 500, u64::MAX - 1, 0, SECOND_US, 3];
        for (at, now_us) in instants.into_iter().cycle().take(64).enumerate() {
            vm.ring(0, |ring| {
                let pages = [0, 1, 1008, 3000][at % 4];
                let room = SOFT_LIMIT - ring.occupancy();
                ring.memory().log_pages(0..room.min(pages).into());
            });
            vm.now_us = now_us;
            vm.wake([Wakes::KICK, Wakes::RING_FULL][at / 8 % 2]);
            assert!(vm.until_us > now_us || now_us == u64::MAX);
            assert_ne!(vm.reaper.last_step().unwrap().decision.wait_us, 0);
        }
    }
}

#[test]
fn no_saved_state_makes_it_panic_or_wait_0() {
    let extremes = [0, 1, u64::MAX];
    for learned_per_s in extremes {
        for assumed_per_s in extremes {
            for reaction_us in extremes {
                let mut deadline = Deadline::new(DeadlineConfig::STANDARD, SIZE);
                let state = DeadlineState {
                    learned_per_s,
                    assumed_per_s,
                    reaction_us,
                };
                deadline.restore(&state).unwrap();
                assert_ne!(deadline.current().wait_us, 0);
                for long in extremes {
                    deadline.on_wake(long, Wakes::TIMER);
                    let decision = deadline.on_reaped(&Measurement {
                        elapsed_us: long,
                        fullest: u32::MAX,
                        late_us: long,
                        took_us: long,
                        ..Measurement::default()
                    });
                    assert_ne!(decision.wait_us, 0);
                    assert!(decision.wait_us <= SECOND_US);
                }
            }
        }
    }
}

#[test]
fn after_a_clock_that_went_back_it_goes_on() {
    let bed = Bed::default();
    let mut vm = Vm::standard(&bed, 1);
    vm.vcpus[0].load = Load::Stream(100_000);
    vm.run(2 * SECOND_US);
    vm.now_us -= SECOND_US;
    vm.wake(Wakes::KICK);
    vm.run(2 * SECOND_US);
    assert!(vm.ring_fulls(0) <= 1, "{}", vm.ring_fulls(0));
    assert!(vm.harvested()[0] > 250_000);
}
