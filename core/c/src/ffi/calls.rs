//! The calls whose pointers are all references: nothing here is `unsafe` but that names are global.

use std::ffi::{c_char, c_int};
use std::mem::MaybeUninit;

use dirty_ring_core::time::Instant;

use crate::backend::Callbacks;
use crate::controller::{Controller, DeadlineOptions, Size};
use crate::error::{self, call, call_for, create, given};
use crate::figures::{Decision, Measurement, Pass, RingFigures, RingFull, Totals};
use crate::reaper::{DrainPosition, Reaper};
use crate::state::{PlannerState, RingState};

/// Returns the text of this thread's last failure.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_error_text() -> *const c_char {
    error::text()
}

/// Checks a ring size and completes it.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_size_check(size: Option<&mut Size>) -> c_int {
    call(|| given(size, "size")?.complete())
}

/// Creates the controller `deadline` with options.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_controller_new_deadline(
    options: Option<&DeadlineOptions>,
    size: Option<&Size>,
    controller: Option<&mut MaybeUninit<Option<Box<Controller>>>>,
) -> c_int {
    create(controller, "controller", || {
        Controller::deadline(given(options, "options")?, given(size, "size")?)
    })
}

/// Returns the decision that holds before the next pass.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_controller_current(
    controller: Option<&Controller>,
    decision: Option<&mut MaybeUninit<Decision>>,
) -> c_int {
    call_for(decision, "decision", || {
        given(controller, "controller")?.current()
    })
}

/// Decides after a pass.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_controller_on_reaped(
    controller: Option<&Controller>,
    found: Option<&Measurement>,
    decision: Option<&mut MaybeUninit<Decision>>,
) -> c_int {
    call_for(decision, "decision", || {
        given(controller, "controller")?.on_reaped(given(found, "found")?)
    })
}

/// Creates a reaper without rings.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_reaper_new(
    abi: u32,
    controller: Option<&Controller>,
    size: Option<&Size>,
    callbacks: Option<&Callbacks>,
    reaper: Option<&mut MaybeUninit<Option<Box<Reaper>>>>,
) -> c_int {
    create(reaper, "reaper", || {
        let controller = given(controller, "controller")?;
        Reaper::new(
            abi,
            controller,
            given(size, "size")?,
            given(callbacks, "callbacks")?,
        )
    })
}

/// Registers a memory slot.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_reaper_add_slot(
    reaper: Option<&Reaper>,
    slot: u32,
    pages: u64,
) -> c_int {
    call(|| given(reaper, "reaper")?.add_slot(slot, pages))
}

/// Forgets a memory slot that was removed.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_reaper_remove_slot(reaper: Option<&Reaper>, slot: u32) -> c_int {
    call(|| given(reaper, "reaper")?.remove_slot(slot))
}

/// Notes that a slot's logging was switched off and on.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_reaper_slot_logged_anew(reaper: Option<&Reaper>, slot: u32) -> c_int {
    call(|| given(reaper, "reaper")?.slot_logged_anew(slot))
}

/// Takes a turn.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_reaper_turn(
    reaper: Option<&Reaper>,
    now_us: u64,
    deadline_us: Option<&mut MaybeUninit<u64>>,
) -> c_int {
    call(|| {
        let deadline_us = given(deadline_us, "deadline_us")?;
        let (turn, deadline) = given(reaper, "reaper")?.turn(Instant(now_us))?;
        deadline_us.write(deadline.0);
        Ok(turn as c_int)
    })
}

/// Makes room for a vCPU whose ring is full.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_reaper_ring_full(
    reaper: Option<&Reaper>,
    ring: u32,
    entries: u32,
    now_us: u64,
    report: Option<&mut MaybeUninit<RingFull>>,
) -> c_int {
    call_for(report, "report", || {
        given(reaper, "reaper")?.ring_full(ring, entries, Instant(now_us))
    })
}

/// Takes one batch of a drain.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_reaper_drain(
    reaper: Option<&Reaper>,
    drain: Option<&mut DrainPosition>,
    now_us: u64,
) -> c_int {
    call(|| {
        let drain = given(drain, "drain")?;
        Ok(given(reaper, "reaper")?.drain(drain, Instant(now_us))? as c_int)
    })
}

/// Asks for all pages, now.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_reaper_kick(reaper: Option<&Reaper>) -> c_int {
    call(|| {
        given(reaper, "reaper")?.doorbell().kick();
        Ok(0)
    })
}

/// Wakes the reaper for a full ring.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_reaper_notify_ring_full(reaper: Option<&Reaper>) -> c_int {
    call(|| {
        given(reaper, "reaper")?.doorbell().ring_full();
        Ok(0)
    })
}

/// Asks the reaper to drain the rings and end.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_reaper_stop(reaper: Option<&Reaper>) -> c_int {
    call(|| {
        given(reaper, "reaper")?.doorbell().stop();
        Ok(0)
    })
}

/// Lets a reaper begin again.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_reaper_resume(
    reaper: Option<&Reaper>,
    controller: Option<&Controller>,
    saved: Option<&PlannerState>,
) -> c_int {
    call(|| given(reaper, "reaper")?.resume(given(controller, "controller")?, saved))
}

/// Begins a resynchronisation.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_reaper_begin_resync(reaper: Option<&Reaper>) -> c_int {
    call(|| given(reaper, "reaper")?.begin_resync())
}

/// Ends a resynchronisation.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_reaper_end_resync(reaper: Option<&Reaper>, now_us: u64) -> c_int {
    call(|| given(reaper, "reaper")?.end_resync(Instant(now_us)))
}

/// Forgets a failed publication.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_reaper_retry_publish(reaper: Option<&Reaper>) -> c_int {
    call(|| given(reaper, "reaper")?.retry_publish())
}

/// Returns why the log is incomplete, if it is.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_reaper_check(reaper: Option<&Reaper>) -> c_int {
    call(|| given(reaper, "reaper")?.check())
}

/// Returns the totals.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_reaper_totals(
    reaper: Option<&Reaper>,
    totals: Option<&mut MaybeUninit<Totals>>,
) -> c_int {
    call_for(totals, "totals", || given(reaper, "reaper")?.totals())
}

/// Returns the figures of one ring.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_reaper_ring_figures(
    reaper: Option<&Reaper>,
    ring: u32,
    figures: Option<&mut MaybeUninit<RingFigures>>,
) -> c_int {
    call_for(figures, "figures", || {
        given(reaper, "reaper")?.ring_figures(ring)
    })
}

/// Returns the last pass.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_reaper_last_pass(
    reaper: Option<&Reaper>,
    pass: Option<&mut MaybeUninit<Pass>>,
) -> c_int {
    call_for(pass, "pass", || given(reaper, "reaper")?.last_pass())
}

/// Returns what to save of one ring.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_reaper_ring_state(
    reaper: Option<&Reaper>,
    ring: u32,
    now_us: u64,
    state: Option<&mut MaybeUninit<RingState>>,
) -> c_int {
    call_for(state, "state", || {
        given(reaper, "reaper")?.ring_state(ring, Instant(now_us))
    })
}

/// Returns what to save of the machine.
#[unsafe(no_mangle)]
pub extern "C" fn dirty_ring_reaper_planner_state(
    reaper: Option<&Reaper>,
    state: Option<&mut MaybeUninit<PlannerState>>,
) -> c_int {
    call_for(state, "state", || given(reaper, "reaper")?.planner_state())
}
