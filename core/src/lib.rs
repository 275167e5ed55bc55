//! Reaping of KVM dirty rings, without I/O.
//!
//! KVM logs the pages that a guest dirties into one ring per vCPU. A reaper *harvests* those rings in
//! time, lets KVM *reset* (write-protect) the pages, and *publishes* them to a consumer that copies
//! them. This crate is the part of a reaper that decides, and the part that must not be got wrong. It
//! owns no clock, no sleep, no lock, no thread and no memory but its own fixed-size state.
//!
//! # The modules, along a page's way
//!
//! * [`entry`], [`ring`]: the ring protocol over a small trait for entry memory.
//! * [`growth`]: how a ring grows, estimated from looks that cost the guest nothing.
//! * [`backend`]: the trait that a backend implements; [`conformance`] checks an implementation.
//! * [`collector`]: harvest, reset, publish, in that order, for all the rings of one VM.
//! * [`shared`]: the collector as threads share it, with the [`doorbell`] that wakes the reaper.
//! * [`controller`]: when to reap and what; [`Policy`](controller::Policy) holds any controller of
//!   this crate.
//! * [`planner`]: the machine round a controller: events and the time go in, an action comes out.
//! * [`reaper`]: drives the planner over the shared collector, one short turn at a time.
//! * [`sync`], [`fair`], [`counter`], [`time`], [`size`], [`slots`]: what those are built on.
//!
//! # Terms
//!
//! | term | meaning |
//! |---|---|
//! | entry | one dirty page in a ring: slot and offset |
//! | occupancy | entries that wait in a ring |
//! | soft limit | the occupancy at which KVM sends the vCPU out: the ring's size less KVM's reserve |
//! | ring-full | that exit, `KVM_EXIT_DIRTY_RING_FULL`; the time it takes is a ring-full stall |
//! | headroom | soft limit less occupancy |
//! | harvest | to take entries out of a ring and mark them |
//! | reset | KVM write-protects the harvested pages again: `KVM_RESET_DIRTY_RINGS` |
//! | publish | to hand the pages to the consumer, after their reset |
//! | look | to read a ring's occupancy, without a harvest |
//! | pass | one round of the reaper over all rings: look, plan, harvest, reset, publish |
//! | batch | what is harvested, reset and published in one critical section |
//! | drain | to take everything that is in the rings, outside of the reaper's passes |
//! | run level | one of six fixed waits between two passes |
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::float_arithmetic)]
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

#[cfg(test)]
extern crate std;

pub mod backend;
mod bounded;
pub mod collector;
pub mod conformance;
pub mod controller;
pub mod counter;
pub mod doorbell;
pub mod entry;
pub mod fair;
pub mod growth;
mod marks;
pub mod planner;
pub mod reaper;
pub mod ring;
pub mod shared;
pub mod size;
pub mod slots;
pub mod sync;
#[cfg(test)]
mod testing;
pub mod time;
