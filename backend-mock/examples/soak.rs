//! Soaks one simulated VM after another: `soak [FIRST_SEED [VMS]]`.

use std::collections::BTreeMap;
use std::time::Instant;

use dirty_ring_mock::{SoakConfig, soak};

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|argument| argument.parse().expect("a number"));
    let first: u64 = arguments.next().unwrap_or(0);
    let vms: u64 = arguments.next().unwrap_or(100);
    let begin = Instant::now();
    let (mut pages, mut doings) = (0, BTreeMap::new());
    for seed in first..first + vms {
        match soak(seed, &SoakConfig::default()) {
            Ok(report) => {
                pages += report.pages_checked;
                if !report.is_sound() {
                    println!("{report:#?}");
                }
                for (doing, times) in report.doings {
                    *doings.entry(doing).or_insert(0) += times;
                }
            }
            Err(error) => println!("{error}: {}", error.source),
        }
    }
    let s = begin.elapsed().as_secs_f64();
    println!(
        "{vms} VMs and {pages} pages in {s:.1} s: {:.0} VMs a minute",
        vms as f64 / s * 60.0
    );
    println!("{doings:#?}");
}
