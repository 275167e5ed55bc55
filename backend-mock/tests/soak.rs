//! Hundreds of simulated VMs of random make, to which random things happen: no page is lost. And each
//! rule that keeps them, broken on purpose, shows.

mod flaws;

use std::collections::BTreeMap;

use dirty_ring_mock::{SoakConfig, SoakError, SoakReport, VirtualBackend, Vm, soak, soak_around};
use flaws::{
    AcceptsGarbage, Blind, Flaw, Flawed, ForgetsLostRings, ForgetsRemovals, HidesInterruptions,
    HidesLateOnes, KeepsSuspects, NeverCountsAll, NeverLogsAnew, SwallowsFailures,
};

/// Small rings, so that a VM takes milliseconds.
fn small() -> SoakConfig {
    SoakConfig {
        most_ring_entries: 2048,
        ..SoakConfig::default()
    }
}

#[test]
fn no_page_is_lost_whatever_happens_to_a_vm() {
    let mut doings: BTreeMap<&str, u64> = BTreeMap::new();
    let mut pages = 0;
    for seed in 0..300 {
        let report = soak(seed, &small()).unwrap();
        assert!(report.is_sound(), "{report:?}");
        pages += report.pages_checked;
        for (doing, times) in report.doings {
            *doings.entry(doing).or_default() += times;
        }
    }
    println!("{pages} pages, {doings:?}");
    for found in [
        "found_bad_entries",
        "found_overrun",
        "found_parted",
        "found_reset_failure",
        "found_sink_failure",
        "found_stalled",
    ] {
        assert!(doings.contains_key(found), "never: {found}");
    }
    assert!(doings.values().all(|&times| times > 10), "{doings:?}");
}

#[test]
fn large_rings_lose_no_page_either() {
    let config = SoakConfig {
        doings: 20,
        ..SoakConfig::default()
    };
    for seed in 1_000..1_030 {
        let report = soak(seed, &config).unwrap();
        assert!(report.is_sound(), "{report:?}");
    }
}

#[test]
fn a_seed_gives_the_same_vm_each_time() {
    for seed in 0..10 {
        let report = soak(seed, &small()).unwrap();
        assert_eq!(soak(seed, &small()).unwrap(), report);
        assert_ne!(soak(seed + 1, &small()).unwrap(), report);
    }
}

/// What became of many VMs.
#[derive(Debug, Default)]
struct Seen {
    lost: u64,
    premature: u64,
    unregistered: u64,
    failed: Vec<SoakError>,
}

fn soak_many<B: VirtualBackend>(seeds: u64) -> Seen {
    let mut seen = Seen::default();
    for seed in 0..seeds {
        match soak_around::<B>(seed, &small()) {
            Ok(SoakReport {
                pages_lost,
                premature_publications,
                unregistered_publications,
                ..
            }) => {
                seen.lost += pages_lost;
                seen.premature += premature_publications;
                seen.unregistered += unregistered_publications;
            }
            Err(error) => seen.failed.push(error),
        }
    }
    seen
}

/// Breaks one rule in 30 VMs.
fn broken<F: Flaw>() -> Seen {
    soak_many::<Flawed<F>>(30)
}

#[test]
fn control_interruptions_that_are_not_told_lose_pages() {
    let seen = broken::<HidesInterruptions>();
    assert!(seen.lost > 0 && seen.premature == 0, "{seen:?}");
}

#[test]
fn control_interruptions_after_the_last_entry_that_are_not_told_lose_pages() {
    let seen = soak_many::<Flawed<HidesLateOnes>>(120);
    assert!(seen.lost > 0 && seen.premature == 0, "{seen:?}");
}

#[test]
fn control_publications_that_fail_unheard_lose_pages() {
    let seen = broken::<SwallowsFailures>();
    assert!(seen.lost > 0 && seen.failed.is_empty(), "{seen:?}");
}

#[test]
fn control_a_resync_that_does_not_count_all_memory_loses_pages() {
    let seen = broken::<NeverCountsAll>();
    assert!(seen.lost > 0, "{seen:?}");
}

#[test]
fn control_a_resync_that_does_not_log_anew_loses_pages() {
    let seen = broken::<NeverLogsAnew>();
    assert!(seen.lost > 0, "{seen:?}");
}

#[test]
fn control_rings_whose_parted_entries_are_not_seen_lose_pages() {
    let seen = soak_many::<Blind>(30);
    assert!(seen.lost > 0, "{seen:?}");
}

#[test]
fn control_a_lost_ring_that_is_restored_at_its_old_position_is_found_parted() {
    let seen = broken::<ForgetsLostRings>();
    assert!(!seen.failed.is_empty() && seen.lost == 0, "{seen:?}");
}

#[test]
fn control_late_entries_of_a_removed_slot_are_taken_for_lost_pages() {
    let seen = broken::<ForgetsRemovals>();
    assert!(!seen.failed.is_empty() && seen.lost == 0, "{seen:?}");
}

#[test]
fn control_suspects_of_a_removed_slot_that_are_kept_are_published() {
    let seen = soak_many::<Flawed<KeepsSuspects>>(120);
    assert!(seen.unregistered > 0 && seen.lost == 0, "{seen:?}");
}

#[test]
fn control_entries_that_are_not_checked_are_published() {
    let seen = broken::<AcceptsGarbage>();
    assert!(seen.unregistered > 0, "{seen:?}");
}

#[test]
fn without_a_flaw_the_wrapped_vm_is_as_sound_as_the_bare_one() {
    struct Honest;
    impl Flaw for Honest {}
    for seed in 0..5 {
        let bare = soak_around::<Vm>(seed, &small()).unwrap();
        assert_eq!(soak_around::<Flawed<Honest>>(seed, &small()).unwrap(), bare);
    }
}
