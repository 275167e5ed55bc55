//! Services of the host: clocks, page size, signals, scheduling, locks and waits.

mod clock;
mod lock;
mod page_size;
mod panic;
mod park;
mod scheduling;
mod signals;

pub(crate) use clock::{Clock, thread_cpu};
pub(crate) use lock::{StdFairLock, lock};
pub(crate) use page_size::page_bytes;
pub(crate) use panic::panic_message;
pub(crate) use park::{StdPark, Waker};
pub(crate) use scheduling::wake_precisely;
pub(crate) use signals::{block_signals, times_stopped, without_signals};
