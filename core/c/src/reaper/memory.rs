//! The rings and the memory slots of a reaper.

use std::ffi::c_int;

use dirty_ring_core::entry::SlotId;
use dirty_ring_core::ring::{Ring, RingState as CoreRingState};
use dirty_ring_core::time::Instant;

use super::Reaper;
use crate::entries::{Entries, SharedEntry};
use crate::error::{Code, Failure, given};
use crate::handle::exclusively;
use crate::state::RingState;

/// Times that a ring is checked against its position while its vCPU may be logging.
const POSITION_CHECKS: u32 = 5;

impl Reaper {
    /// Returns where the `count` entries of a ring begin.
    ///
    /// # Errors
    /// [`Code::Null`], [`Code::Ring`].
    pub fn check_entries(
        &self,
        entries: *const SharedEntry,
        count: u32,
    ) -> Result<*const SharedEntry, Failure> {
        given((!entries.is_null()).then_some(()), "entries")?;
        if !entries.is_aligned() {
            return Err(refused(
                "the entries are not where a mapping of a ring begins: give what mmap returned",
            ));
        }
        if count != self.size.entries() {
            return Err(refused("the ring has another size than its reaper"));
        }
        Ok(entries)
    }

    /// Adds the ring of the next vCPU; returns its index.
    ///
    /// # Errors
    /// [`Code::Ring`], [`Code::State`], [`Code::Parted`].
    pub fn add_ring(
        &self,
        entries: &'static [SharedEntry],
        saved: Option<&RingState>,
        now: Instant,
    ) -> Result<c_int, Failure> {
        let memory = Entries::new(entries, self.size)
            .ok_or_else(|| refused("the ring has another size than its reaper"))?;
        let state = saved.map_or(Ok(CoreRingState::default()), TryInto::try_into)?;
        let machine = exclusively(&self.machine)?;
        let (index, is_used) = self.shared.with(|collector| {
            let rings = &mut collector.backend_mut().rings;
            if rings.iter().any(|ring| ring.memory().overlaps(&memory)) {
                return Err(refused(
                    "this memory is that of another ring already: give each vCPU's ring once",
                ));
            }
            let ring = Ring::from_state(memory, &state, now);
            if !fits(&ring, saved.is_some()) {
                return Err(refused(
                    "the entries don't fit the ring's position: a ring that was reaped before needs \
                     its saved state, and where that is lost, resync and count all memory as dirty",
                ));
            }
            let index = rings.len();
            let told = c_int::try_from(index).map_err(|_| refused("there are too many rings"))?;
            let is_used = ring.is_at_least(1);
            rings.push(ring);
            collector.inherit(index)?;
            Ok((told, is_used))
        })?;
        if machine.is_running || is_used {
            // The ring may be nearly full, and the reaper may wait for nothing, because all other rings
            // are idle.
            self.doorbell().ring_full();
        }
        Ok(index)
    }

    /// Registers a slot.
    ///
    /// # Errors
    /// [`Code::Slot`].
    pub fn add_slot(&self, slot: u32, pages: u64) -> Result<c_int, Failure> {
        self.with(|collector| {
            let slots = &mut collector.backend_mut().slots;
            slots.insert(SlotId(slot), pages)?;
            Ok(0)
        })
    }

    /// Forgets a slot that was removed.
    ///
    /// # Errors
    /// [`Code::Slot`].
    pub fn remove_slot(&self, slot: u32) -> Result<c_int, Failure> {
        self.with(|collector| {
            if !collector.backend_mut().slots.remove(SlotId(slot)) {
                return Err(unknown_slot(slot));
            }
            collector.forget_suspects(SlotId(slot));
            Ok(0)
        })
    }

    /// Notes that a slot's logging was switched off and on.
    ///
    /// # Errors
    /// [`Code::Slot`].
    pub fn slot_logged_anew(&self, slot: u32) -> Result<c_int, Failure> {
        self.with(|collector| {
            if collector.backend().slots.pages(SlotId(slot)) == 0 {
                return Err(unknown_slot(slot));
            }
            collector.forget_suspects(SlotId(slot));
            Ok(0)
        })
    }
}

/// Returns whether the entries of a ring can be those of a ring in its state.
fn fits(ring: &Ring<Entries>, was_reaped: bool) -> bool {
    // A vCPU that logs pages meanwhile may make a sound ring look odd once.
    (0..POSITION_CHECKS).any(|_| match was_reaped {
        true => ring.fits_position(),
        false => ring.is_fresh(),
    })
}

fn refused(text: &str) -> Failure {
    Failure::new(Code::Ring, text)
}

fn unknown_slot(slot: u32) -> Failure {
    let slot = SlotId(slot);
    Failure::new(
        Code::Slot,
        format_args!(
            "memory slot {} of address space {} is not registered",
            slot.slot(),
            slot.address_space()
        ),
    )
}
