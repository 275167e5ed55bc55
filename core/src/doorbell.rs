//! The doorbell: how other threads wake the reaper, and stop it.

use bitflags::bitflags;

use crate::counter::{EventCounter, Watermark};
use crate::sync::{Park, Parked, SharedWord};
use crate::time::Instant;

bitflags! {
    /// Why the reaper woke. Several causes may come together; none is dropped.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Wakes: u8 {
        /// The wait was over.
        const TIMER = 1 << 0;
        /// Every page was asked for, now.
        const KICK = 1 << 1;
        /// A vCPU left guest mode on a full ring and left the rest of the work to the reaper.
        const RING_FULL = 1 << 2;
        /// The reaper has to drain the rings once more and end.
        const STOP = 1 << 3;
    }
}

/// Wakes one sleeping reaper. Each ring of the bell is counted, so none is lost, and any number of
/// them before the reaper polls cause one wake-up.
#[derive(Debug)]
pub struct Doorbell<W, P> {
    kicks: EventCounter<W>,
    ring_fulls: EventCounter<W>,
    stops: EventCounter<W>,
    park: P,
}

/// How far the one sleeper of a [`Doorbell`] has polled it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    kicks: Watermark,
    ring_fulls: Watermark,
    /// The stops before its time, which were for others.
    stops: Watermark,
    kicks_total: u64,
}

impl Seen {
    /// Returns the kicks seen so far, one by one, even where several made one wake-up.
    pub const fn kicks(&self) -> u64 {
        self.kicks_total
    }
}

impl<W: SharedWord, P: Park> Doorbell<W, P> {
    /// Creates a doorbell that hasn't rung, for a sleeper at `park`.
    pub fn new(park: P) -> Self {
        Self {
            kicks: EventCounter::new(),
            ring_fulls: EventCounter::new(),
            stops: EventCounter::new(),
            park,
        }
    }

    /// Returns where the sleeper sleeps.
    pub const fn park(&self) -> &P {
        &self.park
    }

    /// Asks for a reap now. Harmless after a stop.
    pub fn kick(&self) {
        self.ring(&self.kicks);
    }

    /// Hands the rest of a full ring to the reaper.
    pub fn ring_full(&self) {
        self.ring(&self.ring_fulls);
    }

    /// Returns the mark of a sleeper that begins now: nothing that rang before is for it. (A
    /// [`Seen::default`] has seen nothing of a new doorbell.)
    pub fn seen_now(&self) -> Seen {
        Seen {
            kicks: Watermark::at(self.kicks.load()),
            ring_fulls: Watermark::at(self.ring_fulls.load()),
            stops: Watermark::at(self.stops.load()),
            kicks_total: 0,
        }
    }

    /// Asks the reaper to drain the rings and end; this can't be taken back.
    pub fn stop(&self) {
        self.ring(&self.stops);
    }

    fn ring(&self, cause: &EventCounter<W>) {
        cause.add(1);
        // After the count: a sleeper that is woken by this finds it.
        self.park.unpark();
    }

    /// Returns what rang since the last poll, without waiting. [`STOP`](Wakes::STOP) stays set.
    pub fn poll(&self, seen: &mut Seen) -> Wakes {
        // The stop first: what rang before it is found after it.
        let stops = self.stops.load();
        let kicks = seen.kicks.advance(self.kicks.load());
        seen.kicks_total = seen.kicks_total.saturating_add(kicks.into());
        let ring_fulls = seen.ring_fulls.advance(self.ring_fulls.load());
        let mut wakes = Wakes::empty();
        wakes.set(Wakes::KICK, kicks != 0);
        wakes.set(Wakes::RING_FULL, ring_fulls != 0);
        wakes.set(Wakes::STOP, stops != seen.stops.seen());
        wakes
    }

    /// Sleeps until the doorbell rings or `until` passes, and returns which. Where both happened the
    /// timer may go unmentioned: [`Planner::on_wake`](crate::planner::Planner::on_wake) sees by the
    /// clock that it was due. A spurious wake-up goes back to sleep.
    pub fn wait(&self, seen: &mut Seen, until: Instant) -> Wakes {
        loop {
            let wakes = self.poll(seen);
            if !wakes.is_empty() {
                return wakes;
            }
            if self.park.park_until(until) == Parked::TimedOut {
                return Wakes::TIMER | self.poll(seen);
            }
        }
    }
}

#[cfg(test)]
mod tests;
