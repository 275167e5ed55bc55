//! A ring is had back while its vCPU logs pages, R1 and R2. The models are explored whole.

use std::rc::Rc;

use dirty_ring_core::collector::Collector;
use dirty_ring_core::time::Instant;
use dirty_ring_verification::explore::{Model, Reached};
use dirty_ring_verification::loom_kvm::{Access, LoadThenStore, Sound};
use dirty_ring_verification::loom_lost::{LostRing, LostVm};
use loom::thread;

type Pages<A> = Collector<LostVm<A>, 4>;

const NOW: Instant = Instant(0);

/// Entries of the ring that exist.
const ENTRIES: usize = 5;

/// Takes all pages until the ring is found and empty; the vCPU has logged its last one.
fn drain_all<A: Access>(collector: &mut Pages<A>) {
    assert_eq!(collector.drain(NOW), Ok(true), "the ring is not sound");
}

/// Checks that every page from `first` on was published, once and in order.
fn check_published<A: Access>(collector: &Pages<A>, kvm: &LostRing, first: u32) {
    let published = collector.backend().published();
    let expected: Vec<u64> = (first..kvm.pushed()).map(u64::from).collect();
    let of_interest = published.iter().filter(|page| **page >= first.into());
    assert!(of_interest.eq(&expected), "a page was lost");
    assert_eq!(kvm.reset_index(), kvm.pushed(), "KVM's indices have parted");
}

const LOCATE: Model = Model {
    name: "r1: locate",
    witnesses: &[
        "the ring was found before the vCPU had logged its last page",
        "the ring was found only when the vCPU had logged its last page",
    ],
    preemptions: None,
};

/// The ring was cleared, and KVM's reset index is one entry behind. The vCPU logs two pages while the
/// ring is searched for them and marks are set and taken back.
fn a_cleared_ring_is_found<A: Access>(reached: &Reached) {
    let kvm = LostRing::new(ENTRIES);
    let mut collector = Pages::<A>::new(LostVm::new(&kvm));
    kvm.push();
    collector.begin_resync().unwrap();
    let vcpu = thread::spawn({
        let kvm = Rc::clone(&kvm);
        move || {
            (0..2).for_each(|_| kvm.push());
        }
    });
    assert_eq!(collector.end_resync(NOW), Ok(()));
    assert_eq!(collector.drain(NOW), Ok(true), "the ring is not sound");
    let is_found = !collector.backend().published().is_empty();
    let is_last = kvm.pushed() == 3;
    reached.note_if(
        is_found && !is_last,
        "the ring was found before the vCPU had logged its last page",
    );
    vcpu.join().unwrap();
    reached.note_if(
        !is_found,
        "the ring was found only when the vCPU had logged its last page",
    );
    drain_all(&mut collector);
    check_published(&collector, &kvm, 1);
}

#[test]
fn r1_a_cleared_ring_is_found_while_its_vcpu_logs_pages_and_none_is_lost() {
    LOCATE.explore(a_cleared_ring_is_found::<Sound>);
}

#[test]
fn r1_negative_control_marks_that_are_stored_without_a_comparison() {
    LOCATE.must_fail("a page was lost", a_cleared_ring_is_found::<LoadThenStore>);
}

const CLEAR: Model = Model {
    name: "r2: clear",
    witnesses: &[
        "a page was logged and taken out of the ring",
        "a page was logged and left in the ring",
    ],
    preemptions: None,
};

/// The vCPU logs two pages while the ring is cleared; all memory is counted as dirty after that. The
/// ring is sound again: the next page is published.
fn a_ring_is_cleared<A: Access>(reached: &Reached) {
    let kvm = LostRing::new(ENTRIES);
    let mut collector = Pages::<A>::new(LostVm::new(&kvm));
    kvm.push();
    let vcpu = thread::spawn({
        let kvm = Rc::clone(&kvm);
        move || {
            kvm.push();
            kvm.push();
        }
    });
    collector.begin_resync().unwrap();
    vcpu.join().unwrap();
    assert_eq!(collector.end_resync(NOW), Ok(()));
    kvm.push();
    drain_all(&mut collector);
    let left = collector.backend().published().len() as u32 - 1;
    reached.note_if(left < 2, "a page was logged and taken out of the ring");
    reached.note_if(left != 0, "a page was logged and left in the ring");
    check_published(&collector, &kvm, 3);
}

#[test]
fn r2_a_ring_that_is_cleared_while_its_vcpu_logs_pages_is_sound_again() {
    CLEAR.explore(a_ring_is_cleared::<Sound>);
}
