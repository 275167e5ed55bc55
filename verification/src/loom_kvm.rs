//! KVM's side of dirty rings over loom's atomics, and a [`Backend`] of them.
//!
//! The `n`-th entry of a ring carries offset `n`, so a read or a publication out of turn is
//! caught on the spot, whatever the interleaving.
//!
//! Loom decides which orders of two accesses are worth exploring by the *last* access to each
//! atomic only. A thread that loads a word and then stores to it hides its store from the loads
//! that another thread made before (seen with loom 0.7.3: a harvest that finds an entry empty was
//! never interleaved with a push that looked at the entry first). So every access to an entry
//! touches a second word first, with a relaxed read-modify-write: that orders nothing, but makes
//! loom try both orders of any two accesses.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::rc::Rc;

use dirty_ring_core::backend::{Backend, Reset};
use dirty_ring_core::entry::{DirtyGfn, EntryFlags, EntryMemory, SlotId};
use dirty_ring_core::ring::Ring;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::Instant;
use loom::cell::UnsafeCell;
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicU32, Ordering};

/// The size that the model's rings claim to have; few of the entries exist.
pub const SIZE: RingSize = match RingSize::new(128, 16, 0) {
    Ok(size) => size,
    Err(_) => panic!("128 entries are a ring where a page holds one"),
};

/// The way in which userspace touches the flags.
pub trait Access: 'static {
    /// The order of the load.
    const LOAD: Ordering = Ordering::Acquire;
    /// Marks an entry as harvested.
    fn store(word: &AtomicU32, flags: EntryFlags) {
        word.store(flags.bits(), Ordering::Release);
    }
    /// Marks an entry, or takes its mark back, if it is as expected.
    fn replace(word: &AtomicU32, old: EntryFlags, new: EntryFlags) {
        let (old, new) = (old.bits(), new.bits());
        let _ = word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// The access that api.rst 8.29 and the trait require.
#[derive(Debug)]
pub struct Sound;
impl Access for Sound {}

/// Loads the flags without acquire.
#[derive(Debug)]
pub struct RelaxedLoad;
impl Access for RelaxedLoad {
    const LOAD: Ordering = Ordering::Relaxed;
}

/// Marks without release.
#[derive(Debug)]
pub struct RelaxedStore;
impl Access for RelaxedStore {
    fn store(word: &AtomicU32, flags: EntryFlags) {
        word.store(flags.bits(), Ordering::Relaxed);
    }
}

/// Marks an entry with a load and a store, so that what KVM publishes in between is overwritten.
#[derive(Debug)]
pub struct LoadThenStore;
impl Access for LoadThenStore {
    fn replace(word: &AtomicU32, old: EntryFlags, new: EntryFlags) {
        if word.load(Ordering::Acquire) == old.bits() {
            word.store(new.bits(), Ordering::Release);
        }
    }
}

/// Adds RESET to what is there.
#[derive(Debug)]
pub struct OrInsteadOfStore;
impl Access for OrInsteadOfStore {
    fn store(word: &AtomicU32, flags: EntryFlags) {
        word.fetch_or(flags.bits(), Ordering::Release);
    }
}

/// Marks nothing, so the entry looks new on the next round.
#[derive(Debug)]
pub struct NoStore;
impl Access for NoStore {
    fn store(_word: &AtomicU32, _flags: EntryFlags) {}
}

/// One ring as KVM has it.
#[derive(Debug)]
pub struct KvmRing {
    slot: SlotId,
    entries: Vec<Entry>,
    /// Entry `n` is index `n % entries`; otherwise there are only so many, ever.
    wraps: bool,
    /// KVM's reset index, under the VM's slots lock.
    reset_index: Mutex<u32>,
    /// What happened so far; orders nothing.
    watch: RingWatch,
}

/// What happened to a [`KvmRing`], for assertions and witnesses; orders nothing.
#[derive(Debug, Default)]
pub struct RingWatch {
    /// Entries that KVM published.
    pub pushed: Cell<u64>,
    /// Entries that userspace took.
    pub taken: Cell<u64>,
    /// Entries that KVM reset.
    pub reset: Cell<u64>,
    /// Pages that the consumer got.
    pub published: Cell<u64>,
}

/// An entry of a ring.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Touched before `flags`, so that loom explores both orders of any two accesses.
    explored: AtomicU32,
    flags: AtomicU32,
    /// Stands for slot and offset, whose accesses loom has to order.
    touched: UnsafeCell<()>,
    gfn: Cell<DirtyGfn>,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            explored: AtomicU32::new(0),
            flags: AtomicU32::new(0),
            touched: UnsafeCell::new(()),
            gfn: Cell::new(DirtyGfn::default()),
        }
    }
}

impl Entry {
    pub(crate) fn flags(&self) -> &AtomicU32 {
        self.explored.fetch_add(0, Ordering::Relaxed);
        &self.flags
    }

    /// Writes slot and offset, as KVM does before it publishes the entry.
    pub(crate) fn write(&self, gfn: DirtyGfn) {
        self.touched.with_mut(|_| ());
        self.gfn.set(gfn);
    }

    /// Reads slot and offset.
    pub(crate) fn read(&self) -> DirtyGfn {
        self.touched.with(|_| ());
        self.gfn.get()
    }
}

impl KvmRing {
    /// Creates ring number `number` with `entries` entries that exist; the rest of it stays empty.
    pub fn new(number: u32, entries: usize) -> Rc<Self> {
        Self::make(number, entries, false)
    }

    /// Creates ring number `number`, which wraps around after `entries`.
    pub fn wrapping(number: u32, entries: usize) -> Rc<Self> {
        Self::make(number, entries, true)
    }

    fn make(number: u32, entries: usize, wraps: bool) -> Rc<Self> {
        Rc::new(Self {
            slot: SlotId(number),
            entries: (0..entries).map(|_| Entry::default()).collect(),
            wraps,
            reset_index: Mutex::new(0),
            watch: RingWatch::default(),
        })
    }

    /// Returns what happened so far.
    pub fn watch(&self) -> &RingWatch {
        &self.watch
    }

    fn entry(&self, index: u32) -> Option<&Entry> {
        let index = index as usize;
        self.entries.get(if self.wraps {
            index % self.entries.len()
        } else {
            index
        })
    }

    /// Writes the next entry and publishes it, as KVM does when the vCPU dirties a page. Like KVM
    /// it doesn't check whether the entry is free: that follows from the indices
    /// (`kvm_dirty_ring_push`, virt/kvm/dirty_ring.c).
    ///
    /// Only the vCPU's own thread may call it.
    ///
    /// # Panics
    /// Where the ring is full.
    pub fn push(&self) {
        assert!(self.has_room(), "the model pushes more than its ring holds");
        let next = self.watch.pushed.get();
        let entry = self.entry(next as u32).expect("there is room");
        entry.write(DirtyGfn {
            slot: self.slot,
            offset: next,
        });
        entry
            .flags()
            .store(EntryFlags::DIRTY.bits(), Ordering::Release);
        self.watch.pushed.set(next + 1);
    }

    /// Returns whether there is a free entry.
    pub fn has_room(&self) -> bool {
        let freed = if self.wraps {
            self.watch.reset.get()
        } else {
            0
        };
        self.watch.pushed.get() - freed < self.entries.len() as u64
    }

    /// Resets at most `limit` harvested entries, in order, under KVM's slots lock
    /// (`kvm_dirty_ring_reset`); returns how many.
    pub fn reset(&self, limit: u32) -> u32 {
        let mut index = self.reset_index.lock().expect("not poisoned");
        let mut count = 0;
        while count < limit {
            let Some(entry) = self.entry(*index) else {
                break;
            };
            let flags = EntryFlags::from_bits_retain(entry.flags().load(Ordering::Acquire));
            if !flags.contains(EntryFlags::RESET) {
                break;
            }
            assert_eq!(flags, EntryFlags::RESET, "RESET has to replace the flags");
            entry.flags().store(0, Ordering::Release);
            *index += 1;
            count += 1;
            self.watch.reset.set(self.watch.reset.get() + 1);
        }
        count
    }
}

/// Userspace's view of a [`KvmRing`].
#[derive(Debug)]
pub struct LoomMemory<A>(Rc<KvmRing>, PhantomData<A>);

impl<A: Access> LoomMemory<A> {
    /// Maps `ring`.
    pub fn of(ring: &Rc<KvmRing>) -> Self {
        Self(Rc::clone(ring), PhantomData)
    }
}

impl<A: Access> EntryMemory for LoomMemory<A> {
    fn size(&self) -> RingSize {
        SIZE
    }

    fn load_flags(&self, index: u32) -> EntryFlags {
        let flags = self.0.entry(index).map(|entry| entry.flags().load(A::LOAD));
        EntryFlags::from_bits_retain(flags.unwrap_or(0))
    }

    fn read(&self, index: u32) -> DirtyGfn {
        let entry = self.0.entry(index).expect("an entry that was published");
        let gfn = entry.read();
        if gfn.offset < self.0.watch.reset.get() {
            // Where a reset ended early.
            return gfn;
        }
        let turn = self.0.watch.taken.replace(gfn.offset + 1);
        assert_eq!(gfn.offset, turn, "an entry was taken twice or out of order");
        gfn
    }

    fn store_flags(&self, index: u32, flags: EntryFlags) {
        let entry = self.0.entry(index).expect("an entry that was published");
        A::store(entry.flags(), flags);
    }

    fn replace_flags(&self, index: u32, old: EntryFlags, new: EntryFlags) {
        if let Some(entry) = self.0.entry(index) {
            A::replace(entry.flags(), old, new);
        }
    }
}

/// The way in which `KVM_RESET_DIRTY_RINGS` behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resets {
    /// Resets all that was harvested.
    Full,
    /// Comes back after one entry, as with a signal pending. KVM may have forgotten that entry, so its
    /// page may be published again.
    OneByOne,
    /// Comes back so many times without having reset anything, and is full from then on.
    BarrenFor(u32),
    /// Counts what was harvested but resets it in the next call: wrong.
    Later,
}

/// The rings of a VM; its consumer checks what is published.
#[derive(Debug)]
pub struct LoomVm<A> {
    kvm: Vec<Rc<KvmRing>>,
    rings: Vec<Ring<LoomMemory<A>>>,
    resets: Resets,
    /// Sizes of what was published.
    published: RefCell<Vec<usize>>,
}

impl<A: Access> LoomVm<A> {
    /// Creates a VM with these rings, whose resets behave as `resets` says.
    pub fn new(kvm: &[Rc<KvmRing>], resets: Resets) -> Self {
        Self {
            kvm: kvm.to_vec(),
            rings: kvm
                .iter()
                .map(|ring| Ring::new(LoomMemory::of(ring), Instant(0)))
                .collect(),
            resets,
            published: RefCell::default(),
        }
    }

    /// Returns how many pages each call of `publish` had.
    pub fn publications(&self) -> Vec<usize> {
        self.published.borrow().clone()
    }
}

impl<A: Access> Backend for LoomVm<A> {
    type Memory = LoomMemory<A>;
    type Error = ();

    fn rings(&self) -> &[Ring<LoomMemory<A>>] {
        &self.rings
    }

    fn rings_mut(&mut self) -> &mut [Ring<LoomMemory<A>>] {
        &mut self.rings
    }

    fn is_registered(&self, gfn: &DirtyGfn) -> bool {
        (gfn.slot.0 as usize) < self.kvm.len()
    }

    fn reset(&mut self) -> Result<Reset, ()> {
        let mut left = match self.resets {
            Resets::Full => u32::MAX,
            Resets::OneByOne => 1,
            Resets::BarrenFor(times) => match times.checked_sub(1) {
                Some(times) => {
                    self.resets = Resets::BarrenFor(times);
                    return Ok(Reset::default());
                }
                None => u32::MAX,
            },
            Resets::Later => {
                let waiting = |ring: &Rc<KvmRing>| ring.watch.taken.get() - ring.watch.reset.get();
                return Ok(Reset::of(self.kvm.iter().map(waiting).sum::<u64>() as u32));
            }
        };
        let mut total = 0;
        for ring in &self.kvm {
            let count = ring.reset(left);
            left -= count;
            total += count;
        }
        Ok(Reset::of(total))
    }

    fn publish(&mut self, pages: &[DirtyGfn]) -> Result<(), ()> {
        for page in pages {
            let watch = &self.kvm[page.slot.0 as usize].watch;
            assert!(
                page.offset < watch.reset.get(),
                "a page was published before its reset"
            );
            let turn = watch.published.get();
            if page.offset < turn {
                let may_repeat = self.resets == Resets::OneByOne;
                assert!(may_repeat, "a page was published twice");
                continue;
            }
            assert_eq!(page.offset, turn, "a page was published out of turn");
            watch.published.set(turn + 1);
        }
        self.published.borrow_mut().push(pages.len());
        Ok(())
    }

    fn publish_all(&mut self) -> Result<(), ()> {
        Ok(())
    }
}
