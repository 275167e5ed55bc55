//! `dirty-ring run`.

use crate::contract::{Asked, check_run, whole};
use crate::support::{POLICIES, backends, dirty_ring, dirty_ring_with};

const PRESETS: [&str; 6] = ["idle", "trickle", "hot", "storm", "burst", "skew"];

#[track_caller]
fn run(asked: &Asked<'_>, more: &[&str]) -> serde_json::Value {
    let words = format!(
        "run --json --backend {} --policy {} --vcpus {} --ring-entries {} --duration {}ms \
         --workload",
        asked.backend,
        asked.policy,
        asked.vcpus,
        asked.ring_entries,
        asked.duration_s * 1e3,
    );
    let more = [&[asked.workload][..], more].concat();
    let json = dirty_ring_with(&words, &more).json();
    check_run(&json, asked);
    json
}

#[test]
fn every_preset_keeps_the_contract() {
    for backend in backends() {
        for workload in PRESETS {
            for vcpus in [1, 2] {
                let asked = Asked {
                    backend,
                    workload,
                    vcpus,
                    ..Asked::default()
                };
                let json = run(&asked, &[]);
                assert_eq!(whole(&json, "page_writes") == 0, workload == "idle");
            }
        }
    }
}

#[test]
fn a_specification_with_phases_and_vcpus_keeps_its_name_and_the_contract() {
    let workload = "pages=3000,spin=10,ms=20/pages=64,spin=0,ms=30|pages=0,spin=0|pages=500,spin=9";
    for backend in backends() {
        let asked = Asked {
            backend,
            workload,
            vcpus: 4,
            ring_entries: 1024,
            policy: "fixed:10ms",
            ..Asked::default()
        };
        let json = run(&asked, &[]);
        let pages = |vcpu: usize| whole(&json["per_vcpu"][vcpu], "pages_harvested");
        assert!(pages(0) > 0, "{json}");
        assert_eq!(pages(1), 0, "this vCPU writes nothing: {json}");
        // The last specification holds for all remaining vCPUs.
        assert!(pages(2) >= 500 && pages(3) >= 500, "{json}");
    }
}

#[test]
fn every_policy_keeps_the_contract_in_both_ring_full_modes() {
    for backend in backends() {
        for policy in POLICIES {
            for ring_full in ["chunk", "whole"] {
                let asked = Asked {
                    backend,
                    policy,
                    ring_entries: 1024,
                    vcpus: 2,
                    ..Asked::default()
                };
                let json = run(&asked, &["--ring-full", ring_full]);
                let peeks = whole(&json, "peeks") > 0;
                assert_eq!(peeks, policy == "deadline", "only deadline peeks: {json}");
            }
        }
    }
}

#[test]
fn without_logging_nothing_is_reaped() {
    for backend in backends() {
        let asked = Asked {
            backend,
            policy: "none",
            vcpus: 2,
            ..Asked::default()
        };
        let json = run(&asked, &[]);
        assert!(whole(&json, "page_writes") > 0, "{json}");
    }
}

#[test]
fn a_reaper_that_sleeps_for_an_hour_leaves_every_page_to_the_ring_full_path() {
    for backend in backends() {
        let asked = Asked {
            backend,
            policy: "fixed:1h",
            ring_entries: 256,
            ..Asked::default()
        };
        let json = run(&asked, &["--ring-full", "whole"]);
        assert!(whole(&json, "ring_fulls") > 1, "{json}");
        assert!(whole(&json, "pages_harvested") > 0, "{json}");
    }
}

#[test]
fn more_memory_than_the_workload_writes_is_accepted() {
    for backend in backends() {
        let asked = Asked {
            backend,
            workload: "hot",
            ..Asked::default()
        };
        run(&asked, &["--mem", "64M"]);
    }
}

#[test]
fn two_runs_on_the_mock_print_the_same_bytes() {
    for words in [
        "run --backend mock --vcpus 3 --workload skew --policy seed --duration 300ms --json",
        "run --backend mock --workload burst --duration 1500ms",
        "compare --backend mock --rounds 2 --duration 50ms --json",
    ] {
        let first = dirty_ring(words).good();
        assert_eq!(dirty_ring(words).good(), first, "{words}");
    }
}

#[test]
fn text_names_the_run_and_has_a_line_for_each_figure() {
    for backend in backends() {
        let words = format!("run --backend {backend} --vcpus 2 --duration 100ms --policy seed");
        let text = dirty_ring(&words).good();
        let first = text.lines().next().unwrap();
        assert!(first.contains("storm under seed, 2 vCPUs, "), "{text}");
        for name in [
            "page writes",
            "ring-fulls",
            "stalls",
            "reaped",
            "reaper",
            "vCPU",
        ] {
            assert!(text.lines().any(|line| line.starts_with(name)), "{text}");
        }
    }
}

#[test]
fn the_ring_is_the_largest_of_the_host_unless_another_is_asked_for() {
    for backend in backends() {
        let words = format!("run --json --backend {backend} --duration 50ms");
        let json = dirty_ring(&words).json();
        let most = match backend {
            "kvm" => whole(
                &dirty_ring("probe --json").json()["host"]["kvm"],
                "max_ring_entries",
            ),
            _ => 65536,
        };
        assert_eq!(whole(&json, "ring_entries"), most, "{json}");
    }
}
