//! Where the machine's decisions go: loggers, traces and metrics live outside.

use super::Step;

/// Hears of each decision of a reaper. [`NoEvents`] doesn't listen; a closure does.
///
/// Called between two passes on the reaper's own thread: be brief, and don't allocate where the
/// reap path must not.
pub trait Events {
    /// A pass is over and the next wait is decided.
    fn on_step(&mut self, step: &Step);
}

/// Nobody listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoEvents;

impl Events for NoEvents {
    fn on_step(&mut self, _step: &Step) {}
}

impl<F: FnMut(&Step) + ?Sized> Events for F {
    fn on_step(&mut self, step: &Step) {
        self(step);
    }
}
