//! The system calls that this crate makes, by the role of the thread: for seccomp filters.
//!
//! They are those of the crate alone. A thread needs more for its own life (to allocate, to end, to log),
//! and a vCPU's thread needs `KVM_RUN`. Memory that a role allocates is said with it, because an allocator
//! calls `mmap`, `munmap`, `mremap`, `madvise` and `brk`.
//!
//! | role | what it calls of this crate | system calls | allocates |
//! |---|---|---|---|
//! | [`SETS_UP`] | [`Support`](crate::Support), [`KvmRings`](crate::KvmRings), [`Tracker::add_vcpu`](crate::Tracker::add_vcpu) | `ioctl` (`KVM_CHECK_EXTENSION`, `KVM_ENABLE_CAP`), `fcntl`, `close`, `mmap`, `munmap`, `madvise`, `futex`, `clock_gettime` | yes; reads `/sys/module` on x86 with `openat`, `statx`, `read`, `close` |
//! | [`REAPS`] | [`ReaperBody::run`](crate::ReaperBody::run), [`turn`](crate::ReaperBody::turn) | `ioctl` (`KVM_RESET_DIRTY_RINGS`), `rt_sigprocmask`, `getrusage`, `futex`, `clock_gettime` | where it ends, and where pages go to the tracker's log |
//! | [`REAPS_PRECISELY`] | the same with [`wakes_precisely`](crate::ReaperBuilder::wakes_precisely) | `prctl` (`PR_SET_TIMERSLACK`), `sched_getattr`, `sched_setattr` besides | |
//! | [`MAKES_ROOM`] | [`VcpuHandle::on_ring_full`](crate::VcpuHandle::on_ring_full) | `ioctl` (`KVM_RESET_DIRTY_RINGS`), `rt_sigprocmask`, `getrusage`, `futex`, `clock_gettime` | where pages go to the tracker's log |
//! | [`READS`] | [`Tracker::flush`](crate::Tracker::flush), [`take`](crate::Tracker::take), [`update_memory`](crate::Tracker::update_memory), [`resync`](crate::Tracker::resync), [`stats`](crate::Tracker::stats), [`ReaperHandle::stop`](crate::ReaperHandle::stop) | as [`MAKES_ROOM`] | yes |
//!
//! `clock_gettime` is a system call for the CPU time of a thread; the monotonic clock is read without one
//! where the kernel's vDSO serves it, and with it elsewhere. Sinks, listeners and wakers are the
//! embedder's.

use libc::c_long;

/// Opens the rings: enables them, and maps those of vCPUs.
pub const SETS_UP: &[c_long] = &[
    libc::SYS_ioctl,
    libc::SYS_fcntl,
    libc::SYS_close,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
];

/// Runs a reaper.
pub const REAPS: &[c_long] = &[
    libc::SYS_ioctl,
    libc::SYS_rt_sigprocmask,
    libc::SYS_getrusage,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
];

/// Runs a reaper that wakes precisely: these besides [`REAPS`].
pub const REAPS_PRECISELY: &[c_long] = &[
    libc::SYS_prctl,
    libc::SYS_sched_getattr,
    libc::SYS_sched_setattr,
];

/// Runs a vCPU, and makes room in its ring.
pub const MAKES_ROOM: &[c_long] = &[
    libc::SYS_ioctl,
    libc::SYS_rt_sigprocmask,
    libc::SYS_getrusage,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
];

/// Reads what was dirtied, changes memory slots, asks for figures, starts and stops reapers.
pub const READS: &[c_long] = MAKES_ROOM;
