//! What a guest at CPL 0 does to its dirty ring, which depends on the host.

use dirty_ring_core::entry::{EntryFlags, EntryMemory};
use dirty_ring_core::ring::Ring;
use dirty_ring_core::time::Instant as Moment;
use dirty_ring_kvm::{MappedRing, Support};

use super::*;

/// Ring-fulls after which a host counts as one whose rings don't overrun. Where CPL 0 is emulated,
/// every third or so overruns.
const MANY_RING_FULLS: u32 = 64;

/// A host that emulates about 1000 instructions between two looks at the ring writes 100 pages
/// meanwhile, in order and without spin: more than the 64 entries that KVM reserves beyond the soft
/// limit. Once entries were overwritten, KVM's index is ahead of the harvest: the entries in between
/// are empty, so nothing can be harvested, and the ring stays full.
#[test]
fn a_ring_at_cpl_0_overruns_where_instructions_are_emulated_in_batches() {
    let Some(kvm) = kvm() else {
        return;
    };
    let support = match Support::probe(&kvm) {
        Ok(support) => support,
        Err(error) => {
            println!("skipped: {error}");
            return;
        }
    };
    for entries in [512, 1024, 4096] {
        overrun(&kvm, &support, entries);
    }
}

/// Reaps each full ring of a storm at CPL 0, and prints how it ends. No end is wrong: the test
/// holds what is the same on every host.
fn overrun(kvm: &Kvm, support: &Support, entries: u32) {
    let pages = 16384;
    let guest_config = GuestConfig {
        privilege: Privilege::Kernel,
        ..config(1, pages, 1)
    };
    let guest = Guest::new(kvm, guest_config).unwrap();
    let size = match support.enable(guest.vm(), entries) {
        Ok(rings) => rings.size(),
        Err(error) => {
            println!("ring of {entries} skipped: {error}");
            return;
        }
    };
    let mut vcpu = guest.create_vcpus().unwrap().remove(0);
    let memory = MappedRing::map(0, vcpu.fd(), size).unwrap();
    let mut ring = Ring::new(memory, Moment::default());
    guest.set_logging(true).unwrap();
    vcpu.params().set(pages, 0).unwrap();

    let start = Instant::now();
    let mut writes = 0;
    let mut missed = 0;
    let mut most_beyond = 0;
    for ring_full in 1..=MANY_RING_FULLS {
        assert_eq!(vcpu.run().unwrap(), GuestExit::RingFull);
        let written = vcpu.page_writes().unwrap() - writes;
        writes += written;
        let harvested = ring.harvest_without_reset(u32::MAX, |_| {});
        let reset = sys::reset_dirty_rings(guest.vm()).unwrap();
        assert_eq!(reset, harvested);
        most_beyond = most_beyond.max(written.saturating_sub(entries.into()));
        missed += written.saturating_sub(harvested.into());
        if written == 0 && harvested == 0 {
            println!(
                "ring of {entries}: stuck at ring-full {ring_full}, {:?} after the start; at most \
                 {most_beyond} writes beyond the ring at once, {missed} entries missed in all; {}",
                start.elapsed(),
                describe(&ring),
            );
            assert_stuck_for_good(&guest, &mut vcpu);
            return;
        }
    }
    println!(
        "ring of {entries}: no overrun in {MANY_RING_FULLS} ring-fulls and {writes} page writes"
    );
}

/// Asserts that nothing moves anymore.
fn assert_stuck_for_good(guest: &Guest, vcpu: &mut GuestVcpu) {
    let writes = vcpu.page_writes().unwrap();
    for _ in 0..1000 {
        assert_eq!(vcpu.run().unwrap(), GuestExit::RingFull);
        assert_eq!(sys::reset_dirty_rings(guest.vm()).unwrap(), 0);
    }
    assert_eq!(vcpu.page_writes().unwrap(), writes);
}

/// Describes the runs of equal flags, from the entry that would be harvested next.
fn describe(ring: &Ring<MappedRing>) -> String {
    let entries = ring.size().entries();
    let flags: Vec<EntryFlags> = (0..entries)
        .map(|ahead| ring.position().index().wrapping_add(ahead) % entries)
        .map(|index| ring.memory().load_flags(index))
        .collect();
    let runs: Vec<String> = flags
        .chunk_by(|one, next| one == next)
        .map(|run| format!("{} entries {:?}", run.len(), run[0]))
        .collect();
    format!("from the next entry on: {}", runs.join(", "))
}
