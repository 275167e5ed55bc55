//! The simulated VM under the core's conformance kit for backends.

use std::collections::BTreeSet;

use dirty_ring_core::collector::Collector;
use dirty_ring_core::conformance::{self, PAGES, Subject};
use dirty_ring_core::size::RingSize;
use dirty_ring_mock::{SimConfig, Vm};

/// Longer than one vCPU takes to write all of its pages.
const WRITING_US: u64 = 1_000;

struct SimulatedVm {
    collector: Collector<Vm>,
    /// Pages whose publication was told since the last write.
    told: BTreeSet<u32>,
}

impl Subject for SimulatedVm {
    type Backend = Vm;

    fn collector(&mut self) -> &mut Collector<Vm> {
        &mut self.collector
    }

    fn write(&mut self, _vcpu: usize, pages: u32) {
        assert_eq!(pages, PAGES, "the workload writes so many");
        self.told.clear();
        let vm = self.collector.backend_mut();
        vm.clear_published();
        vm.run_until_us(vm.now_us() + WRITING_US);
    }

    fn take_published(&mut self, _vcpu: usize, page: u32) -> u32 {
        let vm = self.collector.backend();
        let [(low, low_pages), (high, _)] = vm.slots();
        let page_of_slot = page as usize;
        let (slot, offset) = match page_of_slot.checked_sub(low_pages) {
            None => (low, page_of_slot),
            Some(offset) => (high, offset),
        };
        let is_published = vm.published(slot).is_some_and(|set| set.contains(offset));
        u32::from(is_published && self.told.insert(page))
    }
}

#[test]
fn the_simulated_vm_passes_the_conformance_kit() {
    let ring = RingSize::new(1024, 4096, 0).unwrap();
    let config = SimConfig {
        workload: format!("pages={PAGES},spin=0").parse().unwrap(),
        policy: Some(()),
        ..SimConfig::new(ring)
    };
    let mut subject = SimulatedVm {
        collector: Collector::new(Vm::new(&config).unwrap()),
        told: BTreeSet::new(),
    };
    conformance::check(&mut subject).unwrap();
}
