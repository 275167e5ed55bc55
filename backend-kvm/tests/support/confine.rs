//! Filters that confine a thread to the system calls of its role.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// What a thread needs to allocate.
pub(crate) const ALLOCATES: &[libc::c_long] = &[
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
];

/// What a thread needs to end, and to say why it panicked.
pub(crate) const ENDS: &[libc::c_long] = &[
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_exit,
    libc::SYS_futex,
    // The standard library's own check, in debug builds, that a descriptor is open when it closes it.
    libc::SYS_fcntl,
    libc::SYS_close,
];

/// What the test guest's own threads need: kicks, pauses, and the end of the process.
pub(crate) const GUEST: &[libc::c_long] = &[
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
];

/// Lets the calling thread make the calls of `lists` alone, from now on and for good.
pub(crate) fn confine(lists: &[&[libc::c_long]]) {
    let calls = lists.concat();
    let rules: BTreeMap<i64, Vec<_>> = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Trap,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into().unwrap(),
    );
    let program: BpfProgram = filter.unwrap().try_into().unwrap();
    apply_filter(&program).unwrap();
}
