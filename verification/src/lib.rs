//! Model checking, exhaustive checks and property tests of dirty-ring.
//!
//! The core's shared types are generic over the traits of [`dirty_ring_core::sync`],
//! [`EntryMemory`](dirty_ring_core::entry::EntryMemory) and
//! [`Backend`](dirty_ring_core::backend::Backend). This crate holds other instances of those
//! traits, so an ordinary `cargo test` checks the very code that ships:
//!
//! * [`loom_sync`], [`loom_line`], [`loom_kvm`]: loom's atomics, locks and cells, and KVM's side of
//!   a ring over them. Loom runs every interleaving, and every value that a weakly ordered load may return.
//! * [`loom_lost`]: the same for a ring that is had back while its vCPU logs pages: KVM goes by its
//!   indices alone.
//! * [`weak`], [`weak_line`]: primitives with one thing wrong each. Each property has a negative control, which is
//!   its model over one of these and has to fail: a model that can't fail checks nothing.
//! * [`explore`]: the harness; it counts executions and insists that the interleaving a model is
//!   about was reached.
//! * [`sim`]: a simulated VM without threads, for the property tests of the ring protocol.
//! * [`running`]: a ring without threads whose vCPU logs pages between any two accesses, and whose
//!   indices may have parted, for the property tests of the resynchronisation.
//! * [`virtual_time`]: the reaper over that VM, in virtual time: its caller decides how late the
//!   reaper is and when the guests run.
//! * [`reference_levels`], [`reference_planner`]: second opinions, written from the rules and not
//!   from the code.
//!
//! Loom runs the threads of a model as coroutines of one thread, so a model may keep what it only
//! *observes* in a plain [`Cell`](core::cell::Cell): it costs no interleavings and orders nothing.
//!
//! The rules that loom checks have labels: H for harvest and reset, C for counters, W for wake-ups
//! and the stop, F for the fair lock, R for a ring that is had back. The name of each test says its rule.
#![forbid(unsafe_code)]

pub mod explore;
pub mod loom_kvm;
pub mod loom_line;
pub mod loom_lost;
pub mod loom_sync;
pub mod reference_levels;
pub mod reference_planner;
pub mod running;
pub mod sim;
pub mod virtual_time;
pub mod weak;
pub mod weak_line;
