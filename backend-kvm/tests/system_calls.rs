//! Each role under a seccomp filter of exactly the system calls that the documentation lists for it. What
//! isn't listed traps, and ends the process that plays the role.
#![cfg(target_arch = "x86_64")]

mod support;

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use dirty_ring_core::controller::Policy;
use dirty_ring_core::entry::DirtyGfn;
use dirty_ring_core::planner::Planner;
use dirty_ring_guest::{Guest, GuestConfig, RunningGuest};
use dirty_ring_kvm::{Error, MemorySlot, PageSink, SinkFailure, Tracker, system_calls};

use support::confine::{ALLOCATES, ENDS, GUEST, confine};
use support::{kvm, wait_for_a_round, wait_until};

/// Set in the process that plays a role, to its name.
const ROLE: &str = "DIRTY_RING_ROLE";

const PAGES: u64 = 4000;

/// Counts, and allocates nothing.
struct Nothing;

impl PageSink for Nothing {
    fn publish(&mut self, _: &MemorySlot, _: &[DirtyGfn]) -> Result<(), SinkFailure> {
        Ok(())
    }
}

/// Plays a role, in a process of its own.
#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let Some((kvm, support)) = kvm() else { return };
    let config = GuestConfig {
        data_pages_per_vcpu: PAGES,
        data_slots: 2,
        ..GuestConfig::default()
    };
    let guest = Guest::new(&kvm, config).unwrap();
    let set_up = || {
        let mut rings = support.enable(guest.vm(), 1024).unwrap();
        for slot in guest.data_slots() {
            rings.add_slot(slot.memory_slot()).unwrap();
        }
        let vcpus = guest.create_vcpus().unwrap();
        rings.add_vcpu(vcpus[0].fd()).unwrap();
        (Tracker::new(rings).unwrap(), vcpus)
    };
    if role == "sets up" {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                confine(&[system_calls::SETS_UP, ALLOCATES, ENDS]);
                set_up();
            });
        });
        return;
    }
    let (tracker, vcpus) = set_up();
    let size = tracker.ring_size().unwrap();
    let ring = tracker.vcpu(0).unwrap();
    let makes_room = role == "makes room";
    let confined = std::sync::Once::new();
    let running = RunningGuest::start(vcpus, move |_| {
        if makes_room {
            confined.call_once(|| confine(&[system_calls::MAKES_ROOM, GUEST, ENDS]));
        }
        ring.on_ring_full().map(|_| ())
    })
    .unwrap();
    guest.set_logging(true).unwrap();
    guest.params()[0].set(PAGES, 0).unwrap();
    let precisely = role == "reaps precisely";
    let planner = Planner::new(Policy::deadline(size));
    let reaper = tracker.reaper(Nothing).wakes_precisely(precisely);
    let (reaper, body) = reaper.split(planner).unwrap();
    let reaps = role.starts_with("reaps");
    let body = std::thread::spawn(move || {
        if reaps {
            let precise = if precisely {
                system_calls::REAPS_PRECISELY
            } else {
                &[]
            };
            confine(&[system_calls::REAPS, precise, ALLOCATES, ENDS]);
        }
        body.run()
    });
    (0..3).for_each(|_| wait_for_a_round(&guest, 0, PAGES));
    wait_until("it doesn't reap", || {
        reaper.kick();
        tracker.stats().unwrap().passes > 2
    });
    if role == "reads" {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                confine(&[system_calls::READS, ALLOCATES, ENDS, GUEST]);
                for _ in 0..10 {
                    tracker.flush(|| running.kick_all_and_wait()).unwrap();
                    tracker.stats().unwrap();
                    let nothing = tracker.update_memory(|_| Ok::<_, Error>(()));
                    nothing.unwrap();
                    tracker
                        .resync(|| {
                            guest
                                .set_logging(false)
                                .map_err(panicked)
                                .and_then(|()| guest.set_logging(true).map_err(panicked))
                        })
                        .unwrap();
                }
                reaper.stop().unwrap();
                tracker.take_all(|| running.kick_all_and_wait()).unwrap();
            });
        });
    } else {
        reaper.stop().unwrap();
    }
    body.join().unwrap().unwrap();
    running.stop().unwrap();
}

fn panicked(error: dirty_ring_guest::GuestError) -> Error {
    panic!("{error}")
}

#[test]
fn each_role_makes_the_system_calls_that_are_listed_for_it_and_no_others() {
    if kvm().is_none() {
        return;
    }
    for role in ["sets up", "reaps", "reaps precisely", "makes room", "reads"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "role", "--nocapture"])
            .env(ROLE, role)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{role}: signal {:?}, {said}",
            output.status.signal()
        );
    }
}

/// The control: a filter that lacks a call which the role makes ends the process.
#[test]
fn a_call_that_is_not_listed_traps() {
    if std::env::var(ROLE).as_deref() == Ok("unlisted") {
        confine(&[ENDS]);
        let _ = std::fs::metadata("/");
        return;
    }
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_call_that_is_not_listed_traps"])
        .env(ROLE, "unlisted")
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(libc::SIGSYS));
}
