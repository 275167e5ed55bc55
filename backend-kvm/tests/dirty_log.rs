//! The tracker's own dirty log, in the format of `KVM_GET_DIRTY_LOG`: taken on the caller's thread, and no
//! bit lost that comes meanwhile.
#![cfg(target_arch = "x86_64")]

mod support;

use std::time::Duration;

use dirty_ring_core::controller::Policy;
use dirty_ring_core::entry::SlotId;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::Micros;
use dirty_ring_guest::{Guest, GuestConfig, RunningGuest};
use dirty_ring_kvm::{BitmapSink, Error, MemorySlot, ReaperHandle, Tracker, no_kick};
use vm_memory::GuestAddress;

use support::{Copies, kvm, stale_pages, wait_for_a_round, wait_until_written, word};

const PAGES: u64 = 3000;

struct Logged {
    tracker: Tracker,
    running: RunningGuest,
    guest: Guest,
    size: RingSize,
}

/// A guest of two vCPUs and two slots with logging on, and no reaper.
fn logged(ring_entries: u32) -> Option<Logged> {
    let (kvm, support) = kvm()?;
    let config = GuestConfig {
        vcpus: 2,
        data_pages_per_vcpu: PAGES,
        data_slots: 2,
        ..GuestConfig::default()
    };
    let guest = Guest::new(&kvm, config).unwrap();
    let mut rings = support.enable(guest.vm(), ring_entries).unwrap();
    let size = rings.size();
    let vcpus = support::register(&mut rings, &guest);
    let tracker = Tracker::new(rings).unwrap();
    let handles = [0, 1].map(|vcpu| tracker.vcpu(vcpu).unwrap());
    let running =
        RunningGuest::start(vcpus, move |vcpu| handles[vcpu].on_ring_full().map(|_| ())).unwrap();
    guest.set_logging(true).unwrap();
    Some(Logged {
        tracker,
        running,
        guest,
        size,
    })
}

/// Copies the pages whose bits are set, as a diff snapshot does.
fn copy(guest: &Guest, copies: &Copies, logs: Vec<(MemorySlot, Vec<u64>)>) -> u64 {
    let mut copied = 0;
    let mut copies = copies.lock().unwrap();
    for (slot, words) in logs {
        assert_eq!(words.len() as u64, slot.pages.div_ceil(64));
        for page in 0..slot.pages {
            if words[page as usize / 64] & (1 << (page % 64)) != 0 {
                let address = slot.address + page * 4096;
                copies.insert(address, word(guest, GuestAddress(address)));
                copied += 1;
            }
        }
    }
    copied
}

#[test]
fn the_log_has_the_pages_that_were_written_and_is_empty_once_it_is_taken() {
    let Some(vm) = logged(4096) else { return };
    let kick = || vm.running.kick_all_and_wait();
    // Without a reaper as well: the first 100 pages of vCPU 0 are in the first slot.
    vm.guest.params()[0].set(100, 0).unwrap();
    wait_until_written(&vm.guest, 0, 100);
    vm.guest.params()[0].set(0, 0).unwrap();
    let [first, second] = [0, 1].map(|slot| vm.guest.data_slots()[slot].memory_slot());
    let paused = vm.running.pause().unwrap();
    let words = vm.tracker.take(first.id, kick).unwrap();
    assert_eq!(words.len(), 47);
    assert_eq!((words[0], words[1]), (u64::MAX, (1 << 36) - 1));
    assert!(words[2..].iter().all(|word| *word == 0));
    let words = vm.tracker.take(first.id, kick).unwrap();
    assert_eq!(words, [0; 47]);
    assert_eq!(vm.tracker.take(second.id, kick).unwrap(), [0; 47]);
    let unknown = vm.tracker.take(SlotId(99), kick).unwrap_err();
    assert!(matches!(unknown, Error::NoSuchSlot { slot: SlotId(99) }));
    paused.resume();
}

#[test]
fn no_page_is_lost_between_two_readers_who_come_often_whatever_reaps() {
    let policies: [fn(RingSize) -> Policy; 3] = [
        Policy::deadline,
        |_| Policy::fixed(Micros(500)).unwrap(),
        |_| Policy::fixed(support::AN_HOUR).unwrap(),
    ];
    for policy in policies {
        let Some(vm) = logged(1024) else { return };
        let reaper: ReaperHandle = vm.tracker.reaper_for_log().start(policy(vm.size)).unwrap();
        let copies = Copies::default();
        for params in vm.guest.params() {
            params.set(PAGES, 0).unwrap();
        }
        let mut copied = 0;
        for read in 0..60 {
            let logs = vm.tracker.take_all(|| vm.running.kick_all_and_wait());
            copied += copy(&vm.guest, &copies, logs.unwrap());
            if read % 20 == 0 {
                wait_for_a_round(&vm.guest, 1, PAGES);
            }
        }
        let paused = vm.running.pause().unwrap();
        let logs = vm.tracker.take_all(no_kick).unwrap();
        copied += copy(&vm.guest, &copies, logs);
        assert_eq!(stale_pages(&vm.guest, &copies), 0);
        assert!(copied >= 2 * 3 * PAGES);
        paused.resume();
        vm.running.stop().unwrap();
        reaper.stop().unwrap();
    }
}

#[test]
fn a_log_whose_pages_go_to_a_sink_is_an_error_and_not_empty() {
    let Some(vm) = logged(1024) else { return };
    let sink = BitmapSink::new(vm.guest.ram().clone());
    let reaper = vm.tracker.reaper(sink).start(Policy::deadline(vm.size));
    let error = vm.tracker.take_all(no_kick).unwrap_err();
    assert!(matches!(error, Error::HasSink), "{error}");
    reaper.unwrap().stop().unwrap();
    vm.tracker.take_all(no_kick).unwrap();
}

#[test]
fn a_flush_that_takes_too_long_says_so_and_loses_nothing() {
    let Some(vm) = logged(65536) else { return };
    for params in vm.guest.params() {
        params.set(PAGES, 0).unwrap();
    }
    (0..2).for_each(|vcpu| wait_until_written(&vm.guest, vcpu, PAGES));
    let kick = || vm.running.kick_all_and_wait();
    let error = vm.tracker.flush_within(Duration::ZERO, kick).unwrap_err();
    assert!(matches!(error, Error::TimedOut), "{error}");
    vm.tracker
        .flush_within(Duration::from_secs(3600), kick)
        .unwrap();
    let backlog = vm.tracker.stats().unwrap().backlog;
    assert!(backlog >= 2 * PAGES, "{backlog}");
}
