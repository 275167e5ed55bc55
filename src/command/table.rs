//! Output as text.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{Cell, CellAlignment, Table};

use super::report::RunReport;

/// Returns a table whose first column is text and whose others are figures.
pub(crate) fn of_figures(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(header.iter().map(Cell::new));
    for row in rows {
        table.add_row(row.iter().enumerate().map(|(column, text)| {
            let cell = Cell::new(text);
            match column {
                0 => cell,
                _ => cell.set_alignment(CellAlignment::Right),
            }
        }));
    }
    format!("{table}\n")
}

/// Returns the figures of one run, one on each line.
pub(crate) fn of_run(report: &RunReport) -> String {
    let stall = &report.ring_full_stall_us;
    let mut lines = vec![
        (
            "run",
            format!(
                "{} under {}, {}, {} on {}",
                report.workload,
                report.policy,
                counted(report.vcpus, "vCPU"),
                micros(Some(report.duration_s * 1e6)),
                report.backend
            ),
        ),
        (
            "ring",
            format!(
                "{} entries per vCPU, soft limit {}",
                report.ring_entries, report.ring_capacity
            ),
        ),
        ("page writes", per_second(report.page_writes_per_s)),
        (
            "ring-fulls",
            match report.ring_fulls_per_million_pages {
                Some(rate) => format!("{} ({rate:.1} per million pages)", report.ring_fulls),
                None => report.ring_fulls.to_string(),
            },
        ),
        (
            "stalls",
            match stall.max {
                None => "none".into(),
                longest => format!(
                    "{} (median {}, longest {})",
                    summed(stall.total, report.vcpus),
                    micros(stall.p50),
                    micros(longest)
                ),
            },
        ),
        (
            "reaped",
            format!(
                "{} in {} and {}",
                counted(report.pages_harvested, "page"),
                counted(report.harvests, "harvest"),
                counted(report.resets, "reset")
            ),
        ),
        (
            "reaper",
            format!(
                "{}, {} of CPU",
                counted(report.wakeups, "wake-up"),
                micros(report.reaper_cpu_s.map(|s| s * 1e6))
            ),
        ),
    ];
    for (vcpu, figures) in report.per_vcpu.iter().enumerate().take(MOST_VCPUS) {
        if let (Some(rate), Some(peak)) = (figures.dirty_pages_per_s, figures.peak_occupancy) {
            lines.push((
                "vCPU",
                format!(
                    "{vcpu}: {} dirty pages, {}, {} at most",
                    per_second(rate),
                    counted(figures.ring_fulls, "ring-full"),
                    counted(peak, "entry")
                ),
            ));
        }
    }
    let text: Vec<String> = lines
        .iter()
        .map(|(name, value)| format!("{name:<15} {value}\n"))
        .collect();
    text.concat()
}

/// The most vCPUs that a run lists one by one; JSON has them all.
const MOST_VCPUS: usize = 8;

/// Returns a total time, in microseconds. A sum over several vCPUs says so, because it can be
/// longer than the run.
fn summed(total_us: f64, vcpus: u16) -> String {
    let total = micros(Some(total_us));
    match vcpus {
        1 => total,
        vcpus => format!("{total} summed over {vcpus} vCPUs"),
    }
}

/// Returns a number of things, as in `1 page`, `2 entries`.
pub(crate) fn counted<N: Into<u64>>(number: N, thing: &str) -> String {
    let number = number.into();
    match (number, thing.strip_suffix('y')) {
        (1, _) => format!("1 {thing}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        (_, None) => format!("{number} {thing}s"),
    }
}

/// Returns a rate, with a unit that leaves few digits.
pub(crate) fn per_second(rate: f64) -> String {
    match rate {
        rate if rate >= 1e6 => format!("{:.2} M/s", rate / 1e6),
        rate if rate >= 1e3 => format!("{:.1} k/s", rate / 1e3),
        rate => format!("{rate:.0} /s"),
    }
}

/// Returns a time, given in microseconds, with a unit that leaves few digits; a dash where it is
/// unknown.
pub(crate) fn micros(us: Option<f64>) -> String {
    match us {
        None => "-".into(),
        Some(us) if us >= 1e6 => format!("{:.2} s", us / 1e6),
        Some(us) if us >= 1e3 => format!("{:.1} ms", us / 1e3),
        Some(us) => format!("{us:.0} us"),
    }
}

/// Returns a figure as text, or `unknown`.
pub(crate) fn unknown_or<T>(figure: Option<T>, text: impl FnOnce(T) -> String) -> String {
    figure.map_or_else(|| "unknown".to_owned(), text)
}

/// Returns `yes` or `no`.
pub(crate) fn yes_or_no(answer: bool) -> String {
    if answer { "yes" } else { "no" }.to_owned()
}

/// Returns a share in per cent, with about three digits.
pub(crate) fn percent(share: f64) -> String {
    match share * 100.0 {
        percent if percent >= 9.995 => format!("{percent:.1} %"),
        percent => format!("{percent:.2} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_singular() {
        let counts = [0_u32, 1, 2].map(|number| counted(number, "entry"));
        assert_eq!(counts, ["0 entries", "1 entry", "2 entries"]);
        assert_eq!(counted(2_u64, "ring-full"), "2 ring-fulls");
    }

    #[test]
    fn a_sum_over_vcpus_says_so() {
        assert_eq!(summed(1.5e6, 1), "1.50 s");
        assert_eq!(summed(127e6, 32), "127.00 s summed over 32 vCPUs");
    }
}
