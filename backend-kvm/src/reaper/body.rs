//! The body of a reaper: what runs on a thread, or in an event loop.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use dirty_ring_core::controller::{Controller, Policy};
use dirty_ring_core::doorbell::Seen;
use dirty_ring_core::planner::{Events, Planner};
use dirty_ring_core::reaper::{Reaper, Turn};
use dirty_ring_core::time::Instant;

use super::{Course, OnEnd};
use crate::error::Error;
use crate::host::{self, lock};
use crate::session::{Progress, Session};

/// A reaper, to be run on a thread of its owner's, or driven by turns.
///
/// Dropping it ends the reaper; [`ReaperHandle::stop`](super::ReaperHandle::stop) drains the rings then.
pub struct ReaperBody<C: Controller = Policy> {
    session: Arc<Session>,
    course: Arc<Course<C::State>>,
    reaper: Reaper<C>,
    events: Box<dyn Events + Send>,
    on_end: Option<Box<OnEnd>>,
    wakes_precisely: bool,
    has_waited: bool,
    has_ended: bool,
}

/// What to do after a [`ReaperBody::turn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// Take another turn at once, or as soon as other work allows.
    Again,
    /// Take the next turn after that long, which is never 0 (a timerfd that is set to 0 is disarmed), or
    /// when the [waker](super::ReaperBuilder::waker) calls; `None`: only then.
    Wait(Option<Duration>),
    /// The reaper was stopped, and has drained the rings: drop the body.
    Done,
}

impl Next {
    /// Returns what to do at `now`, after `turn`.
    fn after(turn: Turn, now: Instant) -> Self {
        match turn {
            Turn::Again => Self::Again,
            Turn::Wait { until } if until == Instant::MAX => Self::Wait(None),
            Turn::Wait { until } if until <= now => Self::Again,
            Turn::Wait { until } => Self::Wait(Some((until - now).into())),
            Turn::Done => Self::Done,
        }
    }
}

impl<C: Controller> ReaperBody<C> {
    pub(super) fn new(
        session: Arc<Session>,
        course: Arc<Course<C::State>>,
        planner: Planner<C>,
        seen: Seen,
        events: Box<dyn Events + Send>,
        on_end: Box<OnEnd>,
        wakes_precisely: bool,
    ) -> Self {
        Self {
            session,
            course,
            reaper: Reaper::following(planner, seen),
            events,
            on_end: Some(on_end),
            wakes_precisely,
            has_waited: false,
            has_ended: false,
        }
    }

    /// Runs the reaper on the calling thread until it is stopped.
    ///
    /// The thread's signals stay as they are; they are blocked during each reset alone. Send the thread
    /// as few as possible: each one ends a wait early.
    ///
    /// # Errors
    /// Why it ended of itself, which [`ReaperHandle::stop`](super::ReaperHandle::stop) returns as well.
    pub fn run(mut self) -> Result<(), Error> {
        if self.wakes_precisely {
            host::wake_precisely();
        }
        loop {
            match self.take_turn()? {
                Turn::Again => {}
                Turn::Wait { until } => {
                    let doorbell = self.session.own_collector().doorbell();
                    self.reaper.sleep(doorbell, until);
                }
                Turn::Done => return Ok(()),
            }
        }
    }

    /// Takes a turn, which harvests one batch at most and waits for nothing but the lock. After a stop
    /// was [requested](super::ReaperHandle::request_stop), take turns until [`Next::Done`].
    ///
    /// # Errors
    /// Why the reaper ended of itself, which [`ReaperHandle::stop`](super::ReaperHandle::stop) returns as
    /// well. A turn after that, or after the last, is [`Next::Done`].
    pub fn turn(&mut self) -> Result<Next, Error> {
        let driver = Some(thread::current().id());
        self.session.update(|progress| progress.driver = driver);
        let turn = self.take_turn()?;
        Ok(Next::after(turn, self.session.clock.now()))
    }

    fn take_turn(&mut self) -> Result<Turn, Error> {
        if self.has_ended {
            return Ok(Turn::Done);
        }
        // Another thread may take the next one.
        let this_thread = thread::current().id();
        let has_waited = self.has_waited;
        self.session.update(|progress| {
            progress.thread = Some(this_thread);
            progress.wakeups += u64::from(has_waited);
        });
        let turn = catch_unwind(AssertUnwindSafe(|| self.turn_with_events()));
        self.session.update(|progress| progress.thread = None);
        match turn {
            Ok(Ok(Turn::Done)) => {
                self.end(None);
                Ok(Turn::Done)
            }
            Ok(Ok(turn)) => {
                self.has_waited = matches!(turn, Turn::Wait { .. });
                Ok(turn)
            }
            Ok(Err(error)) => {
                self.end(Some(&error));
                Err(error)
            }
            Err(panic) => {
                let message = host::panic_message(&*panic);
                self.session.note_panic(message);
                let error = Error::Panicked(message.to_owned());
                self.end(Some(&error));
                Err(error)
            }
        }
    }

    /// Takes a turn, and keeps the session's progress up to date.
    fn turn_with_events(&mut self) -> Result<Turn, Error> {
        let passes = self.reaper.planner().passes();
        let now = self.session.clock.now();
        let turn = self.reaper.turn(self.session.collector()?, now)?;
        let planner = self.reaper.planner();
        let is_new = planner.passes() != passes;
        if is_new {
            if let Some(pass) = planner.last_pass() {
                self.events.on_pass(pass);
            }
            *lock(&self.course.planner) = planner.state();
        }
        self.session.update(|progress: &mut Progress| {
            progress.phase = planner.phase();
            if is_new {
                progress.passes = planner.passes();
                progress.last_pass = planner.last_pass().copied();
                progress.cpu = host::thread_cpu();
            }
        });
        Ok(turn)
    }

    /// Notes that the reaper has ended, and says so.
    fn end(&mut self, error: Option<&Error>) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        let is_abandoned = self.session.note_end();
        self.session
            .own_collector()
            .doorbell()
            .park()
            .set_waker(None);
        if let Some(error) = error {
            log::error!("the reaper has ended: {error}");
        }
        let history = self.reaper.planner().history().copied().collect();
        *lock(&self.course.history) = Some(history);
        self.course.ended.notify_all();
        let _left = is_abandoned.then(|| self.session.end_reaper());
        if let Some(on_end) = self.on_end.take() {
            on_end(error.map_or(Ok(()), Err));
        }
    }
}

impl<C: Controller> Drop for ReaperBody<C> {
    fn drop(&mut self) {
        self.end(None);
    }
}

impl<C: Controller> fmt::Debug for ReaperBody<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReaperBody").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_is_over_already_is_no_wait_of_zero_length() {
        let until = Instant(1000);
        let next = |now| Next::after(Turn::Wait { until }, Instant(now));
        assert_eq!(next(999), Next::Wait(Some(Duration::from_micros(1))));
        assert_eq!((next(1000), next(1001)), (Next::Again, Next::Again));
        let endless = Turn::Wait {
            until: Instant::MAX,
        };
        assert_eq!(Next::after(endless, Instant(5)), Next::Wait(None));
    }
}
