//! The embedder's threads: a body run on one of them, or driven by turns.
#![cfg(target_arch = "x86_64")]

mod support;

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;

use dirty_ring_core::controller::Policy;
use dirty_ring_core::planner::Planner;
use dirty_ring_core::size::RingSize;
use dirty_ring_guest::{Guest, GuestConfig, RunningGuest};
use dirty_ring_kvm::{Error, Next, Tracker};

use support::{Copies, Copying, kvm, stale_pages, wait_for_a_round, wait_until};

const PAGES: u64 = 3000;

struct Tracked {
    tracker: Tracker,
    running: RunningGuest,
    guest: Arc<Guest>,
    size: RingSize,
    copies: Copies,
}

fn tracked() -> Option<Tracked> {
    let (kvm, support) = kvm()?;
    let config = GuestConfig {
        data_pages_per_vcpu: PAGES,
        ..GuestConfig::default()
    };
    let guest = Guest::new(&kvm, config).unwrap();
    let mut rings = support.enable(guest.vm(), 1024).unwrap();
    let size = rings.size();
    let vcpus = support::register(&mut rings, &guest);
    let tracker = Tracker::new(rings).unwrap();
    let ring = tracker.vcpu(0).unwrap();
    let running = RunningGuest::start(vcpus, move |_| ring.on_ring_full().map(|_| ())).unwrap();
    guest.set_logging(true).unwrap();
    guest.params()[0].set(PAGES, 0).unwrap();
    Some(Tracked {
        tracker,
        running,
        guest: Arc::new(guest),
        size,
        copies: Copies::default(),
    })
}

#[test]
fn a_body_runs_on_a_thread_of_the_embedder_until_it_is_stopped() {
    let Some(vm) = tracked() else { return };
    for _ in 0..20 {
        let sink = Copying::new(&vm.guest, &vm.copies);
        let planner = Planner::new(Policy::deadline(vm.size));
        let (reaper, body) = vm.tracker.reaper(sink).split(planner).unwrap();
        let thread = thread::Builder::new()
            .name("vmm-dirty".into())
            .spawn(move || body.run())
            .unwrap();
        wait_until("it doesn't reap", || {
            reaper.kick();
            vm.tracker.stats().unwrap().passes > 2
        });
        let stats = reaper.stop().unwrap().stats;
        assert!(stats.passes > 2 && stats.cpu.is_some());
        thread.join().unwrap().unwrap();
    }
    vm.running.stop().unwrap();
}

#[test]
fn a_body_can_be_driven_by_turns_with_a_waker() {
    let Some(vm) = tracked() else { return };
    let (wake, woken) = channel();
    let sink = Copying::new(&vm.guest, &vm.copies);
    let (reaper, mut body) = vm
        .tracker
        .reaper(sink)
        .waker(move || _ = wake.send(()))
        .split(Planner::new(Policy::deadline(vm.size)))
        .unwrap();
    // The loop of a VMM, with a channel in the place of an eventfd.
    let mut waits = 0;
    let mut turns = 0;
    while turns < 2000 {
        turns += 1;
        match body.turn().unwrap() {
            Next::Again => {}
            Next::Wait(Some(wait)) => {
                waits += 1;
                if woken.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected) {
                    panic!("the waker is gone");
                }
            }
            Next::Wait(None) => woken.recv().unwrap(),
            Next::Done => panic!("nobody has stopped it"),
        }
        if turns % 100 == 0 {
            reaper.kick();
        }
    }
    assert!(waits > 10);
    wait_for_a_round(&vm.guest, 0, PAGES);
    vm.running.stop().unwrap();
    reaper.request_stop();
    while body.turn().unwrap() != Next::Done {}
    assert_eq!(body.turn().unwrap(), Next::Done);
    assert_eq!(stale_pages(&vm.guest, &vm.copies), 0);
    let stats = reaper.stop().unwrap().stats;
    assert!(stats.passes > 10);
    assert!(!vm.tracker.stats().unwrap().has_reaper);
}

#[test]
fn a_stop_by_the_loop_that_takes_the_turns_is_an_error_and_no_hang() {
    let Some(vm) = tracked() else { return };
    let start = || {
        let sink = Copying::new(&vm.guest, &vm.copies);
        let planner = Planner::new(Policy::deadline(vm.size));
        vm.tracker.reaper(sink).split(planner)
    };
    let (reaper, mut body) = start().unwrap();
    assert_ne!(body.turn().unwrap(), Next::Done);
    assert!(matches!(reaper.stop().unwrap_err(), Error::Reentrant));
    assert!(matches!(start().unwrap_err(), Error::HasReaper));
    while body.turn().unwrap() != Next::Done {}
    let (reaper, body) = start().unwrap();
    // A body that is dropped has ended, and its handle drains the rings.
    wait_for_a_round(&vm.guest, 0, PAGES);
    vm.running.stop().unwrap();
    drop(body);
    reaper.stop().unwrap();
    assert_eq!(stale_pages(&vm.guest, &vm.copies), 0);
}
