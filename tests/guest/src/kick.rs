//! Kicks that make a vCPU leave guest mode, none of which is lost.
//!
//! A kick is a real-time signal that the vCPU's thread blocks everywhere except inside `KVM_RUN`
//! (`KVM_SET_SIGNAL_MASK`, api.rst 4.18). Sent before the vCPU enters, it stays pending and
//! `KVM_RUN` returns at once; sent inside, it interrupts `KVM_RUN`. It never ends the reset of a
//! ring-full callback early, because `KVM_RESET_DIRTY_RINGS` ignores blocked signals.
//!
//! One lock guards the vCPU's state (in guest mode or not), kicks and stops, so that no request
//! falls between a check and the entry.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use kvm_ioctls::VcpuFd;
use libc::{c_int, c_void, pid_t, siginfo_t};
use vmm_sys_util::errno;
use vmm_sys_util::signal::{self, SIGRTMIN};

use crate::error::GuestError;
use crate::sys;

/// Time after which an unanswered kick is an error.
pub const KICK_LIMIT: Duration = Duration::from_secs(5);

/// The kick's distance from `SIGRTMIN`: VMMs use the first real-time signals themselves.
const KICK_SIGNAL_OFFSET: c_int = 7;

fn kick_signal() -> c_int {
    SIGRTMIN() + KICK_SIGNAL_OFFSET
}

/// Makes one vCPU leave guest mode, from any thread. Clones kick the same vCPU.
#[derive(Debug, Clone)]
pub struct VcpuKicker {
    vcpu: usize,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    left: Condvar,
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
        let deadline = Instant::now() + KICK_LIMIT;
        let mut state = self.lock();
        while state.exits == exits {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.timeout());
            }
            (state, _) = self
                .shared
                .left
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
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
        install_handler()?;
        match signal::block_signal(kick_signal()) {
            Ok(()) | Err(signal::Error::SignalAlreadyBlocked(_)) => {}
            Err(source) => return Err(GuestError::signal_mask("block the kick signal")(source)),
        }
        let blocked = signal::get_blocked_signals()
            .map_err(GuestError::signal_mask("read the signal mask"))?
            .into_iter()
            .filter(|&number| number > 0 && number != kick_signal())
            .fold(0u64, |mask, number| mask | 1 << (number - 1));
        sys::set_run_signal_mask(fd, blocked).map_err(GuestError::kvm(format!(
            "set the signal mask of vCPU {}",
            self.vcpu
        )))?;
        self.lock().thread_id = sys::current_thread_id();
        Ok(())
    }

    /// Notes that `KVM_RUN` is about to be called, which is allowed only after [`Entry::Run`].
    pub(crate) fn enter(&self) -> Entry {
        let mut state = self.lock();
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
        self.shared.left.notify_all();
        if std::mem::take(&mut state.signalled) {
            signal::clear_signal(kick_signal())
                .map_err(GuestError::signal_mask("clear the kick signal"))?;
        }
        Ok(())
    }

    /// Sends the kick signal, at most once per stay in guest mode.
    fn signal(&self, state: &mut State) -> Result<(), GuestError> {
        if state.entered && !state.signalled {
            sys::signal_thread(state.thread_id, kick_signal()).map_err(|source| {
                GuestError::Signal {
                    action: "send the kick signal",
                    source,
                }
            })?;
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

/// Installs the handler that keeps a kick from terminating the process. The handler does nothing
/// and is rarely called: a kick inside `KVM_RUN` is blocked again before `KVM_RUN` returns.
fn install_handler() -> Result<(), GuestError> {
    static INSTALLED: OnceLock<errno::Result<()>> = OnceLock::new();

    extern "C" fn ignore(_: c_int, _: *mut siginfo_t, _: *mut c_void) {}

    (*INSTALLED.get_or_init(|| signal::register_signal_handler(kick_signal(), ignore))).map_err(
        |source| GuestError::Signal {
            action: "install the handler of the kick signal",
            source,
        },
    )
}
