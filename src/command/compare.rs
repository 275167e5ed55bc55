//! `dirty-ring compare`: policies in interleaved rounds against the same guest.

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

const DEFAULT_ROUNDS: u32 = 5;
const QUICK_ROUNDS: u32 = 3;
const QUICK_DURATION: Duration = Duration::from_secs(2);

/// Guest speeds closer than this share of each other count as equal, or closer than the rounds of
/// one policy are among themselves, if that is more.
const EQUAL_SPEED: f64 = 0.02;

/// What `--json` prints.
#[derive(Serialize)]
struct Comparison {
    host: Host,
    runs: Vec<Round>,
}

/// A run and the round that it was part of, from 1.
#[derive(Serialize)]
struct Round {
    round: u32,
    #[serde(flatten)]
    report: RunReport,
}

/// Compares.
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
    let policies = policies(&arguments.policies);
    let comparison = Comparison {
        host: Host::look(kvm.as_ref()),
        runs: run_all(kvm.as_ref(), arguments, &policies, rounds, duration)?,
    };
    if arguments.json {
        return output::print_json(&comparison);
    }
    output::print(&comparison.text(&policies, rounds))
}

/// The policies asked for, each once, and no logging first.
fn policies(asked: &[PolicyName]) -> Vec<PolicyName> {
    let mut policies = vec![PolicyName::None];
    for policy in asked {
        if !policies.contains(policy) {
            policies.push(*policy);
        }
    }
    policies
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
            // Each round begins with another policy: what a run leaves behind hits all alike.
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

/// The medians of one policy's runs.
struct Standing {
    policy: PolicyName,
    writes_per_s: f64,
    /// Writes over those without logging.
    speed: f64,
    ring_fulls: f64,
    per_million: Option<f64>,
    longest_stall_us: Option<f64>,
    total_stall_us: f64,
    wakeups_per_s: f64,
    cpu_s: Option<f64>,
    seconds: f64,
}

impl Comparison {
    fn standing(&self, policy: PolicyName, undisturbed: f64) -> Standing {
        let name = policy.to_string();
        let runs = || {
            let all = self.runs.iter().map(|round| &round.report);
            all.filter(|report| report.policy == name)
        };
        let writes_per_s = median(runs().map(|run| run.page_writes_per_s)).unwrap_or(0.0);
        Standing {
            policy,
            writes_per_s,
            speed: if undisturbed > 0.0 {
                writes_per_s / undisturbed
            } else {
                1.0
            },
            ring_fulls: median(runs().map(|run| run.ring_fulls as f64)).unwrap_or(0.0),
            per_million: median(runs().filter_map(|run| run.ring_fulls_per_million_pages)),
            longest_stall_us: median(runs().filter_map(|run| run.ring_full_stall_us.max)),
            total_stall_us: median(runs().map(|run| run.ring_full_stall_us.total)).unwrap_or(0.0),
            wakeups_per_s: median(runs().map(|run| run.wakeups as f64 / run.duration_s))
                .unwrap_or(0.0),
            cpu_s: median(runs().filter_map(|run| run.reaper_cpu_s)),
            seconds: median(runs().map(|run| run.duration_s)).unwrap_or(0.0),
        }
    }

    /// The share by which speeds must differ to count as different: what a policy's own rounds
    /// differ by, as a rule.
    fn equal_speed(&self, policies: &[PolicyName]) -> f64 {
        let spread = |policy: &PolicyName| {
            let name = policy.to_string();
            let runs = self.runs.iter().map(|round| &round.report);
            let mut speeds: Vec<f64> = runs
                .filter(|run| run.policy == name)
                .map(|run| run.page_writes_per_s)
                .collect();
            speeds.sort_by(f64::total_cmp);
            let (least, most) = (speeds.first()?, speeds.last()?);
            (*most > 0.0).then(|| (most - least) / most)
        };
        let spreads = policies.iter().filter_map(spread);
        median(spreads).unwrap_or(0.0).max(EQUAL_SPEED)
    }

    /// The table, best policy first, and one line of conclusion.
    fn text(&self, policies: &[PolicyName], rounds: u32) -> String {
        let undisturbed = self.standing(PolicyName::None, 0.0);
        let mut ranked: Vec<Standing> = policies
            .iter()
            .filter(|policy| **policy != PolicyName::None)
            .map(|policy| self.standing(*policy, undisturbed.writes_per_s))
            .collect();
        let equal = self.equal_speed(policies);
        rank(&mut ranked, equal);
        let mut rows: Vec<Vec<String>> = ranked.iter().map(Standing::row).collect();
        rows.push(vec![
            "no logging".into(),
            table::per_second(undisturbed.writes_per_s),
            "100 %".into(),
        ]);
        let header = [
            "policy",
            "page writes",
            "of no logging",
            "ring-fulls",
            "per M pages",
            "longest stall",
            "stalled",
            "wake-ups",
            "reaper CPU",
        ];
        format!(
            "{}\n{}{}",
            self.title(rounds),
            table::of_figures(&header, &rows),
            conclusion(&ranked, equal)
        )
    }

    fn title(&self, rounds: u32) -> String {
        let Some(Round { report: run, .. }) = self.runs.first() else {
            return String::new();
        };
        format!(
            "{} on {}: {}, rings of {} entries (full at {}), {} of {}, medians",
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

impl Standing {
    fn row(&self) -> Vec<String> {
        vec![
            self.policy.to_string(),
            table::per_second(self.writes_per_s),
            format!("{:.1} %", self.speed * 100.0),
            format!("{:.0}", self.ring_fulls),
            self.per_million
                .map_or("-".into(), |rate| format!("{rate:.1}")),
            table::micros(self.longest_stall_us),
            format!("{:.2} %", self.stalled() * 100.0),
            format!("{:.0} /s", self.wakeups_per_s),
            match self.cpu_s {
                Some(cpu_s) if self.seconds > 0.0 => {
                    format!("{:.1} %", cpu_s / self.seconds * 100.0)
                }
                _ => "-".into(),
            },
        ]
    }

    fn counted_ring_fulls(&self) -> String {
        table::counted(self.ring_fulls.round() as u64, "ring-full")
    }

    /// The share of the run that vCPUs stood still, summed over them.
    fn stalled(&self) -> f64 {
        if self.seconds > 0.0 {
            self.total_stall_us / 1e6 / self.seconds
        } else {
            0.0
        }
    }
}

/// Best first: by guest speed, where a difference counts; then by ring-fulls; then by the reaper's
/// CPU.
fn rank(standings: &mut [Standing], equal: f64) {
    let best = standings.iter().map(|one| one.speed).fold(0.0, f64::max);
    // Steps below the best, so that "about equal" can't go round in a circle.
    let steps = |one: &Standing| match best > 0.0 {
        true => ((1.0 - one.speed / best) / equal).floor(),
        false => 0.0,
    };
    standings.sort_by(|one, other| {
        steps(one)
            .total_cmp(&steps(other))
            .then(one.ring_fulls.total_cmp(&other.ring_fulls))
            .then(
                one.cpu_s
                    .unwrap_or(0.0)
                    .total_cmp(&other.cpu_s.unwrap_or(0.0)),
            )
    });
}

fn conclusion(ranked: &[Standing], equal: f64) -> String {
    let (Some(best), Some(worst)) = (ranked.first(), ranked.last()) else {
        return "Nothing to compare: name some policies with --policies.\n".into();
    };
    if ranked.len() == 1 {
        return format!(
            "{} leaves the guest {:.1} % of its undisturbed speed, with {}.\n",
            best.policy,
            best.speed * 100.0,
            best.counted_ring_fulls()
        );
    }
    format!(
        "Best here: {}, the guest at {:.1} % of its undisturbed speed with {}; last: \
         {}, {:.1} % with {}.\nRanked by guest speed; within {:.0} % (what rounds differ by \
         anyway) by ring-fulls, then by CPU.\n",
        best.policy,
        best.speed * 100.0,
        best.counted_ring_fulls(),
        worst.policy,
        worst.speed * 100.0,
        worst.counted_ring_fulls(),
        equal * 100.0
    )
}

/// The median; the mean of the middle two of an even number; `None` of nothing.
fn median(figures: impl Iterator<Item = f64>) -> Option<f64> {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    let upper = *figures.get(middle)?;
    if figures.len() % 2 == 1 {
        return Some(upper);
    }
    Some((figures[middle - 1] + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
    }

    fn standing(policy: &str, speed: f64, ring_fulls: f64) -> Standing {
        Standing {
            policy: policy.parse().unwrap(),
            writes_per_s: speed * 1e6,
            speed,
            ring_fulls,
            per_million: None,
            longest_stall_us: None,
            total_stall_us: 0.0,
            wakeups_per_s: 0.0,
            cpu_s: None,
            seconds: 1.0,
        }
    }

    #[test]
    fn speed_ranks_first_and_ring_fulls_where_speeds_are_about_equal() {
        let mut standings = [
            standing("seed", 0.90, 0.0),
            standing("halving", 0.99, 500.0),
            standing("ladder", 0.98, 3.0),
        ];
        rank(&mut standings, EQUAL_SPEED);
        let order = standings.map(|one| one.policy.to_string());
        assert_eq!(order, ["ladder", "halving", "seed"]);
    }

    #[test]
    fn no_logging_is_measured_along_once() {
        let asked = ["seed", "none", "seed"].map(|name| name.parse().unwrap());
        let names: Vec<String> = policies(&asked).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["none", "seed"]);
    }
}
