//! `dirty-ring compare`.

use serde_json::Value;

use crate::contract::{Asked, check_run};
use crate::support::{backends, dirty_ring};

#[track_caller]
fn check_host(host: &Value, backend: &str) {
    assert!(host["cpus"].as_u64().unwrap() > 0, "{host}");
    for name in ["cpu", "kernel"] {
        assert!(host[name].is_string() || host[name].is_null(), "{host}");
    }
    if backend == "mock" {
        assert!(host["kvm"].is_null(), "{host}");
        return;
    }
    let kvm = &host["kvm"];
    assert_eq!(kvm["api_version"], 12, "{host}");
    assert!(kvm["capability"].as_str().unwrap().starts_with("KVM_CAP_"));
    assert!(kvm["max_ring_entries"].as_u64().unwrap().is_power_of_two());
}

#[test]
fn each_round_runs_every_policy_and_the_baseline_once() {
    let policies = ["none", "ladder", "fixed:10ms"];
    for backend in backends() {
        let words = format!(
            "compare --backend {backend} --vcpus 2 --workload hot --duration 150ms --rounds 3 \
             --policies ladder,fixed:10ms,ladder,none --ring-entries 4096 --json"
        );
        let json = dirty_ring(&words).json();
        check_host(&json["host"], backend);
        let runs = json["runs"].as_array().unwrap();
        assert_eq!(runs.len(), 9);
        for (at, run) in runs.iter().enumerate() {
            assert_eq!(run["round"], at / 3 + 1, "{run}");
            let asked = Asked {
                backend,
                policy: run["policy"].as_str().unwrap(),
                workload: "hot",
                vcpus: 2,
                duration_s: 0.15,
                ..Asked::default()
            };
            check_run(run, &asked);
        }
        for (round, runs) in runs.chunks(3).enumerate() {
            let of = |policy| runs.iter().filter(|run| run["policy"] == policy).count();
            assert_eq!(policies.map(of), [1; 3], "round {}", round + 1);
        }
        // Each round begins with another policy.
        let first = [0, 3, 6].map(|at| runs[at]["policy"].as_str().unwrap());
        assert_eq!(first, policies);
    }
}

#[test]
fn text_is_a_table_and_a_conclusion() {
    let words = "compare --backend mock --rounds 1 --duration 100ms --policies seed,ladder \
                 --ring-entries 4096";
    let text = dirty_ring(words).good();
    let mut lines = text.lines();
    assert_eq!(
        lines.next().unwrap(),
        "storm on the mock: 1 vCPU, rings of 4096 entries (soft limit 4032), 1 round of 100.0 ms, \
         medians"
    );
    for policy in ["| seed ", "| ladder ", "| no logging "] {
        assert!(text.lines().any(|line| line.starts_with(policy)), "{text}");
    }
    assert!(text.contains("\nBest here: ladder"), "{text}");
}

#[test]
fn one_policy_is_compared_with_the_baseline_and_the_baseline_with_nothing() {
    let compare = |policies: &str| {
        let words = "compare --backend mock --rounds 1 --duration 50ms --policies";
        dirty_ring(&format!("{words} {policies}")).good()
    };
    let alone = compare("seed");
    assert_eq!(
        alone
            .lines()
            .filter(|line| line.starts_with("| seed "))
            .count(),
        1
    );
    assert!(!alone.contains("Best here"), "{alone}");
    assert!(compare("none").contains("Nothing to compare: "));
}

#[test]
fn a_sweep_adds_fixed_intervals_and_compares_the_others_with_the_best_of_them() {
    let short = "compare --backend mock --rounds 1 --duration 50ms --policies ladder,fixed:5ms";
    let policies = |words: &str| -> Vec<String> {
        let json = dirty_ring(words).json();
        let runs = json["runs"].as_array().unwrap().iter();
        runs.map(|run| run["policy"].as_str().unwrap().to_owned())
            .collect()
    };
    let plain = policies(&format!("{short} --json"));
    assert_eq!(plain, ["none", "ladder", "fixed:5ms"]);
    let swept = policies(&format!("{short} --sweep --json"));
    assert_eq!(
        swept[..3],
        plain,
        "the requested policies come first, each once"
    );
    assert!(swept.len() > 5, "{swept:?}");
    assert!(swept[3..].iter().all(|policy| policy.starts_with("fixed:")));
    let once: std::collections::BTreeSet<_> = swept.iter().collect();
    assert_eq!(once.len(), swept.len());

    let text = dirty_ring(&format!("{short} --sweep")).good();
    assert!(text.contains("of best interval"), "{text}");
    let last = text.lines().last().unwrap();
    assert!(
        last.starts_with("Best interval in hindsight: fixed:"),
        "{text}"
    );
    assert!(last.contains("Compared with it: ladder "), "{text}");
}
