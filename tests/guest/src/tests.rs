//! The guest on real KVM. Without KVM, each test prints why it is skipped.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kvm_ioctls::Kvm;
use vm_memory::{Bytes, GuestAddress};

use crate::*;

mod kicks;
mod memory_map;
mod overrun;
mod pause;
mod random;
mod ring;

const A_WHILE: Duration = Duration::from_millis(30);

fn config(vcpus: usize, data_pages_per_vcpu: u64, data_slots: usize) -> GuestConfig {
    GuestConfig {
        vcpus,
        data_pages_per_vcpu,
        data_slots,
        ..GuestConfig::default()
    }
}

fn kvm() -> Option<Kvm> {
    Kvm::new()
        .map_err(|error| println!("skipped: /dev/kvm can't be opened: {error}"))
        .ok()
}

fn guest(config: GuestConfig) -> Option<Guest> {
    Some(Guest::new(&kvm()?, config).unwrap())
}

fn start(guest: &Guest) -> RunningGuest {
    let vcpus = guest.create_vcpus().unwrap();
    RunningGuest::start(vcpus, |_| Ok::<(), Infallible>(())).unwrap()
}

/// Returns the first word of each data page of `vcpu`.
fn words(guest: &Guest, vcpu: usize) -> Vec<u64> {
    (0..guest.layout().config().data_pages_per_vcpu)
        .map(|page| {
            let address = guest.layout().data_address(vcpu) + page * PAGE_BYTES;
            guest
                .ram()
                .load(GuestAddress(address), Ordering::Acquire)
                .unwrap()
        })
        .collect()
}

/// Returns all bytes of `slot`.
fn bytes(guest: &Guest, slot: &GuestSlot) -> Vec<u8> {
    let mut bytes = vec![0; slot.bytes() as usize];
    guest
        .ram()
        .read_slice(&mut bytes, GuestAddress(slot.guest_address))
        .unwrap();
    bytes
}

/// Returns the first word of the first data page of `vcpu`.
fn first_word(guest: &Guest, vcpu: usize) -> u64 {
    let address = GuestAddress(guest.layout().data_address(vcpu));
    guest.ram().load(address, Ordering::Acquire).unwrap()
}

/// Waits until `reached` returns true; `what` names the event in the panic after a generous limit.
fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + 2 * KICK_LIMIT;
    while !reached() {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        thread::yield_now();
    }
}

/// Waits until each vCPU has made more than `writes` page writes.
fn wait_for_writes(running: &RunningGuest, writes: u64) {
    wait_until("page writes", || {
        let page_writes = running.page_writes().unwrap();
        page_writes.into_iter().all(|count| count > writes)
    });
}

#[test]
fn each_vcpu_writes_the_first_word_of_its_pages_and_nothing_else() {
    let Some(guest) = guest(config(2, 300, 3)) else {
        return;
    };
    let pages = 200;
    for params in guest.params() {
        params.set(pages, 0).unwrap();
    }
    let system_before = bytes(&guest, &guest.layout().system_slot());
    let running = start(&guest);
    wait_for_writes(&running, 10 * pages);
    let outcomes = running.stop().unwrap();

    assert_eq!(bytes(&guest, &guest.layout().system_slot()), system_before);
    for (vcpu, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.ring_fulls, 0);
        let words = words(&guest, vcpu);
        let (written, untouched) = words.split_at(pages as usize);
        // The last round is one contiguous run of counts: every counted write was made, and no
        // other.
        let mut counts = written.to_vec();
        counts.sort_unstable();
        let last_round = outcome.page_writes - pages + 1..=outcome.page_writes;
        assert!(counts.into_iter().eq(last_round), "vCPU {vcpu}");
        assert!(untouched.iter().all(|&word| word == 0), "vCPU {vcpu}");
    }
    let words_elsewhere = guest
        .data_slots()
        .iter()
        .flat_map(|slot| bytes(&guest, slot))
        .enumerate()
        .filter(|&(offset, byte)| byte != 0 && offset as u64 % PAGE_BYTES >= 8)
        .count();
    assert_eq!(words_elsewhere, 0);
}

#[test]
fn a_phase_change_takes_effect_in_the_middle_of_a_slow_round() {
    let Some(guest) = guest(config(1, 4096, 1)) else {
        return;
    };
    let params = &guest.params()[0];
    // One round takes several seconds.
    params.set(4096, 5_000_000).unwrap();
    let running = start(&guest);
    wait_for_writes(&running, 1);
    params.set(10, 0).unwrap();
    // The slow round would reach the first page again much later.
    wait_until("a second write of the first page", || {
        first_word(&guest, 0) > 1
    });
    let slow_writes = running.page_writes().unwrap()[0];

    let before = words(&guest, 0);
    assert!(before.contains(&0), "the slow round was not interrupted");
    // Each of the ten pages is written again after `before` was read.
    let writes_before = running.page_writes().unwrap()[0];
    wait_for_writes(&running, writes_before + 1000);
    let after = words(&guest, 0);
    for (page, (before, after)) in before.iter().zip(&after).enumerate() {
        assert_eq!(after > before, page < 10, "page {page}: {before} {after}");
    }
    // The count continues across phases.
    assert!(after[0] > slow_writes);
    running.stop().unwrap();
}

#[test]
fn a_guest_never_leaves_its_pages_while_its_parameters_change_all_the_time() {
    let Some(guest) = guest(config(2, 64, 2)) else {
        return;
    };
    let running = start(&guest);
    let begin = Instant::now();
    let mut pages = 0;
    // On a host that is slow to run it, the guest may take a while to write at all.
    while begin.elapsed() < 4 * A_WHILE || running.page_writes().unwrap()[0] == 0 {
        assert!(begin.elapsed() < Duration::from_secs(60), "no page write");
        for _ in 0..1000 {
            pages = (pages + 1) % 33;
            guest.params()[0].set(pages, pages % 3).unwrap();
        }
    }
    let outcomes = running.stop().unwrap();
    assert!(outcomes[0].page_writes > 0);
    assert_eq!(outcomes[1].page_writes, 0);
    assert!(words(&guest, 0)[32..].iter().all(|&word| word == 0));
    assert!(words(&guest, 1).iter().all(|&word| word == 0));
}

#[test]
fn zero_pages_idle_before_the_first_phase_and_after_it() {
    let Some(guest) = guest(config(1, 16, 1)) else {
        return;
    };
    let running = start(&guest);
    thread::sleep(A_WHILE);
    assert_eq!(running.page_writes().unwrap(), [0]);
    guest.params()[0].set(16, 0).unwrap();
    wait_for_writes(&running, 16);
    guest.params()[0].set(0, 0).unwrap();
    let mut idle = 0;
    wait_until("no more page writes", || {
        thread::sleep(A_WHILE);
        let now = running.page_writes().unwrap()[0];
        std::mem::replace(&mut idle, now) == now
    });
    thread::sleep(A_WHILE);
    assert_eq!(running.page_writes().unwrap(), [idle]);
    assert_eq!(running.stop().unwrap()[0].page_writes, idle);
}

#[test]
fn a_phase_out_of_range_is_rejected_and_the_old_one_goes_on() {
    let Some(guest) = guest(config(1, 16, 1)) else {
        return;
    };
    let params = &guest.params()[0];
    assert_eq!(params.max_pages(), 16);
    params.set(8, 0).unwrap();
    assert!(matches!(
        params.set(17, 0),
        Err(GuestError::PagesOutOfRange {
            pages: 17,
            max_pages: 16
        })
    ));
    let running = start(&guest);
    wait_for_writes(&running, 80);
    running.stop().unwrap();
    assert!(words(&guest, 0)[8..].iter().all(|&word| word == 0));
}

#[test]
fn vcpus_are_made_only_once() {
    let Some(guest) = guest(config(1, 16, 1)) else {
        return;
    };
    let _vcpus = guest.create_vcpus().unwrap();
    assert!(matches!(guest.create_vcpus(), Err(GuestError::Kvm { .. })));
}

#[test]
fn a_dropped_guest_ends_its_threads() {
    let Some(guest) = guest(config(1, 16, 1)) else {
        return;
    };
    guest.params()[0].set(16, 0).unwrap();
    let running = start(&guest);
    wait_for_writes(&running, 16);
    drop(running);
    let before = words(&guest, 0);
    thread::sleep(A_WHILE);
    assert_eq!(words(&guest, 0), before);
}
