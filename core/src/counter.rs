//! The event counter: any thread adds, one reader takes differences.

use crate::sync::SharedWord;

/// Counts events of many threads, for one reader that remembers how far it has seen.
///
/// It never needs a lock, loses nothing, and wraps around: a reader that loads it once every 2^32
/// events sees each exactly once. An increment is a release and a load is an acquire, so a reader
/// that saw the count also sees what its cause wrote before it.
#[derive(Debug)]
pub struct EventCounter<W> {
    count: W,
}

impl<W: SharedWord> EventCounter<W> {
    /// Creates a counter at 0.
    pub fn new() -> Self {
        Self::starting_at(0)
    }

    /// Creates a counter at `count`, such as a restored one or one about to wrap around.
    pub fn starting_at(count: u32) -> Self {
        Self {
            count: W::new(count),
        }
    }

    /// Counts `events` more.
    pub fn add(&self, events: u32) {
        self.count.add(events);
    }

    /// Returns the count, which wraps around.
    pub fn load(&self) -> u32 {
        self.count.load()
    }
}

impl<W: SharedWord> Default for EventCounter<W> {
    fn default() -> Self {
        Self::new()
    }
}

/// How far one reader has seen a wrapping counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermark {
    seen: u32,
}

impl Watermark {
    /// Creates the mark of a reader that has seen everything up to `seen`.
    pub const fn at(seen: u32) -> Self {
        Self { seen }
    }

    /// Takes the events between the last count and `now`: each event in one difference only.
    ///
    /// `now` is loaded once and becomes the new mark. (The reaper of 2022 sampled the counter
    /// again after it had decided, and lost what came in between.)
    pub const fn advance(&mut self, now: u32) -> u32 {
        let new = now.wrapping_sub(self.seen);
        self.seen = now;
        new
    }

    /// Returns the count seen last.
    pub const fn seen(self) -> u32 {
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU32;

    #[test]
    fn differences_survive_the_wrap_around() {
        let counter = EventCounter::<AtomicU32>::starting_at(u32::MAX - 1);
        let mut mark = Watermark::at(counter.load());
        counter.add(3);
        assert_eq!(counter.load(), 1);
        assert_eq!(mark.advance(counter.load()), 3);
        assert_eq!(mark.advance(counter.load()), 0);
    }
}
