//! Checks the fields of a run's JSON, and how its figures relate.

use serde_json::Value;

/// The arguments of a run.
pub(crate) struct Asked<'a> {
    pub(crate) backend: &'a str,
    pub(crate) policy: &'a str,
    pub(crate) workload: &'a str,
    pub(crate) vcpus: u64,
    pub(crate) ring_entries: u64,
    pub(crate) duration_s: f64,
}

impl Default for Asked<'_> {
    fn default() -> Self {
        Self {
            backend: "mock",
            policy: "deadline",
            workload: "storm",
            vcpus: 1,
            ring_entries: 4096,
            duration_s: 0.2,
        }
    }
}

/// Fields that are whole numbers.
const WHOLE: [&str; 10] = [
    "ring_entries",
    "ring_capacity",
    "vcpus",
    "page_writes",
    "ring_fulls",
    "pages_harvested",
    "harvests",
    "resets",
    "wakeups",
    "peeks",
];

/// A run on KVM reads the clock every now and then, and has to stop its vCPUs once its time is
/// over: on a busy host it ends this much too late.
const LATE_S: f64 = 5.0;

/// Checks one run.
#[track_caller]
pub(crate) fn check_run(run: &Value, asked: &Asked<'_>) {
    check_identity(run, asked);
    check_rates(run, asked);
    check_stalls(run);
    check_vcpus(run, asked);
    if asked.policy == "none" {
        check_no_logging(run);
    } else {
        check_reaping(run);
    }
}

#[track_caller]
fn check_identity(run: &Value, asked: &Asked<'_>) {
    assert_eq!(run["policy"], asked.policy, "{run}");
    assert_eq!(run["backend"], asked.backend, "{run}");
    assert_eq!(run["workload"], asked.workload, "{run}");
    assert_eq!(run["vcpus"], asked.vcpus, "{run}");
    assert_eq!(run["ring_entries"], asked.ring_entries, "{run}");
    for field in WHOLE {
        assert!(run[field].is_u64(), "{field}: {run}");
    }
    // The kernel's reserve, without Intel PML and with it.
    let capacity = whole(run, "ring_capacity");
    let reserves = [64, 64 + 512];
    assert!(reserves.contains(&(asked.ring_entries - capacity)), "{run}");
}

#[track_caller]
fn check_rates(run: &Value, asked: &Asked<'_>) {
    let seconds = number(run, "duration_s");
    let late_s = if asked.backend == "kvm" { LATE_S } else { 0.0 };
    assert!(
        (asked.duration_s..=asked.duration_s + late_s).contains(&seconds),
        "{run}"
    );
    let writes = whole(run, "page_writes") as f64;
    assert_about(number(run, "page_writes_per_s"), writes / seconds, run);
    let pages = whole(run, "pages_harvested") as f64;
    let ring_fulls = whole(run, "ring_fulls") as f64;
    let per_million = &run["ring_fulls_per_million_pages"];
    if pages == 0.0 {
        assert!(per_million.is_null(), "{run}");
    } else {
        assert_about(per_million.as_f64().unwrap(), ring_fulls / pages * 1e6, run);
    }
}

#[track_caller]
fn check_stalls(run: &Value) {
    let stall = &run["ring_full_stall_us"];
    let total = number(stall, "total");
    let parts = ["p50", "p99", "max"].map(|field| &stall[field]);
    if whole(run, "ring_fulls") == 0 {
        assert!(parts.iter().all(|part| part.is_null()), "{run}");
        assert_eq!(total, 0.0, "{run}");
        return;
    }
    let [p50, p99, max] = parts.map(|part| part.as_f64().unwrap());
    assert!(0.0 < p50 && p50 <= p99 && p99 <= max, "{run}");
    // The total is the sum of one stall for each ring-full.
    assert!(max <= total * (1.0 + 1e-9), "{run}");
    let most = max * whole(run, "ring_fulls") as f64;
    assert!(total <= most * (1.0 + 1e-9), "{run}");
}

#[track_caller]
fn check_vcpus(run: &Value, asked: &Asked<'_>) {
    let vcpus = run["per_vcpu"].as_array().unwrap();
    assert_eq!(vcpus.len() as u64, asked.vcpus, "{run}");
    for field in ["ring_fulls", "pages_harvested"] {
        let sum: u64 = vcpus.iter().map(|vcpu| whole(vcpu, field)).sum();
        assert_eq!(sum, whole(run, field), "{field}: {run}");
    }
    for vcpu in vcpus {
        let pages = whole(vcpu, "pages_harvested");
        if run["policy"] == "none" {
            assert!(vcpu["peak_occupancy"].is_null(), "{run}");
            assert!(vcpu["dirty_pages_per_s"].is_null(), "{run}");
            continue;
        }
        let peak = whole(vcpu, "peak_occupancy");
        let rate = pages as f64 / number(run, "duration_s");
        assert_about(number(vcpu, "dirty_pages_per_s"), rate, run);
        assert!(peak <= asked.ring_entries, "{run}");
        assert!(pages == 0 || peak > 0, "{run}");
    }
}

#[track_caller]
fn check_no_logging(run: &Value) {
    for field in [
        "ring_fulls",
        "pages_harvested",
        "harvests",
        "resets",
        "wakeups",
        "peeks",
    ] {
        assert_eq!(run[field], 0, "{field}: {run}");
    }
    assert!(run["reaper_cpu_s"].is_null(), "{run}");
}

#[track_caller]
fn check_reaping(run: &Value) {
    let cpu_s = run["reaper_cpu_s"].as_f64().unwrap();
    let pages = whole(run, "pages_harvested");
    let harvests = whole(run, "harvests");
    assert!((0.0..=number(run, "duration_s")).contains(&cpu_s), "{run}");
    assert!(harvests <= pages, "each harvest takes an entry: {run}");
    assert_eq!(harvests == 0, pages == 0, "{run}");
    // Each entry is a write to a protected page. A write is logged twice if it fills the ring, and
    // so is retried after the reap, or if a reap comes between its fault and its retry.
    let writes = whole(run, "page_writes");
    let again = whole(run, "ring_fulls") + whole(run, "harvests") + whole(run, "vcpus");
    assert!(pages <= writes + again, "{run}");
}

/// Returns a whole number of `object`.
#[track_caller]
pub(crate) fn whole(object: &Value, field: &str) -> u64 {
    object[field]
        .as_u64()
        .unwrap_or_else(|| panic!("{field} is not a whole number: {object}"))
}

/// Returns a number of `object`, 0 or above.
#[track_caller]
pub(crate) fn number(object: &Value, field: &str) -> f64 {
    let number = object[field].as_f64();
    let number = number.unwrap_or_else(|| panic!("{field} is not a number: {object}"));
    assert!(number >= 0.0, "{field}: {object}");
    number
}

/// Checks that two numbers are equal but for rounding.
#[track_caller]
fn assert_about(one: f64, other: f64, run: &Value) {
    let scale = one.abs().max(other.abs()).max(1e-12);
    assert!((one - other).abs() / scale < 1e-6, "{one}, {other}: {run}");
}
