//! Where decisions go: loggers, traces and metrics live outside.

use super::PassRecord;

/// Hears of each pass of a reaper. [`NoEvents`] ignores them; a closure is an implementation as
/// well.
///
/// Called between two passes on the reaper's own thread: be brief, and don't allocate where the
/// reap path must not.
pub trait Events {
    /// Hears of a pass that is over, when the next wait is decided.
    fn on_pass(&mut self, pass: &PassRecord);
}

/// Ignores all events.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoEvents;

impl Events for NoEvents {
    fn on_pass(&mut self, _pass: &PassRecord) {}
}

impl<F: FnMut(&PassRecord) + ?Sized> Events for F {
    fn on_pass(&mut self, pass: &PassRecord) {
        self(pass);
    }
}
