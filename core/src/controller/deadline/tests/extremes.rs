//! Without looks, and with times and figures that can't be.

use super::*;

/// What a replay of measurements gives: no ring, no plan.
#[test]
fn a_replay_without_looks_waits_as_long_as_the_measured_rate_allows() {
    let mut deadline = Deadline::new(STANDARD, SIZE);
    let storm = Measurement {
        elapsed: Micros(5000),
        harvested: 2000,
        fullest: 2000,
        took: Micros(100),
        ..Measurement::default()
    };
    for _ in 0..100 {
        let _ = deadline.on_reaped(&storm);
    }
    let wait = deadline.on_reaped(&storm).wait;
    // 400 000 pages/s and an eighth fill 4032 in 8960 us.
    assert!((8000..=8960).contains(&wait.0), "{wait}");
}

#[test]
fn no_time_or_figure_makes_it_panic_or_wait_0() {
    let bed = Bed::default();
    let assured = STANDARD.assured(1_000_000, Micros(500), SIZE);
    let slow = STANDARD.assured(1, SECOND, SIZE);
    let eager = STANDARD.freshness(Micros(1));
    let patient = STANDARD.freshness(Micros::MAX);
    for config in [
        assured.unwrap(),
        slow.unwrap(),
        eager.unwrap(),
        patient.unwrap(),
        STANDARD,
    ] {
        let mut vm = Vm::new(&bed, 2, config);
        let instants = [0, 1, u64::MAX, 500, u64::MAX - 1, 0, SECOND.0, 3];
        for (at, now) in instants.into_iter().cycle().take(64).enumerate() {
            let now = Instant(now);
            vm.ring(0, |ring| {
                let pages = [0, 1, 1008, 3000][at % 4];
                let room = SOFT_LIMIT - ring.occupancy();
                ring.memory().log_pages(0..room.min(pages).into());
            });
            match at / 8 % 2 {
                0 => vm.kick(now),
                _ => vm.pass(now),
            };
            assert!(vm.until > now || now == Instant::MAX);
            assert!(!vm.last_pass().decision.wait.is_zero());
        }
    }
}

#[test]
fn no_saved_state_makes_it_panic_or_wait_0() {
    let extremes = [0, 1, u64::MAX];
    let fresh = STANDARD.freshness(SECOND).unwrap();
    for peak_per_s in extremes {
        for reaction in extremes.map(Micros) {
            for config in [STANDARD, fresh] {
                let mut deadline = Deadline::new(config, SIZE);
                deadline
                    .restore(&DeadlineState {
                        peak_per_s,
                        reaction,
                    })
                    .unwrap();
                assert!(!deadline.current().wait.is_zero());
                for long in extremes.map(Micros) {
                    let decision = deadline.on_reaped(&Measurement {
                        elapsed: long,
                        fullest: u32::MAX,
                        late: long,
                        took: long,
                        ..Measurement::default()
                    });
                    assert!(!decision.wait.is_zero());
                    assert!(config == STANDARD || decision.wait <= SECOND);
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
    vm.run(SECOND * 2);
    vm.kick(vm.now - SECOND);
    vm.run(SECOND * 2);
    assert!(vm.ring_fulls(0) <= 1, "{}", vm.ring_fulls(0));
    assert!(vm.harvested()[0] > 250_000);
}
