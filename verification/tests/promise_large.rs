//! The deadline controller's promise on rings of real sizes: hundreds of wakes as late as was
//! assured, and guests as fast as was assured that burst, stream, pause and go round.

use dirty_ring_core::collector::DEFAULT_BATCH;
use dirty_ring_core::controller::{Deadline, DeadlineConfig};
use dirty_ring_core::planner::SHORTEST_WAIT;
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

/// Returns the highest rate that can be assured for rings of `size`, in pages per second: a quarter
/// of the ring, less an entry, outlasts the shortest wait.
fn highest_rate_per_s(size: RingSize) -> u64 {
    let quarter = u64::from(size.soft_limit() / 4);
    SHORTEST_WAIT.rate_of(quarter - 1)
}

#[derive(Clone, Debug)]
struct Case {
    size: RingSize,
    rings: usize,
    rate_per_s: u64,
    latency: Micros,
    freshness: Option<Micros>,
    /// Working sets in eighths of the soft limit; 8 and more stream.
    working_sets: Vec<u64>,
    rounds: Vec<(u8, u64, [Activity; 3], Option<u64>)>,
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
        rate in 10f64..22.0,
        share in prop_oneof![Just(8u64), 0u64..=8],
        freshness in prop_oneof![Just(None), Just(Some(1_000_000)), (50_000u64..200_000).prop_map(Some)],
        working_sets in proptest::collection::vec(1u64..12, 8),
        rounds in proptest::collection::vec(
            (0u8..9, any::<u64>(), [activity(), activity(), activity()],
             proptest::option::weighted(0.1, 0u64..20_000)),
            1..40,
        ),
    ) -> Case {
        let rate_per_s = (rate.exp2() as u64).min(highest_rate_per_s(size));
        let longest = longest_latency(rate_per_s, size).expect("a rate that can be assured");
        Case {
            size, rings, rate_per_s,
            latency: longest * share / 8,
            freshness: freshness.map(Micros),
            working_sets, rounds,
        }
    }
}

impl Case {
    fn round(&self, at: usize) -> Round {
        let (way, split, [waiting, reacting, others], kick_after_us) =
            self.rounds[at % self.rounds.len()];
        let zero = Micros::ZERO;
        let part = Micros(split % (self.latency.0 + 1));
        let rest = self.latency - part;
        let delays = match way {
            0 => [zero; 5],
            1 => [self.latency, zero, zero, zero, zero],
            2 => [zero, zero, zero, self.latency, zero],
            3 => [zero, zero, self.latency, zero, zero],
            4 => [part, zero, zero, rest, zero],
            5 => [zero, part, rest, zero, zero],
            6 => [part, rest, zero, zero, zero],
            7 => [zero, zero, part, zero, rest],
            _ => [part, zero, zero, zero, zero],
        };
        // Every third ring goes its own way.
        Round {
            kick_after: kick_after_us.map(Micros),
            delays,
            waiting: vec![waiting, waiting, others],
            reacting: vec![reacting, others, reacting],
        }
    }

    fn run(&self) -> Drive<DEFAULT_BATCH> {
        let mut config = DeadlineConfig::STANDARD;
        if let Some(limit) = self.freshness {
            config = config.freshness(limit).unwrap();
        }
        let config = config
            .assured(self.rate_per_s, self.latency, self.size)
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
        for at in 0..MOST_ROUNDS {
            drive.round(&self.round(at));
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
        if let Some(limit) = case.freshness {
            // A limit shorter than the latency can't be kept.
            let bound = limit.max(case.latency + SHORTEST_WAIT) + case.latency;
            prop_assert!(drive.longest_wait() <= bound);
        }
    }
}

/// A ring of each size, as late as can be each time, its guest never at rest.
fn hard_pressed(size: RingSize, late_by: Micros) -> Option<(Instant, usize)> {
    let rate_per_s = 400_000;
    let latency = longest_latency(rate_per_s, size).unwrap();
    let config = DeadlineConfig::STANDARD;
    let config = config.assured(rate_per_s, latency, size).unwrap();
    let mut drive = Drive::<DEFAULT_BATCH>::new(&Setup {
        deadline: Deadline::new(config, size),
        size,
        rings: 1,
        rate_per_s,
    });
    let busy = vec![Activity::All];
    for late in [latency, latency, latency + late_by] {
        drive.round(&Round {
            kick_after: None,
            delays: [Micros::ZERO, Micros::ZERO, Micros::ZERO, late, Micros::ZERO],
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
        assert_eq!(hard_pressed(size, Micros::ZERO), None, "{size:?}");
        // 2.5 us a page: the second page too many is there after five.
        assert!(hard_pressed(size, Micros(5)).is_some(), "{size:?}");
    }
}
