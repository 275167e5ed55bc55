//! A backend for something that isn't KVM: the dirty pages of this process's own memory, with
//! userfaultfd's write protection.
//!
//! ```sh
//! cargo run -p dirty-ring-core --example userfaultfd
//! ```
//!
//! A thread plays the part of the kernel: a write to a protected page faults, the thread logs the page in
//! a ring in plain memory and lifts the protection. Everything else is what KVM's rings have as well:
//! harvest, reset, publication, a controller, a ring that can be full.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{self, Duration};

use dirty_ring_core::backend::{Backend, Reset};
use dirty_ring_core::collector::{Collector, RingFullMode};
use dirty_ring_core::conformance::{self, Subject};
use dirty_ring_core::controller::Policy;
use dirty_ring_core::entry::{DirtyGfn, EntryFlags, EntryMemory, SlotId};
use dirty_ring_core::planner::Planner;
use dirty_ring_core::reaper::Reaper;
use dirty_ring_core::ring::Ring;
use dirty_ring_core::shared::SharedCollector;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::Instant;

use host::{StdLock, StdPark, lock};
use uffd::{Memory, PAGE_BYTES, PAGE_WORDS};

#[path = "support/host.rs"]
mod host;
#[cfg_attr(target_os = "linux", path = "support/uffd.rs")]
#[cfg_attr(not(target_os = "linux"), path = "support/no_uffd.rs")]
mod uffd;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const PAGES: usize = 4096;
const RING_ENTRIES: u32 = 1024;
const SLOT: SlotId = SlotId(0);

/// The memory and its ring: what the kernel's part and the backend share.
struct Logged {
    memory: Memory,
    size: RingSize,
    flags: Vec<AtomicU32>,
    offsets: Vec<AtomicU64>,
    /// Where the next page is logged, and the next entry is reset; both run freely.
    dirty: AtomicU32,
    reset: AtomicU32,
    /// Makes logging and lifting one step, and a reset another.
    protection: Mutex<()>,
}

impl Logged {
    fn new(pages: usize) -> io::Result<Arc<Self>> {
        let size = RingSize::new(RING_ENTRIES, PAGE_BYTES as u32, 0).map_err(io::Error::other)?;
        Ok(Arc::new(Self {
            memory: Memory::protected(pages)?,
            size,
            flags: (0..RING_ENTRIES).map(|_| AtomicU32::new(0)).collect(),
            offsets: (0..RING_ENTRIES).map(|_| AtomicU64::new(0)).collect(),
            dirty: AtomicU32::new(0),
            reset: AtomicU32::new(0),
            protection: Mutex::new(()),
        }))
    }

    fn is_full(&self) -> bool {
        let reset = self.reset.load(Ordering::Acquire);
        let used = self.dirty.load(Ordering::Relaxed).wrapping_sub(reset);
        used >= self.size.soft_limit()
    }

    fn log(&self, offset: u64) {
        let at = (self.dirty.fetch_add(1, Ordering::Relaxed) % RING_ENTRIES) as usize;
        self.offsets[at].store(offset, Ordering::Relaxed);
        self.flags[at].store(EntryFlags::DIRTY.bits(), Ordering::Release);
    }

    /// The kernel's part, until `is_over`: logs each page that is written while it is protected, and
    /// calls `make_room` before that where the ring is full.
    fn serve_faults(&self, is_over: &AtomicBool, make_room: impl Fn() -> Result<(), Failure>) {
        while !is_over.load(Ordering::Acquire) {
            if let Err(error) = self.serve_fault(&make_room) {
                // The writer waits for this thread alone, and can't be told.
                eprintln!("Error: {error}");
                std::process::exit(1);
            }
        }
    }

    fn serve_fault(&self, make_room: impl Fn() -> Result<(), Failure>) -> Result<(), Failure> {
        let Some(page) = self.memory.next_fault()? else {
            return Ok(());
        };
        while self.is_full() {
            make_room()?;
        }
        // A reset must not come between: the page would be published, and writable, and in no ring.
        let _protection = lock(&self.protection);
        self.log(page as u64);
        Ok(self.memory.protect(page, false)?)
    }
}

/// The ring as core sees it.
struct LoggedRing(Arc<Logged>);

impl EntryMemory for LoggedRing {
    fn size(&self) -> RingSize {
        self.0.size
    }

    fn load_flags(&self, index: u32) -> EntryFlags {
        EntryFlags::from_bits_retain(self.0.flags[index as usize].load(Ordering::Acquire))
    }

    fn read(&self, index: u32) -> DirtyGfn {
        let offset = self.0.offsets[index as usize].load(Ordering::Relaxed);
        DirtyGfn { slot: SLOT, offset }
    }

    fn store_flags(&self, index: u32, flags: EntryFlags) {
        self.0.flags[index as usize].store(flags.bits(), Ordering::Release);
    }

    fn replace_flags(&self, index: u32, old: EntryFlags, new: EntryFlags) {
        let flags = &self.0.flags[index as usize];
        let order = (Ordering::AcqRel, Ordering::Acquire);
        let _ = flags.compare_exchange(old.bits(), new.bits(), order.0, order.1);
    }
}

/// The backend, which copies each page when it is published, as a migration does.
struct Uffd {
    logged: Arc<Logged>,
    rings: [Ring<LoggedRing>; 1],
    copy: Vec<u64>,
    /// How often each page was published.
    published: Vec<u32>,
}

impl Uffd {
    fn new(logged: &Arc<Logged>) -> Self {
        Self {
            logged: Arc::clone(logged),
            rings: [Ring::new(LoggedRing(Arc::clone(logged)), Instant(0))],
            copy: vec![0; logged.memory.words().len()],
            published: vec![0; logged.memory.pages()],
        }
    }

    fn is_page(&self, offset: u64) -> bool {
        offset < self.published.len() as u64
    }
}

impl Backend for Uffd {
    type Memory = LoggedRing;
    // In an Arc, because the collector keeps its first failure and gives a clone of it each time.
    type Error = Arc<io::Error>;

    fn rings(&self) -> &[Ring<LoggedRing>] {
        &self.rings
    }

    fn rings_mut(&mut self) -> &mut [Ring<LoggedRing>] {
        &mut self.rings
    }

    fn is_registered(&self, gfn: &DirtyGfn) -> bool {
        gfn.slot == SLOT && self.is_page(gfn.offset)
    }

    fn reset(&mut self) -> Result<Reset, Arc<io::Error>> {
        let logged = &*self.logged;
        let _protection = lock(&logged.protection);
        let mut entries = 0;
        loop {
            let index = logged.reset.load(Ordering::Relaxed) % RING_ENTRIES;
            let ring = self.rings[0].memory();
            if ring.load_flags(index) != EntryFlags::RESET {
                return Ok(Reset::of(entries));
            }
            let offset = ring.read(index).offset;
            if self.is_page(offset) {
                let protected = logged.memory.protect(offset as usize, true);
                protected.map_err(Arc::new)?;
            }
            ring.store_flags(index, EntryFlags::empty());
            logged.reset.fetch_add(1, Ordering::Release);
            entries += 1;
        }
    }

    fn publish(&mut self, pages: &[DirtyGfn]) -> Result<(), Arc<io::Error>> {
        for page in pages {
            let page = page.offset as usize;
            self.published[page] += 1;
            let words = page * PAGE_WORDS..(page + 1) * PAGE_WORDS;
            let here = &self.logged.memory.words()[words.clone()];
            for (there, here) in self.copy[words].iter_mut().zip(here) {
                *there = here.load(Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn publish_all(&mut self) -> Result<(), Arc<io::Error>> {
        let offsets = 0..self.published.len() as u64;
        let pages: Vec<_> = offsets
            .map(|offset| DirtyGfn { slot: SLOT, offset })
            .collect();
        self.publish(&pages)
    }
}

/// The backend under the conformance kit, with this thread as its vCPU.
struct UnderTest(Collector<Uffd>);

impl Subject for UnderTest {
    type Backend = Uffd;

    fn collector(&mut self) -> &mut Collector<Uffd> {
        &mut self.0
    }

    fn write(&mut self, _vcpu: usize, pages: u32) {
        let words = self.0.backend().logged.memory.words();
        for page in words.chunks(PAGE_WORDS).take(pages as usize) {
            page[0].fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take_published(&mut self, _vcpu: usize, page: u32) -> u32 {
        std::mem::take(&mut self.0.backend_mut().published[page as usize])
    }

    fn log_garbage(&mut self, _vcpu: usize) -> bool {
        self.0.backend().logged.log(u64::MAX);
        true
    }
}

/// Checks the backend with the kit.
fn check(logged: &Arc<Logged>) -> Result<(), conformance::Violation> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            logged.serve_faults(&is_over, || {
                Err("the kit writes no more than there is room for".into())
            });
        });
        let checked = conformance::check(&mut UnderTest(Collector::new(Uffd::new(logged))));
        is_over.store(true, Ordering::Release);
        checked
    })
}

/// Writes to all pages for a second, in an order that looks random; returns how often.
fn write(words: &[AtomicU64]) -> u64 {
    let (mut writes, mut page) = (0, 0);
    let end = time::Instant::now() + Duration::from_secs(1);
    while time::Instant::now() < end {
        writes += 1;
        page = (page * 5 + 1) % PAGES;
        words[page * PAGE_WORDS].store(writes, Ordering::Relaxed);
    }
    writes
}

/// Reaps while another thread writes, and compares the copy with memory.
fn run(logged: &Arc<Logged>) -> Result<(), Failure> {
    let collector = StdLock::new(Collector::<Uffd>::new(Uffd::new(logged)));
    let shared = SharedCollector::<_, AtomicU32, _>::new(collector, StdPark::new());
    let now = || shared.doorbell().park().now();
    // A full ring is made room in before the page is logged: its writer stands still meanwhile.
    let make_room = || {
        shared.ring_full(0, RingFullMode::default(), now())?;
        Ok(())
    };
    let mut reaper: Reaper = Reaper::new(Planner::new(Policy::deadline(logged.size)));
    let is_over = AtomicBool::new(false);
    let (writes, reaped) = thread::scope(|scope| {
        scope.spawn(|| logged.serve_faults(&is_over, make_room));
        let reaping = scope.spawn(|| reaper.run(&shared, now, |_, _| ()));
        let writes = write(logged.memory.words());
        shared.doorbell().stop();
        let reaped = reaping.join().expect("the reaper's thread panicked");
        is_over.store(true, Ordering::Release);
        (writes, reaped)
    });
    reaped?;

    let (totals, stale) = shared.with(|collector| {
        let words = logged.memory.words().iter();
        let memory = words.map(|word| word.load(Ordering::Relaxed));
        let copy = &collector.backend().copy;
        let stale = memory.zip(copy).filter(|(here, there)| here != *there);
        (collector.totals(), stale.count())
    });
    println!(
        "{writes} writes, {} pages published, {} ring-fulls, {} passes",
        totals.published,
        totals.ring_fulls,
        reaper.planner().passes()
    );
    match stale {
        0 => println!("the copy is what is in memory"),
        stale => return Err(format!("{stale} words of the copy are stale").into()),
    }
    Ok(())
}

fn main() -> Result<(), Failure> {
    let logged = match Logged::new(PAGES) {
        Ok(logged) => logged,
        Err(error) => {
            println!("skipped: no write protection by userfaultfd here: {error}");
            return Ok(());
        }
    };
    check(&logged)?;
    println!("the conformance kit finds nothing");
    run(&Logged::new(PAGES)?)
}
