//! What a backend gives the collector: the dirty rings of one VM, and what can be done to them.

use crate::entry::{DirtyGfn, EntryMemory, SlotId};
use crate::ring::Ring;

/// What one reset did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reset {
    /// Entries that KVM reset, of all the rings.
    pub entries: u32,
    /// The reset may have been interrupted after the last entry that it counted, which the count
    /// can't tell: see [`Backend::reset`].
    pub maybe_interrupted: bool,
}

impl Reset {
    /// Returns a reset of `entries` that was not interrupted after the last of them.
    pub const fn of(entries: u32) -> Self {
        Self {
            entries,
            maybe_interrupted: false,
        }
    }
}

/// The rings of one VM.
///
/// # What an implementer MUST give
///
/// Tick these off; the [conformance kit](crate::conformance) checks those marked with a star, as far
/// as one vCPU's own pages show them.
///
/// Rings:
/// * \* [`rings`](Self::rings) and [`rings_mut`](Self::rings_mut) are the same slice.
/// * A ring's index is its vCPU's index and stays the same while it is there.
/// * \* A ring is fresh when it is added.
/// * A ring that was reaped before is created from the state that was saved of it.
/// * \* An entry appears in the ring of the vCPU that wrote the page, once per write to a page that
///   is protected.
///
/// Reset:
/// * \* [`reset`](Self::reset) resets harvested entries of all the rings, each ring's in order, and
///   says how many. It may reset fewer than there are, even 0, when it was interrupted.
/// * \* It MUST NOT count an entry that wasn't harvested through these rings.
/// * \* When it returns, writes to the pages that it counted are logged again, for every vCPU. The
///   one exception is an interrupted reset: KVM forgets the last entries that it counted, up to 64
///   neighbours in one slot, before it write-protects their pages (virt/kvm/dirty_ring.c,
///   `kvm_dirty_ring_reset`, since Linux 6.17). The collector treats those pages as
///   [suspects](crate::collector::suspects).
/// * A reset that came back whole may have been interrupted as well, after its last entry. Where
///   that is possible it MUST say [`maybe_interrupted`](Reset::maybe_interrupted).
///
/// Publication:
/// * \* [`publish`](Self::publish) MUST take every page that it is given. A page is offered again
///   only where the publication failed, or where its reset was interrupted.
/// * \* [`is_registered`](Self::is_registered) is true for every page that a vCPU can dirty.
/// * Neither may call back into the collector, and both should be brief: a vCPU may be waiting.
pub trait Backend {
    /// The memory of a ring.
    type Memory: EntryMemory;
    /// What a reset or a publication may fail with. The collector keeps its first failure and returns
    /// it again, hence the clone.
    type Error: Clone;

    /// Returns the rings.
    fn rings(&self) -> &[Ring<Self::Memory>];
    /// Returns the rings, to harvest them.
    fn rings_mut(&mut self) -> &mut [Ring<Self::Memory>];
    /// Returns whether `gfn` names a page of the registered memory.
    fn is_registered(&self, gfn: &DirtyGfn) -> bool;
    /// Returns whether `slot` was removed on purpose, so that a late entry that still names it is no
    /// lost page.
    fn was_removed(&self, slot: SlotId) -> bool {
        let _ = slot;
        false
    }
    /// Hears of an entry of ring `ring` that [`is_registered`](Self::is_registered) refused.
    fn reject(&mut self, ring: usize, gfn: &DirtyGfn) {
        let _ = (ring, gfn);
    }
    /// Lets KVM reset harvested entries; returns what it did.
    ///
    /// # Errors
    /// The backend's own. Nothing is lost: the pages stay with the collector.
    fn reset(&mut self) -> Result<Reset, Self::Error>;
    /// Hands out pages whose reset is done.
    ///
    /// # Errors
    /// The backend's own, where the consumer didn't take all of them. The pages stay with the
    /// collector.
    fn publish(&mut self, pages: &[DirtyGfn]) -> Result<(), Self::Error>;
    /// Counts every registered page as dirty, after a resynchronisation.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    fn publish_all(&mut self) -> Result<(), Self::Error>;
}
