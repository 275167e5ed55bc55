//! The owner's handle of a reaper.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};

use dirty_ring_core::controller::{Controller, Policy};
use dirty_ring_core::planner::{PassRecord, PlannerState};

use super::Course;
use crate::error::Error;
use crate::host::lock;
use crate::session::{Ended, Session};
use crate::stats::ReaperStats;

/// A running reaper. Dropping it stops it as [`stop`](Self::stop) does; an error goes unreported.
pub struct ReaperHandle<C: Controller = Policy> {
    session: Arc<Session>,
    course: Arc<Course<C::State>>,
    thread: Option<JoinHandle<()>>,
    is_over: bool,
}

/// What a reaper that was stopped had done.
#[derive(Clone, Debug)]
pub struct Stopped<S> {
    /// Its figures, the final drain included.
    pub stats: ReaperStats,
    /// The planner's state, for [`ReaperBuilder::resume`](super::ReaperBuilder::resume).
    pub planner: PlannerState<S>,
    /// Its last passes, oldest first.
    pub history: Vec<PassRecord>,
}

impl<C: Controller> ReaperHandle<C> {
    pub(super) fn new(session: Arc<Session>, course: Arc<Course<C::State>>) -> Self {
        Self {
            session,
            course,
            thread: None,
            is_over: false,
        }
    }

    /// Lets the end wait for `thread`.
    pub(super) fn joining(mut self, thread: JoinHandle<()>) -> Self {
        self.thread = Some(thread);
        self
    }

    /// Asks the reaper for a pass over all rings, without waiting for it.
    pub fn kick(&self) {
        self.session.own_collector().doorbell().kick();
    }

    /// Asks the reaper to drain the rings and end, without waiting for it. For an event loop, which takes
    /// the turns that are left itself; [`stop`](Self::stop) has to follow.
    pub fn request_stop(&self) {
        self.session.own_collector().doorbell().stop();
    }

    /// Returns the planner's state as of the last pass, while the reaper runs on.
    pub fn planner_state(&self) -> PlannerState<C::State> {
        *lock(&self.course.planner)
    }

    /// Stops the reaper: it drains the rings once more, publishes, and ends. What vCPUs dirty from
    /// then on stays in their rings, or is kept for the next reaper's sink; nothing is lost.
    ///
    /// Waits until its body has ended, on whatever thread that runs. If nothing runs it any more, drop the
    /// body before: then the rings are drained here.
    ///
    /// # Errors
    /// Why the reaper ended before, or failed to drain the rings, or that pages were lost. The reaper is
    /// gone all the same, and what it leaves is with the tracker: see
    /// [`Tracker::stats`](crate::Tracker::stats) and [`Tracker::state`](crate::Tracker::state).
    /// [`Error::Reentrant`] in a sink, a listener or a change of memory slots, and on the thread that
    /// takes the turns of a body which isn't done; the reaper then ends as soon as that goes on.
    pub fn stop(mut self) -> Result<Stopped<C::State>, Error> {
        self.end()
    }

    fn end(&mut self) -> Result<Stopped<C::State>, Error> {
        self.is_over = true;
        let session = &*self.session;
        self.request_stop();
        let has_ended = lock(&self.course.history).is_some();
        let is_inside = session.is_reaper_thread() || (session.is_driver() && !has_ended);
        if is_inside || session.collector().is_err() {
            session.abandon();
            return Err(Error::Reentrant);
        }
        let history = self.wait();
        // In `on_end` the calling thread is the reaper's own, which can't wait for itself.
        let is_own = |thread: &JoinHandle<()>| thread.thread().id() == thread::current().id();
        if let Some(thread) = self.thread.take().filter(|thread| !is_own(thread)) {
            // A panic of the reaper was caught, and noted.
            let _ = thread.join();
        }
        // A body that was dropped has drained nothing.
        let drained = session.collector()?.drain(|| session.clock.now());
        let Ended {
            progress,
            checked,
            sink: _sink,
        } = session.end_reaper();
        checked?;
        if let Some(message) = progress.panic {
            return Err(Error::Panicked(message));
        }
        drained?;
        Ok(Stopped {
            stats: session.stats_of(&progress)?,
            planner: self.planner_state(),
            history,
        })
    }

    /// Waits until the body has ended; returns its last passes.
    fn wait(&self) -> Vec<PassRecord> {
        let mut history = lock(&self.course.history);
        loop {
            if let Some(history) = history.take() {
                return history;
            }
            history = self
                .course
                .ended
                .wait(history)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<C: Controller> Drop for ReaperHandle<C> {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.end();
        }
    }
}

impl<C: Controller> fmt::Debug for ReaperHandle<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReaperHandle").finish_non_exhaustive()
    }
}
