//! The oracle has to catch what the collector never does: each test breaks one rule on purpose.

use core::convert::Infallible;

use dirty_ring_core::backend::{Backend, Reset};
use dirty_ring_core::collector::Collector;
use dirty_ring_core::entry::{DirtyGfn, SlotId};
use dirty_ring_core::ring::Ring;
use dirty_ring_core::size::RingSize;
use dirty_ring_mock::{Faults, RingMemory, SimConfig, VcpuState, Vm};

/// One vCPU that writes 100 pages as fast as it can, logged.
fn vm(faults: Faults) -> Vm {
    let mut config = SimConfig::new(RingSize::new(1024, 4096, 0).unwrap());
    config.policy = Some(());
    config.workload = "pages=100,spin=0".parse().unwrap();
    config.faults = faults;
    let mut vm = Vm::new(&config).unwrap();
    vm.run_until_us(1_000);
    vm
}

fn harvest(vm: &mut Vm) -> Vec<DirtyGfn> {
    let mut pages = Vec::new();
    vm.rings_mut()[0].harvest_without_reset(u32::MAX, |gfn| pages.push(gfn));
    pages
}

#[test]
fn harvest_reset_publish_is_right() {
    let mut vm = vm(Faults::NONE);
    assert_eq!(vm.unpublished_pages(), 100);
    let pages = harvest(&mut vm);
    vm.run_until_us(2_000);
    assert_eq!(vm.reset(), Ok(Reset::of(100)));
    vm.publish(&pages).unwrap();
    assert_eq!(vm.unpublished_pages(), 0);
    assert_eq!(vm.premature_publications(), 0);
    // Protected again, so the next write is logged.
    vm.run_until_us(3_000);
    assert_eq!(vm.unpublished_pages(), 100);
    assert_eq!(harvest(&mut vm).len(), 100);
}

#[test]
fn a_publication_before_the_reset_is_caught_and_so_is_what_it_loses() {
    let mut vm = vm(Faults::NONE);
    let pages = harvest(&mut vm);
    vm.publish(&pages).unwrap();
    assert_eq!(vm.premature_publications(), 100);
    assert_eq!(vm.unpublished_pages(), 0);
    // The pages are still writable: nothing logs these writes.
    vm.run_until_us(2_000);
    assert_eq!(harvest(&mut vm), []);
    assert_eq!(vm.unpublished_pages(), 100);
}

#[test]
fn a_page_that_is_harvested_and_forgotten_is_caught() {
    let mut vm = vm(Faults::NONE);
    let mut pages = harvest(&mut vm);
    assert_eq!(vm.reset(), Ok(Reset::of(100)));
    pages.truncate(99);
    vm.publish(&pages).unwrap();
    assert_eq!(vm.unpublished_pages(), 1);
    assert_eq!(vm.premature_publications(), 0);
}

#[test]
fn a_publication_of_a_page_that_does_not_exist_is_caught() {
    let mut vm = vm(Faults::NONE);
    let (slot, pages) = vm.slots()[1];
    let offset = pages as u64;
    vm.publish(&[
        DirtyGfn { slot, offset },
        DirtyGfn {
            slot: SlotId(9),
            offset: 0,
        },
    ])
    .unwrap();
    assert_eq!(vm.unregistered_publications(), 2);
}

/// A VM whose resets claim to have done all that was harvested: the deficit is skipped.
struct Boastful(Vm);

impl Backend for Boastful {
    type Memory = RingMemory;
    type Error = Infallible;

    fn rings(&self) -> &[Ring<RingMemory>] {
        self.0.rings()
    }
    fn rings_mut(&mut self) -> &mut [Ring<RingMemory>] {
        self.0.rings_mut()
    }
    fn is_registered(&self, gfn: &DirtyGfn) -> bool {
        self.0.is_registered(gfn)
    }
    fn reset(&mut self) -> Result<Reset, Infallible> {
        let _ = self.0.reset()?;
        Ok(Reset::of(100))
    }
    fn publish(&mut self, pages: &[DirtyGfn]) -> Result<(), Infallible> {
        self.0.publish(pages)
    }
    fn publish_all(&mut self) -> Result<(), Infallible> {
        self.0.publish_all()
    }
}

#[test]
fn a_skipped_deficit_is_caught() {
    let mut collector: Collector<_> = Collector::new(Boastful(vm(Faults {
        short_reset_permille: 1000,
        ..Faults::NONE
    })));
    assert_eq!(
        collector.drain(dirty_ring_core::time::Instant(1_000)),
        Ok(true)
    );
    let vm = &mut collector.backend_mut().0;
    let premature = vm.premature_publications();
    assert!((1..=100).contains(&premature), "{premature}");
    vm.run_until_us(2_000);
    assert!(vm.unpublished_pages() > 0);
}

#[test]
fn a_vcpu_that_is_let_in_with_a_full_ring_leaves_at_once() {
    let mut config = SimConfig::new(RingSize::new(1024, 4096, 0).unwrap());
    config.policy = Some(());
    let mut vm = Vm::new(&config).unwrap();
    vm.run_until_us(10_000);
    let VcpuState::RingFull { since_ps } = vm.state(0) else {
        panic!("960 faults take less than 10 ms");
    };
    assert!(since_ps < vm.now_ps());
    vm.enter(0, 11_000_000_000);
    assert_eq!(
        vm.state(0),
        VcpuState::RingFull {
            since_ps: 11_000_000_000
        }
    );
    // Half of it harvested and reset: it runs.
    vm.rings_mut()[0].harvest_without_reset(480, |_| ());
    assert_eq!(vm.reset(), Ok(Reset::of(480)));
    vm.enter(0, 12_000_000_000);
    assert_eq!(vm.state(0), VcpuState::Running);
}
