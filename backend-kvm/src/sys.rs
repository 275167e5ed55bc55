//! The system calls of the rings and their shared memory: `unsafe` in one place.

use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::errno::Errno;

// The interface of the kernel (include/uapi/linux/kvm.h). The tests compare it with kvm-bindings.

const KVMIO: u32 = 0xae;
const KVM_CHECK_EXTENSION: libc::Ioctl = libc::_IO(KVMIO, 0x03);
const KVM_ENABLE_CAP: libc::Ioctl = libc::_IOW::<EnableCapability>(KVMIO, 0xa3);
const KVM_RESET_DIRTY_RINGS: libc::Ioctl = libc::_IO(KVMIO, 0xc7);

/// Page of a vCPU's descriptor at which its ring begins (`KVM_DIRTY_LOG_PAGE_OFFSET`).
pub(crate) const RING_FIRST_PAGE: u32 = 64;

/// `struct kvm_enable_cap`.
#[repr(C)]
struct EnableCapability {
    capability: u32,
    flags: u32,
    arguments: [u64; 4],
    padding: [u8; 64],
}

/// `struct kvm_dirty_gfn` as shared memory: the kernel writes it while userspace reads it.
#[repr(C)]
pub(crate) struct SharedEntry {
    pub(crate) flags: AtomicU32,
    pub(crate) slot: AtomicU32,
    pub(crate) offset: AtomicU64,
}

const _: () = {
    assert!(size_of::<EnableCapability>() == 104);
    assert!(size_of::<SharedEntry>() == dirty_ring_core::size::ENTRY_BYTES as usize);
    assert!(offset_of!(SharedEntry, slot) == 4 && offset_of!(SharedEntry, offset) == 8);
};

/// A mapping of one ring; unmapped when dropped.
#[derive(Debug)]
pub(crate) struct EntryMapping {
    first: NonNull<SharedEntry>,
    entries: usize,
}

// SAFETY: the mapping belongs to this value alone and isn't tied to a thread; its contents are
// atomics, which any thread may use through a shared reference.
unsafe impl Send for EntryMapping {}
// SAFETY: as above.
unsafe impl Sync for EntryMapping {}

impl EntryMapping {
    /// Maps `entries` entries at byte `offset` of `vcpu`.
    pub(crate) fn new(vcpu: &impl AsRawFd, entries: usize, offset: i64) -> Result<Self, Errno> {
        let bytes = entries * size_of::<SharedEntry>();
        // SAFETY: a new shared mapping at an address of the kernel's choice touches no memory that
        // Rust knows of; a bad descriptor or offset makes it fail.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                offset,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        match NonNull::new(address.cast()) {
            Some(first) => Ok(Self { first, entries }),
            None => Err(Errno::new(libc::ENOMEM)),
        }
    }

    /// Faults the entries in, and so finds out whether there are any: KVM maps the ring of a VM
    /// without rings just as well, and the first touch is a SIGBUS. Returns whether the kernel knows
    /// how to (5.14 and later do).
    pub(crate) fn populate(&self) -> Result<bool, Errno> {
        let bytes = self.entries * size_of::<SharedEntry>();
        let address = self.first.as_ptr().cast();
        // SAFETY: the range is the mapping of `self`, and populating changes no contents.
        let result = unsafe { libc::madvise(address, bytes, libc::MADV_POPULATE_WRITE) };
        match check(result) {
            Ok(_) => Ok(true),
            Err(error) if error.code() == libc::EINVAL => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns the entries.
    pub(crate) const fn entries(&self) -> &[SharedEntry] {
        // SAFETY: `first` is the page-aligned beginning of a mapping of `entries` entries that
        // lives as long as `self`; every bit pattern is valid for atomics, and nothing but the
        // kernel and these atomics writes to it.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.entries) }
    }
}

impl Drop for EntryMapping {
    fn drop(&mut self) {
        let bytes = self.entries * size_of::<SharedEntry>();
        // SAFETY: exactly the mapping that `new` made, and no reference into it outlives `self`.
        // It can only fail for arguments that aren't a mapping.
        let _ = unsafe { libc::munmap(self.first.as_ptr().cast(), bytes) };
    }
}

/// Returns whether the ring of `vcpu` goes on at byte `offset`, where its mapping is expected to end.
/// A byte beyond the ring can't be faulted in (virt/kvm/kvm_main.c, `kvm_page_in_dirty_ring`).
pub(crate) fn ring_goes_on(vcpu: &impl AsRawFd, offset: i64) -> bool {
    let entries = page_bytes().unwrap_or(0) / size_of::<SharedEntry>();
    let beyond = EntryMapping::new(vcpu, entries, offset);
    beyond.is_ok_and(|beyond| beyond.populate() == Ok(true))
}

/// Calls `KVM_CHECK_EXTENSION`; returns 0 for what KVM doesn't know.
pub(crate) fn check_extension(kvm: &impl AsRawFd, capability: u32) -> u32 {
    // SAFETY: the request takes a number and touches no memory; on another kind of descriptor it fails.
    let answer = unsafe {
        libc::ioctl(
            kvm.as_raw_fd(),
            KVM_CHECK_EXTENSION,
            libc::c_ulong::from(capability),
        )
    };
    u32::try_from(answer).unwrap_or(0)
}

/// Calls `KVM_ENABLE_CAP`.
pub(crate) fn enable_capability(
    vm: &impl AsRawFd,
    capability: u32,
    argument: u64,
) -> Result<(), Errno> {
    let enable = EnableCapability {
        capability,
        flags: 0,
        arguments: [argument, 0, 0, 0],
        padding: [0; 64],
    };
    // SAFETY: the kernel reads the structure, whose size is part of the request; on another kind of
    // descriptor it fails.
    let result = unsafe { libc::ioctl(vm.as_raw_fd(), KVM_ENABLE_CAP, &raw const enable) };
    check(result).map(|_| ())
}

/// Calls `KVM_RESET_DIRTY_RINGS`; returns the entries reset, maybe fewer than were harvested.
pub(crate) fn reset_dirty_rings(vm: &OwnedFd) -> Result<u32, Errno> {
    // SAFETY: the request takes no argument and touches no memory of ours but the rings, whose
    // entries are atomics.
    check(unsafe { libc::ioctl(vm.as_raw_fd(), KVM_RESET_DIRTY_RINGS, 0) })
}

/// Duplicates a descriptor, so that it stays open as long as it is needed.
pub(crate) fn duplicate(descriptor: &impl AsRawFd) -> Result<OwnedFd, Errno> {
    const LOWEST: libc::c_int = 0;
    // SAFETY: takes numbers only; a descriptor that isn't open makes it fail.
    let result = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, LOWEST) };
    check(result)?;
    // SAFETY: the kernel made this descriptor a moment ago, and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// The signals of a thread, as the kernel's `sigset_t`: bit n stands for signal n + 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SignalMask(u64);

impl SignalMask {
    /// All signals, those that the C library keeps to itself included, but for those that a thread's
    /// own instructions raise: the kernel kills a thread that blocks one of those and raises it.
    pub(crate) const ALL_ASYNCHRONOUS: Self = Self(
        !(bit(libc::SIGSYS)
            | bit(libc::SIGSEGV)
            | bit(libc::SIGBUS)
            | bit(libc::SIGFPE)
            | bit(libc::SIGILL)
            | bit(libc::SIGTRAP)),
    );

    /// Blocks these signals on the calling thread and no others; returns what was blocked before.
    ///
    /// Calls the kernel, because the C library leaves its own signals (32 and 33) open.
    pub(crate) fn set(self) -> Result<Self, Errno> {
        let mut before = Self(0);
        // SAFETY: the kernel reads the one set and writes the other, each of the size that it is told.
        let result = unsafe {
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK,
                &raw const self.0,
                &raw mut before.0,
                size_of::<u64>(),
            )
        };
        check_long(result).map(|()| before)
    }
}

const fn bit(signal: libc::c_int) -> u64 {
    1 << (signal - 1)
}

/// Returns how often the calling thread gave up its CPU of its own accord.
pub(crate) fn voluntary_switches() -> Result<i64, Errno> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel writes one structure of this type.
    check(unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) })?;
    // SAFETY: zeroes are valid for these integers, and so is what the kernel wrote over them.
    Ok(unsafe { usage.assume_init() }.ru_nvcsw)
}

/// Returns the CPU time that the calling thread has used.
pub(crate) fn thread_cpu() -> Result<std::time::Duration, Errno> {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the kernel writes one structure of this type.
    check(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr()) })?;
    // SAFETY: zeroes are valid for these integers, and so is what the kernel wrote over them.
    let time = unsafe { time.assume_init() };
    // A time that was used is not negative, and its nanoseconds are below a second.
    Ok(std::time::Duration::new(
        time.tv_sec as u64,
        time.tv_nsec as u32,
    ))
}

/// Returns the size of a page of this host, in bytes; `None` where the host doesn't tell.
pub(crate) fn page_bytes() -> Option<usize> {
    // SAFETY: takes a number and touches no memory.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).ok().filter(|bytes| *bytes != 0)
}

/// Sets how late the calling thread's sleeps may end, in nanoseconds.
pub(crate) fn set_timer_slack(slack_ns: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: the request takes a number and concerns this thread alone.
    check(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, slack_ns) }).map(|_| ())
}

/// Asks the scheduler for slices of `slice_ns` on the calling thread, and so for wake-ups that
/// preempt threads with longer ones (EEVDF, since Linux 6.12; older kernels ignore it).
pub(crate) fn set_slice(slice_ns: u64) -> Result<(), Errno> {
    const THIS_THREAD: libc::pid_t = 0;
    const NO_FLAGS: libc::c_uint = 0;
    let size = size_of::<libc::sched_attr>() as libc::c_uint;
    let mut attributes = MaybeUninit::<libc::sched_attr>::zeroed();
    // SAFETY: the kernel writes at most `size` bytes, which is the size of what it writes to.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_sched_getattr,
            THIS_THREAD,
            attributes.as_mut_ptr(),
            size,
            NO_FLAGS,
        )
    })?;
    // SAFETY: zeroes are valid for these integers, and so is what the kernel wrote over them.
    let mut attributes = unsafe { attributes.assume_init() };
    attributes.sched_runtime = slice_ns;
    // SAFETY: the kernel only reads the attributes, whose size they say themselves.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_sched_setattr,
            THIS_THREAD,
            &raw const attributes,
            NO_FLAGS,
        )
    })
}

/// Returns what a system call returned, or why it failed.
fn check(result: libc::c_int) -> Result<u32, Errno> {
    u32::try_from(result).map_err(|_| Errno::last())
}

fn check_long(result: libc::c_long) -> Result<(), Errno> {
    match result {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interface_of_the_kernel_is_that_of_kvm_bindings() {
        use kvm_bindings as uapi;

        assert_eq!(KVMIO, uapi::KVMIO);
        assert_eq!(RING_FIRST_PAGE, uapi::KVM_DIRTY_LOG_PAGE_OFFSET);
        assert_eq!(
            size_of::<EnableCapability>(),
            size_of::<uapi::kvm_enable_cap>()
        );
        assert_eq!(
            offset_of!(EnableCapability, arguments),
            offset_of!(uapi::kvm_enable_cap, args)
        );
        assert_eq!(size_of::<SharedEntry>(), size_of::<uapi::kvm_dirty_gfn>());
        assert_eq!(
            (
                offset_of!(SharedEntry, slot),
                offset_of!(SharedEntry, offset)
            ),
            (
                offset_of!(uapi::kvm_dirty_gfn, slot),
                offset_of!(uapi::kvm_dirty_gfn, offset)
            )
        );
    }

    #[test]
    fn a_descriptor_that_is_no_kvm_is_an_error_and_no_more() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(check_extension(&null, 1), 0);
        let error = enable_capability(&null, 1, 1).unwrap_err();
        assert_eq!(error.code(), libc::ENOTTY);
        let null = duplicate(&null).unwrap();
        assert_eq!(reset_dirty_rings(&null).unwrap_err().code(), libc::ENOTTY);
    }
}
