//! Harvest, peek and reset per entry, on a real ring of this host's KVM.
//!
//! The guest fills its ring, the benchmark empties it: each iteration reaps one full ring, on the
//! vCPU's thread, and only the half in question is on the clock.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dirty_ring_core::backend::Backend;
use dirty_ring_core::collector::{Collector, Scope};
use dirty_ring_core::time::Instant as Now;
use dirty_ring_guest::{Guest, GuestConfig, RunningGuest};
use dirty_ring_kvm::{BitmapSink, Error, KvmRings, Support};
use kvm_ioctls::Kvm;

const RING_ENTRIES: u32 = 4096;

/// What one emptying of a full ring took.
struct Emptied {
    entries: u32,
    harvest: Duration,
    reset: Duration,
    peek: Duration,
}

/// A guest whose full ring is emptied each time it asks for it.
struct FullRings {
    _running: RunningGuest,
    emptied: Receiver<Emptied>,
}

impl FullRings {
    fn start(kvm: &Kvm, support: &Support) -> Self {
        let guest = Guest::new(kvm, GuestConfig::default()).unwrap();
        let mut rings = support.enable(guest.vm(), RING_ENTRIES).unwrap();
        let vcpus = guest.create_vcpus().unwrap();
        let sink = BitmapSink::new(guest.ram().clone());
        rings.set_sink(Box::new(sink)).unwrap();
        rings.add_slot(guest.data_slots()[0].memory_slot()).unwrap();
        rings.add_vcpu(vcpus[0].fd()).unwrap();
        let collector = Collector::new(rings);
        guest.set_logging(true).unwrap();
        guest.params()[0].set(16384, 0).unwrap();
        let (sender, emptied) = channel();
        let shared = std::sync::Mutex::new((collector, sender));
        let running = RunningGuest::start(vcpus, move |_| {
            let mut shared = shared.lock().unwrap();
            let (collector, sender) = &mut *shared;
            empty(collector, sender)
        })
        .unwrap();
        Self {
            _running: running,
            emptied,
        }
    }

    /// The next `rounds` emptyings, as the time that `part` of each took.
    fn time(&self, rounds: u64, part: impl Fn(&Emptied) -> Duration) -> Duration {
        let emptied = (0..rounds).map(|_| self.emptied.recv().unwrap());
        emptied.map(|emptied| part(&emptied)).sum()
    }
}

fn empty(collector: &mut Collector<KvmRings>, sender: &Sender<Emptied>) -> Result<(), Error> {
    let begin = Instant::now();
    std::hint::black_box(collector.backend().rings()[0].occupancy());
    let peeked = Instant::now();
    collector.begin_pass(Now(0), Scope::Planned, |_| ());
    let (entries, _) = collector.harvest(Now(0))?;
    let between = Instant::now();
    while !collector.settle()? {}
    let emptied = Emptied {
        entries,
        harvest: between - peeked,
        reset: between.elapsed(),
        peek: peeked - begin,
    };
    // The benchmark may be over.
    let _ = sender.send(emptied);
    Ok(())
}

fn real_ring(criterion: &mut Criterion) {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => return println!("skipped: /dev/kvm can't be used here: {error}"),
    };
    let support = match Support::probe(&kvm) {
        Ok(support) => support,
        Err(error) => return println!("skipped: {error}"),
    };
    let rings = FullRings::start(&kvm, &support);
    let entries = rings.emptied.recv().unwrap().entries;
    let mut group = criterion.benchmark_group("full ring on KVM");
    group.bench_function("peek", |bencher| {
        bencher.iter_custom(|rounds| rings.time(rounds, |emptied| emptied.peek));
    });
    group.throughput(Throughput::Elements(entries.into()));
    group.bench_function("harvest", |bencher| {
        bencher.iter_custom(|rounds| rings.time(rounds, |emptied| emptied.harvest));
    });
    group.bench_function("reset and publish", |bencher| {
        bencher.iter_custom(|rounds| rings.time(rounds, |emptied| emptied.reset));
    });
    group.finish();
}

criterion_group!(benches, real_ring);
criterion_main!(benches);
