//! A ring that is had back while its vCPU logs pages, over loom's atomics.
//!
//! KVM goes by its indices and by what the flags say, as in virt/kvm/dirty_ring.c: it publishes whatever
//! the flags were, and resets whatever is marked RESET.
//!
//! KVM publishes with a plain store; here it is a swap. Loom (seen with 0.7.3) may take two exchanges of
//! one thread for neighbours although a store of another thread came between them, which no processor
//! does, and a mark that is taken back would overwrite it.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::rc::Rc;

use dirty_ring_core::backend::{Backend, Reset};
use dirty_ring_core::entry::{DirtyGfn, EntryFlags, EntryMemory, SlotId};
use dirty_ring_core::ring::Ring;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::Instant;
use loom::sync::Mutex;
use loom::sync::atomic::Ordering;

use crate::loom_kvm::{Access, Entry, SIZE};

const SLOT: SlotId = SlotId(5);

/// A ring as KVM has it, of which the first few entries exist; the rest of it stays empty.
#[derive(Debug)]
pub struct LostRing {
    entries: Vec<Entry>,
    /// KVM's reset index, under the VM's slots lock.
    reset_index: Mutex<u32>,
    /// KVM's dirty index; orders nothing.
    pushed: Cell<u32>,
}

impl LostRing {
    /// Creates a ring with `entries` entries that exist.
    pub fn new(entries: usize) -> Rc<Self> {
        Rc::new(Self {
            entries: (0..entries).map(|_| Entry::default()).collect(),
            reset_index: Mutex::new(0),
            pushed: Cell::new(0),
        })
    }

    /// Returns the pages that were logged.
    pub fn pushed(&self) -> u32 {
        self.pushed.get()
    }

    /// Logs the next page, whose offset is its entry's index. Only the vCPU's own thread may call it.
    ///
    /// # Panics
    /// Where no entry is left.
    pub fn push(&self) {
        let index = self.pushed.get();
        let entry = self.entries.get(index as usize).expect("an entry is left");
        entry.write(DirtyGfn {
            slot: SLOT,
            offset: index.into(),
        });
        entry
            .flags()
            .swap(EntryFlags::DIRTY.bits(), Ordering::Release);
        self.pushed.set(index + 1);
    }

    /// Returns KVM's reset index.
    pub fn reset_index(&self) -> u32 {
        *self.reset_index.lock().expect("not poisoned")
    }

    fn reset(&self) -> u32 {
        let mut index = self.reset_index.lock().expect("not poisoned");
        let begin = *index;
        while let Some(entry) = self.entries.get(*index as usize)
            && entry.flags().load(Ordering::Acquire) & EntryFlags::RESET.bits() != 0
        {
            entry.flags().store(0, Ordering::Release);
            *index += 1;
        }
        *index - begin
    }
}

/// Userspace's view of a [`LostRing`].
#[derive(Debug)]
pub struct LostMemory<A>(Rc<LostRing>, PhantomData<A>);

impl<A: Access> EntryMemory for LostMemory<A> {
    fn size(&self) -> RingSize {
        SIZE
    }

    fn load_flags(&self, index: u32) -> EntryFlags {
        let entry = self.0.entries.get(index as usize);
        let flags = entry.map_or(0, |entry| entry.flags().load(A::LOAD));
        EntryFlags::from_bits_retain(flags)
    }

    fn read(&self, index: u32) -> DirtyGfn {
        let entry = self.0.entries.get(index as usize);
        entry.expect("an entry that was published").read()
    }

    fn store_flags(&self, index: u32, flags: EntryFlags) {
        if let Some(entry) = self.0.entries.get(index as usize) {
            A::store(entry.flags(), flags);
        }
    }

    fn replace_flags(&self, index: u32, old: EntryFlags, new: EntryFlags) {
        if let Some(entry) = self.0.entries.get(index as usize) {
            A::replace(entry.flags(), old, new);
        }
    }
}

/// The VM of one such ring.
#[derive(Debug)]
pub struct LostVm<A> {
    kvm: Rc<LostRing>,
    rings: [Ring<LostMemory<A>>; 1],
    published: RefCell<Vec<u64>>,
}

impl<A: Access> LostVm<A> {
    /// Creates the VM of `kvm`.
    pub fn new(kvm: &Rc<LostRing>) -> Self {
        let memory = LostMemory(Rc::clone(kvm), PhantomData);
        Self {
            kvm: Rc::clone(kvm),
            rings: [Ring::new(memory, Instant(0))],
            published: RefCell::default(),
        }
    }

    /// Returns the offsets that were published.
    pub fn published(&self) -> Vec<u64> {
        self.published.borrow().clone()
    }
}

impl<A: Access> Backend for LostVm<A> {
    type Memory = LostMemory<A>;
    type Error = ();

    fn rings(&self) -> &[Ring<LostMemory<A>>] {
        &self.rings
    }

    fn rings_mut(&mut self) -> &mut [Ring<LostMemory<A>>] {
        &mut self.rings
    }

    fn is_registered(&self, gfn: &DirtyGfn) -> bool {
        gfn.slot == SLOT
    }

    fn reset(&mut self) -> Result<Reset, ()> {
        Ok(Reset::of(self.kvm.reset()))
    }

    fn publish(&mut self, pages: &[DirtyGfn]) -> Result<(), ()> {
        let offsets = pages.iter().map(|page| page.offset);
        self.published.borrow_mut().extend(offsets);
        Ok(())
    }

    fn publish_all(&mut self) -> Result<(), ()> {
        Ok(())
    }
}
