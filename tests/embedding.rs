//! The library's face from outside: an embedder's guest, sink and policies, on real KVM and on the
//! mock.

#[path = "support/kvm.rs"]
mod kvm;

use dirty_ring::core::collector::RingFullMode;
use dirty_ring::core::controller::Policy;
use dirty_ring::core::size::RingSize;
use dirty_ring::core::time::Micros;

type MakePolicy = fn(RingSize) -> Policy;

/// Every policy, made for a ring.
const POLICIES: [(&str, MakePolicy); 5] = [
    ("deadline", Policy::deadline),
    ("seed", Policy::seed),
    ("ladder", Policy::ladder),
    ("halving", Policy::halving),
    ("fixed", |_| Policy::fixed(Micros::from_millis(5)).unwrap()),
];

fn modes() -> [RingFullMode; 2] {
    [RingFullMode::default(), RingFullMode::Whole]
}

#[cfg(target_arch = "x86_64")]
mod on_kvm {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use dirty_ring::core::entry::{DirtyGfn, SlotId};
    use dirty_ring::kvm::{MemorySlot, PageSink, SinkFailure};
    use dirty_ring_guest::{Guest, GuestConfig, PAGE_BYTES, ReapedGuest, Reaping};
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    const VCPUS: usize = 3;
    const PAGES_PER_VCPU: u64 = 2500;
    /// Pages that each vCPU writes: more than any ring of this test holds.
    const WRITTEN: u64 = 2000;
    const RING_ENTRIES: u32 = 1024;

    /// A sink of the embedder's own: the pages that were published, by slot and offset.
    #[derive(Clone, Default)]
    struct Published(Arc<Mutex<BTreeSet<(SlotId, u64)>>>);

    impl PageSink for Published {
        fn publish(&mut self, _slot: &MemorySlot, pages: &[DirtyGfn]) -> Result<(), SinkFailure> {
            let pages = pages.iter().map(|page| (page.slot, page.offset));
            self.0.lock().unwrap().extend(pages);
            Ok(())
        }
    }

    /// The pages whose word the guest has written.
    fn written(guest: &Guest) -> BTreeSet<(SlotId, u64)> {
        let mut written = BTreeSet::new();
        for slot in guest.data_slots() {
            let memory_slot = slot.memory_slot();
            for offset in 0..slot.pages {
                let address = GuestAddress(slot.guest_address + offset * PAGE_BYTES);
                let word: u64 = guest.ram().read_obj(address).unwrap();
                if word != 0 {
                    written.insert((memory_slot.id, offset));
                }
            }
        }
        written
    }

    fn wait_until_written(guest: &Guest) {
        let give_up = Instant::now() + Duration::from_secs(20);
        let last_page = |vcpu| guest.layout().data_address(vcpu) + (WRITTEN - 1) * PAGE_BYTES;
        for vcpu in 0..VCPUS {
            let last = GuestAddress(last_page(vcpu));
            while guest.ram().read_obj::<u64>(last).unwrap() == 0 {
                assert!(Instant::now() < give_up, "vCPU {vcpu} doesn't write");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    #[test]
    fn every_written_page_of_three_vcpus_and_two_slots_is_published_under_each_policy_and_mode() {
        let Some(kvm) = kvm::kvm() else { return };
        for (name, policy) in POLICIES {
            for mode in modes() {
                let published = Published::default();
                let config = GuestConfig {
                    vcpus: VCPUS,
                    data_pages_per_vcpu: PAGES_PER_VCPU,
                    // The cut goes through the middle vCPU's pages.
                    data_slots: 2,
                    ..GuestConfig::default()
                };
                let sink = published.clone();
                let reaping = Reaping::new(RING_ENTRIES)
                    .ring_full_mode(mode)
                    .sink(|_| sink);
                let vm = ReapedGuest::start(&kvm, config, reaping, policy).unwrap();
                for params in vm.guest.params() {
                    params.set(WRITTEN, 0).unwrap();
                }
                wait_until_written(&vm.guest);
                vm.running.stop().unwrap();
                let stats = vm.reaper.stop().unwrap().stats;

                let written = written(&vm.guest);
                assert_eq!(
                    written.len() as u64,
                    VCPUS as u64 * WRITTEN,
                    "{name}, {mode:?}"
                );
                let published = published.0.lock().unwrap();
                assert_eq!(*published, written, "{name}, {mode:?}");
                // Nothing is owed, and nothing was published that was not harvested and reset.
                let totals = stats.totals;
                let harvested = totals.harvested();
                assert_eq!((stats.outstanding, stats.bad_entries()), (0, 0));
                assert_eq!(
                    (totals.entries_reset, totals.published),
                    (harvested, harvested)
                );
            }
        }
    }
}

#[test]
fn the_mock_loses_no_page_under_each_policy_and_mode() {
    use dirty_ring::mock::{SimConfig, simulate};
    let ring = RingSize::new(1024, 4096, 0).unwrap();
    for (name, policy) in POLICIES {
        for mode in modes() {
            let config = SimConfig {
                vcpus: 3,
                policy: Some(policy(ring)),
                ring_full_mode: mode,
                duration_us: 300_000,
                ..SimConfig::new(ring)
            };
            let report = simulate(config).unwrap();
            assert!(report.is_sound(), "{name}, {mode:?}");
            assert_eq!(report.lost_pages, 0, "{name}, {mode:?}");
            assert!(report.pages_harvested > 3 * 16384, "{name}, {mode:?}");
        }
    }
}
