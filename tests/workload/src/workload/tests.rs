//! Valid and malformed workloads.

use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Workload, WorkloadError> {
    text.parse()
}

fn at(vcpu: usize, phase: usize) -> Place {
    Place { vcpu, phase }
}

#[test]
fn every_preset_parses_and_prints_its_specification() {
    for (name, specification) in PRESETS {
        let workload = parse(name).unwrap();
        assert_eq!(workload, parse(specification).unwrap());
        assert_eq!(workload.to_string(), specification);
    }
}

#[test]
fn burst_is_a_cycle_of_four_seconds() {
    let burst = parse("burst").unwrap();
    let pages = |us| {
        let (phase, until_us) = burst.phase_at(3, us);
        (phase.pages, until_us)
    };
    assert_eq!(pages(0), (16384, 1_000_000));
    assert_eq!(pages(999_999), (16384, 1_000_000));
    assert_eq!(pages(1_000_000), (512, 2_000_000));
    assert_eq!(pages(3_999_999), (3000, 4_000_000));
    assert_eq!(pages(4_000_000), (16384, 5_000_000));
    assert_eq!(pages(4_000_000_001_000_000), (512, 4_000_000_002_000_000));
    assert_eq!(burst.max_pages(0), 16384);
    assert_eq!(burst.phase_at(0, u64::MAX).1, u64::MAX);
}

#[test]
fn a_single_phase_never_ends_with_or_without_a_length() {
    for text in ["hot", "pages=2048,spin=0,ms=5"] {
        assert_eq!(parse(text).unwrap().phase_at(0, 6_000).1, u64::MAX);
    }
}

#[test]
fn the_last_vcpu_given_serves_all_that_remain() {
    let skew = parse("skew").unwrap();
    let pages: Vec<u32> = (0..4).map(|vcpu| skew.max_pages(vcpu)).collect();
    assert_eq!(pages, [16384, 64, 64, 64]);
    assert_eq!(skew.given_vcpus(), 2);
}

#[test]
fn keys_come_in_any_order_and_bounds_are_inclusive() {
    let text = "ms=3600000,spin=1000000000,pages=16777216";
    assert_eq!(
        parse(text).unwrap().to_string(),
        "pages=16777216,spin=1000000000,ms=3600000"
    );
}

#[test]
fn each_malformed_specification_has_its_error() {
    use WorkloadError as E;
    let out_of_range = |at, key, value: &str, min, max| E::OutOfRange {
        at,
        key,
        value: value.to_owned(),
        min,
        max,
    };
    let huge = "9".repeat(40);
    let cases = [
        ("", E::UnknownPreset { name: "".into() }),
        (
            "strom",
            E::UnknownPreset {
                name: "strom".into(),
            },
        ),
        (
            "Storm",
            E::UnknownPreset {
                name: "Storm".into(),
            },
        ),
        ("hot|hot", {
            let part = "hot".into();
            E::NotAPair { at: at(0, 1), part }
        }),
        ("pages=1,spin=1|", E::EmptyPhase { at: at(1, 1) }),
        ("pages=1,spin=1,ms=1/", E::EmptyPhase { at: at(0, 2) }),
        ("pages=1,,spin=1", {
            let part = String::new();
            E::NotAPair { at: at(0, 1), part }
        }),
        ("pages=1;spin=1,x", {
            let value = "1;spin=1".into();
            let key = "pages";
            E::NotANumber {
                at: at(0, 1),
                key,
                value,
            }
        }),
        ("pages=1, spin=1", {
            let key = " spin".into();
            E::UnknownKey { at: at(0, 1), key }
        }),
        ("page=1,spin=1", {
            let key = "page".into();
            E::UnknownKey { at: at(0, 1), key }
        }),
        ("pages=1,pages=1,spin=1", {
            let key = "pages";
            E::Duplicate { at: at(0, 1), key }
        }),
        ("pages=1", {
            let key = "spin";
            E::Missing { at: at(0, 1), key }
        }),
        ("spin=1,ms=4", {
            let key = "pages";
            E::Missing { at: at(0, 1), key }
        }),
        (
            "pages=1,spin=1|pages=1,spin=1,ms=2/pages=1,spin=1",
            E::MissingLength { at: at(1, 2) },
        ),
        (
            "pages=1,spin=1/pages=1,spin=1,ms=2",
            E::MissingLength { at: at(0, 1) },
        ),
        ("pages=,spin=1", {
            let (key, value) = ("pages", String::new());
            E::NotANumber {
                at: at(0, 1),
                key,
                value,
            }
        }),
        ("pages=+1,spin=1", {
            let (key, value) = ("pages", "+1".into());
            E::NotANumber {
                at: at(0, 1),
                key,
                value,
            }
        }),
        ("pages=1,spin=-1", {
            let (key, value) = ("spin", "-1".into());
            E::NotANumber {
                at: at(0, 1),
                key,
                value,
            }
        }),
        (
            "pages=16777217,spin=1",
            out_of_range(at(0, 1), "pages", "16777217", 0, MAX_PAGES),
        ),
        (
            "pages=1,spin=1000000001",
            out_of_range(at(0, 1), "spin", "1000000001", 0, MAX_SPIN),
        ),
        (
            "pages=1,spin=1,ms=0",
            out_of_range(at(0, 1), "ms", "0", 1, MAX_PHASE_MS),
        ),
        (
            "pages=1,spin=1,ms=3600001",
            out_of_range(at(0, 1), "ms", "3600001", 1, MAX_PHASE_MS),
        ),
    ];
    for (text, error) in cases {
        assert_eq!(parse(text), Err(error), "{text}");
    }
    assert_eq!(
        parse(&format!("pages={huge},spin=1")),
        Err(out_of_range(at(0, 1), "pages", &huge, 0, MAX_PAGES))
    );
    let many = "pages=1,spin=1,ms=1/".repeat(MAX_PHASES + 1);
    assert_eq!(
        parse(&many[..many.len() - 1]),
        Err(E::TooManyPhases {
            vcpu: 0,
            phases: MAX_PHASES + 1
        })
    );
    let many = "pages=1,spin=1|".repeat(MAX_GIVEN_VCPUS + 1);
    assert_eq!(
        parse(&many[..many.len() - 1]),
        Err(E::TooManyVcpus {
            vcpus: MAX_GIVEN_VCPUS + 1
        })
    );
}

#[test]
fn an_error_says_where_what_and_what_is_allowed() {
    let says = |text| parse(text).unwrap_err().to_string();
    assert_eq!(
        says("strom"),
        "no workload is called \"strom\": choose idle, trickle, hot, storm, burst, skew, \
         or specify one as pages=N,spin=N"
    );
    assert_eq!(
        says("skew|"),
        "workload, vCPU 0, phase 1: \"skew\" is not key=number; a phase is \
         pages=N,spin=N[,ms=N]"
    );
    assert_eq!(
        says("pages=1,spin=1|pages=1,spin=1,ms=1/pages=1,spin=1,ms=0"),
        "workload, vCPU 1, phase 2: ms=0 is out of range; 1 to 3600000 is allowed"
    );
}

fn any_phase() -> impl Strategy<Value = Phase> {
    (0..=MAX_PAGES, 0..=MAX_SPIN, 1..=MAX_PHASE_MS).prop_map(|(pages, spin, ms)| Phase {
        pages,
        spin,
        ms: Some(ms),
    })
}

proptest! {
    #[test]
    fn what_it_prints_it_parses(
        vcpus in proptest::collection::vec(proptest::collection::vec(any_phase(), 1..5), 1..5)
    ) {
        let workload = Workload { vcpus };
        prop_assert_eq!(parse(&workload.to_string()), Ok(workload));
    }

    #[test]
    fn phases_cover_the_clock_without_gaps(
        phases in proptest::collection::vec(any_phase(), 2..5),
        us in any::<u32>(),
    ) {
        let workload = Workload { vcpus: vec![phases.clone()] };
        let (phase, until_us) = workload.phase_at(0, us.into());
        prop_assert!(until_us > us.into());
        prop_assert_eq!(workload.phase_at(0, until_us - 1), (phase, until_us));
        let here = phases.iter().position(|other| *other == phase).unwrap();
        let next = phases[(here + 1) % phases.len()];
        prop_assert_eq!(workload.phase_at(0, until_us).0, next);
    }

    #[test]
    fn no_text_makes_it_panic(text in "[a-z=,/|0-9 ]{0,40}") {
        let _ = parse(&text);
    }
}
