//! The reaper thread: the builder that starts it, and its owner's handle.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};

use dirty_ring_core::backend::Backend;
use dirty_ring_core::collector::CollectError;
use dirty_ring_core::controller::{Controller, Policy};
use dirty_ring_core::planner::{Events, NoEvents, PassRecord, Planner, PlannerState};
use dirty_ring_core::reaper::{Reaper, Turn};

use crate::error::{Error, RingsError};
use crate::host::{self, lock};
use crate::session::{Ended, Progress, Session};
use crate::sink::PageSink;
use crate::stats::ReaperStats;

/// Puts a reaper together, which [`Tracker::reaper`](crate::Tracker::reaper) begins.
pub struct ReaperBuilder {
    session: Arc<Session>,
    sink: Box<dyn PageSink>,
    events: Box<dyn Events + Send>,
    on_end: Box<OnEnd>,
}

type OnEnd = dyn FnOnce(Result<(), &Error>) + Send;

/// A running reaper. Dropping it stops it as [`stop`](Self::stop) does; an error goes unreported.
pub struct ReaperHandle<C: Controller = Policy> {
    session: Arc<Session>,
    planner: Arc<Mutex<PlannerState<C::State>>>,
    thread: Option<JoinHandle<Option<Reaper<C>>>>,
    is_over: bool,
}

/// What a reaper that was stopped had done.
#[derive(Clone, Debug)]
pub struct Stopped<S> {
    /// Its figures, the final drain included.
    pub stats: ReaperStats,
    /// The planner's state, for [`ReaperBuilder::resume`].
    pub planner: PlannerState<S>,
    /// Its last passes, oldest first.
    pub history: Vec<PassRecord>,
}

impl ReaperBuilder {
    pub(crate) fn new(session: Arc<Session>, sink: Box<dyn PageSink>) -> Self {
        Self {
            session,
            sink,
            events: Box::new(NoEvents),
            on_end: Box::new(|_| ()),
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

    /// Starts the reaper thread, which lets `controller` decide. The sink gets what was published
    /// since the last reaper ended.
    ///
    /// # Errors
    /// [`Error::HasReaper`]; [`Error::Sink`] where the sink refuses a slot, [`Error::Collect`] where it
    /// doesn't take the pages, or where the rings can't be reaped; [`Error::Spawn`],
    /// [`Error::Signals`], [`Error::Reentrant`].
    pub fn start<C>(self, controller: C) -> Result<ReaperHandle<C>, Error>
    where
        C: Controller + Send + 'static,
        C::State: Send,
    {
        self.spawn(Planner::new(controller))
    }

    /// Starts the reaper thread and goes on from a saved state.
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

    fn spawn<C>(self, planner: Planner<C>) -> Result<ReaperHandle<C>, Error>
    where
        C: Controller + Send + 'static,
        C::State: Send,
    {
        let Self {
            session,
            sink,
            mut events,
            on_end,
        } = self;
        let collector = session.collector()?;
        // The controller may panic here, when nobody would end the reaper yet.
        let state = Arc::new(Mutex::new(planner.state()));
        session.begin_reaper(planner.passes())?;
        // From here on the handle ends the reaper, whatever comes.
        let mut handle = ReaperHandle {
            session: Arc::clone(&session),
            planner: Arc::clone(&state),
            thread: None,
            is_over: false,
        };
        collector.with(|collector| {
            collector.check_reaping()?;
            collector.backend_mut().set_sink(sink)
        })?;
        let doorbell = collector.doorbell();
        let seen = doorbell.seen_now();
        if collector.with(|it| it.backend().rings().iter().any(|ring| ring.is_at_least(1))) {
            // What was logged before may nearly fill a ring.
            doorbell.ring_full();
        }
        let (ready, is_ready) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("dirty-ring-reaper".into())
            .spawn({
                let session = Arc::clone(&session);
                move || {
                    let blocked = host::block_signals();
                    let is_blocked = blocked.is_ok();
                    session.update(|progress| progress.thread = Some(thread::current().id()));
                    let _ = ready.send(blocked);
                    if !is_blocked {
                        return None;
                    }
                    host::wake_precisely();
                    let mut reaper = Reaper::following(planner, seen);
                    let ended = catch_unwind(AssertUnwindSafe(|| {
                        run(&session, &mut reaper, &state, &mut *events)
                    }));
                    end(&session, &ended, on_end);
                    Some(reaper)
                }
            });
        handle.thread = Some(thread.map_err(Error::Spawn)?);
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

/// Notes how the thread ended, and says so.
fn end(
    session: &Session,
    ended: &thread::Result<Result<(), CollectError<RingsError>>>,
    on_end: Box<OnEnd>,
) {
    let error = match ended {
        Ok(Ok(())) => None,
        Ok(Err(failure)) => Some(failure.clone().into()),
        Err(panic) => {
            let message = host::panic_message(&**panic);
            session.note_panic(message);
            Some(Error::Panicked(message.to_owned()))
        }
    };
    let is_abandoned = session.note_end();
    if let Some(error) = &error {
        log::error!("the reaper has ended: {error}");
    }
    let _left = is_abandoned.then(|| session.end_reaper());
    on_end(error.as_ref().map_or(Ok(()), Err));
}

/// Runs the reaper until it is done, and keeps the session's progress up to date.
fn run<C: Controller>(
    session: &Session,
    reaper: &mut Reaper<C>,
    state: &Mutex<PlannerState<C::State>>,
    events: &mut dyn Events,
) -> Result<(), CollectError<RingsError>> {
    let mut has_waited = false;
    let mut passes = reaper.planner().passes();
    let watch = |reaper: &Reaper<C>, turn: Turn| {
        let planner = reaper.planner();
        let is_new = planner.passes() != passes;
        passes = planner.passes();
        if is_new {
            if let Some(pass) = planner.last_pass() {
                events.on_pass(pass);
            }
            *lock(state) = planner.state();
        }
        session.update(|progress: &mut Progress| {
            progress.phase = planner.phase();
            progress.wakeups += u64::from(has_waited);
            if is_new {
                progress.passes = planner.passes();
                progress.last_pass = planner.last_pass().copied();
                progress.cpu = host::thread_cpu();
            }
        });
        has_waited = matches!(turn, Turn::Wait { .. });
    };
    reaper.run(session.own_collector(), || session.clock.now(), watch)
}

impl<C: Controller> ReaperHandle<C> {
    /// Asks the reaper for a pass over all rings, without waiting for it.
    pub fn kick(&self) {
        self.session.own_collector().doorbell().kick();
    }

    /// Returns the planner's state as of the last pass, while the reaper runs on.
    pub fn planner_state(&self) -> PlannerState<C::State> {
        *lock(&self.planner)
    }

    /// Stops the reaper: it drains the rings once more, publishes, and ends. What vCPUs dirty from
    /// then on stays in their rings, or is kept for the next reaper's sink; nothing is lost.
    ///
    /// # Errors
    /// Why the reaper ended before, or failed to drain the rings, or that pages were lost. The reaper is
    /// gone all the same, and what it leaves is with the tracker: see
    /// [`Tracker::stats`](crate::Tracker::stats) and [`Tracker::state`](crate::Tracker::state).
    /// [`Error::Reentrant`] on the reaper's own thread, or in a sink or a change of memory slots; the
    /// reaper then ends as soon as that returns.
    pub fn stop(mut self) -> Result<Stopped<C::State>, Error> {
        self.end()
    }

    fn end(&mut self) -> Result<Stopped<C::State>, Error> {
        self.is_over = true;
        let session = &*self.session;
        session.own_collector().doorbell().stop();
        if session.is_reaper_thread() || session.collector().is_err() {
            session.abandon();
            return Err(Error::Reentrant);
        }
        // A panic of the reaper was caught, and noted.
        let reaper = self.thread.take().and_then(|thread| thread.join().ok());
        let Ended {
            progress,
            checked,
            sink: _sink,
        } = session.end_reaper();
        checked?;
        if let Some(message) = progress.panic {
            return Err(Error::Panicked(message));
        }
        Ok(Stopped {
            stats: session.stats_of(&progress)?,
            planner: self.planner_state(),
            history: reaper
                .iter()
                .flatten()
                .flat_map(|reaper| reaper.planner().history().copied())
                .collect(),
        })
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
