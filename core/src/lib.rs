//! Reaping of KVM dirty rings, without I/O.
//!
//! KVM logs the pages that a guest dirties into one ring per vCPU. Somebody has to *reap* those
//! rings in time: harvest the entries, let KVM reset (write-protect) the pages, hand the pages to
//! whoever copies them. This crate is the part of a reaper that *decides* and the part that *must
//! not be got wrong*; it owns no clock, no sleep, no lock, no thread and no memory but its own
//! fixed-size state:
//!
//! * [`ring`]: the ring protocol over a small trait for entry memory: bounded harvest, peek,
//!   wrap-around, the count of fruitless ring-full exits that gives an overrun ring away.
//! * [`collector`]: harvest, reset, publish, for all the rings of one VM. A page can't be
//!   published before the reset that follows its harvest: nothing else gives access to it.
//! * [`handoff`]: what vCPU threads and the reaper share: the collector behind a lock, the
//!   ring-full [`counter`], the [`doorbell`]. Generic over the primitives in [`sync`], so that a
//!   model checker can run the very code that ships.
//! * [`controller`]: how long to wait until the next reap: [`Fixed`](controller::Fixed),
//!   [`Seed`](controller::Seed), [`Ladder`](controller::Ladder), [`Halving`](controller::Halving),
//!   [`Deadline`](controller::Deadline), and [`Policy`](controller::Policy), which holds any of
//!   them.
//! * [`reaper`]: the machine that ties it together: events and `now` go in, an
//!   [`Action`](reaper::Action) with a deadline comes out.
//! * [`meter`], [`slots`], [`size`]: dirty rates, registered memory, ring sizes and soft limits.
//!
//! Times are microseconds (`_us`) on whatever monotonic clock the caller has; sizes are entries or
//! pages and say so.
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

pub mod collector;
pub mod controller;
pub mod counter;
pub mod doorbell;
pub mod entry;
pub mod handoff;
pub mod meter;
mod outlook;
pub mod reaper;
pub mod ring;
pub mod size;
pub mod slots;
pub mod sync;
#[cfg(test)]
mod testing;
