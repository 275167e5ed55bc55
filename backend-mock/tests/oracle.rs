//! The oracle has to catch what the collector never does: each test breaks one rule on purpose.

use dirty_ring_core::backend::{Backend, Reset};
use dirty_ring_core::collector::Collector;
use dirty_ring_core::entry::{DirtyGfn, SlotId};
use dirty_ring_core::ring::Ring;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::Instant;
use dirty_ring_mock::{Faults, RingMemory, SimConfig, VcpuState, Vm, VmError};

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

/// What a backend says of its resets.
#[derive(Clone, Copy, Debug)]
enum Says {
    /// What they did.
    Truth,
    /// That they have done all that was harvested: the deficit is skipped.
    HasDoneAll,
    /// What they did, and nothing of an interruption after the last entry.
    WasWhole,
    /// Nothing of any interruption: it resets again until nothing waits, and adds up.
    WasNeverInterrupted,
}

/// A VM that may lie about its resets.
struct Liar {
    vm: Vm,
    says: Says,
    harvested: u32,
}

impl Backend for Liar {
    type Memory = RingMemory;
    type Error = VmError;

    fn rings(&self) -> &[Ring<RingMemory>] {
        self.vm.rings()
    }
    fn rings_mut(&mut self) -> &mut [Ring<RingMemory>] {
        self.vm.rings_mut()
    }
    fn is_registered(&self, gfn: &DirtyGfn) -> bool {
        self.vm.is_registered(gfn)
    }
    fn reset(&mut self) -> Result<Reset, VmError> {
        let mut done = self.vm.reset()?;
        match self.says {
            Says::Truth => return Ok(done),
            Says::HasDoneAll => {
                let harvested: u64 = self.rings().iter().map(|ring| ring.stats().harvested).sum();
                let before = std::mem::replace(&mut self.harvested, harvested as u32);
                done.entries = self.harvested - before;
            }
            Says::WasWhole => {}
            Says::WasNeverInterrupted => {
                let mut barren = 0;
                while barren < 100 {
                    let entries = self.vm.reset()?.entries;
                    done.entries += entries;
                    barren = if entries == 0 { barren + 1 } else { 0 };
                }
            }
        }
        Ok(Reset::of(done.entries))
    }
    fn publish(&mut self, pages: &[DirtyGfn]) -> Result<(), VmError> {
        self.vm.publish(pages)
    }
    fn publish_all(&mut self) -> Result<(), VmError> {
        self.vm.publish_all()
    }
}

/// Lets a reader take all pages every millisecond while resets are interrupted; returns the pages
/// that KVM forgot, those that were lost, and the premature publications.
fn run_with_interruptions(says: Says, seed: u64) -> [u64; 3] {
    let mut config = SimConfig::new(RingSize::new(1024, 4096, 0).unwrap());
    config.vcpus = 2;
    config.policy = Some(());
    config.workload = "pages=100,spin=0|pages=70,spin=900".parse().unwrap();
    config.duration_us = 30_000;
    config.seed = seed;
    config.faults = Faults {
        interrupted_reset_permille: 300,
        ..Faults::NONE
    };
    let vm = Vm::new(&config).unwrap();
    let mut collector: Collector<_> = Collector::new(Liar {
        vm,
        says,
        harvested: 0,
    });
    for ms in 1..=40 {
        let vm = &mut collector.backend_mut().vm;
        vm.run_until_us(ms * 1_000);
        while !collector.drain(Instant(ms * 1_000)).unwrap() {}
    }
    let vm = &collector.backend().vm;
    [
        vm.forgotten_pages(),
        vm.unpublished_pages(),
        vm.premature_publications(),
    ]
}

/// Sums up what 20 seeds give.
fn run_20_times(says: Says) -> [u64; 3] {
    let runs = (0..20).map(|seed| run_with_interruptions(says, seed));
    runs.fold([0; 3], |sum, run| [0, 1, 2].map(|at| sum[at] + run[at]))
}

#[test]
fn what_interrupted_resets_forget_is_not_lost() {
    let [forgotten, lost, premature] = run_20_times(Says::Truth);
    assert!(forgotten > 1_000, "{forgotten}");
    assert_eq!((lost, premature), (0, 0));
}

#[test]
fn control_a_page_is_lost_where_interruptions_are_not_made_up_for() {
    let [_, lost, premature] = run_20_times(Says::WasNeverInterrupted);
    assert!(lost > 20, "{lost}");
    assert_eq!(premature, 0);
}

#[test]
fn control_a_page_is_lost_where_only_those_after_the_last_entry_are_not_told() {
    let [_, lost, _] = run_20_times(Says::WasWhole);
    assert!(lost > 0, "{lost}");
}

#[test]
fn a_skipped_deficit_is_caught() {
    let [_, _, premature] = run_20_times(Says::HasDoneAll);
    assert!(premature > 100, "{premature}");
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
