//! What collects: rings, the collector, the shared collector with its lock and doorbell, the reaper.

use core::sync::atomic::AtomicU32;

use dirty_ring_core::backend::{Backend, Reset};
use dirty_ring_core::collector::{CollectError, Collector, Scope};
use dirty_ring_core::conformance::{self, Subject};
use dirty_ring_core::controller::{Controller, Policy};
use dirty_ring_core::doorbell::{Doorbell, Seen};
use dirty_ring_core::entry::DirtyGfn;
use dirty_ring_core::fair::FairLock;
use dirty_ring_core::reaper::{Reaper, Turn};
use dirty_ring_core::ring::Ring;
use dirty_ring_core::shared::SharedCollector;
use dirty_ring_core::sync::Lock;
use dirty_ring_core::time::Instant;
use dirty_ring_firmware::{Line, PlainMemory, Single, Yard};

use crate::keep;

const BATCH: usize = 256;

type Small = Collector<Opaque, BATCH>;
type Bell = Doorbell<AtomicU32, Yard>;
type Fair<T> = FairLock<Line, AtomicU32, Single<T>>;
type Shared = SharedCollector<Fair<Small>, AtomicU32, Yard>;
type SmallReaper = Reaper<Policy, 16>;

/// A backend whose every answer is unknown to the compiler.
pub(crate) struct Opaque {
    rings: &'static mut [Ring<PlainMemory>],
    is_registered: fn(&DirtyGfn) -> bool,
    reset: fn() -> Result<Reset, u8>,
    publish: fn(&[DirtyGfn]) -> Result<(), u8>,
}

impl Backend for Opaque {
    type Memory = PlainMemory;
    type Error = u8;

    fn rings(&self) -> &[Ring<PlainMemory>] {
        self.rings
    }

    fn rings_mut(&mut self) -> &mut [Ring<PlainMemory>] {
        self.rings
    }

    fn is_registered(&self, gfn: &DirtyGfn) -> bool {
        (self.is_registered)(gfn)
    }

    fn reset(&mut self) -> Result<Reset, u8> {
        (self.reset)()
    }

    fn publish(&mut self, pages: &[DirtyGfn]) -> Result<(), u8> {
        (self.publish)(pages)
    }

    fn publish_all(&mut self) -> Result<(), u8> {
        (self.publish)(&[])
    }
}

pub(crate) fn keep_all() {
    keep!(
        Ring::<PlainMemory>::new,
        Ring::<PlainMemory>::from_state,
        Ring::<PlainMemory>::state,
        Ring::<PlainMemory>::is_at_least,
        Ring::<PlainMemory>::occupancy,
        Ring::<PlainMemory>::occupancy_seen,
        Ring::<PlainMemory>::look,
        Ring::<PlainMemory>::fits_position,
        Ring::<PlainMemory>::is_fresh,
        harvest,
    );
    keep!(
        Small::new,
        Small::inherit,
        Small::forget_suspects,
        Small::check,
        Small::forgive_publication,
        Small::settle,
        Small::reap,
        Small::harvest,
        Small::end_pass,
        Small::ring_full,
        Small::drain,
        Small::drain_batch,
        Small::begin_resync,
        Small::end_resync,
        begin_pass,
    );
    keep!(
        shared,
        Shared::ring_full,
        drain,
        Bell::kick,
        Bell::stop,
        Bell::ring_full,
        Bell::seen_now,
        Bell::poll,
        Bell::wait,
        lock,
        SmallReaper::new,
        SmallReaper::following,
        SmallReaper::turn::<Opaque, Fair<Small>, AtomicU32, Yard, BATCH>,
        SmallReaper::sleep::<AtomicU32, Yard>,
        run,
        conform,
    );
}

fn harvest(ring: &mut Ring<PlainMemory>, limit: u32, take: &mut dyn FnMut(DirtyGfn)) -> u32 {
    ring.harvest_without_reset(limit, take)
}

fn begin_pass(collector: &mut Small, now: Instant, scope: Scope, policy: &mut Policy) {
    collector.begin_pass(now, scope, |rings| policy.plan(now, rings));
}

fn shared(collector: Small) -> Shared {
    Shared::new(FairLock::new(Line::default(), Single::new(collector)), Yard)
}

fn drain(
    shared: &Shared,
    deadline: Instant,
    now: &mut dyn FnMut() -> Instant,
) -> Result<bool, CollectError<u8>> {
    shared.drain_until(deadline, now)
}

fn lock(lock: &Fair<u32>, critical: &mut dyn FnMut(&mut u32) -> Seen) -> Seen {
    lock.with(critical)
}

fn run(
    reaper: &mut SmallReaper,
    shared: &Shared,
    clock: &dyn Fn() -> Instant,
    watch: &mut dyn FnMut(&SmallReaper, Turn),
) -> Result<(), CollectError<u8>> {
    reaper.run(shared, clock, watch)
}

/// A VM under test, of which the compiler knows nothing.
pub(crate) struct Unknown {
    collector: &'static mut Collector<Opaque>,
    write: fn(usize, u32),
    take_published: fn(usize, u32) -> u32,
}

impl Subject for Unknown {
    type Backend = Opaque;

    fn collector(&mut self) -> &mut Collector<Opaque> {
        self.collector
    }

    fn write(&mut self, vcpu: usize, pages: u32) {
        (self.write)(vcpu, pages);
    }

    fn take_published(&mut self, vcpu: usize, page: u32) -> u32 {
        (self.take_published)(vcpu, page)
    }
}

fn conform(subject: &mut Unknown) -> bool {
    conformance::check(subject).is_ok()
}
