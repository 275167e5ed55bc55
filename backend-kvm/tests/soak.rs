//! A short soak: whatever a host does to a tracker, every page that the guest writes is published.
#![cfg(target_arch = "x86_64")]

mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dirty_ring_guest::soak::{self, SoakConfig};

use support::kvm;

const SEED: u64 = 1;
const DURATION: Duration = Duration::from_secs(10);

/// How long a slow host may take until everything has happened once.
const PATIENCE: Duration = Duration::from_secs(240);

#[test]
fn no_page_is_lost_whatever_the_host_does_to_a_tracker() {
    let Some((kvm, _)) = kvm() else { return };
    let begin = Instant::now();
    let mut doings = BTreeMap::new();
    let mut config = SoakConfig::new(DURATION, SEED);
    loop {
        let report = soak::run(&kvm, config, |_| ()).unwrap_or_else(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            panic!("{error}: {source:?}")
        });
        if let Some(lost) = report.first_lost {
            panic!("{lost}");
        }
        assert_eq!(report.pages_lost, 0);
        assert!(report.pages_checked > 0);
        println!("{} VMs, {} pages checked", report.vms, report.pages_checked);
        for (name, times) in report.doings {
            *doings.entry(name).or_insert(0) += times;
        }
        if doings.values().all(|&times| times > 0) || begin.elapsed() > PATIENCE {
            break;
        }
        config.first_vm += report.vms;
        config.duration = Duration::from_secs(1);
    }
    let missing: Vec<_> = doings.iter().filter(|(_, times)| **times == 0).collect();
    assert!(missing.is_empty(), "never happened: {missing:?}");
}
