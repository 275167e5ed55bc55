//! Stand-ins for two VMMs, as far as they touch dirty tracking: a cloud VMM with live migration and memory
//! that is plugged while it runs, and a micro-VM VMM with diff snapshots. Both own their threads, and
//! confine them with filters that trap.
#![cfg(target_arch = "x86_64")]

mod support;

use std::collections::HashMap;
use std::sync::{Arc, Once};
use std::thread;

use dirty_ring_core::controller::Policy;
use dirty_ring_core::planner::Planner;
use dirty_ring_guest::{Guest, GuestConfig, RunningGuest};
use dirty_ring_kvm::{Error, MemorySlot, ReaperHandle, Tracker, no_kick, system_calls};
use vm_memory::GuestAddress;

use support::confine::{ALLOCATES, ENDS, GUEST, confine};
use support::{kvm, pages, wait_for_a_round, word};

const VCPUS: usize = 2;
const PAGES: u64 = 3000;

/// A VM of a VMM: its vCPU threads own their vCPUs and are confined; the rest is on the VMM's thread.
struct Vm {
    guest: Guest,
    tracker: Tracker,
    running: RunningGuest,
    /// The destination of a migration, or the snapshot: a word for each page, by guest address.
    copy: HashMap<u64, u64>,
}

impl Vm {
    /// Creates the VM with the first `slots` of its two memory slots.
    fn create(slots: usize) -> Option<Self> {
        let (kvm, support) = kvm()?;
        let config = GuestConfig {
            vcpus: VCPUS,
            data_pages_per_vcpu: PAGES,
            data_slots: 2,
            ..GuestConfig::default()
        };
        let guest = Guest::new(&kvm, config).unwrap();
        for slot in &guest.data_slots()[slots..] {
            guest.remove_slot(slot).unwrap();
        }
        // The largest ring of the host is the right one outside of tests; this one is full now and then.
        let mut rings = support.enable(guest.vm(), 1024).unwrap();
        for slot in &guest.data_slots()[..slots] {
            rings.add_slot(slot.memory_slot()).unwrap();
        }
        let vcpus = guest.create_vcpus().unwrap();
        for vcpu in &vcpus {
            rings.add_vcpu(vcpu.fd()).unwrap();
        }
        let tracker = Tracker::new(rings).unwrap();
        let handles: Vec<_> = (0..VCPUS).map(|vcpu| tracker.vcpu(vcpu).unwrap()).collect();
        let confined = Arc::new([const { Once::new() }; VCPUS]);
        let running = RunningGuest::start(vcpus, move |vcpu| {
            confined[vcpu].call_once(|| {
                confine(&[system_calls::MAKES_ROOM, ALLOCATES, GUEST, ENDS]);
            });
            handles[vcpu].on_ring_full().map(|_| ())
        })
        .unwrap();
        Some(Self {
            guest,
            tracker,
            running,
            copy: HashMap::new(),
        })
    }

    /// Lets vCPU `vcpu` write its pages, which are in the slot of its number.
    fn write(&self, vcpu: usize) {
        self.guest.params()[vcpu].set(PAGES, 0).unwrap();
    }

    /// Switches logging of the slots that are registered on or off, under running vCPUs.
    fn set_logging(&self, slots: usize, on: bool) {
        self.tracker
            .update_memory(|memory| {
                self.guest.data_slots()[..slots]
                    .iter()
                    .try_for_each(|slot| {
                        memory.set_logging(slot.memory_slot().id, on, |_, flags| {
                            // A VMM puts the flags into its kvm_userspace_memory_region.
                            assert_eq!(flags, u32::from(on));
                            self.guest.set_slot_logging(slot, on).unwrap();
                            Ok::<_, Error>(())
                        })
                    })
            })
            .unwrap();
    }

    /// Starts a reaper on a thread of the VMM's, confined before it runs.
    fn start_reaper(&self) -> (ReaperHandle, thread::JoinHandle<Result<(), Error>>) {
        let size = self.tracker.ring_size().unwrap();
        let planner = Planner::new(Policy::deadline(size));
        let (reaper, body) = self.tracker.reaper_for_log().split(planner).unwrap();
        let thread = thread::Builder::new()
            .name("vmm-reaper".into())
            .spawn(move || {
                confine(&[system_calls::REAPS, ALLOCATES, ENDS]);
                body.run()
            });
        (reaper, thread.unwrap())
    }

    fn copy_page(&mut self, address: u64) {
        let word = word(&self.guest, GuestAddress(address));
        self.copy.insert(address, word);
    }

    /// Copies all memory.
    fn copy_all(&mut self) {
        for vcpu in 0..VCPUS {
            for page in pages(&self.guest, vcpu, PAGES) {
                self.copy_page(page.0);
            }
        }
    }

    /// Copies the pages whose bits are set; returns how many.
    fn copy_dirty(&mut self, logs: Vec<(MemorySlot, Vec<u64>)>) -> u64 {
        let mut copied = 0;
        for (slot, words) in logs {
            for page in 0..slot.pages {
                if words[page as usize / 64] & (1 << (page % 64)) != 0 {
                    self.copy_page(slot.address + page * 4096);
                    copied += 1;
                }
            }
        }
        copied
    }

    /// Copies what was dirtied since the last time, while the vCPUs run.
    fn round(&mut self) -> u64 {
        let running = &self.running;
        let logs = self.tracker.take_all(|| running.kick_all_and_wait());
        self.copy_dirty(logs.unwrap())
    }

    /// Copies the rest with the vCPUs out of guest mode, and compares the copy with memory.
    fn copy_rest(&mut self) -> u64 {
        let paused = self.running.pause().unwrap();
        let logs = self.tracker.take_all(no_kick).unwrap();
        let copied = self.copy_dirty(logs);
        for vcpu in 0..VCPUS {
            for page in pages(&self.guest, vcpu, PAGES) {
                assert_eq!(
                    self.copy[&page.0],
                    word(&self.guest, page),
                    "page {page:?} was lost"
                );
            }
        }
        paused.resume();
        copied
    }
}

#[test]
fn a_cloud_vmm_migrates_twice_and_plugs_memory_meanwhile() {
    let Some(mut vm) = Vm::create(1) else { return };
    vm.write(0);
    wait_for_a_round(&vm.guest, 0, PAGES);
    // The first migration is called off half way.
    let before = vm.running.ring_fulls();
    assert_eq!(
        before, [0; VCPUS],
        "nothing is logged outside of a migration"
    );
    vm.set_logging(1, true);
    let (reaper, thread) = vm.start_reaper();
    vm.copy_all();
    for _ in 0..3 {
        wait_for_a_round(&vm.guest, 0, PAGES);
        assert!(vm.round() > 0);
    }
    // Memory is plugged under the running vCPU, with logging since a migration is under way.
    let plugged = vm.guest.data_slots()[1];
    vm.tracker
        .update_memory(|memory| {
            vm.guest.set_slot_logging(&plugged, true).unwrap();
            memory.add(plugged.memory_slot())
        })
        .unwrap();
    vm.write(1);
    for _ in 0..3 {
        wait_for_a_round(&vm.guest, 1, PAGES);
        assert!(vm.round() > 0);
    }
    vm.copy_rest();
    vm.set_logging(2, false);
    reaper.stop().unwrap();
    thread.join().unwrap().unwrap();
    // What the migration left of the log is of no use to the next.
    vm.round();

    // Tracking off costs nothing: no exit, and no thread.
    let before = vm.running.ring_fulls();
    (0..20).for_each(|_| wait_for_a_round(&vm.guest, 0, PAGES));
    assert_eq!(vm.running.ring_fulls(), before);
    assert!(!vm.tracker.stats().unwrap().has_reaper);

    // The second one goes through.
    vm.set_logging(2, true);
    let (reaper, thread) = vm.start_reaper();
    vm.copy_all();
    for _ in 0..10 {
        vm.round();
    }
    wait_for_a_round(&vm.guest, 1, PAGES);
    vm.copy_rest();
    reaper.stop().unwrap();
    thread.join().unwrap().unwrap();
    vm.running.stop().unwrap();
}

#[test]
fn a_micro_vm_vmm_takes_diff_snapshots_without_any_thread_of_its_own_for_it() {
    let Some(mut vm) = Vm::create(2) else { return };
    // Tracking is on from the beginning; vCPUs make room themselves, and a snapshot reads the bitmaps.
    vm.set_logging(2, true);
    vm.copy_all();
    (0..VCPUS).for_each(|vcpu| vm.write(vcpu));
    let mut copied = 0;
    for snapshot in 0..20 {
        if snapshot % 3 == 0 {
            wait_for_a_round(&vm.guest, 0, PAGES);
        }
        copied += vm.copy_rest();
    }
    assert!(copied > PAGES);
    // A guest that writes nothing has nothing in its next snapshot.
    for params in vm.guest.params() {
        params.set(0, 0).unwrap();
    }
    support::wait_until_idle(&vm.running);
    vm.copy_rest();
    assert_eq!(vm.copy_rest(), 0);
    assert_eq!(vm.tracker.stats().unwrap().passes, 0);
    vm.running.stop().unwrap();
}
