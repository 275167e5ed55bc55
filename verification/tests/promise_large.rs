//! The deadline controller's promise on rings of real sizes: hundreds of wakes as late as was
//! assured, and guests as fast as was assured that burst, stream, pause and go round.

use dirty_ring_core::collector::DEFAULT_BATCH;
use dirty_ring_core::controller::{Deadline, DeadlineConfig};
use dirty_ring_core::size::{PML_ENTRIES, RingSize};
use dirty_ring_core::time::{Instant, Micros};
use dirty_ring_verification::virtual_time::{Activity, Drive, Round, Setup, longest_latency};
use proptest::prelude::*;

/// Pages that one case simulates at most: what bounds the time that it takes.
const MOST_PAGES: u64 = 150_000;
const MOST_ROUNDS: usize = 300;

fn sizes() -> impl Strategy<Value = RingSize> {
    (8u32..=16, any::<bool>()).prop_filter_map("all reserve", |(power, pml)| {
        let cpu_log = if pml { PML_ENTRIES } else { 0 };
        RingSize::new(1 << power, 4096, cpu_log).ok()
    })
}

#[derive(Clone, Debug)]
struct Case {
    size: RingSize,
    rings: usize,
    rate_per_s: u64,
    latency: Micros,
    freshness: Micros,
    /// Working sets in eighths of the soft limit; 8 and more stream.
    working_sets: Vec<u64>,
    rounds: Vec<(u8, u64, [Activity; 3], Option<Micros>)>,
}

fn activity() -> impl Strategy<Value = Activity> {
    prop_oneof![
        1 => Just(Activity::None),
        1 => Just(Activity::Half),
        3 => Just(Activity::All),
    ]
}

prop_compose! {
    fn cases()(
        size in sizes(),
        rings in 1usize..=8,
        bearable in 4f64..=10.0,
        share in prop_oneof![Just(8u64), 0u64..=8],
        freshness_us in prop_oneof![Just(1_000_000u64), 50_000u64..200_000],
        working_sets in proptest::collection::vec(1u64..12, 8),
        turns in proptest::collection::vec(
            (0u8..8, any::<u64>(), [activity(), activity(), activity()],
             proptest::option::weighted(0.1, 0u64..20_000)),
            1..40,
        ),
    ) -> Case {
        let rate_per_s = rate.exp2() as u64;
        let longest_us = longest_latency_us(rate_per_s, size).unwrap_or(0);
        Case {
            size, rings, rate_per_s,
            latency_us: longest_us * share / 8,
            freshness_us, working_sets, turns,
        }
    }
}

impl Case {
    fn turn(&self, at: usize) -> Turn {
        let (way, split, [waiting, reacting, others], kick_after_us) =
            self.turns[at % self.turns.len()];
        let part_us = split % (self.latency_us + 1);
        let rest_us = self.latency_us - part_us;
        let delays_us = match way {
            0 => [0; 4],
            1 => [self.latency_us, 0, 0, 0],
            2 => [0, 0, 0, self.latency_us],
            3 => [0, 0, self.latency_us, 0],
            4 => [part_us, 0, 0, rest_us],
            5 => [0, part_us, rest_us, 0],
            6 => [part_us, rest_us, 0, 0],
            _ => [part_us, 0, 0, 0],
        };
        // Every third ring goes its own way.
        Turn {
            kick_after_us,
            delays_us,
            waiting: vec![waiting, waiting, others],
            reacting: vec![reacting, others, reacting],
        }
    }

    fn run(&self) -> Drive<DEFAULT_BATCH> {
        let config = DeadlineConfig::new(self.freshness_us).unwrap();
        let config = config
            .assured(self.rate_per_s, self.latency_us, self.size)
            .unwrap();
        let mut drive = Drive::new(&Setup {
            deadline: Deadline::new(config, self.size),
            size: self.size,
            rings: self.rings,
            rate_per_s: self.rate_per_s,
        });
        for (ring, eighths) in self.working_sets.iter().take(self.rings).enumerate() {
            if *eighths < 8 {
                let pages = u64::from(self.size.soft_limit()) * eighths / 8;
                drive.limit_working_set(ring, pages);
            }
        }
        for at in 0..MOST_TURNS {
            drive.turn(&self.turn(at));
            if drive.resets() > MOST_PAGES || drive.full().is_some() {
                break;
            }
        }
        drive
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 96,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn within_its_bounds_no_ring_of_any_size_is_ever_full(case in cases()) {
        let drive = case.run();
        prop_assert_eq!(drive.full(), None);
        let bound_us = case.freshness_us.max(case.latency_us + 1) + case.latency_us;
        prop_assert!(drive.longest_wait_us() <= bound_us);
    }
}

/// A ring of each size, as late as can be each time, its guest never at rest.
fn hard_pressed(size: RingSize, late_by_us: u64) -> Option<(u64, usize)> {
    let rate_per_s = 400_000;
    let latency_us = longest_latency_us(rate_per_s, size).unwrap();
    let config = DeadlineConfig::STANDARD;
    let config = config.assured(rate_per_s, latency_us, size).unwrap();
    let mut drive = Drive::<DEFAULT_BATCH>::new(&Setup {
        deadline: Deadline::new(config, size),
        size,
        rings: 1,
        rate_per_s,
    });
    let busy = vec![Activity::All];
    for late_us in [latency_us, latency_us, latency_us + late_by_us] {
        drive.turn(&Turn {
            kick_after_us: None,
            delays_us: [0, 0, 0, late_us],
            waiting: busy.clone(),
            reacting: busy.clone(),
        });
    }
    drive.full()
}

#[test]
fn control_a_pass_that_is_over_a_few_microseconds_too_late_makes_a_ring_full() {
    // Larger rings take a pass of several batches, the last of which is harvested late.
    for power in 8..=12 {
        let size = RingSize::new(1 << power, 4096, 0).unwrap();
        assert_eq!(hard_pressed(size, 0), None, "{size:?}");
        // 2.5 us a page: the second page too many is there after five.
        assert!(hard_pressed(size, 5).is_some(), "{size:?}");
    }
}
