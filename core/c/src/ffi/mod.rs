//! The functions of `include/dirty_ring.h`, which is their manual.
//!
//! A pointer that may be NULL is an `Option` of a reference or of a `Box`, which has the same layout;
//! memory that the caller hasn't written is `MaybeUninit`. So what is left of `unsafe` is the caller's
//! strings and arrays, and the end of a handle. All of that is in this file; the calls that need none
//! are in [`calls`].
// What a caller must keep to is in the header, for all of them at once.
#![allow(clippy::missing_safety_doc)]

pub mod calls;

use std::ffi::{CStr, c_char, c_int};
use std::mem::MaybeUninit;
use std::slice;

use dirty_ring_core::time::Instant;

use crate::backend::Page;
use crate::controller::{Controller, Size};
use crate::entries::SharedEntry;
use crate::error::{Failure, call, create, given};
use crate::reaper::Reaper;
use crate::state::RingState;

/// `struct kvm_dirty_gfn` of `<linux/kvm.h>`.
pub struct KvmDirtyGfn {
    _private: (),
}

/// Creates the controller of a name.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dirty_ring_controller_new(
    policy: *const c_char,
    size: Option<&Size>,
    controller: Option<&mut MaybeUninit<Option<Box<Controller>>>>,
) -> c_int {
    create(controller, "controller", || {
        given((!policy.is_null()).then_some(()), "policy")?;
        // SAFETY: the caller gives a string that is ended by a zero; it isn't NULL.
        let policy = unsafe { CStr::from_ptr(policy) };
        Controller::named(policy.to_bytes(), given(size, "size")?)
    })
}

/// Frees a controller.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dirty_ring_controller_free(controller: *mut Controller) -> c_int {
    call(|| {
        // SAFETY: it is NULL, or came from one of the two functions that create one and is used for
        // the last time.
        let controller = unsafe { (!controller.is_null()).then(|| Box::from_raw(controller)) };
        drop(controller);
        Ok(0)
    })
}

/// Frees a reaper.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dirty_ring_reaper_free(reaper: *mut Reaper) -> c_int {
    call(|| {
        // SAFETY: it is NULL, or came from `dirty_ring_reaper_new` and wasn't freed.
        let Some(shared) = (unsafe { reaper.as_ref() }) else {
            return Ok(0);
        };
        shared.check_idle()?;
        // SAFETY: as above; no call is at work on it, and the caller makes none after this.
        drop(unsafe { Box::from_raw(reaper) });
        Ok(0)
    })
}

/// Adds the ring of the next vCPU; returns its index.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dirty_ring_reaper_add_ring(
    reaper: Option<&Reaper>,
    entries: *mut KvmDirtyGfn,
    count: u32,
    saved: Option<&RingState>,
    now_us: u64,
) -> c_int {
    call(|| {
        let reaper = given(reaper, "reaper")?;
        let entries = reaper.check_entries(entries.cast::<SharedEntry>(), count)?;
        // SAFETY: it isn't NULL and aligned. The caller has mapped so many entries there, keeps them
        // mapped until the reaper is freed, and lets KVM alone write them; all are atomics.
        let entries = unsafe { slice::from_raw_parts(entries, count as usize) };
        reaper.add_ring(entries, saved, Instant(now_us))
    })
}

/// Copies the pages that were not published; returns how many there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dirty_ring_reaper_unpublished(
    reaper: Option<&Reaper>,
    pages: *mut Page,
    room: usize,
) -> c_int {
    call(|| {
        let reaper = given(reaper, "reaper")?;
        // SAFETY: the caller has room for so many pages there.
        reaper.unpublished(unsafe { array(pages, room) }?)
    })
}

/// Copies the suspects; returns how many there are.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dirty_ring_reaper_suspects(
    reaper: Option<&Reaper>,
    pages: *mut Page,
    room: usize,
) -> c_int {
    call(|| {
        let reaper = given(reaper, "reaper")?;
        // SAFETY: the caller has room for so many pages there.
        reaper.suspects(unsafe { array(pages, room) }?)
    })
}

/// Returns the caller's array of `room` pages at `pages`.
///
/// # Safety
/// It is there, and the caller's alone, until the call returns.
unsafe fn array<'a>(pages: *mut Page, room: usize) -> Result<&'a mut [MaybeUninit<Page>], Failure> {
    if room == 0 {
        return Ok(&mut []);
    }
    given((!pages.is_null()).then_some(()), "pages")?;
    // SAFETY: it isn't NULL, and the rest is promised above.
    Ok(unsafe { slice::from_raw_parts_mut(pages.cast(), room) })
}
