//! Measures what dirty logging costs, with the test guest.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dirty_ring::core::collector::{Collector, Scope};
use dirty_ring::core::time;
use dirty_ring::kvm::{BitmapSink, Error, KvmRings};
use dirty_ring_guest::{CallbackError, Guest, GuestConfig, RunningGuest};
use hdrhistogram::Histogram;

use super::costs::{Costs, Latency, Reaped, Storm};
use crate::command::host::KvmHost;

/// Distinct pages that the guest writes: four times the ring.
const PAGES: u64 = 16384;
const RING_ENTRIES: u32 = 4096;
/// How long the guest writes.
const WINDOW: Duration = Duration::from_millis(500);
/// How often, and for how long, a thread sleeps to find out how late it wakes up.
const SLEEPS: u32 = 500;
const SLEEP: Duration = Duration::from_millis(1);

/// Measures the costs on `host`.
pub(super) fn measure(host: &KvmHost) -> Result<Costs, CallbackError> {
    let config = GuestConfig {
        data_pages_per_vcpu: PAGES,
        ..GuestConfig::default()
    };
    let plain = without_logging(host, config)?;
    let (logged, reaped) = with_logging(host, config)?;
    Ok(Costs::of(plain, logged, reaped, wake_latency()?))
}

fn without_logging(host: &KvmHost, config: GuestConfig) -> Result<Storm, CallbackError> {
    let guest = Guest::new(&host.kvm, config)?;
    let running = RunningGuest::start(guest.create_vcpus()?, |_| Ok::<(), Error>(()))?;
    guest.warm_up(&running, PAGES)?;
    storm(&guest, &running)
}

fn with_logging(host: &KvmHost, config: GuestConfig) -> Result<(Storm, Reaped), CallbackError> {
    let guest = Guest::new(&host.kvm, config)?;
    let mut rings = host.support.enable(guest.vm(), RING_ENTRIES)?;
    let vcpus = guest.create_vcpus()?;
    rings.set_sink(Box::new(BitmapSink::new(guest.ram().clone())))?;
    for slot in guest.data_slots() {
        rings.add_slot(slot.memory_slot())?;
    }
    for vcpu in &vcpus {
        rings.add_vcpu(vcpu.fd())?;
    }
    let reaped = Arc::new(Mutex::new(Reaped::default()));
    let collector = Mutex::new(Collector::new(rings));
    let running = RunningGuest::start(vcpus, {
        let reaped = Arc::clone(&reaped);
        move |_| {
            let mut collector = collector.lock().unwrap_or_else(PoisonError::into_inner);
            let mut reaped = reaped.lock().unwrap_or_else(PoisonError::into_inner);
            reap(&mut collector, &mut reaped)
        }
    })?;
    // Mapping a page on its first touch is not a cost of logging.
    guest.warm_up(&running, PAGES)?;
    guest.set_logging(true)?;
    let logged = storm(&guest, &running)?;
    let reaped = *reaped.lock().unwrap_or_else(PoisonError::into_inner);
    running.stop()?;
    Ok((logged, reaped))
}

/// Reaps everything and adds the times that it took to `reaped`.
fn reap(collector: &mut Collector<KvmRings>, reaped: &mut Reaped) -> Result<(), Error> {
    collector.begin_pass(time::Instant(0), Scope::Planned, |_| ());
    let begin = Instant::now();
    let (entries, _) = collector.harvest(time::Instant(0))?;
    let between = Instant::now();
    while !collector.settle()? {}
    reaped.harvest += between - begin;
    reaped.reset += between.elapsed();
    reaped.pages += u64::from(entries);
    Ok(())
}

/// Lets the guest write for the length of the window.
fn storm(guest: &Guest, running: &RunningGuest) -> Result<Storm, CallbackError> {
    let writes = || Ok::<u64, CallbackError>(running.page_writes()?.iter().sum());
    let before = writes()?;
    for params in guest.params() {
        params.set(PAGES, 0)?;
    }
    let begin = Instant::now();
    std::thread::sleep(WINDOW);
    let after = writes()?;
    Ok(Storm {
        time: begin.elapsed(),
        writes: after - before,
    })
}

fn wake_latency() -> Result<Latency, CallbackError> {
    let mut late_ns = Histogram::<u64>::new(3)?;
    for _ in 0..SLEEPS {
        let begin = Instant::now();
        std::thread::sleep(SLEEP);
        let late = begin.elapsed().saturating_sub(SLEEP);
        late_ns.record(u64::try_from(late.as_nanos())?)?;
    }
    let us = |ns: u64| ns as f64 / 1e3;
    Ok(Latency {
        p50: us(late_ns.value_at_quantile(0.5)),
        p99: us(late_ns.value_at_quantile(0.99)),
        max: us(late_ns.max()),
    })
}
