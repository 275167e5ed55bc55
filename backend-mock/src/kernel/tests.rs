//! The rules of `kvm_dirty_ring_reset`, one by one.

use std::sync::Arc;

use dirty_ring_core::entry::{EntryFlags, EntryMemory, SlotId};

use super::*;

const SIZE: RingSize = match RingSize::new(256, 4096, 0) {
    Ok(size) => size,
    Err(_) => panic!("256 entries are a ring"),
};

fn page(slot: u32, offset: u64) -> DirtyGfn {
    DirtyGfn {
        slot: SlotId(slot),
        offset,
    }
}

/// A ring in which these pages of slot 0 were logged and harvested.
fn harvested(offsets: &[u64]) -> (KernelRing, RingMemory) {
    let memory = RingMemory::new(SIZE, &Arc::default());
    let mut ring = KernelRing::new(memory.clone(), SIZE);
    for (index, &offset) in (0..).zip(offsets) {
        ring.push(page(0, offset));
        memory.store_flags(index, EntryFlags::RESET);
    }
    (ring, memory)
}

/// The offsets that each call of `protect` got, how many entries were counted, and what was
/// forgotten.
fn reset(ring: &mut KernelRing, mut signal: Signal) -> (Vec<Vec<u64>>, u32, Vec<u64>) {
    let (mut protected, mut count) = (Vec::new(), 0);
    let offsets = |mask: &Mask| mask.pages().map(|gfn| gfn.offset).collect::<Vec<_>>();
    let done = ring.reset(&mut signal, &mut count, |mask| {
        protected.push(offsets(&mask));
    });
    let forgotten = done.err().and_then(|end| end.forgotten);
    (
        protected,
        count,
        forgotten.iter().flat_map(offsets).collect(),
    )
}

fn protected(offsets: &[u64]) -> Vec<Vec<u64>> {
    let (mut ring, _) = harvested(offsets);
    let (protected, count, forgotten) = reset(&mut ring, Signal::NEVER);
    assert_eq!((count as usize, forgotten), (offsets.len(), vec![]));
    protected
}

#[test]
fn pages_ahead_are_gathered_up_to_63_from_the_first() {
    assert_eq!(
        protected(&[10, 73, 10, 74, 75]),
        [vec![10, 73], vec![74, 75]]
    );
}

#[test]
fn pages_behind_are_gathered_while_none_drops_out_at_the_end() {
    assert_eq!(protected(&[73, 72, 10]), [vec![10, 72, 73]]);
    assert_eq!(protected(&[73, 10, 9]), [vec![10, 73], vec![9]]);
    assert_eq!(protected(&[100, 36, 37]), [vec![100], vec![36, 37]]);
    assert_eq!(protected(&[0, u64::MAX]), [vec![u64::MAX, 0]]);
}

#[test]
fn pages_of_two_slots_are_never_gathered() {
    let memory = RingMemory::new(SIZE, &Arc::default());
    let mut ring = KernelRing::new(memory.clone(), SIZE);
    for (index, slot) in [(0, 1), (1, 2), (2, 2), (3, 1)] {
        ring.push(page(slot, index.into()));
        memory.store_flags(index, EntryFlags::RESET);
    }
    let (protected, ..) = reset(&mut ring, Signal::NEVER);
    assert_eq!(protected, [vec![0], vec![1, 2], vec![3]]);
}

#[test]
fn a_signal_leaves_what_was_gathered_behind_counted_and_unprotected() {
    let offsets = [0, 1, 2, 500, 501, 502];
    for (checks, protected, count, forgotten) in [
        (0, vec![], 0, vec![]),
        (1, vec![], 1, vec![0]),
        (3, vec![], 3, vec![0, 1, 2]),
        (4, vec![vec![0, 1, 2]], 4, vec![500]),
        // Pending at the check after the last entry: the count is whole.
        (6, vec![vec![0, 1, 2]], 6, vec![500, 501, 502]),
        (7, vec![vec![0, 1, 2], vec![500, 501, 502]], 6, vec![]),
    ] {
        let (mut ring, _) = harvested(&offsets);
        let done = reset(&mut ring, Signal::after(checks));
        assert_eq!(done, (protected, count, forgotten), "{checks} checks");
        // The next reset goes on behind them.
        let (_, rest, _) = reset(&mut ring, Signal::NEVER);
        assert_eq!(count + rest, 6);
    }
}

#[test]
fn an_index_that_was_reset_too_far_makes_the_ring_full_for_good() {
    let (mut ring, memory) = harvested(&[0, 1]);
    memory.store_flags(2, EntryFlags::RESET);
    assert_eq!(reset(&mut ring, Signal::NEVER).1, 3);
    assert_eq!(ring.used(), u32::MAX);
    assert!(ring.is_soft_full());
    memory.store_flags(3, EntryFlags::RESET);
    reset(&mut ring, Signal::NEVER);
    assert!(ring.is_soft_full());
}
