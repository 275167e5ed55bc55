//! A guide for authors of VMMs, from the first look to troubleshooting.
//!
//! | chapter | for |
//! |---|---|
//! | [`concepts`] | what a dirty ring is, and the words of this field |
//! | [`quick_start`] | the calls of a VMM, in order |
//! | [`life_cycle`] | tracking on and off, reapers that come and go, memory that changes, failures |
//! | [`choosing`] | ring or bitmap, which ring, which policy |
//! | [`threads`] | who calls what on which thread, signals, filters |
//! | [`troubleshooting`] | what went wrong, by symptom |

#[doc = include_str!("concepts.md")]
pub mod concepts {}

#[doc = include_str!("quick_start.md")]
pub mod quick_start {}

#[doc = include_str!("life_cycle.md")]
pub mod life_cycle {}

#[doc = include_str!("choosing.md")]
pub mod choosing {}

#[doc = include_str!("threads.md")]
pub mod threads {}

#[doc = include_str!("troubleshooting.md")]
pub mod troubleshooting {}
