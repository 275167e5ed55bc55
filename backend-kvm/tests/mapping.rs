//! Rings that can't be what they are said to be: refused at mapping where it can be seen there, found
//! by the next flush where it can't.
#![cfg(target_arch = "x86_64")]

mod support;

use dirty_ring_core::collector::CollectError;
use dirty_ring_core::ring::{RingPosition, RingState};
use dirty_ring_guest::{Guest, GuestConfig, GuestVcpu, RunningGuest};
use dirty_ring_kvm::{Error, KvmRings, MappedRing, Support, Tracker, no_kick};
use kvm_ioctls::Kvm;

use support::{kvm, wait_until_written};

const ENTRIES: u32 = 4096;

/// A guest with logging on whose first vCPU has written some pages, and its rings, without any vCPU.
struct Written {
    guest: Guest,
    rings: KvmRings,
    vcpus: Vec<GuestVcpu>,
}

fn written(kvm: &Kvm, support: &Support, pages: u64) -> Written {
    let config = GuestConfig {
        vcpus: 2,
        ..GuestConfig::default()
    };
    let guest = Guest::new(kvm, config).unwrap();
    let mut rings = support.enable(guest.vm(), ENTRIES).unwrap();
    rings.add_slot(guest.data_slots()[0].memory_slot()).unwrap();
    let mut vcpus = guest.create_vcpus().unwrap();
    guest.set_logging(true).unwrap();
    write(&guest, &mut vcpus, pages);
    Written {
        guest,
        rings,
        vcpus,
    }
}

/// Lets the first vCPU write `pages` pages once.
fn write(guest: &Guest, vcpus: &mut [GuestVcpu], pages: u64) {
    if pages == 0 {
        return;
    }
    let vcpu = &mut vcpus[0];
    let kicker = vcpu.kicker().clone();
    vcpu.params().set(pages, 0).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| vcpu.run().unwrap());
        wait_until_written(guest, 0, pages);
        kicker.kick().unwrap();
    });
}

#[test]
fn a_ring_that_was_reaped_before_is_no_fresh_one() {
    let Some((kvm, support)) = kvm() else { return };
    let Written {
        guest,
        mut rings,
        vcpus,
    } = written(&kvm, &support, 1000);
    // Logged and not reaped yet: that is fresh.
    rings.add_vcpu(vcpus[0].fd()).unwrap();
    let tracker = Tracker::new(rings).unwrap();
    tracker.flush(no_kick).unwrap();
    let position = tracker.stats().unwrap().vcpus[0].position;
    assert_eq!(position.index(), 1000);
    drop(tracker);

    let elsewhere = |support: &Support| {
        let size = support.size(ENTRIES).unwrap();
        KvmRings::enabled_elsewhere(guest.vm(), size).unwrap()
    };
    let error = elsewhere(&support).add_vcpu(vcpus[0].fd()).unwrap_err();
    assert!(matches!(error, Error::NotFresh { vcpu: 0 }), "{error}");
    assert!(error.to_string().contains("saved state"));
    elsewhere(&support)
        .add_vcpu_at(vcpus[0].fd(), position)
        .unwrap();
}

#[test]
fn a_position_that_the_entries_contradict_is_refused() {
    let Some((kvm, support)) = kvm() else { return };
    let Written {
        mut rings, vcpus, ..
    } = written(&kvm, &support, 1000);
    // 1000 entries wait, from 0 on.
    for wrong in [1, 500, 999, 1500, 4095] {
        let position = RingPosition::from_index(wrong);
        let error = rings.add_vcpu_at(vcpus[0].fd(), position).unwrap_err();
        assert!(matches!(error, Error::WrongPosition { vcpu: 0, position } if position == wrong));
    }
    let right = RingPosition::from_index(ENTRIES);
    rings.add_vcpu_at(vcpus[0].fd(), right).unwrap();
}

#[test]
fn a_wrong_position_in_an_empty_ring_is_found_by_the_next_flush() {
    let Some((kvm, support)) = kvm() else { return };
    let Written {
        guest,
        mut rings,
        mut vcpus,
    } = written(&kvm, &support, 0);
    let wrong = RingState::from(RingPosition::from_index(50));
    rings.add_vcpu_at(vcpus[0].fd(), wrong).unwrap();
    let tracker = Tracker::new(rings).unwrap();
    tracker.flush(no_kick).unwrap();
    write(&guest, &mut vcpus, 20);
    for _ in 0..3 {
        let error = tracker.flush(no_kick).unwrap_err();
        assert!(
            matches!(error, Error::Collect(CollectError::Parted { ring: 0 })),
            "{error}"
        );
        assert!(error.to_string().contains("its position is wrong"));
    }
    // From within the entries it would harvest what KVM resets never.
    assert!(tracker.vcpu(0).unwrap().on_ring_full().is_err());
}

#[test]
fn a_size_that_was_not_enabled_is_refused() {
    let Some((kvm, support)) = kvm() else { return };
    let Written { guest, vcpus, .. } = written(&kvm, &support, 0);
    let map = |entries| {
        let size = support.size(entries).unwrap();
        let mut rings = KvmRings::enabled_elsewhere(guest.vm(), size).unwrap();
        rings.add_vcpu(vcpus[0].fd())
    };
    let error = map(ENTRIES / 2).unwrap_err();
    assert!(
        matches!(
            error,
            Error::LargerRing {
                vcpu: 0,
                entries: 2048
            }
        ),
        "{error}"
    );
    let error = map(ENTRIES * 2).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Map {
                vcpu: 0,
                entries: 8192,
                ..
            }
        ),
        "{error}"
    );
    map(ENTRIES).unwrap();
}

#[test]
fn a_ring_given_twice_is_refused_even_through_another_descriptor() {
    let Some((kvm, support)) = kvm() else { return };
    let Written {
        mut rings, vcpus, ..
    } = written(&kvm, &support, 10);
    rings.add_vcpu(vcpus[0].fd()).unwrap();
    let error = rings.add_vcpu(vcpus[0].fd()).unwrap_err();
    assert!(
        matches!(error, Error::MappedTwice { vcpu: 1, other: 0 }),
        "{error}"
    );
    assert_eq!(rings.add_vcpu(vcpus[1].fd()).unwrap(), 1);
    // The marks by which it was found are gone.
    let tracker = Tracker::new(rings).unwrap();
    tracker.flush(no_kick).unwrap();
    assert_eq!(tracker.stats().unwrap().totals.published, 10);
}

#[test]
fn what_an_earlier_process_left_without_its_reset_is_taken_over() {
    let Some((kvm, support)) = kvm() else { return };
    let Written {
        guest,
        mut rings,
        mut vcpus,
    } = written(&kvm, &support, 300);
    // Harvested, and then the process died.
    let memory = MappedRing::map(0, vcpus[0].fd(), rings.size()).unwrap();
    let mut first = dirty_ring_core::ring::Ring::new(memory, Default::default());
    assert_eq!(first.harvest_without_reset(200, |_| ()), 200);
    rings.add_vcpu_at(vcpus[0].fd(), first.position()).unwrap();
    let tracker = Tracker::new(rings).unwrap();
    assert_eq!(tracker.stats().unwrap().outstanding, 200);
    tracker.flush(no_kick).unwrap();
    let stats = tracker.stats().unwrap();
    assert_eq!((stats.outstanding, stats.backlog), (0, 300));
    write(&guest, &mut vcpus, 300);
}

#[test]
fn a_ring_that_a_resync_left_without_a_position_is_found_by_the_next_process() {
    let Some((kvm, support)) = kvm() else { return };
    let Written {
        guest,
        mut rings,
        mut vcpus,
    } = written(&kvm, &support, 1000);
    let size = rings.size();
    rings.add_vcpu(vcpus[0].fd()).unwrap();
    let tracker = Tracker::new(rings).unwrap();
    let log_anew = || {
        guest.set_logging(false).unwrap();
        guest.set_logging(true).unwrap();
        Ok::<_, Error>(())
    };
    tracker.resync(log_anew).unwrap();
    let state = tracker.state().unwrap();
    drop(tracker);

    let mut rings = KvmRings::enabled_elsewhere(guest.vm(), size).unwrap();
    rings.add_slot(guest.data_slots()[0].memory_slot()).unwrap();
    rings.add_vcpu_at(vcpus[0].fd(), state.rings[0]).unwrap();
    let tracker = Tracker::new(rings).unwrap();
    write(&guest, &mut vcpus, 1050);
    tracker.flush(no_kick).unwrap();
    let stats = tracker.stats().unwrap();
    assert!(!stats.vcpus[0].is_lost);
    assert_eq!(stats.backlog, 1050);
}

#[test]
fn a_ring_that_another_thread_has_mapped_is_added_with_its_position() {
    let Some((kvm, support)) = kvm() else { return };
    let Written {
        guest,
        mut rings,
        mut vcpus,
    } = written(&kvm, &support, 100);
    let size = rings.size();
    let smaller = support.size(ENTRIES / 2).unwrap();
    let map = |size, vcpu: &GuestVcpu| MappedRing::map(vcpu.index(), vcpu.fd(), size);
    assert!(map(smaller, &vcpus[0]).is_err(), "seen where it is mapped");
    let ring = map(size, &vcpus[0]).unwrap();
    rings.add_mapped(ring, RingPosition::START).unwrap();
    let tracker = Tracker::new(rings).unwrap();
    let ring = map(size, &vcpus[1]).unwrap();
    let handle = tracker.add_mapped(ring, RingPosition::START).unwrap();
    assert_eq!(handle.index(), 1);
    let again = map(size, &vcpus[0]).unwrap();
    let error = tracker.add_mapped(again, RingPosition::START).unwrap_err();
    assert!(matches!(error, Error::MappedTwice { vcpu: 2, other: 0 }));
    write(&guest, &mut vcpus, 200);
    tracker.flush(no_kick).unwrap();
    assert_eq!(tracker.stats().unwrap().backlog, 200);
}

#[test]
fn rings_must_be_enabled_before_the_first_vcpu_and_the_errors_say_so() {
    let Some((kvm, support)) = kvm() else { return };
    let vm = kvm.create_vm().unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let error = support.enable(&vm, ENTRIES).unwrap_err();
    assert!(error.to_string().contains("before the VM's first vCPU"));
    let size = support.size(ENTRIES).unwrap();
    let mut rings = KvmRings::enabled_elsewhere(&vm, size).unwrap();
    let error = rings.add_vcpu(&vcpu).unwrap_err();
    assert!(matches!(error, Error::Map { vcpu: 0, .. }), "{error}");
}

#[test]
fn a_tracker_has_one_reaper_at_a_time() {
    use dirty_ring_core::controller::Policy;
    use dirty_ring_kvm::BitmapSink;

    let Some((kvm, support)) = kvm() else { return };
    let Written {
        guest,
        mut rings,
        vcpus,
    } = written(&kvm, &support, 100);
    rings.add_vcpu(vcpus[0].fd()).unwrap();
    let size = rings.size();
    let tracker = Tracker::new(rings).unwrap();
    let start = || {
        let sink = BitmapSink::new(guest.ram().clone());
        tracker.reaper(sink).start(Policy::deadline(size))
    };
    let first = start().unwrap();
    assert!(matches!(start().unwrap_err(), Error::HasReaper));
    first.stop().unwrap();
    let second = start().unwrap();
    drop(second);
    start().unwrap().stop().unwrap();
    let running = RunningGuest::start(vcpus, |_| no_kick()).unwrap();
    running.stop().unwrap();
}
