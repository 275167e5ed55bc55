//! Kicks that make a vCPU leave guest mode and pauses that keep it out, none of which is lost.
//!
//! One lock guards the vCPU's state (in guest mode or not), kicks, pauses and stops, so that no
//! request falls between a check and the entry.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kvm_ioctls::VcpuFd;
use libc::pid_t;

use crate::error::GuestError;
use crate::kick_signal;

/// Time after which an unanswered kick is an error. It is not a measure of speed: an emulated host
/// may take long, and only a vCPU that never answers should reach it.
pub const KICK_LIMIT: Duration = Duration::from_secs(60);

/// Makes one vCPU leave guest mode, from any thread. Clones kick the same vCPU.
#[derive(Debug, Clone)]
pub struct VcpuKicker {
    vcpu: usize,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Id of the thread that runs the vCPU.
    thread_id: pid_t,
    /// The vCPU is in `KVM_RUN`, on its way in, or on its way out.
    entered: bool,
    /// The kick signal was sent since the vCPU entered.
    signalled: bool,
    /// The next entry must return at once.
    kick_pending: bool,
    stop: bool,
    /// Number of pauses that last: the vCPU must not enter while there is one.
    pauses: usize,
    /// The vCPU's thread waits for the pauses to end.
    held: bool,
    /// The vCPU was dropped and never enters again.
    gone: bool,
    /// Number of times that the vCPU left guest mode; wraps.
    exits: u64,
}

/// What a vCPU about to enter guest mode must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    Run,
    Kicked,
    Stop,
}

/// A kick whose effect has not been awaited yet.
#[derive(Debug)]
#[must_use]
pub(crate) struct Ticket {
    /// Exit count that the vCPU has to leave behind; `None` if it was outside guest mode.
    exits: Option<u64>,
}

impl VcpuKicker {
    pub(crate) fn new(vcpu: usize) -> Self {
        Self {
            vcpu,
            shared: Arc::default(),
        }
    }

    /// Returns the index of the vCPU that it kicks.
    #[must_use]
    pub const fn vcpu(&self) -> usize {
        self.vcpu
    }

    /// Makes the vCPU's current or next [`run`](crate::GuestVcpu::run) return
    /// [`Interrupted`](crate::GuestExit::Interrupted), without waiting for it to return.
    ///
    /// Kicks that arrive before the vCPU answers count as one. An exit for another reason, such as
    /// a full ring, answers a kick as well.
    ///
    /// # Errors
    ///
    /// If the signal can't be sent.
    pub fn kick(&self) -> Result<(), GuestError> {
        let mut state = self.lock();
        if !state.entered {
            state.kick_pending = true;
            self.shared.changed.notify_all();
        }
        self.signal(&mut state)
    }

    /// Makes the vCPU leave guest mode and returns once it has left. The vCPU's thread re-enters
    /// guest mode on its own. Has no effect on a vCPU outside guest mode.
    ///
    /// Acts as a flush: what the hardware logged before the call is in the ring afterwards.
    ///
    /// # Errors
    ///
    /// [`GuestError::KickTimeout`] after [`KICK_LIMIT`], or if the signal can't be sent.
    pub fn kick_and_wait(&self) -> Result<(), GuestError> {
        let ticket = self.begin_kick()?;
        self.wait(&ticket)
    }

    /// Makes the current and every later [`run`](crate::GuestVcpu::run) return
    /// [`Stopped`](crate::GuestExit::Stopped), without waiting for it to return.
    ///
    /// # Errors
    ///
    /// If the signal can't be sent; the vCPU still stops at its next exit.
    pub fn request_stop(&self) -> Result<(), GuestError> {
        let mut state = self.lock();
        state.stop = true;
        self.shared.changed.notify_all();
        self.signal(&mut state)
    }

    /// Returns whether [`request_stop`](Self::request_stop) was called.
    #[must_use]
    pub fn stop_requested(&self) -> bool {
        self.lock().stop
    }

    /// Kicks the vCPU if it is in guest mode; [`wait`](Self::wait) waits for it to leave.
    pub(crate) fn begin_kick(&self) -> Result<Ticket, GuestError> {
        let mut state = self.lock();
        self.signal(&mut state)?;
        Ok(Ticket {
            exits: state.entered.then_some(state.exits),
        })
    }

    /// Waits until the vCPU has left guest mode since the kick of `ticket`.
    pub(crate) fn wait(&self, ticket: &Ticket) -> Result<(), GuestError> {
        let Some(exits) = ticket.exits else {
            return Ok(());
        };
        self.wait_until(|state| state.exits != exits)
    }

    /// Begins a pause: the vCPU leaves guest mode and stays out until
    /// [`end_pause`](Self::end_pause). The pause counts even if this fails.
    pub(crate) fn begin_pause(&self) -> Result<(), GuestError> {
        let mut state = self.lock();
        state.pauses += 1;
        self.signal(&mut state)
    }

    /// Waits until the vCPU's thread is held by the pause or has ended: not in guest mode, and not
    /// between an exit and the next [`enter`](Self::enter) either.
    pub(crate) fn wait_for_pause(&self) -> Result<(), GuestError> {
        self.wait_until(|state| state.held || state.gone)
    }

    /// Ends one pause.
    pub(crate) fn end_pause(&self) {
        self.lock().pauses -= 1;
        self.shared.changed.notify_all();
    }

    /// Notes that the vCPU is dropped.
    pub(crate) fn note_gone(&self) {
        self.lock().gone = true;
        self.shared.changed.notify_all();
    }

    /// Waits until `reached` is true of the state, at most [`KICK_LIMIT`].
    fn wait_until(&self, reached: impl Fn(&State) -> bool) -> Result<(), GuestError> {
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(self.lock(), KICK_LIMIT, |state| !reached(state))
            .unwrap_or_else(PoisonError::into_inner);
        if reached(&state) {
            Ok(())
        } else {
            Err(self.timeout())
        }
    }

    /// Returns the error of a vCPU that did not answer within [`KICK_LIMIT`].
    pub(crate) fn timeout(&self) -> GuestError {
        GuestError::KickTimeout {
            vcpu: self.vcpu,
            limit: KICK_LIMIT,
        }
    }

    /// Registers the calling thread as the one that runs the vCPU: from now on it blocks the kick
    /// signal, except inside `KVM_RUN`.
    pub(crate) fn register_current_thread(&self, fd: &VcpuFd) -> Result<(), GuestError> {
        let thread_id = kick_signal::prepare_current_thread(self.vcpu, fd)?;
        self.lock().thread_id = thread_id;
        Ok(())
    }

    /// Notes that `KVM_RUN` is about to be called, which is allowed only after [`Entry::Run`].
    /// During a pause, waits for its end, a kick or a stop.
    pub(crate) fn enter(&self) -> Entry {
        let mut state = self.lock();
        while state.pauses > 0 && !state.stop && !state.kick_pending {
            if !state.held {
                state.held = true;
                self.shared.changed.notify_all();
            }
            state = self
                .shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.held = false;
        if state.stop {
            return Entry::Stop;
        }
        if std::mem::take(&mut state.kick_pending) {
            return Entry::Kicked;
        }
        state.entered = true;
        Entry::Run
    }

    /// Notes that `KVM_RUN` has returned: clears the pending kick signal of the thread and wakes
    /// the waiting threads.
    pub(crate) fn leave(&self) -> Result<(), GuestError> {
        let mut state = self.lock();
        state.entered = false;
        state.exits = state.exits.wrapping_add(1);
        self.shared.changed.notify_all();
        if std::mem::take(&mut state.signalled) {
            kick_signal::clear()?;
        }
        Ok(())
    }

    /// Sends the kick signal, at most once per stay in guest mode.
    fn signal(&self, state: &mut State) -> Result<(), GuestError> {
        if state.entered && !state.signalled {
            kick_signal::send(state.thread_id)?;
            state.signalled = true;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
