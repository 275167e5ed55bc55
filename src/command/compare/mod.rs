//! `dirty-ring compare`: policies in interleaved rounds against the same guest.

mod standing;

use std::time::Duration;

use serde::Serialize;

use super::args::CompareArguments;
use super::failure::Failure;
use super::host::{Host, KvmHost};
use super::output;
use super::policy::PolicyName;
use super::progress;
use super::report::RunReport;
use super::run::{self, DEFAULT_DURATION, Plan};
use super::table;
use standing::{Standing, equal_speed, rank};

const DEFAULT_ROUNDS: u32 = 5;
const QUICK_ROUNDS: u32 = 3;
const QUICK_DURATION: Duration = Duration::from_secs(2);

/// The fixed intervals of the sweep.
const SWEEP_MS: [u64; 10] = [1000, 500, 250, 100, 50, 20, 10, 5, 2, 1];

/// The policies that are compared by default.
const DEFAULT_POLICIES: [&str; 5] = ["deadline", "ladder", "seed", "halving", "fixed:1s"];

/// What `--json` prints.
#[derive(Serialize)]
struct Comparison {
    host: Host,
    runs: Vec<Round>,
}

/// A run and its round, from 1.
#[derive(Serialize)]
struct Round {
    round: u32,
    #[serde(flatten)]
    report: RunReport,
}

/// Runs `dirty-ring compare`.
pub(crate) fn compare(arguments: &CompareArguments) -> Result<(), Failure> {
    let kvm = KvmHost::choose(arguments.place.backend)?;
    let rounds = match (arguments.rounds, arguments.quick) {
        (Some(rounds), _) => rounds,
        (None, true) => QUICK_ROUNDS,
        (None, false) => DEFAULT_ROUNDS,
    };
    let duration = match (arguments.what.duration, arguments.quick) {
        (Some(duration), _) => duration,
        (None, true) => QUICK_DURATION,
        (None, false) => DEFAULT_DURATION,
    };
    let policies = Policies::choose(arguments);
    let comparison = Comparison {
        host: Host::describe(kvm.as_ref()),
        runs: run_all(kvm.as_ref(), arguments, &policies.all, rounds, duration)?,
    };
    if arguments.json {
        return output::print_json(&comparison);
    }
    output::print(&comparison.text(&policies, rounds))
}

/// The policies to run.
struct Policies {
    /// Each once; the baseline without logging comes first.
    all: Vec<PolicyName>,
    /// The fixed intervals of the sweep.
    swept: Vec<PolicyName>,
}

impl Policies {
    fn choose(arguments: &CompareArguments) -> Self {
        let asked = arguments.policies.as_deref();
        let sweep = arguments.sweep || (asked.is_none() && !arguments.quick);
        let swept: Vec<PolicyName> = match sweep {
            true => SWEEP_MS
                .into_iter()
                .filter_map(|ms| PolicyName::fixed(Duration::from_millis(ms)))
                .collect(),
            false => Vec::new(),
        };
        let defaults = DEFAULT_POLICIES.map(|name| name.parse().expect("a policy of ours"));
        let mut all = vec![PolicyName::NONE];
        for policy in asked.unwrap_or(&defaults).iter().chain(&swept) {
            if !all.contains(policy) {
                all.push(*policy);
            }
        }
        Self { all, swept }
    }
}

fn run_all(
    kvm: Option<&KvmHost>,
    arguments: &CompareArguments,
    policies: &[PolicyName],
    rounds: u32,
    duration: Duration,
) -> Result<Vec<Round>, Failure> {
    let bar = progress::bar(u64::from(rounds) * policies.len() as u64);
    let mut runs = Vec::new();
    for round in 1..=rounds {
        for turn in 0..policies.len() {
            // Each round begins with another policy, so that what a run leaves behind (a warm CPU,
            // a full page cache) hits all of them alike.
            let policy = policies[(turn + round as usize - 1) % policies.len()];
            bar.set_message(format!("round {round}: {policy}"));
            let plan = Plan {
                place: arguments.place.clone(),
                what: arguments.what.clone(),
                policy,
                duration,
                trace: None,
            };
            let report = run::run(kvm, &plan)?;
            runs.push(Round { round, report });
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(runs)
}

impl Comparison {
    fn standing(&self, policy: PolicyName) -> Standing {
        let name = policy.to_string();
        let runs = self.runs.iter().map(|round| &round.report);
        Standing::of(policy, runs.filter(|report| report.policy == name))
    }

    /// Returns a table with the best policy first, and the conclusions from it.
    fn text(&self, policies: &Policies, rounds: u32) -> String {
        let baseline = self.standing(PolicyName::NONE);
        let reaping = policies
            .all
            .iter()
            .filter(|name| **name != PolicyName::NONE);
        let mut ranked: Vec<Standing> = reaping.map(|name| self.standing(*name)).collect();
        let equal = equal_speed(&ranked);
        rank(&mut ranked, equal);
        let hindsight = ranked
            .iter()
            .find(|one| policies.swept.contains(&one.policy));

        let mut header = vec!["policy", "page writes", "of baseline"];
        header.extend(hindsight.map(|_| "of best interval"));
        header.extend(FIGURES);
        let row = |one: &Standing| {
            let mut row = vec![
                one.policy.to_string(),
                table::per_second(one.writes_per_s),
                table::percent(one.speed_over(&baseline)),
            ];
            row.extend(hindsight.map(|best| table::percent(one.speed_over(best))));
            row.extend(one.cells());
            row
        };
        let mut rows: Vec<Vec<String>> = ranked.iter().map(row).collect();
        rows.push(vec![
            "no logging (baseline)".into(),
            table::per_second(baseline.writes_per_s),
            table::percent(1.0),
        ]);
        format!(
            "{}\n{}{}{}",
            self.title(rounds),
            table::of_figures(&header, &rows),
            conclusion(&ranked, &baseline, equal),
            hindsight.map_or_else(String::new, |best| against(best, &ranked, policies))
        )
    }

    fn title(&self, rounds: u32) -> String {
        let Some(Round { report: run, .. }) = self.runs.first() else {
            return String::new();
        };
        format!(
            "{} on {}: {}, rings of {} entries (soft limit {}), {} of {}, medians",
            run.workload,
            if run.backend == "kvm" {
                "KVM"
            } else {
                "the mock"
            },
            table::counted(run.vcpus, "vCPU"),
            run.ring_entries,
            run.ring_capacity,
            table::counted(rounds, "round"),
            table::micros(Some(run.duration_s * 1e6))
        )
    }
}

/// The columns of [`Standing::cells`].
const FIGURES: [&str; 6] = [
    "ring-fulls",
    "per M pages",
    "longest stall",
    "stalled",
    "wake-ups",
    "reaper CPU",
];

/// Returns which policy is best and which is last.
fn conclusion(ranked: &[Standing], baseline: &Standing, equal: f64) -> String {
    let verdict = |one: &Standing| {
        let speed = table::percent(one.speed_over(baseline));
        let ring_fulls = one.counted_ring_fulls();
        format!(
            "{} ({speed} of the baseline without logging, {ring_fulls})",
            one.policy
        )
    };
    match ranked {
        [] => "Nothing to compare: name policies with --policies (none is only the baseline).\n"
            .into(),
        [only] => format!("{}.\n", verdict(only)),
        [best, .., last] => format!(
            "Best here: {}; last: {}.\nRanked by guest speed; speeds that differ by less than {} \
             (rounds of one policy may differ by as much) count as equal: then ring-fulls decide, \
             then the reaper's CPU.\n",
            verdict(best),
            verdict(last),
            table::percent(equal)
        ),
    }
}

/// Compares the policies with the best interval of the sweep.
fn against(best: &Standing, ranked: &[Standing], policies: &Policies) -> String {
    let chosen = ranked
        .iter()
        .filter(|one| !policies.swept.contains(&one.policy));
    let verdicts: Vec<String> = chosen
        .map(|one| {
            let speed = table::percent(one.speed_over(best));
            format!("{} {speed} and {}", one.policy, one.counted_ring_fulls())
        })
        .collect();
    format!(
        "Best interval in hindsight: {} with {}. Compared with it: {}.\n",
        best.policy,
        best.counted_ring_fulls(),
        verdicts.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(arguments: &[&str]) -> Vec<String> {
        let policies = Policies::choose(&CompareArguments::parse(arguments));
        policies.all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_baseline_is_run_once_and_first() {
        let chosen = choose(&["--policies", "seed,none,seed"]);
        assert_eq!(chosen, ["none", "seed"]);
    }

    #[test]
    fn the_sweep_is_run_unless_quick_or_policies_are_given() {
        assert_eq!(choose(&["--quick"]).len(), 6);
        assert_eq!(choose(&[]).len(), 6 + 9);
        let chosen = choose(&["--sweep", "--quick", "--policies", "deadline"]);
        assert_eq!(chosen.len(), 2 + 10);
    }
}
