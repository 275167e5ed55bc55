//! Whole runs in bad weather: everything may get slower, and no page is lost.

use dirty_ring_core::collector::{CollectError, DEFAULT_CHUNK, RingFullMode};
use dirty_ring_core::controller::Policy;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::Micros;
use dirty_ring_mock::{ConfigError, Faults, Overrun, SimConfig, SimError, Simulation, simulate};
use proptest::prelude::*;

fn ring(entries: u32) -> RingSize {
    RingSize::new(entries, 4096, 0).unwrap()
}

fn config(workload: &str, wait_us: u64, faults: Faults) -> SimConfig {
    SimConfig {
        workload: workload.parse().unwrap(),
        policy: Some(Policy::fixed(Micros(wait_us)).unwrap()),
        duration_us: 300_000,
        faults,
        ..SimConfig::new(ring(4096))
    }
}

fn any_mode() -> impl Strategy<Value = RingFullMode> {
    prop_oneof![
        Just(RingFullMode::Whole),
        Just(RingFullMode::Chunk(DEFAULT_CHUNK)),
        (1u32..500).prop_map(RingFullMode::Chunk),
    ]
}

fn any_policy(ring: RingSize) -> impl Strategy<Value = Policy> {
    prop_oneof![
        (200u64..50_000).prop_map(|wait_us| Policy::fixed(Micros(wait_us)).unwrap()),
        Just(Policy::seed(ring)),
        Just(Policy::ladder(ring)),
        Just(Policy::halving(ring)),
        Just(Policy::deadline(ring)),
    ]
}

fn any_faults() -> impl Strategy<Value = Faults> {
    let garbage = prop_oneof![Just(0u16), 0u16..300];
    (0u16..400, 0u16..800, 0u16..500, 0u32..20_000, garbage).prop_map(
        |(interrupted, barren, late, late_wake_us, garbage)| Faults {
            interrupted_reset_permille: interrupted,
            barren_reset_permille: barren,
            late_wake_permille: late,
            late_wake_us,
            garbage_permille: garbage,
            ..Faults::NONE
        },
    )
}

const WORKLOADS: [&str; 6] = [
    "storm",
    "hot",
    "skew",
    "pages=700,spin=20",
    "pages=3000,spin=0,ms=7/pages=90,spin=9,ms=5/pages=0,spin=0,ms=3|pages=1,spin=0",
    "pages=200,spin=0,ms=1/pages=5000,spin=100,ms=2",
];

fn any_config() -> impl Strategy<Value = SimConfig> {
    let size = prop_oneof![Just(256u32), Just(1024), Just(4096)].prop_map(ring);
    size.prop_flat_map(|ring| {
        (
            1u32..6,
            any_policy(ring),
            any_mode(),
            0..WORKLOADS.len(),
            any_faults(),
            any::<u64>(),
            1_000u64..60_000,
        )
            .prop_map(
                move |(vcpus, policy, mode, workload, faults, seed, us)| SimConfig {
                    vcpus,
                    workload: WORKLOADS[workload].parse().unwrap(),
                    policy: Some(policy),
                    ring_full_mode: mode,
                    duration_us: us,
                    faults,
                    seed,
                    ..SimConfig::new(ring)
                },
            )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn no_page_is_lost_whatever_the_weather(config in any_config()) {
        let report = simulate(config.clone()).unwrap();
        // Too many pages were forgotten to be remembered, and the report says so.
        let is_told = matches!(report.failure, Some(CollectError::TooManySuspects { .. }));
        prop_assert!(report.lost_pages == 0 || is_told || report.bad_entries != 0, "{} lost, {:?}", report.lost_pages, report.failure);
        let harmful = (report.premature_publications, report.unregistered_publications);
        prop_assert_eq!(harmful, (0, 0));
        prop_assert_eq!(report.pages_published, report.pages_harvested);
        let told = match report.failure {
            Some(CollectError::BadEntries { entries, .. }) => entries,
            _ => 0,
        };
        prop_assert_eq!(told, report.bad_entries);
        // Reproducible, weather and all.
        prop_assert_eq!(simulate(config).unwrap(), report);
    }
}

#[test]
fn resets_that_stop_early_are_made_up_for() {
    let faults = Faults {
        interrupted_reset_permille: 50,
        barren_reset_permille: 300,
        ..Faults::NONE
    };
    for wait_us in [2_000, 5_000, 1_000_000] {
        let report = simulate(config("storm", wait_us, faults)).unwrap();
        assert!(report.short_resets > 10);
        assert!(report.forgotten_pages > 100);
        assert_eq!((report.lost_pages, report.failure), (0, None));
    }
}

#[test]
fn garbage_is_counted_and_never_published() {
    let faults = Faults {
        garbage_permille: 100,
        ..Faults::NONE
    };
    let fair = simulate(config("storm", 5_000, Faults::NONE)).unwrap();
    let foul = simulate(config("storm", 5_000, faults)).unwrap();
    assert_eq!(fair.bad_entries, 0);
    // A tenth of the sound entries, give or take.
    let tenth = foul.pages_harvested / 10;
    assert!((tenth * 9 / 10..tenth * 11 / 10).contains(&foul.bad_entries));
    assert_eq!(foul.pages_published, foul.pages_harvested);
    assert!(foul.is_sound(), "{foul:?}");
    let Some(CollectError::BadEntries { entries, .. }) = foul.failure else {
        panic!("{foul:?}");
    };
    assert_eq!((entries, fair.failure), (foul.bad_entries, None));
}

#[test]
fn late_wake_ups_fill_rings_and_lose_nothing() {
    let late = Faults {
        late_wake_permille: 200,
        late_wake_us: 20_000,
        ..Faults::NONE
    };
    assert_eq!(
        simulate(config("storm", 5_000, Faults::NONE))
            .unwrap()
            .ring_fulls,
        0
    );
    let report = simulate(config("storm", 5_000, late)).unwrap();
    assert!(report.ring_fulls > 0);
    assert!(report.is_sound(), "{report:?}");
}

#[test]
fn one_fault_does_not_move_the_draws_of_another() {
    let late = Faults {
        late_wake_permille: 300,
        late_wake_us: 1,
        ..Faults::NONE
    };
    let both = Faults {
        // Chance is asked, and nothing can be forgotten where there is nothing to reset.
        interrupted_reset_permille: 1000,
        ..late
    };
    let wakeups = |faults| simulate(config("idle", 1_000, faults)).unwrap();
    assert_eq!(wakeups(late), wakeups(both));
}

#[test]
fn resets_that_never_do_anything_end_the_run_in_an_error() {
    let faults = Faults {
        barren_reset_permille: 1000,
        ..Faults::NONE
    };
    for wait_us in [5_000, 1_000_000] {
        let error = simulate(config("storm", wait_us, faults)).unwrap_err();
        let SimError::Collect { at_us, source } = &error else {
            panic!("{error}");
        };
        assert!(*at_us > 0);
        assert!(matches!(source, CollectError::Stalled { outstanding } if *outstanding > 0));
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("resets no ring entries any more"));
    }
}

fn overrun(vcpu: u32, entries_beyond: u32) -> Faults {
    Faults {
        overrun: Some(Overrun {
            vcpu,
            at_us: 20_000,
            entries_beyond,
        }),
        ..Faults::NONE
    }
}

#[test]
fn an_overrun_ends_the_run_in_an_error_that_names_the_vcpu() {
    for mode in [RingFullMode::Whole, RingFullMode::default()] {
        for entries_beyond in [1, 100, 4096, 10_000] {
            let error = simulate(SimConfig {
                vcpus: 3,
                ring_full_mode: mode,
                ..config("storm", 5_000, overrun(1, entries_beyond))
            })
            .unwrap_err();
            let SimError::Overrun {
                vcpu,
                at_us,
                source,
            } = error
            else {
                panic!("{error}");
            };
            assert_eq!(vcpu, 1);
            assert!((20_000..60_000).contains(&at_us), "{at_us}");
            let source = source.to_string();
            assert!(source.starts_with("the dirty ring of vCPU 1 "), "{source}");
            assert!(source.contains("resync the rings"), "{source}");
        }
    }
}

#[test]
fn an_overrun_that_never_fills_the_ring_again_is_found_all_the_same() {
    let error = simulate(config("pages=100,spin=0", 5_000, overrun(0, 1))).unwrap_err();
    let parted = CollectError::Parted { ring: 0 };
    assert!(
        matches!(error, SimError::Overrun { vcpu: 0, source, .. } if source == parted),
        "{error}"
    );
}

#[test]
fn an_overrun_of_nobody_or_by_nothing_is_refused() {
    let refusal = |faults| Simulation::new(config("storm", 5_000, faults)).unwrap_err();
    assert_eq!(
        refusal(overrun(1, 1)),
        ConfigError::OverrunVcpu { vcpu: 1, vcpus: 1 }
    );
    assert_eq!(
        refusal(overrun(0, 0)),
        ConfigError::OverrunEntries { entries: 0 }
    );
}
