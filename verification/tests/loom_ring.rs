//! The ring protocol without a lock, H1 to H3: all order there is comes from the flags. The model is
//! bounded to three preemptions.

use std::rc::Rc;

use dirty_ring_core::ring::Ring;
use dirty_ring_core::time::Instant;
use dirty_ring_verification::explore::{Model, Reached};
use dirty_ring_verification::loom_kvm::{
    Access, KvmRing, LoomMemory, NoStore, OrInsteadOfStore, RelaxedLoad, RelaxedStore, Sound,
};
use loom::thread;

const RING: Model = Model {
    name: "h1-h3",
    witnesses: &[
        "harvested while KVM pushed",
        "an entry was pushed again after its reset",
    ],
    preemptions: Some(3),
};

/// KVM pushes three entries into a ring of two while a harvester takes them, and resets to make
/// room for the third. There is no lock: all order there is comes from the flags.
fn entries_pass_through_a_ring<A: Access>(reached: &Reached) {
    const ENTRIES: u64 = 3;
    let kvm = KvmRing::wrapping(0, 2);
    let vcpu = thread::spawn({
        let (kvm, reached) = (Rc::clone(&kvm), reached.clone());
        move || {
            for _ in 0..ENTRIES {
                while !kvm.has_room() {
                    thread::yield_now();
                    kvm.reset(u32::MAX);
                }
                kvm.push();
            }
            reached.note("an entry was pushed again after its reset");
        }
    });
    let harvester = thread::spawn({
        let (kvm, reached) = (Rc::clone(&kvm), reached.clone());
        move || {
            let mut ring = Ring::new(LoomMemory::<A>::of(&kvm), Instant(0));
            let mut taken = 0;
            while taken < ENTRIES {
                thread::yield_now();
                taken += u64::from(ring.harvest_without_reset(2, |_| ()));
                reached.note_if(
                    taken != 0 && kvm.watch().pushed.get() < ENTRIES,
                    "harvested while KVM pushed",
                );
            }
            assert_eq!(taken, ENTRIES, "more was taken than pushed");
        }
    });
    vcpu.join().unwrap();
    harvester.join().unwrap();
    assert_eq!(kvm.watch().taken.get(), ENTRIES, "an entry was lost");
}

#[test]
fn h1_h2_h3_entries_are_taken_in_order_each_once_with_what_kvm_wrote() {
    RING.explore(entries_pass_through_a_ring::<Sound>);
}

#[test]
fn h1_negative_control_relaxed_load_of_dirty() {
    RING.must_fail(
        "Causality violation",
        entries_pass_through_a_ring::<RelaxedLoad>,
    );
}

#[test]
fn h2_negative_control_relaxed_store_of_reset() {
    RING.must_fail(
        "Causality violation",
        entries_pass_through_a_ring::<RelaxedStore>,
    );
}

#[test]
fn h2_negative_control_or_instead_of_store() {
    RING.must_fail(
        "RESET has to replace the flags",
        entries_pass_through_a_ring::<OrInsteadOfStore>,
    );
}

#[test]
fn h3_negative_control_an_entry_is_not_marked() {
    RING.must_fail(
        "taken twice or out of order",
        entries_pass_through_a_ring::<NoStore>,
    );
}
