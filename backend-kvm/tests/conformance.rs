//! The KVM backend under the core's conformance kit, on real rings.
#![cfg(target_arch = "x86_64")]

mod support;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dirty_ring_core::backend::Backend;
use dirty_ring_core::collector::Collector;
use dirty_ring_core::conformance::{self, Subject};
use dirty_ring_core::entry::{DirtyGfn, SlotId};
use dirty_ring_guest::{Guest, GuestConfig, PAGE_BYTES, RunningGuest};
use dirty_ring_kvm::{KvmRings, MemorySlot, PageSink, SinkFailure, Support};
use kvm_ioctls::Kvm;

const VCPUS: usize = 2;
const PAGES_PER_VCPU: u64 = 64;

type Published = Arc<Mutex<HashMap<(SlotId, u64), u32>>>;

/// Counts how often each page is published.
struct Counts(Published);

impl PageSink for Counts {
    fn publish(&mut self, _slot: &MemorySlot, pages: &[DirtyGfn]) -> Result<(), SinkFailure> {
        let mut counts = self.0.lock().unwrap();
        for page in pages {
            *counts.entry((page.slot, page.offset)).or_default() += 1;
        }
        Ok(())
    }
}

struct RealVm {
    collector: Collector<KvmRings>,
    published: Published,
    running: RunningGuest,
    guest: Guest,
}

impl RealVm {
    fn new(kvm: &Kvm) -> Self {
        let config = GuestConfig {
            vcpus: VCPUS,
            data_pages_per_vcpu: PAGES_PER_VCPU,
            data_slots: 2,
            ..GuestConfig::default()
        };
        let guest = Guest::new(kvm, config).unwrap();
        let support = Support::probe(kvm).unwrap();
        let mut rings = support.enable(guest.vm(), 1024).unwrap();
        let vcpus = guest.create_vcpus().unwrap();
        let published = Published::default();
        let sink = Counts(Arc::clone(&published));
        rings.set_sink(Box::new(sink)).unwrap();
        for slot in guest.data_slots() {
            rings.add_slot(slot.memory_slot()).unwrap();
        }
        for vcpu in &vcpus {
            rings.add_vcpu(vcpu.fd()).unwrap();
        }
        guest.set_logging(true).unwrap();
        Self {
            collector: Collector::new(rings),
            published,
            running: RunningGuest::start(vcpus, |_| Ok::<(), Infallible>(())).unwrap(),
            guest,
        }
    }
}

impl Subject for RealVm {
    type Backend = KvmRings;

    fn collector(&mut self) -> &mut Collector<KvmRings> {
        &mut self.collector
    }

    fn write(&mut self, vcpu: usize, pages: u32) {
        let params = &self.guest.params()[vcpu];
        params.set(pages.into(), 0).unwrap();
        let give_up = Instant::now() + Duration::from_secs(60);
        while self.collector.backend().rings()[vcpu].occupancy() < pages {
            assert!(Instant::now() < give_up, "vCPU {vcpu} doesn't write");
            std::thread::yield_now();
        }
        params.set(0, 0).unwrap();
        support::wait_until_idle(&self.running);
    }

    fn take_published(&mut self, vcpu: usize, page: u32) -> u32 {
        let address = self.guest.layout().data_address(vcpu) + u64::from(page) * PAGE_BYTES;
        let mut slots = self.guest.data_slots().iter();
        let slot = slots.rfind(|slot| slot.guest_address <= address).unwrap();
        let offset = (address - slot.guest_address) / PAGE_BYTES;
        let mut published = self.published.lock().unwrap();
        published
            .remove(&(slot.memory_slot().id, offset))
            .unwrap_or(0)
    }
}

#[test]
fn the_kvm_backend_passes_the_conformance_kit() {
    match Kvm::new() {
        Ok(kvm) if Support::probe(&kvm).is_ok() => {
            conformance::check(&mut RealVm::new(&kvm)).unwrap();
        }
        _ => println!("skipped: no KVM with dirty rings here"),
    }
}
