//! Reapers: the builder, the body that reaps, and its owner's handle.

mod body;
mod handle;

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;

use dirty_ring_core::backend::Backend;
use dirty_ring_core::controller::Controller;
use dirty_ring_core::planner::{Events, NoEvents, PassRecord, Planner, PlannerState};

use crate::error::Error;
use crate::host::{self, Waker};
use crate::session::Session;
use crate::sink::PageSink;

pub use body::{Next, ReaperBody};
pub use handle::{ReaperHandle, Stopped};

/// Puts a reaper together, which [`Tracker::reaper`](crate::Tracker::reaper) begins.
///
/// Choose who runs it: a thread of this crate ([`start`](Self::start)), a thread of yours or your event
/// loop ([`split`](Self::split)).
pub struct ReaperBuilder {
    session: Arc<Session>,
    sink: Option<Box<dyn PageSink>>,
    events: Box<dyn Events + Send>,
    on_end: Box<OnEnd>,
    waker: Option<Waker>,
    wakes_precisely: bool,
}

type OnEnd = dyn FnOnce(Result<(), &Error>) + Send;

/// What a body and its handle share.
#[derive(Debug)]
struct Course<S> {
    planner: Mutex<PlannerState<S>>,
    /// Its last passes, once it has ended.
    history: Mutex<Option<Vec<PassRecord>>>,
    ended: Condvar,
}

impl ReaperBuilder {
    pub(crate) fn new(session: Arc<Session>, sink: Option<Box<dyn PageSink>>) -> Self {
        Self {
            session,
            sink,
            events: Box::new(NoEvents),
            on_end: Box::new(|_| ()),
            waker: None,
            wakes_precisely: false,
        }
    }

    /// Sets what hears of each pass, on the reaper's thread.
    #[must_use]
    pub fn events(mut self, events: impl Events + Send + 'static) -> Self {
        self.events = Box::new(events);
        self
    }

    /// Sets what is called on the reaper's thread when it ends: with `Ok` after a stop, and with the
    /// reason where it ended of itself. A VMM can wake its own loop there.
    #[must_use]
    pub fn on_end(mut self, on_end: impl FnOnce(Result<(), &Error>) + Send + 'static) -> Self {
        self.on_end = Box::new(on_end);
        self
    }

    /// Sets what is called, on any thread, when a body that is driven by turns should take one before its
    /// time: write to an eventfd there. It must not call the tracker.
    #[must_use]
    pub fn waker(mut self, waker: impl Fn() + Send + Sync + 'static) -> Self {
        self.waker = Some(Arc::new(waker));
        self
    }

    /// Sets whether the reaper's thread asks for precise wake-ups: no timer slack (50 us by default), and
    /// short slices, so that it preempts vCPU threads. It needs no privilege, but the system calls
    /// `prctl` (`PR_SET_TIMERSLACK`), `sched_getattr` and `sched_setattr`. Off by default.
    ///
    /// With small rings and fast guests it is the difference between a few ring-fulls and none.
    #[must_use]
    pub fn wakes_precisely(mut self, wakes_precisely: bool) -> Self {
        self.wakes_precisely = wakes_precisely;
        self
    }

    /// Starts a reaper thread, which lets `controller` decide. The sink gets what was published since the
    /// last reaper ended. The thread blocks all signals but those of its own instructions.
    ///
    /// # Errors
    /// Those of [`split`](Self::split); [`Error::Spawn`], [`Error::Signals`].
    pub fn start<C>(self, controller: C) -> Result<ReaperHandle<C>, Error>
    where
        C: Controller + Send + 'static,
        C::State: Send,
    {
        self.spawn(Planner::new(controller))
    }

    /// Starts a reaper thread that goes on from a saved state.
    ///
    /// # Errors
    /// [`Error::State`], and those of [`start`](Self::start).
    pub fn resume<C>(
        self,
        controller: C,
        state: &PlannerState<C::State>,
    ) -> Result<ReaperHandle<C>, Error>
    where
        C: Controller + Send + 'static,
        C::State: Send,
    {
        self.spawn(Planner::from_state(controller, state)?)
    }

    /// Creates a reaper without a thread: a handle for its owner, and a body to be
    /// [run](ReaperBody::run) on a thread of yours or driven by [turns](ReaperBody::turn) in your event
    /// loop.
    ///
    /// # Errors
    /// [`Error::HasReaper`]; [`Error::Sink`] where the sink refuses a slot, [`Error::Collect`] where it
    /// doesn't take the pages, or where the rings can't be reaped; [`Error::Reentrant`].
    pub fn split<C: Controller>(
        self,
        planner: Planner<C>,
    ) -> Result<(ReaperHandle<C>, ReaperBody<C>), Error> {
        let session = self.session;
        let collector = session.collector()?;
        // The controller may panic here, when nobody would end the reaper yet.
        let state = Mutex::new(planner.state());
        session.begin_reaper(planner.passes())?;
        let attached = collector.with(|collector| {
            collector.check_reaping()?;
            if let Some(sink) = self.sink {
                collector.backend_mut().set_sink(sink)?;
            }
            let mut rings = collector.backend().rings().iter();
            Ok::<_, Error>(rings.any(|ring| ring.is_at_least(1)))
        });
        let is_any_used = attached.inspect_err(|_| drop(session.end_reaper()))?;
        let course = Arc::new(Course {
            planner: state,
            history: Mutex::new(None),
            ended: Condvar::new(),
        });
        let handle = ReaperHandle::new(Arc::clone(&session), Arc::clone(&course));
        let doorbell = collector.doorbell();
        let body = ReaperBody::new(
            Arc::clone(&session),
            course,
            planner,
            doorbell.seen_now(),
            self.events,
            self.on_end,
            self.wakes_precisely,
        );
        doorbell.park().set_waker(self.waker);
        if is_any_used {
            // What was logged before may nearly fill a ring.
            doorbell.ring_full();
        }
        Ok((handle, body))
    }

    fn spawn<C>(self, planner: Planner<C>) -> Result<ReaperHandle<C>, Error>
    where
        C: Controller + Send + 'static,
        C::State: Send,
    {
        let (handle, body) = self.split(planner)?;
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("dirty-ring-reaper".into())
            .spawn(move || {
                let blocked = host::block_signals();
                let is_blocked = blocked.is_ok();
                let _ = ready.send(blocked);
                if is_blocked {
                    // The owner of the handle is told.
                    let _ = body.run();
                }
            });
        let handle = handle.joining(thread.map_err(Error::Spawn)?);
        match is_ready.recv() {
            Ok(Err(error)) => Err(Error::Signals(error)),
            _ => Ok(handle),
        }
    }
}

impl fmt::Debug for ReaperBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReaperBuilder").finish_non_exhaustive()
    }
}
