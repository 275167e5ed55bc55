//! How each policy did: medians over the rounds, and the ranking.

use crate::command::policy::PolicyName;
use crate::command::report::RunReport;
use crate::command::table;

/// Guest speeds that differ by less than this share count as equal. Where rounds of one policy
/// differ by more, that is the share.
pub(super) const EQUAL_SPEED: f64 = 0.02;

/// The medians of one policy's runs.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pub(super) policy: PolicyName,
    pub(super) writes_per_s: f64,
    pub(super) ring_fulls: f64,
    per_million: Option<f64>,
    longest_stall_us: Option<f64>,
    /// The mean of the vCPUs.
    total_stall_us: f64,
    wakeups_per_s: f64,
    cpu_s: Option<f64>,
    seconds: f64,
    /// The difference between its fastest and its slowest round, as a share of the fastest.
    spread: f64,
}

impl Standing {
    /// Summarizes the runs of `policy`.
    pub(super) fn of<'r>(
        policy: PolicyName,
        runs: impl Iterator<Item = &'r RunReport> + Clone,
    ) -> Self {
        let median_of = |figure: fn(&RunReport) -> f64| median(runs.clone().map(figure));
        let known = |figure: fn(&RunReport) -> Option<f64>| median(runs.clone().filter_map(figure));
        let speeds = runs.clone().map(|run| run.page_writes_per_s);
        let (least, most) = speeds.fold((f64::MAX, 0.0), |(least, most), speed| {
            (speed.min(least), speed.max(most))
        });
        Self {
            policy,
            writes_per_s: median_of(|run| run.page_writes_per_s).unwrap_or(0.0),
            ring_fulls: median_of(|run| run.ring_fulls as f64).unwrap_or(0.0),
            per_million: known(|run| run.ring_fulls_per_million_pages),
            longest_stall_us: known(|run| run.ring_full_stall_us.max),
            total_stall_us: median_of(|run| run.ring_full_stall_us.total / f64::from(run.vcpus))
                .unwrap_or(0.0),
            wakeups_per_s: median_of(|run| run.wakeups as f64 / run.duration_s).unwrap_or(0.0),
            cpu_s: known(|run| run.reaper_cpu_s),
            seconds: median_of(|run| run.duration_s).unwrap_or(0.0),
            spread: if most > 0.0 {
                (most - least) / most
            } else {
                0.0
            },
        }
    }

    /// Returns its speed over that of `other`; 1 where `other` wrote nothing.
    pub(super) fn speed_over(&self, other: &Self) -> f64 {
        if other.writes_per_s > 0.0 {
            self.writes_per_s / other.writes_per_s
        } else {
            1.0
        }
    }

    /// Returns its cells of the table, without the comparisons with others.
    pub(super) fn cells(&self) -> Vec<String> {
        vec![
            format!("{:.0}", self.ring_fulls),
            self.per_million
                .map_or("-".into(), |rate| format!("{rate:.1}")),
            table::micros(self.longest_stall_us),
            table::percent(self.share_of_time(self.total_stall_us / 1e6)),
            format!("{:.0} /s", self.wakeups_per_s),
            self.cpu_s.map_or("-".into(), |cpu_s| {
                table::percent(self.share_of_time(cpu_s))
            }),
        ]
    }

    pub(super) fn counted_ring_fulls(&self) -> String {
        table::counted(self.ring_fulls.round() as u64, "ring-full")
    }

    fn share_of_time(&self, seconds: f64) -> f64 {
        if self.seconds > 0.0 {
            seconds / self.seconds
        } else {
            0.0
        }
    }
}

/// Sorts the best first: by guest speed, where speeds aren't equal; then by ring-fulls; then by the
/// reaper's CPU, in whole per cent of one. Ties keep the order in which they were given.
pub(super) fn rank(standings: &mut [Standing], equal: f64) {
    let speeds = standings.iter().map(|one| one.writes_per_s);
    let best = speeds.fold(0.0, f64::max);
    // Speeds are compared by their class below the best: "about equal" alone isn't transitive.
    let class = |one: &Standing| match best > 0.0 {
        true => ((1.0 - one.writes_per_s / best) / equal).floor(),
        false => 0.0,
    };
    let cpu = |one: &Standing| (one.share_of_time(one.cpu_s.unwrap_or(0.0)) * 100.0).floor();
    standings.sort_by(|one, other| {
        class(one)
            .total_cmp(&class(other))
            .then(one.ring_fulls.total_cmp(&other.ring_fulls))
            .then(cpu(one).total_cmp(&cpu(other)))
    });
}

/// Returns the share below which speeds count as equal: the median of what each policy's rounds
/// differ by, or [`EQUAL_SPEED`] if that is more.
pub(super) fn equal_speed(standings: &[Standing]) -> f64 {
    median(standings.iter().map(|one| one.spread))
        .unwrap_or(0.0)
        .max(EQUAL_SPEED)
}

/// Returns the median: of an even number the mean of the middle two, of nothing `None`.
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
    fn the_median_of_an_even_number_is_the_mean_of_the_middle_two() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
    }

    fn standing(policy: &str, speed: f64, ring_fulls: f64) -> Standing {
        Standing {
            writes_per_s: speed * 1e6,
            ring_fulls,
            seconds: 1.0,
            ..Standing::of(policy.parse().unwrap(), [].into_iter())
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
    fn a_policy_without_rounds_has_neutral_figures() {
        let none = Standing::of(PolicyName::NONE, [].into_iter());
        assert_eq!((none.spread, none.speed_over(&none)), (0.0, 1.0));
        assert_eq!(none.counted_ring_fulls(), "0 ring-fulls");
    }
}
