//! The signal behind a kick.
//!
//! A kick is a real-time signal that the vCPU's thread blocks everywhere except inside `KVM_RUN`
//! (`KVM_SET_SIGNAL_MASK`, api.rst 4.18). Sent before the vCPU enters, it stays pending and
//! `KVM_RUN` returns at once; sent inside, it interrupts `KVM_RUN`. It never ends the reset of a
//! ring-full callback early, because `KVM_RESET_DIRTY_RINGS` ignores blocked signals.

use std::sync::OnceLock;

use kvm_ioctls::VcpuFd;
use libc::{c_int, c_void, pid_t, siginfo_t};
use vmm_sys_util::errno;
use vmm_sys_util::signal::{self, SIGRTMIN};

use crate::error::GuestError;
use crate::sys;

/// The kick's distance from `SIGRTMIN`: VMMs use the first real-time signals themselves.
const KICK_SIGNAL_OFFSET: c_int = 7;

fn kick_signal() -> c_int {
    SIGRTMIN() + KICK_SIGNAL_OFFSET
}

/// Prepares the calling thread to run vCPU `vcpu`: from now on it blocks the signal, except inside
/// `KVM_RUN`. Returns the thread's id.
pub(crate) fn prepare_current_thread(vcpu: usize, fd: &VcpuFd) -> Result<pid_t, GuestError> {
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
        "set the signal mask of vCPU {vcpu}"
    )))?;
    Ok(sys::current_thread_id())
}

/// Sends the signal to a vCPU's thread.
pub(crate) fn send(thread_id: pid_t) -> Result<(), GuestError> {
    sys::signal_thread(thread_id, kick_signal()).map_err(|source| GuestError::Signal {
        action: "send the kick signal",
        source,
    })
}

/// Removes the signal from those pending for the calling thread.
pub(crate) fn clear() -> Result<(), GuestError> {
    signal::clear_signal(kick_signal()).map_err(GuestError::signal_mask("clear the kick signal"))
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
