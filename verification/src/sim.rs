//! A simulated VM without threads: the kernel's side of several rings, strict about the protocol.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use dirty_ring_core::backend::{Backend, Reset};
use dirty_ring_core::entry::{DirtyGfn, EntryFlags, EntryMemory, SlotId};
use dirty_ring_core::ring::Ring;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::Instant;

/// A slot that no ring of the simulation has.
const UNREGISTERED: SlotId = SlotId(0xdead);

/// One ring as the kernel has it. The `n`-th entry carries offset `n`.
#[derive(Debug)]
pub struct SimRing {
    slot: SlotId,
    size: RingSize,
    entries: Vec<Cell<(EntryFlags, DirtyGfn)>>,
    pushed: Cell<u64>,
    taken: Cell<u64>,
    reset: Cell<u64>,
}

impl SimRing {
    fn new(slot: SlotId, size: RingSize) -> Rc<Self> {
        let empty = (EntryFlags::empty(), DirtyGfn::default());
        Rc::new(Self {
            slot,
            size,
            entries: (0..size.entries()).map(|_| Cell::new(empty)).collect(),
            pushed: Cell::new(0),
            taken: Cell::new(0),
            reset: Cell::new(0),
        })
    }

    fn entry(&self, at: u64) -> &Cell<(EntryFlags, DirtyGfn)> {
        &self.entries[(at % self.entries.len() as u64) as usize]
    }

    /// Logs a page that the vCPU dirties, of a slot that exists or of another; returns whether there
    /// was a free entry. It may fill the reserve above the soft limit, as KVM's own writes do, all
    /// but the last entry.
    pub fn push(&self, registered: bool) -> bool {
        let at = self.pushed.get();
        if at - self.reset.get() >= u64::from(self.size.entries()) - 1 {
            return false;
        }
        let slot = if registered { self.slot } else { UNREGISTERED };
        let before = self
            .entry(at)
            .replace((EntryFlags::DIRTY, DirtyGfn { slot, offset: at }));
        assert!(before.0.is_empty(), "the entry was not reset");
        self.pushed.set(at + 1);
        true
    }

    /// Returns the entries that wait to be harvested.
    pub fn occupancy(&self) -> u64 {
        self.pushed.get() - self.taken.get()
    }

    /// Returns the entries harvested so far.
    pub fn taken(&self) -> u64 {
        self.taken.get()
    }

    /// Returns the entries reset so far.
    pub fn resets(&self) -> u64 {
        self.reset.get()
    }

    fn reset_at_most(&self, limit: u32) -> u32 {
        let mut count = 0;
        while count < limit && self.reset.get() < self.pushed.get() {
            let entry = self.entry(self.reset.get());
            let (flags, gfn) = entry.get();
            if flags != EntryFlags::RESET {
                break;
            }
            entry.set((EntryFlags::empty(), gfn));
            self.reset.set(self.reset.get() + 1);
            count += 1;
        }
        count
    }
}

/// Userspace's view of a [`SimRing`]; it insists on load, read, store, in order.
#[derive(Debug)]
pub struct SimMemory(Rc<SimRing>);

impl EntryMemory for SimMemory {
    fn size(&self) -> RingSize {
        self.0.size
    }

    fn load_flags(&self, index: u32) -> EntryFlags {
        self.0.entry(index.into()).get().0
    }

    fn read(&self, index: u32) -> DirtyGfn {
        let (flags, gfn) = self.0.entry(index.into()).get();
        match flags {
            EntryFlags::DIRTY => assert_eq!(gfn.offset, self.0.taken.get(), "taken out of order"),
            // Where a reset ended early.
            _ => assert!(
                flags.is_empty(),
                "read of an entry that waits for its reset"
            ),
        }
        gfn
    }

    fn store_flags(&self, index: u32, flags: EntryFlags) {
        let entry = self.0.entry(index.into());
        let (before, gfn) = entry.get();
        assert_eq!((before, flags), (EntryFlags::DIRTY, EntryFlags::RESET));
        assert_eq!(gfn.offset, self.0.taken.get(), "marked out of order");
        entry.set((flags, gfn));
        self.0.taken.set(gfn.offset + 1);
    }

    fn replace_flags(&self, _index: u32, _old: EntryFlags, _new: EntryFlags) {
        unreachable!("no ring of this simulation loses its position");
    }
}

/// What the consumer and the log got so far.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Offsets published for the first time, by ring.
    pub published: Vec<Vec<u64>>,
    /// Pages published again, because their reset was interrupted.
    pub published_again: u64,
    /// Offsets refused, by ring.
    pub rejected: Vec<Vec<u64>>,
}

/// The rings of a VM.
#[derive(Debug)]
pub struct SimVm {
    kernel: Vec<Rc<SimRing>>,
    rings: Vec<Ring<SimMemory>>,
    /// How many entries each of the next resets does at most; then they are whole.
    short_resets: VecDeque<u32>,
    outcome: Rc<RefCell<Outcome>>,
    /// The last offset published, by ring.
    newest: Vec<Option<u64>>,
}

impl SimVm {
    /// Creates a VM with a ring for each size, and returns what tests watch from outside.
    pub fn new(sizes: &[RingSize]) -> (Self, Vec<Rc<SimRing>>, Rc<RefCell<Outcome>>) {
        let kernel: Vec<_> = (0..)
            .zip(sizes)
            .map(|(slot, &size)| SimRing::new(SlotId(slot), size))
            .collect();
        let outcome = Rc::new(RefCell::new(Outcome {
            published: vec![Vec::new(); sizes.len()],
            published_again: 0,
            rejected: vec![Vec::new(); sizes.len()],
        }));
        let vm = Self {
            rings: kernel
                .iter()
                .map(|ring| Ring::new(SimMemory(Rc::clone(ring)), Instant(0)))
                .collect(),
            kernel: kernel.clone(),
            short_resets: VecDeque::new(),
            outcome: Rc::clone(&outcome),
            newest: vec![None; sizes.len()],
        };
        (vm, kernel, outcome)
    }

    /// Lets the next resets do at most so many entries each.
    pub fn shorten_resets(&mut self, limits: impl IntoIterator<Item = u32>) {
        self.short_resets.extend(limits);
    }

    /// Makes all further resets whole.
    pub fn end_short_resets(&mut self) {
        self.short_resets.clear();
    }
}

impl Backend for SimVm {
    type Memory = SimMemory;
    type Error = ();

    fn rings(&self) -> &[Ring<SimMemory>] {
        &self.rings
    }

    fn rings_mut(&mut self) -> &mut [Ring<SimMemory>] {
        &mut self.rings
    }

    fn is_registered(&self, gfn: &DirtyGfn) -> bool {
        gfn.slot != UNREGISTERED
    }

    fn reject(&mut self, ring: usize, gfn: &DirtyGfn) {
        assert_eq!(gfn.slot, UNREGISTERED, "a good page was refused");
        self.outcome.borrow_mut().rejected[ring].push(gfn.offset);
    }

    fn reset(&mut self) -> Result<Reset, ()> {
        let mut left = self.short_resets.pop_front().unwrap_or(u32::MAX);
        let mut total = 0;
        for ring in &self.kernel {
            let count = ring.reset_at_most(left);
            left -= count;
            total += count;
        }
        Ok(Reset::of(total))
    }

    fn publish(&mut self, pages: &[DirtyGfn]) -> Result<(), ()> {
        assert!(!pages.is_empty(), "a publication of nothing");
        for page in pages {
            let ring = page.slot.0 as usize;
            let reset = self.kernel[ring].reset.get();
            assert!(page.offset < reset, "published before its reset: {page:?}");
            let mut outcome = self.outcome.borrow_mut();
            if self.newest[ring].is_some_and(|newest| page.offset <= newest) {
                outcome.published_again += 1;
            } else {
                self.newest[ring] = Some(page.offset);
                outcome.published[ring].push(page.offset);
            }
        }
        Ok(())
    }

    fn publish_all(&mut self) -> Result<(), ()> {
        Ok(())
    }
}
