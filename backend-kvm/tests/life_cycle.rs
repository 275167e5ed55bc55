//! Reapers come and go under running vCPUs, and no page is lost over the seam.
#![cfg(target_arch = "x86_64")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dirty_ring_core::collector::RingFullMode;
use dirty_ring_core::controller::Policy;
use dirty_ring_core::entry::DirtyGfn;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::Micros;
use dirty_ring_guest::{Guest, GuestConfig, RunningGuest};
use dirty_ring_kvm::{
    Error, MemorySlot, PageSink, ReaperHandle, SinkError, SinkFailure, Tracker, no_kick,
};

use support::{Copies, Copying, kvm, pages, stale_pages, wait_for_a_round, word};

const PAGES: u64 = 2500;

/// A guest of two vCPUs and two slots, whose vCPUs make room by handles that they got before there was
/// any reaper. Logging is off.
struct Tracked {
    tracker: Tracker,
    running: RunningGuest,
    guest: Guest,
    size: RingSize,
    copies: Copies,
    /// Errors that the vCPUs met; they go on all the same.
    errors: Arc<AtomicU64>,
}

impl Tracked {
    fn start(mode: RingFullMode) -> Option<Self> {
        let (kvm, support) = kvm()?;
        let config = GuestConfig {
            vcpus: 2,
            data_pages_per_vcpu: PAGES,
            data_slots: 2,
            ..GuestConfig::default()
        };
        let guest = Guest::new(&kvm, config).unwrap();
        let mut rings = support.enable(guest.vm(), 1024).unwrap();
        let size = rings.size();
        let vcpus = support::register(&mut rings, &guest);
        let tracker = Tracker::with_ring_full_mode(rings, mode).unwrap();
        let handles = [0, 1].map(|vcpu| tracker.vcpu(vcpu).unwrap());
        let errors = Arc::<AtomicU64>::default();
        let running = RunningGuest::start(vcpus, {
            let errors = Arc::clone(&errors);
            move |vcpu| {
                if handles[vcpu].on_ring_full().is_err() {
                    errors.fetch_add(1, Ordering::Relaxed);
                    std::thread::yield_now();
                }
                Ok::<(), std::convert::Infallible>(())
            }
        })
        .unwrap();
        Some(Self {
            tracker,
            running,
            guest,
            size,
            copies: Copies::default(),
            errors,
        })
    }

    fn write(&self) {
        for params in self.guest.params() {
            params.set(PAGES, 0).unwrap();
        }
    }

    fn sink(&self) -> Copying {
        Copying::new(&self.guest, &self.copies)
    }

    fn start_reaper(&self) -> ReaperHandle {
        let policy = Policy::deadline(self.size);
        self.tracker.reaper(self.sink()).start(policy).unwrap()
    }

    /// Copies all memory, as the first round of a migration does.
    fn copy_all(&self) {
        let mut copies = self.copies.lock().unwrap();
        for vcpu in 0..2 {
            for page in pages(&self.guest, vcpu, PAGES) {
                copies.insert(page.0, word(&self.guest, page));
            }
        }
    }

    /// Takes what is left, with the vCPUs out of guest mode, and compares copies with memory.
    fn is_complete(&self) {
        let paused = self.running.pause().unwrap();
        self.tracker.flush(no_kick).unwrap();
        assert_eq!(stale_pages(&self.guest, &self.copies), 0);
        paused.resume();
    }
}

fn policy(round: u64, size: RingSize) -> Policy {
    match round % 4 {
        0 => Policy::deadline(size),
        1 => Policy::fixed(Micros(700)).unwrap(),
        2 => Policy::ladder(size),
        _ => Policy::fixed(Micros::from_secs(3600)).unwrap(),
    }
}

#[test]
fn reapers_follow_each_other_hundreds_of_times_under_running_vcpus_with_logging_on() {
    for mode in [RingFullMode::default(), RingFullMode::Whole] {
        let Some(vm) = Tracked::start(mode) else {
            return;
        };
        vm.guest.set_logging(true).unwrap();
        vm.copy_all();
        vm.write();
        for round in 0..150 {
            let reaper = vm
                .tracker
                .reaper(vm.sink())
                .start(policy(round, vm.size))
                .unwrap();
            if round % 10 == 0 {
                wait_for_a_round(&vm.guest, 0, PAGES);
                vm.is_complete();
            }
            if round % 3 == 0 {
                drop(reaper);
            } else {
                reaper.stop().unwrap();
            }
            // Without a reaper the vCPUs make room themselves, and the pages wait for the next sink.
            if round % 10 == 5 {
                wait_for_a_round(&vm.guest, 1, PAGES);
            }
        }
        let reaper = vm.start_reaper();
        vm.is_complete();
        assert!(vm.tracker.stats().unwrap().ring_fulls() > 0);
        assert_eq!(vm.errors.load(Ordering::Relaxed), 0);
        reaper.stop().unwrap();
        vm.running.stop().unwrap();
    }
}

#[test]
fn tracking_goes_on_and_off_hundreds_of_times_in_one_life_of_a_vm() {
    let Some(vm) = Tracked::start(RingFullMode::default()) else {
        return;
    };
    vm.write();
    for round in 0..200 {
        // On: logging first, then all memory counts as dirty.
        let set_logging = |on| {
            vm.tracker.update_memory(|_| {
                vm.guest.set_logging(on).unwrap();
                Ok::<_, Error>(())
            })
        };
        set_logging(true).unwrap();
        let reaper = vm
            .tracker
            .reaper(vm.sink())
            .start(policy(round, vm.size))
            .unwrap();
        vm.copy_all();
        if round % 10 == 0 {
            wait_for_a_round(&vm.guest, 0, PAGES);
        }
        if round % 5 == 0 {
            vm.is_complete();
        }
        // Off: under running vCPUs too.
        set_logging(false).unwrap();
        reaper.stop().unwrap();
        if round % 50 == 0 {
            wait_for_a_round(&vm.guest, 1, PAGES);
            let ring_fulls = vm.running.ring_fulls();
            (0..100).for_each(|_| wait_for_a_round(&vm.guest, 1, PAGES));
            assert_eq!(vm.running.ring_fulls(), ring_fulls, "nothing is logged");
        }
    }
    assert_eq!(vm.errors.load(Ordering::Relaxed), 0);
    vm.running.stop().unwrap();
}

#[test]
fn a_reaper_can_be_dropped_while_its_vcpus_are_on_ring_full() {
    let Some(vm) = Tracked::start(RingFullMode::Chunk(1)) else {
        return;
    };
    vm.guest.set_logging(true).unwrap();
    vm.copy_all();
    vm.write();
    for _ in 0..100 {
        let sleepy = Policy::fixed(Micros::from_secs(3600)).unwrap();
        let reaper = vm.tracker.reaper(vm.sink()).start(sleepy).unwrap();
        let before = vm.running.ring_fulls()[0];
        support::wait_until("no ring is full", || vm.running.ring_fulls()[0] > before);
        drop(reaper);
    }
    let last = vm.start_reaper();
    vm.is_complete();
    last.stop().unwrap();
    vm.running.stop().unwrap();
}

/// Counts pages, and can be told to fail or to panic.
struct Moody {
    mood: Arc<AtomicU64>,
    inner: Copying,
}

const FAIL: u64 = 1;
const PANIC: u64 = 2;

impl PageSink for Moody {
    fn publish(&mut self, slot: &MemorySlot, pages: &[DirtyGfn]) -> Result<(), SinkFailure> {
        match self.mood.load(Ordering::Relaxed) {
            FAIL => return Err("the disk is full".into()),
            PANIC => panic!("the disk is full"),
            _ => {}
        }
        self.inner.publish(slot, pages)
    }
}

#[test]
fn a_sink_that_fails_or_panics_is_told_to_everybody_and_the_next_one_gets_its_pages() {
    for (mood, said) in [(FAIL, "the sink failed"), (PANIC, "the sink panicked")] {
        let Some(vm) = Tracked::start(RingFullMode::default()) else {
            return;
        };
        vm.guest.set_logging(true).unwrap();
        vm.copy_all();
        let moods = Arc::<AtomicU64>::default();
        let sink = Moody {
            mood: Arc::clone(&moods),
            inner: vm.sink(),
        };
        let (ended, has_ended) = std::sync::mpsc::channel();
        let reaper = vm
            .tracker
            .reaper(sink)
            .on_end(move |result| ended.send(result.map_err(ToString::to_string)).unwrap())
            .start(Policy::deadline(vm.size))
            .unwrap();
        vm.write();
        wait_for_a_round(&vm.guest, 0, PAGES);
        moods.store(mood, Ordering::Relaxed);
        reaper.kick();
        let end = has_ended.recv().unwrap();
        assert!(end.unwrap_err().contains("the sink did not take"));
        // Flush, vCPUs and stop say the same, again and again.
        for _ in 0..3 {
            let error = vm.tracker.flush(no_kick).unwrap_err();
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            assert!(cause.unwrap().contains(said), "{error}");
            assert!(vm.tracker.vcpu(0).unwrap().on_ring_full().is_err());
        }
        let stats = vm.tracker.stats().unwrap();
        assert!(stats.has_ended && stats.unpublished > 0);
        assert!(reaper.stop().is_err());
        // The guest has waited, and goes on; what the sink didn't take comes again.
        let next = vm.start_reaper();
        wait_for_a_round(&vm.guest, 1, PAGES);
        vm.is_complete();
        next.stop().unwrap();
        vm.running.stop().unwrap();
    }
}

#[test]
fn a_listener_that_panics_is_an_error_at_the_next_ring_full_until_the_reaper_is_stopped() {
    let Some(vm) = Tracked::start(RingFullMode::default()) else {
        return;
    };
    vm.guest.set_logging(true).unwrap();
    vm.copy_all();
    let (ended, has_ended) = std::sync::mpsc::channel();
    let reaper = vm
        .tracker
        .reaper(vm.sink())
        .events(|_: &dirty_ring_core::planner::PassRecord| panic!("no such metric"))
        .on_end(move |result| ended.send(result.map_err(ToString::to_string)).unwrap())
        .start(Policy::deadline(vm.size))
        .unwrap();
    vm.write();
    reaper.kick();
    let end = has_ended.recv().unwrap().unwrap_err();
    assert!(end.contains("no such metric"), "{end}");
    for _ in 0..3 {
        let error = vm.tracker.vcpu(0).unwrap().on_ring_full().unwrap_err();
        assert!(matches!(&error, Error::Panicked(said) if said == "no such metric"));
        let error = vm.tracker.flush(no_kick).unwrap_err();
        assert!(matches!(error, Error::Panicked(_)), "{error}");
    }
    support::wait_until("the vCPUs aren't told", || {
        vm.errors.load(Ordering::Relaxed) > 0
    });
    assert!(matches!(reaper.stop().unwrap_err(), Error::Panicked(_)));
    let next = vm.start_reaper();
    wait_for_a_round(&vm.guest, 0, PAGES);
    vm.is_complete();
    next.stop().unwrap();
    vm.running.stop().unwrap();
}

#[test]
fn a_slot_that_was_left_out_is_a_lost_page_that_every_flush_names() {
    let Some((kvm, support)) = kvm() else { return };
    let config = GuestConfig {
        data_slots: 2,
        ..GuestConfig::default()
    };
    let guest = Guest::new(&kvm, config).unwrap();
    let mut rings = support.enable(guest.vm(), 4096).unwrap();
    let size = rings.size();
    rings.add_slot(guest.data_slots()[0].memory_slot()).unwrap();
    let vcpus = guest.create_vcpus().unwrap();
    rings.add_vcpu(vcpus[0].fd()).unwrap();
    let tracker = Tracker::new(rings).unwrap();
    guest.set_logging(true).unwrap();
    let ring = tracker.vcpu(0).unwrap();
    let running = RunningGuest::start(vcpus, move |_| ring.on_ring_full().map(|_| ())).unwrap();
    let copies = Copies::default();
    let reaper = tracker
        .reaper(Copying::new(&guest, &copies))
        .start(Policy::deadline(size))
        .unwrap();
    guest.params()[0].set(16384, 0).unwrap();
    // The guest goes on, whatever is lost.
    wait_for_a_round(&guest, 0, 16384);
    let left_out = guest.data_slots()[1].memory_slot();
    for _ in 0..3 {
        let error = tracker.flush(|| running.kick_all_and_wait()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("in the ring of vCPU 0"), "{text}");
        let slot = format!("of slot {} in", left_out.id.slot());
        assert!(text.contains(&slot), "{text}");
    }
    assert!(
        matches!(tracker.state(), Err(Error::Collect(_))),
        "the next tracker wouldn't know"
    );
    let stats = tracker.stats().unwrap();
    let last = stats.last_bad_entry.unwrap();
    assert_eq!((last.vcpu, last.gfn.slot), (0, left_out.id));
    assert!(stats.bad_entries() >= 8192);
    running.stop().unwrap();
    let error = reaper.stop().unwrap_err();
    assert!(error.to_string().contains("register every memory slot"));
    assert!(!copies.lock().unwrap().contains_key(&left_out.address));
}

#[test]
fn what_a_vcpu_writes_to_a_slot_that_goes_away_is_no_lost_page() {
    let Some(vm) = Tracked::start(RingFullMode::default()) else {
        return;
    };
    vm.guest.set_logging(true).unwrap();
    vm.write();
    let reaper = vm.start_reaper();
    // The vCPUs write on while the tracker forgets their slots.
    vm.tracker
        .update_memory(|memory| {
            for slot in vm.guest.data_slots() {
                assert!(memory.remove(slot.memory_slot().id));
            }
            Ok::<_, Error>(())
        })
        .unwrap();
    wait_for_a_round(&vm.guest, 0, PAGES);
    vm.tracker.flush(|| vm.running.kick_all_and_wait()).unwrap();
    let stats = vm.tracker.stats().unwrap();
    assert_eq!(stats.bad_entries(), 0);
    let late: u64 = stats.vcpus.iter().map(|vcpu| vcpu.ring.late_entries).sum();
    assert!(late > 0);
    reaper.stop().unwrap();
    vm.running.stop().unwrap();
}

/// Takes pages of one slot, and neither pages of any other nor another slot.
struct Picky(dirty_ring_core::entry::SlotId, usize);

impl PageSink for Picky {
    fn add_slot(&mut self, slot: MemorySlot) -> Result<(), SinkError> {
        match self.1.checked_sub(1) {
            Some(left) => {
                self.1 = left;
                Ok(())
            }
            None => Err(SinkError::of(&slot)),
        }
    }

    fn publish(&mut self, slot: &MemorySlot, _: &[DirtyGfn]) -> Result<(), SinkFailure> {
        match slot.id == self.0 {
            true => Ok(()),
            false => Err("not that slot".into()),
        }
    }
}

#[test]
fn pages_that_waited_for_a_sink_are_kept_until_one_takes_those_of_all_slots() {
    let Some(vm) = Tracked::start(RingFullMode::default()) else {
        return;
    };
    vm.guest.set_logging(true).unwrap();
    vm.copy_all();
    vm.write();
    wait_for_a_round(&vm.guest, 0, PAGES);
    wait_for_a_round(&vm.guest, 1, PAGES);
    let paused = vm.running.pause().unwrap();
    vm.tracker.flush(no_kick).unwrap();
    let waiting = vm.tracker.stats().unwrap().backlog;
    for slot in vm.guest.data_slots() {
        let picky = Picky(slot.memory_slot().id, usize::MAX);
        let refused = vm.tracker.reaper(picky).start(policy(3, vm.size));
        assert!(refused.is_err());
        assert_eq!(vm.tracker.stats().unwrap().backlog, waiting);
    }
    let reaper = vm.tracker.reaper(vm.sink()).start(policy(3, vm.size));
    paused.resume();
    vm.is_complete();
    reaper.unwrap().stop().unwrap();
    vm.running.stop().unwrap();
}

#[test]
fn a_page_of_a_slot_that_the_sink_refused_is_lost_and_not_late() {
    let Some((kvm, support)) = kvm() else { return };
    let guest = Guest::new(&kvm, GuestConfig::default()).unwrap();
    let mut rings = support.enable(guest.vm(), 4096).unwrap();
    let size = rings.size();
    let vcpus = guest.create_vcpus().unwrap();
    rings.add_vcpu(vcpus[0].fd()).unwrap();
    let tracker = Tracker::new(rings).unwrap();
    guest.set_logging(true).unwrap();
    let ring = tracker.vcpu(0).unwrap();
    let running = RunningGuest::start(vcpus, move |_| ring.on_ring_full().map(|_| ())).unwrap();
    let slot = guest.data_slots()[0].memory_slot();
    let reaper = tracker
        .reaper(Picky(slot.id, 0))
        .start(policy(3, size))
        .unwrap();
    let refused = tracker.update_memory(|memory| memory.add(slot));
    assert!(matches!(refused, Err(Error::Sink(_))));
    guest.params()[0].set(100, 0).unwrap();
    wait_for_a_round(&guest, 0, 100);
    let flushed = tracker.flush(|| running.kick_all_and_wait());
    assert!(flushed.is_err(), "100 pages went nowhere");
    assert!(reaper.stop().is_err());
    running.stop().unwrap();
}

#[test]
fn a_slot_number_can_be_used_again_at_once_by_a_smaller_slot() {
    let Some(vm) = Tracked::start(RingFullMode::default()) else {
        return;
    };
    vm.guest.set_logging(true).unwrap();
    let slot = vm.guest.data_slots()[0].memory_slot();
    let smaller = MemorySlot { pages: 50, ..slot };
    vm.tracker
        .update_memory(|memory| {
            // After the drain, and before the slot goes away.
            for params in vm.guest.params() {
                params.set(100, 0).unwrap();
            }
            wait_for_a_round(&vm.guest, 0, 100);
            drop(vm.running.kick_all_and_wait());
            for params in vm.guest.params() {
                params.set(1, 0).unwrap();
            }
            wait_for_a_round(&vm.guest, 0, 1);
            assert!(memory.remove(slot.id));
            memory.add(smaller)
        })
        .unwrap();
    let state = vm.tracker.state().unwrap();
    let dirty = state.unpublished.iter().filter(|page| page.slot == slot.id);
    assert_eq!(dirty.count(), 50, "the new slot is dirty as a whole");
    let late = |stats: &dirty_ring_kvm::ReaperStats| stats.vcpus[0].ring.late_entries;
    vm.tracker.flush(|| vm.running.kick_all_and_wait()).unwrap();
    let stats = vm.tracker.stats().unwrap();
    assert_eq!(stats.bad_entries(), 0);
    assert!(late(&stats) >= 100, "{}", late(&stats));
    vm.running.stop().unwrap();
}
