//! What the core costs: a controller's step, a harvested entry, a peek.

use std::hint::black_box;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dirty_ring_core::backend::{Backend, Reset};
use dirty_ring_core::collector::{Collector, Scope};
use dirty_ring_core::controller::{
    Controller, Fixed, Halving, HalvingConfig, Ladder, LadderTable, LevelTable, Measurement,
    Policy, Seed,
};
use dirty_ring_core::doorbell::Wakes;
use dirty_ring_core::entry::{DirtyGfn, EntryFlags, EntryMemory, SlotId};
use dirty_ring_core::ring::Ring;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::{Instant, Micros};

/// An entry laid out as `struct kvm_dirty_gfn`, 16 bytes.
#[derive(Default)]
struct Entry {
    flags: AtomicU32,
    slot: AtomicU32,
    offset: AtomicU64,
}

/// Ring memory as KVM shares it, without KVM.
struct Memory {
    size: RingSize,
    entries: Box<[Entry]>,
}

impl Memory {
    fn new(entries: u32) -> Self {
        Self {
            size: RingSize::new(entries, 4096, 0).expect("a bench asks for a ring that can be"),
            entries: (0..entries).map(|_| Entry::default()).collect(),
        }
    }

    /// Publishes the first `occupancy` entries.
    fn fill(&self, occupancy: u32) {
        for (offset, entry) in (0..).zip(&self.entries[..occupancy as usize]) {
            entry.offset.store(offset, Ordering::Relaxed);
            entry
                .flags
                .store(EntryFlags::DIRTY.bits(), Ordering::Release);
        }
    }
}

impl EntryMemory for &Memory {
    fn size(&self) -> RingSize {
        self.size
    }
    fn load_flags(&self, index: u32) -> EntryFlags {
        let flags = self.entries[index as usize].flags.load(Ordering::Acquire);
        EntryFlags::from_bits_retain(flags)
    }
    fn read(&self, index: u32) -> DirtyGfn {
        let entry = &self.entries[index as usize];
        DirtyGfn {
            slot: SlotId(entry.slot.load(Ordering::Relaxed)),
            offset: entry.offset.load(Ordering::Relaxed),
        }
    }
    fn store_flags(&self, index: u32, flags: EntryFlags) {
        let entry = &self.entries[index as usize];
        entry.flags.store(flags.bits(), Ordering::Release);
    }
    fn replace_flags(&self, index: u32, old: EntryFlags, new: EntryFlags) {
        let flags = &self.entries[index as usize].flags;
        let _ = flags.compare_exchange(old.bits(), new.bits(), Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// Passes from calm to storm, so that every branch of a controller has its turn.
fn measurements() -> [Measurement; 64] {
    core::array::from_fn(|at| {
        let fullest = (at as u32 * 1709) % 4032;
        Measurement {
            elapsed: Micros(2_000 + (at as u64 * 7919) % 1_000_000),
            harvested: fullest.into(),
            ring_full_harvested: 0,
            fullest,
            ring_fulls: u32::from(at % 16 == 0),
            wakes: Wakes::TIMER,
            late: Micros(60),
            took: Micros(100),
        }
    })
}

fn step(criterion: &mut Criterion, name: &str, mut controller: impl Controller) {
    let measurements = measurements();
    let mut next = measurements.iter().cycle();
    criterion.bench_function(&format!("step/{name}"), |bencher| {
        bencher.iter(|| {
            let measurement = next.next().unwrap_or(&measurements[0]);
            controller.on_reaped(black_box(measurement))
        });
    });
}

fn steps(criterion: &mut Criterion) {
    let size = Memory::new(4096).size;
    let fixed = Fixed::new(Micros::SECOND).expect("1 s is an interval");
    step(criterion, "fixed", fixed);
    step(criterion, "seed", Seed::new(LevelTable::PATCH, size));
    step(
        criterion,
        "ladder",
        Ladder::new(LadderTable::STANDARD, size),
    );
    step(
        criterion,
        "halving",
        Halving::new(HalvingConfig::REVIEW, size),
    );
    step(criterion, "deadline", Policy::deadline(size));
    step(criterion, "policy: seed", Policy::seed(size));
    step(criterion, "policy: ladder", Policy::ladder(size));
}

fn harvest(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("harvest");
    for entries in [4096, 65536] {
        let memory = Memory::new(entries);
        let occupancy = memory.size.soft_limit();
        group.throughput(Throughput::Elements(occupancy.into()));
        group.bench_function(format!("ring of {entries}"), |bencher| {
            bencher.iter_batched_ref(
                || {
                    memory.fill(occupancy);
                    Ring::new(&memory, Instant(0))
                },
                |ring| ring.harvest_without_reset(u32::MAX, |gfn| _ = black_box(gfn)),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn peek(criterion: &mut Criterion) {
    for entries in [4096, 65536] {
        let memory = Memory::new(entries);
        memory.fill(entries / 3);
        let ring = Ring::new(&memory, Instant(0));
        criterion.bench_function(&format!("peek/occupancy, ring of {entries}"), |bencher| {
            bencher.iter(|| black_box(&ring).occupancy());
        });
        criterion.bench_function(&format!("peek/is_at_least, ring of {entries}"), |bencher| {
            bencher.iter(|| black_box(&ring).is_at_least(black_box(entries / 4)));
        });
    }
}

/// One ring, of which nothing is ever taken.
struct OneRing<'m>([Ring<&'m Memory>; 1]);

impl<'m> Backend for OneRing<'m> {
    type Memory = &'m Memory;
    type Error = ();

    fn rings(&self) -> &[Ring<&'m Memory>] {
        &self.0
    }
    fn rings_mut(&mut self) -> &mut [Ring<&'m Memory>] {
        &mut self.0
    }
    fn is_registered(&self, _gfn: &DirtyGfn) -> bool {
        true
    }
    fn reset(&mut self) -> Result<Reset, ()> {
        Ok(Reset::default())
    }
    fn publish(&mut self, _pages: &[DirtyGfn]) -> Result<(), ()> {
        Ok(())
    }
    fn publish_all(&mut self) -> Result<(), ()> {
        Ok(())
    }
}

/// What the look at a ring and the deadline controller's plan for it cost at each wake.
fn look(criterion: &mut Criterion) {
    for (name, share) in [("far from full", 8), ("half full", 2)] {
        let memory = Memory::new(4096);
        memory.fill(memory.size.soft_limit() / share);
        let rings = OneRing([Ring::new(&memory, Instant(0))]);
        let mut collector: Collector<_> = Collector::new(rings);
        let mut deadline = Policy::deadline(memory.size);
        let mut now = Instant(0);
        criterion.bench_function(&format!("look/{name}"), |bencher| {
            bencher.iter(|| {
                now = now + Micros(100);
                black_box(&mut collector)
                    .begin_pass(now, Scope::Planned, |rings| deadline.plan(now, rings));
            });
        });
    }
}

criterion_group!(benches, steps, harvest, peek, look);
criterion_main!(benches);
