//! Measures what dirty logging costs, with the test guest.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dirty_ring::core::collector::Collector;
use dirty_ring::kvm::{BitmapSink, Error, KvmRings, ReaperBuilder};
use dirty_ring_guest::{CallbackError, Guest, GuestConfig, RunningGuest};
use hdrhistogram::Histogram;

use super::{Costs, Latency};
use crate::command::host::KvmHost;
use crate::command::report::per_second;

/// Distinct pages that the guest writes: four times the ring.
const PAGES: u64 = 16384;
const RING_ENTRIES: u32 = 4096;
const WINDOW: Duration = Duration::from_millis(500);
/// How often, and how long, a sleeper sleeps to see how late it wakes.
const SLEEPS: u32 = 500;
const SLEEP: Duration = Duration::from_millis(1);

/// Time spent in the two halves of reaping, and the pages that went through.
#[derive(Default)]
struct Reaped {
    harvest: Duration,
    reset: Duration,
    pages: u64,
}

/// Measures.
pub(super) fn measure(host: &KvmHost) -> Result<Costs, CallbackError> {
    let config = GuestConfig {
        data_pages_per_vcpu: PAGES,
        ..GuestConfig::default()
    };
    let plain = {
        let guest = Guest::new(&host.kvm, config)?;
        let running = RunningGuest::start(guest.create_vcpus()?, |_| Ok::<(), Error>(()))?;
        let (seconds, writes) = storm(&guest, &running)?;
        per_second(writes, seconds)
    };

    let guest = Guest::new(&host.kvm, config)?;
    let size = host.support.enable(guest.vm(), RING_ENTRIES)?;
    let vcpus = guest.create_vcpus()?;
    let mut builder = ReaperBuilder::new(guest.vm(), size, BitmapSink::new(guest.ram().clone()))?;
    for slot in guest.data_slots() {
        builder = builder.slot(slot.memory_slot())?;
    }
    for vcpu in &vcpus {
        builder = builder.vcpu(vcpu.fd())?;
    }
    guest.set_logging(true)?;
    let reaped = Arc::new(Mutex::new(Reaped::default()));
    let collector = Mutex::new(builder.into_collector());
    let running = RunningGuest::start(vcpus, {
        let reaped = Arc::clone(&reaped);
        move |_| {
            let mut collector = collector.lock().unwrap_or_else(PoisonError::into_inner);
            let mut reaped = reaped.lock().unwrap_or_else(PoisonError::into_inner);
            reaped.reap(&mut collector)
        }
    })?;
    let (seconds, writes) = storm(&guest, &running)?;
    running.stop()?;

    let reaped = reaped.lock().unwrap_or_else(PoisonError::into_inner);
    let pages = (reaped.pages as f64).max(1.0);
    let per_page_ns = |time: Duration| time.as_secs_f64() * 1e9 / pages;
    let in_guest_ns = (seconds - (reaped.harvest + reaped.reset).as_secs_f64()) * 1e9;
    Ok(Costs {
        page_writes_per_s: plain,
        dirty_pages_per_s: per_second(
            reaped.pages,
            seconds - (reaped.harvest + reaped.reset).as_secs_f64(),
        ),
        // More pages than fit in the ring: every write is a fault.
        dirty_fault_ns: in_guest_ns / (writes as f64).max(1.0) - 1e9 / plain.max(1.0),
        harvest_ns_per_page: per_page_ns(reaped.harvest),
        reset_ns_per_page: per_page_ns(reaped.reset),
        wake_latency_us: wake_latency()?,
    })
}

impl Reaped {
    /// Reaps everything, on the clock.
    fn reap(&mut self, collector: &mut Collector<KvmRings>) -> Result<(), Error> {
        let begin = Instant::now();
        let harvested = collector.harvest(0, true);
        let between = Instant::now();
        while !collector.settle()?.1 {}
        self.harvest += between - begin;
        self.reset += between.elapsed();
        self.pages += u64::from(harvested.entries);
        Ok(())
    }
}

/// Lets the guest write for a while; seconds and page writes.
fn storm(guest: &Guest, running: &RunningGuest) -> Result<(f64, u64), CallbackError> {
    for params in guest.params() {
        params.set(PAGES, 0)?;
    }
    let begin = Instant::now();
    std::thread::sleep(WINDOW);
    let writes = running.page_writes()?.iter().sum();
    Ok((begin.elapsed().as_secs_f64(), writes))
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
