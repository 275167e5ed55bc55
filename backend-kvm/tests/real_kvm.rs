//! The reaper against real rings: every page that a guest writes turns up, whatever the policy,
//! the number of vCPUs and slots, and the way a full ring is dealt with.
#![cfg(target_arch = "x86_64")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dirty_ring_core::collector::RingFullMode;
use dirty_ring_core::controller::Policy;
use dirty_ring_core::entry::DirtyGfn;
use dirty_ring_core::ring::RingPosition;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::Micros;
use dirty_ring_guest::{
    Guest, GuestConfig, GuestExit, GuestRam, ReapedGuest, Reaping, RunningGuest,
};
use dirty_ring_kvm::{BitmapSink, Error, MemorySlot, PageSink, ReaperBuilder, Support};
use kvm_ioctls::Kvm;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

const AN_HOUR: Micros = Micros::from_secs(3600);

/// KVM with dirty rings, or a line that says why this test is skipped.
fn kvm() -> Option<(Kvm, Support)> {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            println!("skipped: /dev/kvm can't be used here: {error}");
            return None;
        }
    };
    match Support::probe(&kvm) {
        Ok(support) => Some((kvm, support)),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

fn start(config: GuestConfig, reaping: Reaping, wait: Micros) -> Option<ReapedGuest> {
    let (kvm, _) = kvm()?;
    let policy = |_| Policy::fixed(wait).unwrap();
    Some(ReapedGuest::start(&kvm, config, reaping, policy).unwrap())
}

/// Guest addresses of the pages that a vCPU's first `pages` writes touch.
fn pages(guest: &Guest, vcpu: usize, pages: u64) -> impl Iterator<Item = GuestAddress> + use<> {
    let first = guest.layout().data_address(vcpu);
    (0..pages).map(move |page| GuestAddress(first + page * 4096))
}

fn is_dirty(guest: &Guest, address: GuestAddress) -> bool {
    let region = guest.ram().find_region(address).unwrap();
    let offset = address.0 - region.start_addr().0;
    region.bitmap().dirty_at(offset as usize)
}

fn wait_until_written(guest: &Guest, vcpu: usize, count: u64) {
    let last = pages(guest, vcpu, count).last().unwrap();
    let give_up = Instant::now() + Duration::from_secs(20);
    while guest.ram().read_obj::<u64>(last).unwrap() == 0 {
        assert!(Instant::now() < give_up, "the guest doesn't write");
        std::thread::sleep(Duration::from_millis(1));
    }
}

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
    vm.reaper.flush(|| vm.running.kick_all_and_wait()).unwrap();
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

/// Copies each page's word when it is published, as a migration would.
struct Copying {
    ram: GuestRam,
    slots: Vec<MemorySlot>,
    copies: Arc<Mutex<HashMap<u64, u64>>>,
}

impl PageSink for Copying {
    fn publish(&mut self, _slot: &MemorySlot, pages: &[DirtyGfn]) {
        let mut copies = self.copies.lock().unwrap();
        for page in pages {
            let slot = self.slots.iter().find(|slot| slot.id == page.slot).unwrap();
            let address = slot.address.0 + page.offset * 4096;
            let word = self.ram.read_obj(GuestAddress(address)).unwrap();
            copies.insert(address, word);
        }
    }
}

/// A write after a page was published, and copied, is logged again: in the end the copies are the
/// memory.
#[test]
fn no_write_after_a_publication_is_lost() {
    const PAGES: u64 = 600;
    for mode in [RingFullMode::default(), RingFullMode::Whole] {
        let copies = Arc::new(Mutex::new(HashMap::new()));
        let config = GuestConfig {
            vcpus: 2,
            data_pages_per_vcpu: PAGES,
            data_slots: 2,
            ..GuestConfig::default()
        };
        let reaping = Reaping::new(512).ring_full_mode(mode).sink({
            let copies = Arc::clone(&copies);
            |guest| Copying {
                ram: guest.ram().clone(),
                slots: guest
                    .data_slots()
                    .iter()
                    .map(|slot| slot.memory_slot())
                    .collect(),
                copies,
            }
        });
        let Some(vm) = start(config, reaping, Micros(300)) else {
            return;
        };
        for params in vm.guest.params() {
            params.set(PAGES, 0).unwrap();
        }
        std::thread::sleep(Duration::from_millis(400));
        vm.running.stop().unwrap();
        let stats = vm.reaper.stop().unwrap().stats;
        assert!(stats.totals.published > 4 * PAGES, "too little happened");
        let copies = copies.lock().unwrap();
        let stale = (0..2)
            .flat_map(|vcpu| pages(&vm.guest, vcpu, PAGES))
            .filter(|page| {
                let now: u64 = vm.guest.ram().read_obj(*page).unwrap();
                copies.get(&page.0) != Some(&now)
            });
        assert_eq!(stale.count(), 0, "a last write was never published");
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
        let give_up = Instant::now() + Duration::from_secs(60);
        while vm.reaper.stats().passes < pass {
            assert!(Instant::now() < give_up, "kick {pass} was lost");
            std::thread::yield_now();
        }
    }
    let stats = vm.reaper.stats();
    assert_eq!(stats.totals.drain_harvested, 0);
    assert!(stats.vcpus[0].ring.harvested >= 1000);
    // A flush works on the caller's thread and needs no pass.
    let give_up = Instant::now() + Duration::from_secs(60);
    while vm.reaper.stats().totals.drain_harvested == 0 {
        assert!(Instant::now() < give_up, "flushes take nothing");
        vm.reaper.flush(|| vm.running.kick_all_and_wait()).unwrap();
    }
    assert_eq!(vm.reaper.stats().passes, 100);
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
    assert_eq!((stopped.stats.passes, stopped.state.planner.passes), (1, 1));
}

#[test]
fn a_failing_kick_of_the_embedder_is_told_and_the_reaper_lives_on() {
    let config = GuestConfig::default();
    let Some(vm) = start(config, Reaping::new(4096), AN_HOUR) else {
        return;
    };
    let error = vm.reaper.flush(|| Err("no such thread")).unwrap_err();
    assert!(matches!(error, Error::KickVcpus(_)), "{error}");
    vm.reaper.flush(|| Ok::<(), String>(())).unwrap();
    assert!(matches!(
        vm.reaper.vcpu(1).unwrap_err(),
        Error::NoSuchVcpu { vcpu: 1, vcpus: 1 }
    ));
}

#[test]
fn a_sink_that_panics_is_an_error_and_not_a_hang() {
    struct Panicking;
    impl PageSink for Panicking {
        fn publish(&mut self, _: &MemorySlot, _: &[DirtyGfn]) {
            panic!("the disk is full");
        }
    }
    let config = GuestConfig::default();
    let reaping = Reaping::new(65536).sink(|_| Panicking);
    let Some(vm) = start(config, reaping, AN_HOUR) else {
        return;
    };
    vm.guest.params()[0].set(10, 0).unwrap();
    wait_until_written(&vm.guest, 0, 10);
    // A flush publishes on the caller's thread, so the panic is the caller's.
    let flush = std::panic::AssertUnwindSafe(|| vm.reaper.flush(|| vm.running.kick_all_and_wait()));
    assert!(std::panic::catch_unwind(flush).is_err());
    vm.reaper.kick();
    while !vm.reaper.stats().has_ended {
        std::thread::yield_now();
    }
    let error = vm.reaper.flush(|| Ok::<(), String>(())).unwrap_err();
    assert!(matches!(error, Error::Ended), "{error}");
    let error = vm.reaper.stop().unwrap_err();
    assert!(matches!(&error, Error::Panicked(text) if text.contains("disk")));
}

#[test]
fn rings_must_be_enabled_before_the_first_vcpu_and_the_errors_say_so() {
    struct NoPages;
    impl PageSink for NoPages {
        fn publish(&mut self, _: &MemorySlot, _: &[DirtyGfn]) {}
    }
    let Some((kvm, support)) = kvm() else { return };
    let vm = kvm.create_vm().unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let error = support.enable(&vm, 4096).unwrap_err();
    assert!(error.to_string().contains("before the VM's first vCPU"));
    let size = support.size(4096).unwrap();
    let builder = ReaperBuilder::new(&vm, size, NoPages).unwrap();
    let error = builder.vcpu(&vcpu).unwrap_err();
    assert!(matches!(error, Error::Map { vcpu: 0, .. }), "{error}");
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
        .reaper
        .update_memory(|memory| {
            let drained = is_dirty(&vm.guest, pages(&vm.guest, 0, 1000).last().unwrap());
            let known = memory.remove(second.id);
            let unknown = memory.remove(second.id);
            memory.add(second)?;
            Ok::<_, Error>((drained, known, unknown))
        })
        .unwrap();
    assert!(drained && known && !unknown);
    let again = vm.reaper.update_memory(|memory| memory.add(second));
    assert!(matches!(again.unwrap_err(), Error::Slot(_)));
    vm.running.stop().unwrap();
    vm.reaper.stop().unwrap();
}

#[test]
fn a_vcpu_added_later_is_reaped_too() {
    let Some((kvm, support)) = kvm() else { return };
    let guest = Guest::new(&kvm, GuestConfig::default()).unwrap();
    let size = support.enable(guest.vm(), 4096).unwrap();
    let vcpus = guest.create_vcpus().unwrap();
    let sink = BitmapSink::new(guest.ram().clone());
    let reaper = ReaperBuilder::new(guest.vm(), size, sink)
        .unwrap()
        .slot(guest.data_slots()[0].memory_slot())
        .unwrap()
        .start(Policy::fixed(AN_HOUR).unwrap())
        .unwrap();
    let ring = reaper.add_vcpu(vcpus[0].fd()).unwrap();
    assert_eq!(ring.index(), 0);
    guest.set_logging(true).unwrap();
    guest.params()[0].set(100, 0).unwrap();
    let running = RunningGuest::start(vcpus, move |_| ring.on_ring_full().map(|_| ())).unwrap();
    wait_until_written(&guest, 0, 100);
    running.stop().unwrap();
    reaper.stop().unwrap();
    assert!(pages(&guest, 0, 100).all(|page| is_dirty(&guest, page)));
}

/// As a VMM whose migration was called off and is tried again.
#[test]
fn a_second_reaper_goes_on_where_the_first_left_the_rings() {
    let Some((kvm, support)) = kvm() else { return };
    let guest = Guest::new(&kvm, GuestConfig::default()).unwrap();
    let size = support.enable(guest.vm(), 4096).unwrap();
    let mut vcpus = guest.create_vcpus().unwrap();
    guest.set_logging(true).unwrap();
    guest.params()[0].set(1000, 0).unwrap();
    let mut position = RingPosition::START;
    for round in 1..=3 {
        let reaper = ReaperBuilder::new(guest.vm(), size, BitmapSink::new(guest.ram().clone()))
            .unwrap()
            .slot(guest.data_slots()[0].memory_slot())
            .unwrap()
            .vcpu_at(vcpus[0].fd(), position)
            .unwrap()
            .start(Policy::deadline(size))
            .unwrap();
        let vcpu = &mut vcpus[0];
        let before = vcpu.page_writes().unwrap();
        let kicker = vcpu.kicker().clone();
        std::thread::scope(|scope| {
            scope.spawn(|| while vcpu.run().unwrap() != GuestExit::Interrupted {});
            // A page's word is the count of its last write: once round, and they are all later.
            let last = pages(&guest, 0, 1000).last().unwrap();
            let give_up = Instant::now() + Duration::from_secs(60);
            while guest.ram().read_obj::<u64>(last).unwrap() <= before + 1000 {
                assert!(Instant::now() < give_up, "the guest didn't get round");
                std::thread::sleep(Duration::from_millis(1));
            }
            kicker.kick().unwrap();
        });
        let stopped = reaper.stop().unwrap();
        assert!(stopped.stats.totals.published >= 1000, "round {round}");
        position = stopped.state.rings[0].position;
    }
    assert!(position.index() >= 3000);
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
        vm.reaper.flush(|| vm.running.kick_all_and_wait()).unwrap();
        let missing = pages(&vm.guest, 0, pages_now).filter(|page| !is_dirty(&vm.guest, *page));
        assert_eq!(missing.count(), 0, "round {round}");
    }
    vm.running.stop().unwrap();
    vm.reaper.stop().unwrap();
}
