//! The reaper against real rings: every page that a guest writes turns up, whatever the policy,
//! the number of vCPUs and slots, and the way a full ring is dealt with.
#![cfg(target_arch = "x86_64")]

mod support;

use dirty_ring_core::collector::RingFullMode;
use dirty_ring_core::controller::Policy;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::Micros;
use dirty_ring_guest::{Guest, GuestConfig, ReapedGuest, Reaping, RunningGuest};
use dirty_ring_kvm::{BitmapSink, Error, Tracker, no_kick};

use support::{
    AN_HOUR, Copies, Copying, is_dirty, kvm, pages, stale_pages, start, wait_until,
    wait_until_written,
};

fn every_page_turns_up(entries: u32, mode: RingFullMode, policy: impl FnOnce(RingSize) -> Policy) {
    const PAGES: u64 = 3000;
    let Some((kvm, _)) = kvm() else { return };
    // Three vCPUs over two slots: the cut goes through the middle one's pages.
    let config = GuestConfig {
        vcpus: 3,
        data_pages_per_vcpu: 4000,
        data_slots: 2,
        ..GuestConfig::default()
    };
    let reaping = Reaping::new(entries).ring_full_mode(mode);
    let vm = ReapedGuest::start(&kvm, config, reaping, policy).unwrap();
    for params in vm.guest.params() {
        params.set(PAGES, 0).unwrap();
    }
    for vcpu in 0..3 {
        wait_until_written(&vm.guest, vcpu, PAGES);
    }
    vm.tracker.flush(|| vm.running.kick_all_and_wait()).unwrap();
    for vcpu in 0..3 {
        let missing = pages(&vm.guest, vcpu, PAGES).filter(|page| !is_dirty(&vm.guest, *page));
        assert_eq!(missing.count(), 0, "pages of vCPU {vcpu} are missing");
        let unwritten = pages(&vm.guest, vcpu, 4000).skip(PAGES as usize);
        let strange = unwritten.filter(|page| is_dirty(&vm.guest, *page));
        assert_eq!(strange.count(), 0, "vCPU {vcpu} didn't write them");
    }
    vm.running.stop().unwrap();
    let stats = vm.reaper.stop().unwrap().stats;
    assert_eq!((stats.outstanding, stats.bad_entries()), (0, 0));
    let harvested = stats.totals.harvested();
    assert_eq!(stats.totals.entries_reset, harvested);
    assert_eq!(stats.totals.published, harvested);
    assert!(harvested >= 3 * PAGES);
}

#[test]
fn every_written_page_of_several_vcpus_and_slots_turns_up_when_the_reaper_is_fast() {
    every_page_turns_up(4096, RingFullMode::default(), |_| {
        Policy::fixed(Micros(500)).unwrap()
    });
}

#[test]
fn every_written_page_turns_up_when_only_the_ring_full_path_reaps() {
    every_page_turns_up(1024, RingFullMode::Whole, |_| {
        Policy::fixed(AN_HOUR).unwrap()
    });
}

#[test]
fn every_written_page_turns_up_with_chunks_and_run_levels() {
    every_page_turns_up(1024, RingFullMode::default(), Policy::ladder);
}

/// A write after a page was published, and copied, is logged again: in the end the copies are the
/// memory.
#[test]
fn no_write_after_a_publication_is_lost() {
    const PAGES: u64 = 600;
    for mode in [RingFullMode::default(), RingFullMode::Whole] {
        let copies = Copies::default();
        let config = GuestConfig {
            vcpus: 2,
            data_pages_per_vcpu: PAGES,
            data_slots: 2,
            ..GuestConfig::default()
        };
        let reaping = Reaping::new(1024).ring_full_mode(mode).sink({
            let copies = Copies::clone(&copies);
            move |guest| Copying::new(guest, &copies)
        });
        let Some(vm) = start(config, reaping, Micros(300)) else {
            return;
        };
        for params in vm.guest.params() {
            params.set(PAGES, 0).unwrap();
        }
        wait_until("too little happens", || {
            vm.tracker.stats().unwrap().totals.published > 20 * PAGES
        });
        vm.running.stop().unwrap();
        vm.reaper.stop().unwrap();
        let stale = stale_pages(&vm.guest, &copies);
        assert_eq!(stale, 0, "a last write was never published");
    }
}

#[test]
fn kick_flush_and_stop_interrupt_an_hours_sleep() {
    let config = GuestConfig::default();
    let Some(vm) = start(config, Reaping::new(65536), AN_HOUR) else {
        return;
    };
    vm.guest.params()[0].set(1000, 0).unwrap();
    wait_until_written(&vm.guest, 0, 1000);
    for pass in 1..=100 {
        vm.reaper.kick();
        wait_until("a kick was lost", || {
            vm.tracker.stats().unwrap().passes >= pass
        });
    }
    let stats = vm.tracker.stats().unwrap();
    assert_eq!(stats.totals.drain_harvested, 0);
    assert!(stats.vcpus[0].ring.harvested >= 1000);
    // A flush works on the caller's thread and needs no pass.
    wait_until("flushes take nothing", || {
        vm.tracker.flush(|| vm.running.kick_all_and_wait()).unwrap();
        vm.tracker.stats().unwrap().totals.drain_harvested != 0
    });
    assert_eq!(vm.tracker.stats().unwrap().passes, 100);
    vm.running.stop().unwrap();
    vm.reaper.stop().unwrap();
}

#[test]
fn the_final_drain_publishes_what_no_pass_took() {
    let config = GuestConfig::default();
    let Some(vm) = start(config, Reaping::new(65536), AN_HOUR) else {
        return;
    };
    vm.guest.params()[0].set(1000, 0).unwrap();
    wait_until_written(&vm.guest, 0, 1000);
    vm.running.stop().unwrap();
    let stopped = vm.reaper.stop().unwrap();
    assert!(pages(&vm.guest, 0, 1000).all(|page| is_dirty(&vm.guest, page)));
    assert_eq!(stopped.stats.totals.published, 1000);
    assert_eq!((stopped.stats.passes, stopped.planner.passes), (1, 1));
}

#[test]
fn a_failing_kick_of_the_embedder_is_told_and_the_reaper_lives_on() {
    let config = GuestConfig::default();
    let Some(vm) = start(config, Reaping::new(4096), AN_HOUR) else {
        return;
    };
    let error = vm.tracker.flush(|| Err("no such thread")).unwrap_err();
    assert!(matches!(error, Error::KickVcpus(_)), "{error}");
    vm.tracker.flush(no_kick).unwrap();
    assert!(matches!(
        vm.tracker.vcpu(1).unwrap_err(),
        Error::NoSuchVcpu { vcpu: 1, vcpus: 1 }
    ));
}

#[test]
fn a_slot_can_be_removed_and_its_number_reused_under_a_running_reaper() {
    let config = GuestConfig {
        data_slots: 2,
        ..GuestConfig::default()
    };
    let Some(vm) = start(config, Reaping::new(65536), AN_HOUR) else {
        return;
    };
    vm.guest.params()[0].set(1000, 0).unwrap();
    wait_until_written(&vm.guest, 0, 1000);
    // The guest goes on in the first slot; the second can go.
    let second = vm.guest.data_slots()[1].memory_slot();
    let (drained, known, unknown) = vm
        .tracker
        .update_memory(|memory| {
            let drained = is_dirty(&vm.guest, pages(&vm.guest, 0, 1000).last().unwrap());
            let known = memory.remove(second.id);
            let unknown = memory.remove(second.id);
            memory.add(second)?;
            Ok::<_, Error>((drained, known, unknown))
        })
        .unwrap();
    assert!(drained && known && !unknown);
    let again = vm.tracker.update_memory(|memory| memory.add(second));
    assert!(matches!(again.unwrap_err(), Error::Slot(_)));
    vm.running.stop().unwrap();
    vm.reaper.stop().unwrap();
}

#[test]
fn a_vcpu_added_later_is_reaped_too() {
    let Some((kvm, support)) = kvm() else { return };
    let guest = Guest::new(&kvm, GuestConfig::default()).unwrap();
    let mut rings = support.enable(guest.vm(), 4096).unwrap();
    rings.add_slot(guest.data_slots()[0].memory_slot()).unwrap();
    let vcpus = guest.create_vcpus().unwrap();
    let tracker = Tracker::new(rings).unwrap();
    let reaper = tracker
        .reaper(BitmapSink::new(guest.ram().clone()))
        .start(Policy::fixed(AN_HOUR).unwrap())
        .unwrap();
    let ring = tracker.add_vcpu(vcpus[0].fd()).unwrap();
    assert_eq!(ring.index(), 0);
    guest.set_logging(true).unwrap();
    guest.params()[0].set(100, 0).unwrap();
    let running = RunningGuest::start(vcpus, move |_| ring.on_ring_full().map(|_| ())).unwrap();
    wait_until_written(&guest, 0, 100);
    running.stop().unwrap();
    reaper.stop().unwrap();
    assert!(pages(&guest, 0, 100).all(|page| is_dirty(&guest, page)));
}

#[test]
fn flush_waits_for_every_page_under_a_policy_that_leaves_rings_alone() {
    let config = GuestConfig::default();
    let Some((kvm, _)) = kvm() else { return };
    let vm = ReapedGuest::start(&kvm, config, Reaping::new(4096), Policy::deadline).unwrap();
    for round in 1..=200u64 {
        // Ever more pages, few enough that the policy would leave the ring alone.
        let pages_now = round * 10;
        vm.guest.params()[0].set(pages_now, 0).unwrap();
        wait_until_written(&vm.guest, 0, pages_now);
        vm.tracker.flush(|| vm.running.kick_all_and_wait()).unwrap();
        let missing = pages(&vm.guest, 0, pages_now).filter(|page| !is_dirty(&vm.guest, *page));
        assert_eq!(missing.count(), 0, "round {round}");
    }
    vm.running.stop().unwrap();
    vm.reaper.stop().unwrap();
}
