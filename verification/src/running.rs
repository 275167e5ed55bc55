//! A simulated ring whose vCPU logs pages between any two accesses of userspace, and whose indices may
//! have parted. KVM's side goes by its indices and by what the flags say (virt/kvm/dirty_ring.c).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use dirty_ring_core::backend::{Backend, Reset};
use dirty_ring_core::entry::{DirtyGfn, EntryFlags, EntryMemory, SlotId};
use dirty_ring_core::ring::{Ring, RingState};
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::Instant;

/// The one slot.
const SLOT: SlotId = SlotId(2);

/// When a vCPU logs pages.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// Accesses of userspace before it does.
    pub accesses: u32,
    /// How many pages, if KVM lets it.
    pub pages: u32,
}

/// A ring as KVM has it. Every page is logged once, under the next number.
#[derive(Debug)]
pub struct RunningRing {
    size: RingSize,
    flags: Vec<Cell<u32>>,
    offsets: Vec<Cell<u64>>,
    dirty_index: Cell<u32>,
    reset_index: Cell<u32>,
    logged: Cell<u64>,
    stretches: RefCell<VecDeque<Stretch>>,
    /// A mark is compared and exchanged in one step; otherwise the vCPU may come in between.
    exchanges: bool,
}

impl RunningRing {
    /// Creates a ring without entries, with KVM's indices at `start`.
    pub fn starting_at(size: RingSize, start: u32, exchanges: bool) -> Rc<Self> {
        Rc::new(Self {
            size,
            flags: (0..size.entries()).map(|_| Cell::new(0)).collect(),
            offsets: (0..size.entries()).map(|_| Cell::new(0)).collect(),
            dirty_index: Cell::new(start),
            reset_index: Cell::new(start),
            logged: Cell::new(0),
            stretches: RefCell::default(),
            exchanges,
        })
    }

    fn at(&self, index: u32) -> usize {
        (index & (self.size.entries() - 1)) as usize
    }

    /// Returns the entries that KVM counts (`kvm_dirty_ring_used`).
    pub fn used(&self) -> u32 {
        self.dirty_index.get().wrapping_sub(self.reset_index.get())
    }

    /// Returns whether KVM keeps the vCPU out.
    pub fn is_soft_full(&self) -> bool {
        self.used() >= self.size.soft_limit()
    }

    /// Returns how many pages were logged; their numbers are those below.
    pub fn logged(&self) -> u64 {
        self.logged.get()
    }

    /// Returns whether no entry is marked or DIRTY.
    pub fn is_clear(&self) -> bool {
        self.flags.iter().all(|flags| flags.get() == 0)
    }

    /// Logs a page, whether or not KVM would have let the vCPU in (`kvm_dirty_ring_push`).
    pub fn log(&self) {
        let at = self.at(self.dirty_index.get());
        self.offsets[at].set(self.logged.get());
        self.flags[at].set(EntryFlags::DIRTY.bits());
        self.dirty_index.set(self.dirty_index.get().wrapping_add(1));
        self.logged.set(self.logged.get() + 1);
    }

    /// Lets the vCPU run as `stretches` say, one after the other.
    pub fn run(&self, stretches: impl IntoIterator<Item = Stretch>) {
        self.stretches.borrow_mut().extend(stretches);
    }

    /// Returns whether the vCPU is to log more.
    pub fn is_running(&self) -> bool {
        !self.stretches.borrow().is_empty()
    }

    /// Lets the vCPU do what it does until the next access.
    fn tick(&self) {
        let mut stretches = self.stretches.borrow_mut();
        let Some(next) = stretches.front_mut() else {
            return;
        };
        if next.accesses != 0 {
            next.accesses -= 1;
            return;
        }
        while next.pages != 0 {
            if self.is_soft_full() {
                // It waits for room.
                return;
            }
            next.pages -= 1;
            self.log();
        }
        stretches.pop_front();
    }

    /// Resets what is marked, `limit` entries at most; returns how many.
    pub fn reset(&self, limit: u32) -> u32 {
        let mut entries = 0;
        loop {
            self.tick();
            let at = self.at(self.reset_index.get());
            if entries == limit || self.flags[at].get() & EntryFlags::RESET.bits() == 0 {
                return entries;
            }
            self.flags[at].set(0);
            self.reset_index.set(self.reset_index.get().wrapping_add(1));
            entries += 1;
        }
    }
}

/// Userspace's view of a [`RunningRing`].
#[derive(Clone, Debug)]
pub struct RunningMemory(Rc<RunningRing>);

impl EntryMemory for RunningMemory {
    fn size(&self) -> RingSize {
        self.0.size
    }

    fn load_flags(&self, index: u32) -> EntryFlags {
        self.0.tick();
        EntryFlags::from_bits_retain(self.0.flags[self.0.at(index)].get())
    }

    fn read(&self, index: u32) -> DirtyGfn {
        self.0.tick();
        DirtyGfn {
            slot: SLOT,
            offset: self.0.offsets[self.0.at(index)].get(),
        }
    }

    fn store_flags(&self, index: u32, flags: EntryFlags) {
        self.0.tick();
        self.0.flags[self.0.at(index)].set(flags.bits());
    }

    fn replace_flags(&self, index: u32, old: EntryFlags, new: EntryFlags) {
        self.0.tick();
        let flags = &self.0.flags[self.0.at(index)];
        if flags.get() == old.bits() {
            if !self.0.exchanges {
                self.0.tick();
            }
            flags.set(new.bits());
        }
    }
}

/// The VM of one such ring.
#[derive(Debug)]
pub struct RunningVm {
    kvm: Rc<RunningRing>,
    rings: [Ring<RunningMemory>; 1],
    /// After how many entries a signal ends each of the next resets; then they are whole.
    interruptions: VecDeque<u32>,
    /// Pages published, and how often.
    published: BTreeMap<u64, u32>,
    /// Pages that were logged when all memory was counted as dirty.
    counted: u64,
}

impl RunningVm {
    /// Creates the VM of `kvm`, whose ring is read from `state` on.
    pub fn new(kvm: &Rc<RunningRing>, state: &RingState) -> Self {
        let memory = RunningMemory(Rc::clone(kvm));
        Self {
            kvm: Rc::clone(kvm),
            rings: [Ring::from_state(memory, state, Instant(0))],
            interruptions: VecDeque::new(),
            published: BTreeMap::new(),
            counted: 0,
        }
    }

    /// Lets signals end the next resets after so many entries each.
    pub fn interrupt(&mut self, after_entries: impl IntoIterator<Item = u32>) {
        self.interruptions.extend(after_entries);
    }

    /// Returns the pages that were published, and how often.
    pub const fn published(&self) -> &BTreeMap<u64, u32> {
        &self.published
    }

    /// Returns how many pages were logged when all memory was counted as dirty.
    pub const fn counted(&self) -> u64 {
        self.counted
    }
}

impl Backend for RunningVm {
    type Memory = RunningMemory;
    type Error = ();

    fn rings(&self) -> &[Ring<RunningMemory>] {
        &self.rings
    }

    fn rings_mut(&mut self) -> &mut [Ring<RunningMemory>] {
        &mut self.rings
    }

    fn is_registered(&self, gfn: &DirtyGfn) -> bool {
        gfn.slot == SLOT
    }

    fn reset(&mut self) -> Result<Reset, ()> {
        let interruption = self.interruptions.pop_front();
        let entries = self.kvm.reset(interruption.unwrap_or(u32::MAX));
        Ok(Reset {
            entries,
            maybe_interrupted: interruption.is_some(),
        })
    }

    fn publish(&mut self, pages: &[DirtyGfn]) -> Result<(), ()> {
        for page in pages {
            *self.published.entry(page.offset).or_default() += 1;
        }
        Ok(())
    }

    fn publish_all(&mut self) -> Result<(), ()> {
        self.counted = self.kvm.logged();
        Ok(())
    }
}
