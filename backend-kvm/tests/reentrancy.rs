//! Calls from inside a sink, a listener, or a change of memory slots are errors and never hang.
#![cfg(target_arch = "x86_64")]

mod support;

use std::sync::{Arc, Mutex, OnceLock};

use dirty_ring_core::controller::Policy;
use dirty_ring_core::entry::DirtyGfn;
use dirty_ring_core::planner::PassRecord;
use dirty_ring_guest::{GuestConfig, Reaping};
use dirty_ring_kvm::{
    Error, MemorySlot, PageSink, ReaperHandle, SinkFailure, Tracker, VcpuHandle, no_kick,
};

use support::{AN_HOUR, start, wait_until, wait_until_written};

/// What is called from inside; set when the tracker exists.
#[derive(Default)]
struct Inside {
    tracker: OnceLock<Tracker>,
    ring: OnceLock<VcpuHandle>,
    reaper: Mutex<Option<ReaperHandle<Policy>>>,
    /// The names of the calls that were not refused.
    accepted: Mutex<Vec<&'static str>>,
    calls: Mutex<u32>,
}

impl Inside {
    /// Makes every call that takes the lock, and notes which are not refused.
    fn call_all(&self) {
        let (Some(tracker), Some(ring)) = (self.tracker.get(), self.ring.get()) else {
            return;
        };
        let mut reaper = self.reaper.lock().unwrap();
        let stopped = reaper.take().map(|reaper| reaper.stop().map(|_| ()));
        let calls = [
            ("flush", tracker.flush(no_kick)),
            ("stats", tracker.stats().map(|_| ())),
            ("state", tracker.state().map(|_| ())),
            ("vcpu", tracker.vcpu(0).map(|_| ())),
            ("update_memory", tracker.update_memory(|_| Ok(()))),
            ("resync", tracker.resync(|| Ok(()))),
            ("ring-full", ring.on_ring_full().map(|_| ())),
            (
                "start",
                tracker
                    .reaper(Nothing)
                    .start(Policy::fixed(AN_HOUR).unwrap())
                    .map(|_| ()),
            ),
            ("stop", stopped.unwrap_or(Err(Error::Reentrant))),
        ];
        let mut accepted = self.accepted.lock().unwrap();
        for (name, result) in calls {
            if !matches!(result, Err(Error::Reentrant)) {
                accepted.push(name);
            }
        }
        *self.calls.lock().unwrap() += 1;
    }
}

struct Nothing;

impl PageSink for Nothing {
    fn publish(&mut self, _: &MemorySlot, _: &[DirtyGfn]) -> Result<(), SinkFailure> {
        Ok(())
    }
}

struct Calling(Arc<Inside>);

impl PageSink for Calling {
    fn publish(&mut self, _: &MemorySlot, _: &[DirtyGfn]) -> Result<(), SinkFailure> {
        self.0.call_all();
        Ok(())
    }
}

#[test]
fn a_sink_that_calls_the_tracker_gets_errors_on_whatever_thread_it_runs() {
    for by_the_reaper in [false, true] {
        let inside = Arc::<Inside>::default();
        let sink = Calling(Arc::clone(&inside));
        let reaping = Reaping::new(4096).sink(|_| sink);
        let Some(vm) = start(GuestConfig::default(), reaping, AN_HOUR) else {
            return;
        };
        let _ = inside.ring.set(vm.tracker.vcpu(0).unwrap());
        let tracker = vm.tracker.clone();
        let _ = inside.tracker.set(vm.tracker);
        vm.guest.params()[0].set(100, 0).unwrap();
        wait_until_written(&vm.guest, 0, 100);
        if by_the_reaper {
            inside.reaper.lock().unwrap().insert(vm.reaper).kick();
        } else {
            *inside.reaper.lock().unwrap() = Some(vm.reaper);
            tracker.flush(|| vm.running.kick_all_and_wait()).unwrap();
        }
        wait_until("the sink isn't called", || {
            *inside.calls.lock().unwrap() > 0
        });
        assert_eq!(*inside.accepted.lock().unwrap(), [""; 0]);
        // The reaper that was to be stopped from inside has ended, and another can begin.
        wait_until("the reaper doesn't end", || {
            !tracker.stats().unwrap().has_reaper
        });
        let sleepy = Policy::fixed(AN_HOUR).unwrap();
        tracker
            .reaper(Nothing)
            .start(sleepy)
            .unwrap()
            .stop()
            .unwrap();
        vm.running.stop().unwrap();
    }
}

#[test]
fn a_change_of_memory_slots_that_calls_the_tracker_gets_errors() {
    let reaping = Reaping::new(4096);
    let Some(vm) = start(GuestConfig::default(), reaping, AN_HOUR) else {
        return;
    };
    let inside = Inside::default();
    let _ = inside.ring.set(vm.tracker.vcpu(0).unwrap());
    let _ = inside.tracker.set(vm.tracker.clone());
    vm.tracker
        .update_memory(|_| {
            inside.call_all();
            Ok::<_, Error>(())
        })
        .unwrap();
    vm.tracker
        .resync(|| {
            inside.call_all();
            vm.guest.set_logging(false).unwrap();
            vm.guest.set_logging(true).unwrap();
            Ok::<_, Error>(())
        })
        .unwrap();
    assert_eq!(*inside.calls.lock().unwrap(), 2);
    assert_eq!(*inside.accepted.lock().unwrap(), [""; 0]);
    vm.running.stop().unwrap();
    vm.reaper.stop().unwrap();
}

#[test]
fn a_listener_may_use_the_tracker_but_not_stop_its_own_reaper() {
    let inside = Arc::<Inside>::default();
    let refused = Arc::<OnceLock<bool>>::default();
    let reaping = Reaping::new(4096).events({
        let (inside, refused) = (Arc::clone(&inside), Arc::clone(&refused));
        move |_: &PassRecord| {
            let Some(tracker) = inside.tracker.get() else {
                return;
            };
            tracker.flush(no_kick).unwrap();
            tracker.stats().unwrap();
            if let Some(reaper) = inside.reaper.lock().unwrap().take() {
                let is_refused = matches!(reaper.stop(), Err(Error::Reentrant));
                let _ = refused.set(is_refused);
            }
        }
    });
    let Some(vm) = start(GuestConfig::default(), reaping, AN_HOUR) else {
        return;
    };
    vm.reaper.kick();
    *inside.reaper.lock().unwrap() = Some(vm.reaper);
    let _ = inside.tracker.set(vm.tracker.clone());
    wait_until("the listener isn't called", || {
        vm.tracker.flush(no_kick).unwrap();
        if let Some(reaper) = &*inside.reaper.lock().unwrap() {
            reaper.kick();
        }
        refused.get().is_some()
    });
    assert_eq!(refused.get(), Some(&true));
    wait_until("the reaper doesn't end", || {
        !vm.tracker.stats().unwrap().has_reaper
    });
    vm.running.stop().unwrap();
}

/// A reaper that has ended of itself can be given up anywhere: in `on_end`, which runs on its own
/// thread, or in a change of memory slots.
#[test]
fn a_reaper_that_has_ended_is_never_there_for_ever() {
    for on_its_thread in [true, false] {
        let Some((kvm, support)) = support::kvm() else {
            return;
        };
        let guest = dirty_ring_guest::Guest::new(&kvm, GuestConfig::default()).unwrap();
        let mut rings = support.enable(guest.vm(), 4096).unwrap();
        let vcpus = guest.create_vcpus().unwrap();
        rings.add_vcpu(vcpus[0].fd()).unwrap();
        let tracker = Tracker::new(rings).unwrap();
        let handle = Arc::<Mutex<Option<ReaperHandle<Policy>>>>::default();
        let (ended, has_ended) = std::sync::mpsc::channel();
        let reaper = tracker
            .reaper(Nothing)
            .events(|_: &PassRecord| panic!("no such metric"))
            .on_end({
                let handle = Arc::clone(&handle);
                move |_| {
                    let stopped = on_its_thread
                        .then(|| handle.lock().unwrap().take())
                        .flatten()
                        .map(|reaper| reaper.stop().map(|_| ()));
                    ended.send(stopped).unwrap();
                }
            })
            .start(Policy::fixed(AN_HOUR).unwrap())
            .unwrap();
        *handle.lock().unwrap() = Some(reaper);
        handle.lock().unwrap().iter().for_each(ReaperHandle::kick);
        let stopped = has_ended.recv().unwrap();
        if on_its_thread {
            assert!(matches!(stopped, Some(Err(Error::Panicked(_)))));
        } else {
            let ring = tracker.vcpu(0).unwrap();
            assert!(matches!(ring.on_ring_full(), Err(Error::Panicked(_))));
            tracker
                .update_memory(|_| {
                    drop(handle.lock().unwrap().take());
                    Ok::<_, Error>(())
                })
                .unwrap();
        }
        // The vCPUs go on, and another reaper can begin.
        tracker.vcpu(0).unwrap().on_ring_full().unwrap();
        assert!(!tracker.stats().unwrap().has_reaper);
        let sleepy = Policy::fixed(AN_HOUR).unwrap();
        let next = tracker.reaper(Nothing).start(sleepy).unwrap();
        next.stop().unwrap();
    }
}
