//! The system calls of the rings and their shared memory: `unsafe` in one place.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use kvm_bindings::{KVMIO, kvm_dirty_gfn};
use kvm_ioctls::{Error as KvmError, VcpuFd, VmFd};
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(KVM_RESET_DIRTY_RINGS, KVMIO, 0xc7);

/// `struct kvm_dirty_gfn` as shared memory: the kernel writes it while userspace reads it.
#[repr(C)]
pub(crate) struct SharedEntry {
    pub(crate) flags: AtomicU32,
    pub(crate) slot: AtomicU32,
    pub(crate) offset: AtomicU64,
}

const _: () = {
    assert!(size_of::<SharedEntry>() == size_of::<kvm_dirty_gfn>());
    assert!(align_of::<SharedEntry>() == align_of::<kvm_dirty_gfn>());
    assert!(std::mem::offset_of!(SharedEntry, slot) == std::mem::offset_of!(kvm_dirty_gfn, slot));
    assert!(
        std::mem::offset_of!(SharedEntry, offset) == std::mem::offset_of!(kvm_dirty_gfn, offset)
    );
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
    pub(crate) fn new(vcpu: &VcpuFd, entries: usize, offset: i64) -> Result<Self, KvmError> {
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
            return Err(KvmError::last());
        }
        let Some(first) = NonNull::new(address.cast()) else {
            return Err(KvmError::new(libc::ENOMEM));
        };
        Ok(Self { first, entries })
    }

    /// Faults the entries in, and so finds out whether there are any: KVM maps the ring of a VM
    /// without rings just as well, and the first touch is a SIGBUS. Returns whether the kernel knows
    /// how to (5.14 and later do).
    pub(crate) fn populate(&self) -> Result<bool, KvmError> {
        let bytes = self.entries * size_of::<SharedEntry>();
        let address = self.first.as_ptr().cast();
        // SAFETY: the range is the mapping of `self`, and populating changes no contents.
        let result = unsafe { libc::madvise(address, bytes, libc::MADV_POPULATE_WRITE) };
        match KvmError::last() {
            _ if result == 0 => Ok(true),
            error if error.errno() == libc::EINVAL => Ok(false),
            error => Err(error),
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

/// Calls `KVM_RESET_DIRTY_RINGS`; returns the entries reset, maybe fewer than were harvested.
pub(crate) fn reset_dirty_rings(vm: &OwnedFd) -> Result<u32, KvmError> {
    // SAFETY: the request takes no argument and touches no memory of ours but the rings, whose
    // entries are atomics.
    let count = unsafe { ioctl(vm, KVM_RESET_DIRTY_RINGS()) };
    u32::try_from(count).map_err(|_| KvmError::last())
}

/// Asks the scheduler for slices of `slice_ns` on the calling thread, and so for wake-ups that
/// preempt threads with longer ones (EEVDF, since Linux 6.12; older kernels ignore it).
pub(crate) fn set_slice(slice_ns: u64) -> io::Result<()> {
    const THIS_THREAD: libc::pid_t = 0;
    const NO_FLAGS: libc::c_uint = 0;
    let size = size_of::<libc::sched_attr>() as libc::c_uint;
    let mut attributes = MaybeUninit::<libc::sched_attr>::zeroed();
    // SAFETY: the kernel writes at most `size` bytes, which is the size of what it writes to.
    let got = unsafe {
        libc::syscall(
            libc::SYS_sched_getattr,
            THIS_THREAD,
            attributes.as_mut_ptr(),
            size,
            NO_FLAGS,
        )
    };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroes are valid for these integers, and so is what the kernel wrote over them.
    let mut attributes = unsafe { attributes.assume_init() };
    attributes.sched_runtime = slice_ns;
    // SAFETY: the kernel only reads the attributes, whose size they say themselves.
    let set = unsafe {
        libc::syscall(
            libc::SYS_sched_setattr,
            THIS_THREAD,
            &raw const attributes,
            NO_FLAGS,
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Returns whether the ring of `vcpu` goes on at byte `offset`, where its mapping is expected to end.
/// A byte beyond the ring can't be faulted in (virt/kvm/kvm_main.c, `kvm_page_in_dirty_ring`).
pub(crate) fn ring_goes_on(vcpu: &VcpuFd, offset: i64) -> bool {
    let entries = crate::host::page_bytes() as usize / size_of::<SharedEntry>();
    let beyond = EntryMapping::new(vcpu, entries, offset);
    beyond.is_ok_and(|beyond| beyond.populate() == Ok(true))
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
    pub(crate) fn set(self) -> io::Result<Self> {
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
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(before)
    }
}

const fn bit(signal: libc::c_int) -> u64 {
    1 << (signal - 1)
}

/// Duplicates the descriptor of `vm`, so that it stays open as long as it is needed.
pub(crate) fn duplicate(vm: &VmFd) -> io::Result<OwnedFd> {
    // SAFETY: a `VmFd` owns its descriptor, and it is borrowed for this call: it is open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(vm.as_raw_fd()) };
    borrowed.try_clone_to_owned()
}
