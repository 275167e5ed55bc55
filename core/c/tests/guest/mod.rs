//! The guest of `examples/reap.c` over the core itself, without the C interface.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::AtomicU32;
use std::sync::{Mutex, PoisonError};

use dirty_ring_core::backend::{Backend, Reset};
use dirty_ring_core::collector::{Collector, DEFAULT_CHUNK, RingFullMode, Totals};
use dirty_ring_core::controller::Policy;
use dirty_ring_core::entry::{DirtyGfn, EntryFlags, EntryMemory, SlotId};
use dirty_ring_core::planner::{PassRecord, Planner};
use dirty_ring_core::reaper::{Reaper, Turn};
use dirty_ring_core::ring::Ring;
use dirty_ring_core::shared::SharedCollector;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::sync::{Lock, Park, Parked};
use dirty_ring_core::time::Instant;

const VCPUS: usize = 2;
const PAGES: u64 = 1 << 16;
const TURN_US: u64 = 30;

/// The entries of a ring, and KVM's indices.
#[derive(Clone)]
struct Entries(Rc<Kernel>);

struct Kernel {
    entries: Vec<(Cell<EntryFlags>, Cell<DirtyGfn>)>,
    size: RingSize,
    dirty_index: Cell<u32>,
    reset_index: Cell<u32>,
}

impl Kernel {
    fn new(size: RingSize) -> Rc<Self> {
        let empty = || (Cell::new(EntryFlags::empty()), Cell::default());
        Rc::new(Self {
            entries: (0..size.entries()).map(|_| empty()).collect(),
            size,
            dirty_index: Cell::new(0),
            reset_index: Cell::new(0),
        })
    }

    fn entry(&self, index: u32) -> &(Cell<EntryFlags>, Cell<DirtyGfn>) {
        &self.entries[(index % self.size.entries()) as usize]
    }

    fn push(&self, page: DirtyGfn) {
        let index = self
            .dirty_index
            .replace(self.dirty_index.get().wrapping_add(1));
        self.entry(index).1.set(page);
        self.entry(index).0.set(EntryFlags::DIRTY);
    }

    fn is_full(&self) -> bool {
        self.dirty_index.get().wrapping_sub(self.reset_index.get()) >= self.size.soft_limit()
    }

    fn reset(&self) -> u32 {
        let mut count = 0;
        while let flags = &self.entry(self.reset_index.get()).0
            && flags.get().contains(EntryFlags::RESET)
        {
            flags.set(EntryFlags::empty());
            self.reset_index.set(self.reset_index.get().wrapping_add(1));
            count += 1;
        }
        count
    }
}

impl EntryMemory for Entries {
    fn size(&self) -> RingSize {
        self.0.size
    }
    fn load_flags(&self, index: u32) -> EntryFlags {
        self.0.entry(index).0.get()
    }
    fn read(&self, index: u32) -> DirtyGfn {
        self.0.entry(index).1.get()
    }
    fn store_flags(&self, index: u32, flags: EntryFlags) {
        self.0.entry(index).0.set(flags);
    }
    fn replace_flags(&self, index: u32, old: EntryFlags, new: EntryFlags) {
        if self.load_flags(index) == old {
            self.store_flags(index, new);
        }
    }
}

struct Rings(Vec<Ring<Entries>>);

impl Backend for Rings {
    type Memory = Entries;
    type Error = ();

    fn rings(&self) -> &[Ring<Entries>] {
        &self.0
    }
    fn rings_mut(&mut self) -> &mut [Ring<Entries>] {
        &mut self.0
    }
    fn is_registered(&self, gfn: &DirtyGfn) -> bool {
        gfn.slot == SlotId(0) && gfn.offset < PAGES
    }
    fn reset(&mut self) -> Result<Reset, ()> {
        Ok(Reset::of(
            self.0.iter().map(|ring| ring.memory().0.reset()).sum(),
        ))
    }
    fn publish(&mut self, _pages: &[DirtyGfn]) -> Result<(), ()> {
        Ok(())
    }
    fn publish_all(&mut self) -> Result<(), ()> {
        Ok(())
    }
}

struct Guard(Mutex<Collector<Rings>>);

impl Lock for Guard {
    type Guarded = Collector<Rings>;
    fn with<R>(&self, critical: impl FnOnce(&mut Self::Guarded) -> R) -> R {
        critical(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Notes that the reaper was woken.
#[derive(Default)]
struct Woken(Cell<bool>);

impl Park for Woken {
    fn park_until(&self, _until: Instant) -> Parked {
        Parked::TimedOut
    }
    fn unpark(&self) {
        self.0.set(true);
    }
}

/// A guest with its reaper.
pub(crate) struct Guest {
    kernel: Vec<Rc<Kernel>>,
    shared: SharedCollector<Guard, AtomicU32, Woken>,
    reaper: Reaper<Policy>,
    now_us: u64,
    deadline_us: u64,
    is_done: bool,
    pub(crate) written: u64,
    pub(crate) passes: Vec<PassRecord>,
}

impl Guest {
    pub(crate) fn new(size: RingSize, policy: Policy) -> Self {
        let kernel: Vec<_> = (0..VCPUS).map(|_| Kernel::new(size)).collect();
        let ring = |kernel: &Rc<Kernel>| Ring::new(Entries(Rc::clone(kernel)), Instant(0));
        let rings = Rings(kernel.iter().map(ring).collect());
        let guard = Guard(Mutex::new(Collector::new(rings)));
        Self {
            kernel,
            shared: SharedCollector::new(guard, Woken::default()),
            reaper: Reaper::new(Planner::new(policy)),
            now_us: 0,
            deadline_us: 0,
            is_done: false,
            written: 0,
            passes: Vec::new(),
        }
    }

    /// Writes the next page at `at_us`.
    pub(crate) fn write(&mut self, at_us: u64) {
        let vcpu = self.written as usize % VCPUS;
        self.reap_until(at_us);
        self.kernel[vcpu].push(DirtyGfn {
            slot: SlotId(0),
            offset: self.written % PAGES,
        });
        self.written += 1;
        if self.kernel[vcpu].is_full() {
            let mode = RingFullMode::Chunk(DEFAULT_CHUNK);
            let report = self.shared.ring_full(vcpu, mode, Instant(self.now_us));
            report.unwrap();
        }
    }

    /// Takes the turns that are due until `until_us`.
    pub(crate) fn reap_until(&mut self, until_us: u64) {
        while !self.is_done && (self.is_woken() || self.deadline_us <= until_us) {
            if !self.is_woken() {
                self.now_us = self.now_us.max(self.deadline_us);
            }
            self.shared.doorbell().park().0.set(false);
            let now = Instant(self.now_us);
            let turn = self.reaper.turn(&self.shared, now).unwrap();
            self.deadline_us = match turn {
                Turn::Wait { until } => until.0,
                Turn::Again => self.now_us,
                Turn::Done => u64::MAX,
            };
            self.now_us += TURN_US;
            self.is_done = turn == Turn::Done;
            let last = self.reaper.planner().last_pass();
            if last.map(|pass| pass.number) != self.passes.last().map(|pass| pass.number) {
                self.passes.extend(last.copied());
            }
        }
        self.now_us = self.now_us.max(until_us);
    }

    pub(crate) fn stop(&mut self) {
        self.shared.doorbell().stop();
        self.reap_until(u64::MAX);
    }

    pub(crate) fn totals(&self) -> Totals {
        self.shared.with(|collector| collector.totals())
    }

    fn is_woken(&self) -> bool {
        self.shared.doorbell().park().0.get()
    }
}
