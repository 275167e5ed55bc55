//! An overrun ends a migration and not a guest: the rings are had back, all memory counts as dirty, and
//! no page is lost from then on.
//!
//! The overrun is made on purpose, with guest code at CPL 0, which hosts without hardware
//! virtualization emulate in batches that are larger than KVM's reserve.
#![cfg(target_arch = "x86_64")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dirty_ring_core::collector::CollectError;
use dirty_ring_core::controller::Policy;
use dirty_ring_core::time::Micros;
use dirty_ring_guest::{Guest, GuestConfig, Privilege, RunningGuest};
use dirty_ring_kvm::{Error, Tracker, no_kick};

use support::{Copies, Copying, kvm, stale_pages, wait_for_a_round, wait_until};

const PAGES: u64 = 16384;
/// Ring-fulls without an overrun after which this host is one that makes none.
const MANY_RING_FULLS: u64 = 300;

/// Switches logging off and on, which protects all memory.
fn log_anew(guest: &Guest) -> Result<(), Error> {
    guest.set_logging(false).unwrap();
    guest.set_logging(true).unwrap();
    Ok(())
}

#[test]
fn a_guest_lives_on_after_its_ring_overran() {
    let Some((kvm, support)) = kvm() else { return };
    let mut overruns = 0;
    for round in 0..5u64 {
        let config = GuestConfig {
            privilege: Privilege::Kernel,
            data_pages_per_vcpu: PAGES,
            ..GuestConfig::default()
        };
        let guest = Guest::new(&kvm, config).unwrap();
        let mut rings = support.enable(guest.vm(), 1024).unwrap();
        let size = rings.size();
        let vcpus = support::register(&mut rings, &guest);
        let tracker = Tracker::new(rings).unwrap();
        let failed = Arc::<AtomicBool>::default();
        let ring_fulls = Arc::<AtomicU64>::default();
        let ring = tracker.vcpu(0).unwrap();
        let running = RunningGuest::start(vcpus, {
            let (failed, ring_fulls) = (Arc::clone(&failed), Arc::clone(&ring_fulls));
            move |_| {
                ring_fulls.fetch_add(1, Ordering::Relaxed);
                // A VMM would pause its guest here and resync.
                if ring.on_ring_full().is_err() {
                    failed.store(true, Ordering::Relaxed);
                    std::thread::yield_now();
                }
                Ok::<(), std::convert::Infallible>(())
            }
        })
        .unwrap();
        guest.set_logging(true).unwrap();
        let copies = Copies::default();
        let slow = || Policy::fixed(Micros::from_secs(3600)).unwrap();
        let sink = || Copying::new(&guest, &copies);
        let reaper = tracker.reaper(sink()).start(slow()).unwrap();
        guest.params()[0].set(PAGES, 0).unwrap();
        wait_until("nothing happens", || {
            failed.load(Ordering::Relaxed) || ring_fulls.load(Ordering::Relaxed) > MANY_RING_FULLS
        });
        if !failed.load(Ordering::Relaxed) {
            println!("skipped: this host's guests at CPL 0 don't overrun their rings");
            return;
        }
        overruns += 1;
        // Everybody is told, and told again.
        for _ in 0..2 {
            let error = tracker.flush(no_kick).unwrap_err();
            assert!(
                matches!(
                    error,
                    Error::Collect(
                        CollectError::Parted { ring: 0 } | CollectError::Overrun { ring: 0 }
                    )
                ),
                "{error}"
            );
        }
        assert!(reaper.stop().is_err());

        // Writes are far apart from now on, so that the guest doesn't overrun its ring again. On odd
        // rounds it runs on during the resync.
        guest.params()[0].set(PAGES, 20).unwrap();
        let paused = (round % 2 == 0).then(|| running.pause().unwrap());
        let reaper = match round % 3 {
            // There is a reaper, or the pages wait for one.
            0 => {
                tracker.resync(|| log_anew(&guest)).unwrap();
                tracker
                    .reaper(sink())
                    .start(Policy::deadline(size))
                    .unwrap()
            }
            _ => {
                let refused = tracker.reaper(sink()).start(slow());
                assert!(
                    refused.is_err(),
                    "before the resync there is nothing to reap"
                );
                tracker.resync(|| log_anew(&guest)).unwrap();
                tracker.reaper(sink()).start(slow()).unwrap()
            }
        };
        drop(paused);
        for _ in 0..3 {
            wait_for_a_round(&guest, 0, PAGES);
            let paused = running.pause().unwrap();
            tracker.flush(no_kick).unwrap();
            assert_eq!(stale_pages(&guest, &copies), 0);
            paused.resume();
        }
        let stats = tracker.stats().unwrap();
        assert!(!stats.vcpus[0].is_lost);
        running.stop().unwrap();
        reaper.stop().unwrap();
    }
    println!("{overruns} rings overran and were had back");
}

#[test]
fn a_resync_of_sound_rings_under_running_vcpus_loses_nothing() {
    let Some((kvm, support)) = kvm() else { return };
    let config = GuestConfig {
        vcpus: 2,
        data_pages_per_vcpu: 3000,
        data_slots: 2,
        ..GuestConfig::default()
    };
    let guest = Guest::new(&kvm, config).unwrap();
    let mut rings = support.enable(guest.vm(), 4096).unwrap();
    let size = rings.size();
    let vcpus = support::register(&mut rings, &guest);
    let tracker = Tracker::new(rings).unwrap();
    let handles = [0, 1].map(|vcpu| tracker.vcpu(vcpu).unwrap());
    let running =
        RunningGuest::start(vcpus, move |vcpu| handles[vcpu].on_ring_full().map(|_| ())).unwrap();
    guest.set_logging(true).unwrap();
    let copies = Copies::default();
    let reaper = tracker
        .reaper(Copying::new(&guest, &copies))
        .start(Policy::deadline(size))
        .unwrap();
    for params in guest.params() {
        params.set(3000, 0).unwrap();
    }
    for round in 0..60 {
        tracker.resync(|| log_anew(&guest)).unwrap();
        if round % 3 == 0 {
            wait_for_a_round(&guest, 0, 3000);
        }
        let paused = running.pause().unwrap();
        tracker.flush(no_kick).unwrap();
        assert_eq!(stale_pages(&guest, &copies), 0, "round {round}");
        paused.resume();
    }
    running.stop().unwrap();
    reaper.stop().unwrap();
}
