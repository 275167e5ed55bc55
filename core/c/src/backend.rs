//! The core's backend over the caller's rings and callbacks.

use std::ffi::{c_int, c_void};

use dirty_ring_core::backend::{Backend, Reset};
use dirty_ring_core::collector::DEFAULT_BATCH;
use dirty_ring_core::entry::{DirtyGfn, SlotId};
use dirty_ring_core::ring::Ring;
use dirty_ring_core::sync::{Park, Parked};
use dirty_ring_core::time::Instant;

use crate::entries::Entries;
use crate::error::{CallbackError, Failure, given};
use crate::slots::Slots;

/// A dirty page, as it is handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Page {
    /// The slot, with its address space in the upper 16 bits.
    pub slot: u32,
    /// The page inside the slot, in pages.
    pub offset: u64,
}

impl From<&DirtyGfn> for Page {
    fn from(gfn: &DirtyGfn) -> Self {
        Self {
            slot: gfn.slot.0,
            offset: gfn.offset,
        }
    }
}

/// What the caller does for the library. Each gets `user`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Callbacks {
    /// Anything; the library hands it on.
    pub user: *mut c_void,
    /// Lets KVM reset harvested entries; returns how many it did, or a negative error number.
    pub reset: Option<extern "C" fn(user: *mut c_void, maybe_interrupted: *mut c_int) -> c_int>,
    /// Takes pages whose reset is done; returns 0 or a negative error number.
    pub publish:
        Option<extern "C" fn(user: *mut c_void, pages: *const Page, count: usize) -> c_int>,
    /// Counts all pages of a slot as dirty, after a resynchronisation; returns as `publish` does.
    pub publish_slot: Option<extern "C" fn(user: *mut c_void, slot: u32, pages: u64) -> c_int>,
    /// Wakes whatever takes the reaper's turns. May be NULL.
    pub wake: Option<extern "C" fn(user: *mut c_void)>,
}

/// The place where the reaper "sleeps": the caller's loop.
#[derive(Debug)]
pub struct CallerPark {
    user: *mut c_void,
    wake: Option<extern "C" fn(user: *mut c_void)>,
}

impl Park for CallerPark {
    fn park_until(&self, _until: Instant) -> Parked {
        // The caller waits between two turns itself.
        Parked::TimedOut
    }

    fn unpark(&self) {
        if let Some(wake) = self.wake {
            wake(self.user);
        }
    }
}

/// The rings of one VM in C.
#[derive(Debug)]
pub struct CallerRings {
    pub(crate) rings: Vec<Ring<Entries>>,
    pub(crate) slots: Slots,
    user: *mut c_void,
    reset: extern "C" fn(user: *mut c_void, maybe_interrupted: *mut c_int) -> c_int,
    publish: extern "C" fn(user: *mut c_void, pages: *const Page, count: usize) -> c_int,
    publish_slot: extern "C" fn(user: *mut c_void, slot: u32, pages: u64) -> c_int,
    /// The pages of one publication. It holds a whole batch from the start: nothing is allocated while
    /// pages are reaped.
    pages: Vec<Page>,
}

impl Callbacks {
    /// Splits the callbacks into the backend and the place where the reaper sleeps.
    ///
    /// # Errors
    /// [`Code::Null`](crate::error::Code::Null).
    pub fn split(&self) -> Result<(CallerRings, CallerPark), Failure> {
        let rings = CallerRings {
            rings: Vec::new(),
            slots: Slots::default(),
            user: self.user,
            reset: given(self.reset, "callbacks->reset")?,
            publish: given(self.publish, "callbacks->publish")?,
            publish_slot: given(self.publish_slot, "callbacks->publish_slot")?,
            pages: Vec::with_capacity(DEFAULT_BATCH),
        };
        let park = CallerPark {
            user: self.user,
            wake: self.wake,
        };
        Ok((rings, park))
    }
}

/// Returns what a callback that returns 0 or an error number said.
fn told(returned: c_int) -> Result<(), CallbackError> {
    match returned {
        0 => Ok(()),
        error => Err(CallbackError(error)),
    }
}

impl Backend for CallerRings {
    type Memory = Entries;
    type Error = CallbackError;

    fn rings(&self) -> &[Ring<Entries>] {
        &self.rings
    }

    fn rings_mut(&mut self) -> &mut [Ring<Entries>] {
        &mut self.rings
    }

    fn is_registered(&self, gfn: &DirtyGfn) -> bool {
        self.slots.contains(gfn)
    }

    fn was_removed(&self, slot: SlotId) -> bool {
        self.slots.was_removed(slot)
    }

    fn reset(&mut self) -> Result<Reset, CallbackError> {
        let mut maybe_interrupted: c_int = 0;
        let entries = (self.reset)(self.user, &raw mut maybe_interrupted);
        Ok(Reset {
            entries: u32::try_from(entries).map_err(|_| CallbackError(entries))?,
            maybe_interrupted: maybe_interrupted != 0,
        })
    }

    fn publish(&mut self, pages: &[DirtyGfn]) -> Result<(), CallbackError> {
        self.pages.clear();
        self.pages.extend(pages.iter().map(Page::from));
        told((self.publish)(
            self.user,
            self.pages.as_ptr(),
            self.pages.len(),
        ))
    }

    fn publish_all(&mut self) -> Result<(), CallbackError> {
        let mut slots = self.slots.iter();
        slots.try_for_each(|(slot, pages)| told((self.publish_slot)(self.user, slot.0, pages)))
    }
}
