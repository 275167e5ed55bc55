//! Tables for people.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{Cell, CellAlignment, Table};

use super::report::RunReport;

/// A table whose first column is text and whose others are figures.
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

/// One run, a line a figure.
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
                "{} entries per vCPU, full at {}",
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
            "stalls on them",
            match stall.max {
                None => "none".into(),
                longest => format!(
                    "{} (half below {}, longest {})",
                    micros(Some(stall.total)),
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

/// vCPUs that a run lists one by one; JSON has them all.
const MOST_VCPUS: usize = 8;

/// A number of things, in English: `1 page`, `2 entries`.
pub(crate) fn counted<N: Into<u64>>(number: N, thing: &str) -> String {
    let number = number.into();
    match (number, thing.strip_suffix('y')) {
        (1, _) => format!("1 {thing}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        (_, None) => format!("{number} {thing}s"),
    }
}

/// A rate, with a unit that leaves few digits.
pub(crate) fn per_second(rate: f64) -> String {
    match rate {
        rate if rate >= 1e6 => format!("{:.2} M/s", rate / 1e6),
        rate if rate >= 1e3 => format!("{:.1} k/s", rate / 1e3),
        rate => format!("{rate:.0} /s"),
    }
}

/// A time in microseconds, with a unit that leaves few digits; a dash where it isn't known.
pub(crate) fn micros(us: Option<f64>) -> String {
    match us {
        None => "-".into(),
        Some(us) if us >= 1e6 => format!("{:.2} s", us / 1e6),
        Some(us) if us >= 1e3 => format!("{:.1} ms", us / 1e3),
        Some(us) => format!("{us:.0} us"),
    }
}

/// A share, in per cent with about three digits.
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
    fn one_thing_is_no_plural() {
        let counts = [0_u32, 1, 2].map(|number| counted(number, "entry"));
        assert_eq!(counts, ["0 entries", "1 entry", "2 entries"]);
        assert_eq!(counted(2_u64, "ring-full"), "2 ring-fulls");
    }
}
