//! A fair lock: its callers enter in the order in which they came.

use crate::sync::{Lock, Monitor, SharedWord};

/// A lock whose callers stand in line.
///
/// A plain mutex goes to whichever thread comes first after its release. A reaper that releases it
/// between two batches is awake and takes it again, batch after batch, before a vCPU on ring-full
/// has woken up. Here each caller draws a ticket, and tickets are served in order: a caller waits
/// for those ahead of it, for one critical section each, and never for one that came later. So a
/// vCPU on ring-full waits for at most one batch of the reaper.
///
/// `L` guards the value and is never contended. `W` counts the tickets: a caller's place in line
/// is one atomic addition. `M` is where the line sleeps, each thread in the lane of its ticket.
#[derive(Debug)]
pub struct FairLock<M, W, L> {
    /// Tickets drawn so far, which is the number of the next one. Wraps around.
    drawn: W,
    /// The ticket whose turn it is.
    serving: M,
    guarded: L,
}

impl<M: Monitor, W: SharedWord, L: Lock> FairLock<M, W, L> {
    /// Makes `guarded` fair; nothing else may lock it. The line stands at `serving`, whose word is
    /// the first ticket.
    pub fn new(serving: M, guarded: L) -> Self {
        let ticket = *serving.hold();
        Self {
            drawn: W::new(ticket),
            serving,
            guarded,
        }
    }

    /// Returns the number of the next ticket. It grows by one with each caller, and wraps around.
    pub fn drawn(&self) -> u32 {
        self.drawn.load()
    }

    /// Draws a ticket and waits until its turn.
    fn stand_in_line(&self) -> Turn<'_, M, W> {
        let ticket = self.drawn.add(1);
        let mut serving = self.serving.hold();
        while *serving != ticket {
            serving = self.serving.wait(serving, ticket);
        }
        Turn {
            drawn: &self.drawn,
            serving: &self.serving,
            next: ticket.wrapping_add(1),
        }
    }
}

impl<M: Monitor, W: SharedWord, L: Lock> Lock for FairLock<M, W, L> {
    type Guarded = L::Guarded;

    fn with<R>(&self, critical: impl FnOnce(&mut L::Guarded) -> R) -> R {
        let _turn = self.stand_in_line();
        self.guarded.with(critical)
    }
}

/// The turn of one caller. Its drop serves the next in line, even where a panic drops it.
struct Turn<'l, M: Monitor, W: SharedWord> {
    drawn: &'l W,
    serving: &'l M,
    next: u32,
}

impl<M: Monitor, W: SharedWord> Drop for Turn<'_, M, W> {
    fn drop(&mut self) {
        *self.serving.hold() = self.next;
        // A wake-up costs a system call even where no thread sleeps. The order matters: a caller that
        // found the old number under the mutex had drawn its ticket before, so the load sees it.
        if self.drawn.load() != self.next {
            self.serving.wake(self.next);
        }
    }
}

#[cfg(test)]
mod tests;
