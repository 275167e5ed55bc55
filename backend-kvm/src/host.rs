//! What the backend wants of its host: the clock, the page size, signals, the lock and the bed.

use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{self, Duration};

use dirty_ring_core::sync::{Lock, Park, Parked};
use dirty_ring_core::time::{Instant, Micros};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::time::{ClockId, clock_gettime};

use crate::sys;

/// A clock that starts at 0 with the reaper.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: time::Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            start: time::Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> Instant {
        Instant(0) + self.start.elapsed().into()
    }
}

/// Bytes of a page of this host.
pub(crate) fn page_bytes() -> u32 {
    use nix::unistd::{SysconfVar, sysconf};
    let bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    bytes
        .and_then(|bytes| u32::try_from(bytes).ok())
        .unwrap_or(4096)
}

/// Returns whether this host's CPU logs dirty pages itself (Intel's page-modification logging), so
/// that KVM keeps 512 more entries of each ring free (arch/x86/kvm/vmx/vmx.c, parameter `pml`).
pub(crate) fn logs_with_pml() -> bool {
    logs_with_pml_under(Path::new("/sys/module"), Path::new("/proc/cpuinfo"))
}

fn logs_with_pml_under(modules: &Path, cpuinfo: &Path) -> bool {
    // The parameter is there whether kvm_intel is a module or built in. Other flavours of KVM on an
    // Intel CPU (kvm_pvm, or a guest without VMX) have no such log.
    if modules.join("kvm").is_dir() {
        let pml = std::fs::read_to_string(modules.join("kvm_intel/parameters/pml"));
        return pml.is_ok_and(|value| value.trim() == "Y");
    }
    // Sysfs is hidden, as in a jail. Assuming a log that isn't there wastes 512 entries; missing one
    // that is there would plan with entries that KVM keeps free.
    match std::fs::read_to_string(cpuinfo) {
        Ok(cpus) => cpus.split_ascii_whitespace().any(|flag| flag == "vmx"),
        Err(_) => cfg!(target_arch = "x86_64"),
    }
}

/// Blocks every signal on the calling thread: a pending one would end KVM's reset early.
pub(crate) fn block_signals() -> std::io::Result<()> {
    SigSet::all().thread_block().map_err(Into::into)
}

/// Runs `work` with every signal blocked on the calling thread.
pub(crate) fn without_signals<R>(work: impl FnOnce() -> R) -> R {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
    let result = work();
    if let Ok(before) = before {
        // It was the mask a moment ago: nothing can be wrong with it.
        let _ = before.thread_set_mask();
    }
    result
}

/// The scheduler's slice that a reaper asks for, in nanoseconds: a look takes some microseconds, a
/// reap some hundred. vCPU threads have 3 ms, as a rule.
const SLICE_NS: u64 = 100_000;

/// Lets the calling thread's sleeps end when they are due, not when the kernel finds it convenient
/// (the timer slack, 50 us) or when a vCPU thread on the same core has used up its slice. Neither
/// needs a privilege; where one fails, wakes are later.
pub(crate) fn wake_precisely() {
    if let Err(error) = nix::sys::prctl::set_timerslack(1) {
        tracing::debug!(%error, "the reaper's timer slack stays as it is");
    }
    if let Err(error) = sys::set_slice(SLICE_NS) {
        tracing::debug!(%error, "the reaper's slice stays as it is");
    }
}

/// Returns the CPU time that the calling thread has used.
pub(crate) fn thread_cpu() -> Option<Micros> {
    let used = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).ok()?;
    Some(Duration::from(used).into())
}

/// A mutex as core's [`Lock`].
#[derive(Debug)]
pub(crate) struct StdLock<T>(Mutex<T>);

impl<T> StdLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }
}

impl<T> Lock for StdLock<T> {
    type Guarded = T;

    fn with<R>(&self, critical: impl FnOnce(&mut T) -> R) -> R {
        critical(&mut lock(&self.0))
    }
}

/// Locks, whether or not a holder panicked: a collector is consistent after every step, and
/// reaping on loses less than stopping.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A condition variable with a token as core's [`Park`].
#[derive(Debug)]
pub(crate) struct StdPark {
    clock: Clock,
    token: Mutex<bool>,
    bell: Condvar,
}

impl StdPark {
    pub(crate) const fn new(clock: Clock) -> Self {
        Self {
            clock,
            token: Mutex::new(false),
            bell: Condvar::new(),
        }
    }
}

impl Park for StdPark {
    fn park_until(&self, until: Instant) -> Parked {
        let mut token = lock(&self.token);
        loop {
            if std::mem::take(&mut *token) {
                return Parked::Woken;
            }
            let now = self.clock.now();
            if now >= until {
                return Parked::TimedOut;
            }
            let left = Duration::from(until - now);
            token = self
                .bell
                .wait_timeout(token, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn unpark(&self) {
        *lock(&self.token) = true;
        self.bell.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::Signal;

    #[test]
    fn pml_is_what_kvm_intel_says_and_assumed_only_where_sysfs_is_hidden() {
        let root = std::env::temp_dir().join(format!("dirty-ring-pml-{}", std::process::id()));
        let (modules, cpuinfo) = (root.join("module"), root.join("cpuinfo"));
        let write = |path: &Path, text: &str| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let logs = || logs_with_pml_under(&modules, &cpuinfo);
        write(&cpuinfo, "vendor_id : GenuineIntel\nflags : fpu nx\n");
        assert!(!logs(), "no VMX, no log");
        write(&cpuinfo, "vendor_id : GenuineIntel\nflags : fpu vmx nx\n");
        assert!(logs(), "sysfs is hidden");
        write(&modules.join("kvm/parameters/halt_poll_ns"), "200000\n");
        assert!(!logs(), "KVM without kvm_intel");
        write(&modules.join("kvm_intel/parameters/pml"), "N\n");
        assert!(!logs());
        write(&modules.join("kvm_intel/parameters/pml"), "Y\n");
        assert!(logs());
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn an_unpark_before_the_park_is_not_lost() {
        let park = StdPark::new(Clock::start());
        park.unpark();
        assert_eq!(park.park_until(Instant::MAX), Parked::Woken);
    }

    #[test]
    fn a_park_ends_at_its_deadline_and_not_before() {
        let clock = Clock::start();
        let park = StdPark::new(clock);
        let until = clock.now() + Micros(2_000);
        assert_eq!(park.park_until(until), Parked::TimedOut);
        assert!(clock.now() >= until);
    }

    #[test]
    fn a_panicked_holder_leaves_the_lock_usable() {
        let guarded = StdLock::new(1);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            guarded.with(|_| panic!("a sink panicked"));
        }));
        assert!(result.is_err());
        assert_eq!(guarded.with(|value| *value), 1);
    }

    #[test]
    fn every_signal_is_blocked_during_the_work_and_none_more_after_it() {
        let before = SigSet::thread_get_mask().unwrap();
        let during = without_signals(|| SigSet::thread_get_mask().unwrap());
        for signal in [Signal::SIGALRM, Signal::SIGUSR1, Signal::SIGTERM] {
            assert!(during.contains(signal) && !before.contains(signal));
        }
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }
}
