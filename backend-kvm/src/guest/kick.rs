//! Getting a vCPU out of guest mode without losing a kick.
//!
//! The kick is a real-time signal that the vCPU's thread blocks everywhere except inside
//! `KVM_RUN` (`KVM_SET_SIGNAL_MASK`). Sent before the vCPU enters, it stays pending and `KVM_RUN`
//! returns at once; sent inside, it interrupts; and it never cuts the reset of a ring-full
//! callback short, because a blocked signal is not pending for `KVM_RESET_DIRTY_RINGS`.
//!
//! Whether the vCPU may be in guest mode, stops and kicks are all noted under one lock, so no
//! request can slip between a check and the entry.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use kvm_ioctls::VcpuFd;
use libc::{c_int, c_void, pid_t, siginfo_t};
use vmm_sys_util::errno;
use vmm_sys_util::signal::{self, SIGRTMIN};

use super::error::GuestError;
use super::sys;

/// How long a kick may stay unanswered before it is an error.
pub const KICK_LIMIT: Duration = Duration::from_secs(5);

/// The kick's distance from `SIGRTMIN`, away from the first ones, which VMMs use themselves.
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
    /// The thread that runs the vCPU.
    thread_id: pid_t,
    /// The vCPU is in `KVM_RUN`, on its way in, or on its way out.
    entered: bool,
    /// The kick signal was sent since the vCPU entered.
    signalled: bool,
    /// The next entry has to return at once.
    kick_pending: bool,
    stop: bool,
    /// How often the vCPU left guest mode; wraps.
    exits: u64,
}

/// What a vCPU that wants to enter guest mode has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Run,
    Kicked,
    Stop,
}

/// A kick that has not been waited for.
#[derive(Debug)]
#[must_use]
pub(super) struct Ticket {
    /// The exit count to be passed; none if the vCPU was outside guest mode.
    exits: Option<u64>,
}

impl VcpuKicker {
    pub(super) fn new(vcpu: usize) -> Self {
        Self {
            vcpu,
            shared: Arc::default(),
        }
    }

    /// Index of the vCPU that it kicks.
    #[must_use]
    pub const fn vcpu(&self) -> usize {
        self.vcpu
    }

    /// Makes the vCPU's current or next [`run`](super::GuestVcpu::run) return
    /// [`Interrupted`](super::GuestExit::Interrupted) soon, and doesn't wait for it.
    ///
    /// Kicks that come before the vCPU answers count as one. An exit for another reason, such as
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

    /// Makes the vCPU leave guest mode and returns once it has; the vCPU's thread takes it back in
    /// by itself. A vCPU outside guest mode is not disturbed.
    ///
    /// This is a flush: what the hardware logged before the call is in the ring afterwards.
    ///
    /// # Errors
    ///
    /// [`GuestError::KickTimeout`] after [`KICK_LIMIT`], or if the signal can't be sent.
    pub fn kick_and_wait(&self) -> Result<(), GuestError> {
        let ticket = self.begin_kick()?;
        self.wait(&ticket)
    }

    /// Makes the current and every later [`run`](super::GuestVcpu::run) return
    /// [`Stopped`](super::GuestExit::Stopped), and doesn't wait for it.
    ///
    /// # Errors
    ///
    /// If the signal can't be sent; the vCPU stops at its next exit all the same.
    pub fn request_stop(&self) -> Result<(), GuestError> {
        let mut state = self.lock();
        state.stop = true;
        self.signal(&mut state)
    }

    /// Whether [`request_stop`](Self::request_stop) was called.
    #[must_use]
    pub fn stop_requested(&self) -> bool {
        self.lock().stop
    }

    /// Kicks the vCPU if it is in guest mode; [`wait`](Self::wait) waits for it to leave.
    pub(super) fn begin_kick(&self) -> Result<Ticket, GuestError> {
        let mut state = self.lock();
        self.signal(&mut state)?;
        Ok(Ticket {
            exits: state.entered.then_some(state.exits),
        })
    }

    pub(super) fn wait(&self, ticket: &Ticket) -> Result<(), GuestError> {
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

    /// The error of a vCPU that did not answer within [`KICK_LIMIT`].
    pub(super) fn timeout(&self) -> GuestError {
        GuestError::KickTimeout {
            vcpu: self.vcpu,
            limit: KICK_LIMIT,
        }
    }

    /// Makes the calling thread the one that runs the vCPU: the kick signal is blocked on it from
    /// now on, and open while it is in `KVM_RUN`.
    pub(super) fn register_current_thread(&self, fd: &VcpuFd) -> Result<(), GuestError> {
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

    /// To be called right before `KVM_RUN`, which may follow only on [`Entry::Run`].
    pub(super) fn enter(&self) -> Entry {
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

    /// To be called right after `KVM_RUN`: takes the kick signal off the thread's queue and wakes
    /// those who wait.
    pub(super) fn leave(&self) -> Result<(), GuestError> {
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

    /// Sends the kick signal, once for each stay in guest mode.
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

/// Installs the handler that keeps a kick from ending the process. It does nothing, and as a rule
/// it isn't even called: a kick inside `KVM_RUN` is blocked again before `KVM_RUN` returns.
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
