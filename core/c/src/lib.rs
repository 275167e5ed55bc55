//! The C interface to [`dirty_ring_core`]: `include/dirty_ring.h` is its manual, `libdirty_ring_c.a`
//! its library.
//!
//! The functions are in [`ffi`], which holds all `unsafe` (in one file) and no logic. Behind it, every module is safe
//! Rust: [`reaper`] and [`controller`] are what the handles point to, [`error`] the codes and texts,
//! [`figures`] and [`state`] the structs that cross the boundary.
//!
//! The crate uses the standard library: a handle is guarded by a mutex that is only tried, so that a
//! caller that forgot its own lock gets an error; a panic is caught at the boundary; and a monitor that
//! maps dirty rings is a Linux process in any case.
#![deny(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unreachable,
        clippy::unwrap_used
    )
)]

pub mod backend;
pub mod controller;
pub mod entries;
pub mod error;
#[allow(unsafe_code)]
pub mod ffi;
pub mod figures;
mod handle;
pub mod reaper;
mod slots;
pub mod state;
