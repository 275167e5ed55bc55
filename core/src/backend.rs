//! What a backend gives the collector: the dirty rings of one VM, and what can be done to them.

use crate::entry::{DirtyGfn, EntryMemory};
use crate::ring::Ring;

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
/// * \* [`reset`](Self::reset) resets harvested entries of all the rings and returns how many. It may
///   return fewer than there are, even 0, when it was interrupted.
/// * \* It MUST NOT count an entry that wasn't harvested through these rings.
/// * \* When it returns, writes to the pages that it counted are logged again, for every vCPU.
///
/// Publication:
/// * \* [`publish`](Self::publish) MUST take every page that it is given: no page is offered twice.
/// * \* [`is_registered`](Self::is_registered) is true for every page that a vCPU can dirty.
/// * Neither may call back into the collector, and both should be brief: a vCPU may be waiting.
pub trait Backend {
    /// The memory of a ring.
    type Memory: EntryMemory;
    /// What a reset may fail with.
    type Error;

    /// Returns the rings.
    fn rings(&self) -> &[Ring<Self::Memory>];
    /// Returns the rings, to harvest them.
    fn rings_mut(&mut self) -> &mut [Ring<Self::Memory>];
    /// Returns whether `gfn` names a page of the registered memory.
    fn is_registered(&self, gfn: &DirtyGfn) -> bool;
    /// Hears of an entry of ring `ring` that [`is_registered`](Self::is_registered) refused.
    fn reject(&mut self, ring: usize, gfn: &DirtyGfn) {
        let _ = (ring, gfn);
    }
    /// Lets KVM reset harvested entries; returns how many it reset.
    ///
    /// # Errors
    /// The backend's own. Nothing is lost: the pages stay with the collector.
    fn reset(&mut self) -> Result<u32, Self::Error>;
    /// Hands out pages whose reset is done.
    fn publish(&mut self, pages: &[DirtyGfn]);
}
