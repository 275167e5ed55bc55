//! System calls without a safe wrapper. All `unsafe` code of the test guest is here.

use kvm_bindings::{KVMIO, kvm_signal_mask, kvm_userspace_memory_region};
use kvm_ioctls::{VcpuFd, VmFd};
use libc::{c_int, c_uint, c_ulong, pid_t};
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestMemoryRegion, GuestRegionMmap};
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::{_IOC_WRITE, ioctl_expr, ioctl_with_ref};

use crate::layout::GuestSlot;

/// `KVM_SET_SIGNAL_MASK`. The kernel's structure ends in a flexible array, so the size in the
/// request number covers the length field alone (include/uapi/linux/kvm.h).
const KVM_SET_SIGNAL_MASK: c_ulong = ioctl_expr(
    _IOC_WRITE,
    KVMIO as c_uint,
    0x8b,
    size_of::<kvm_signal_mask>() as c_uint,
);

/// `struct kvm_signal_mask` with the kernel's 64-bit signal set.
#[repr(C)]
struct SignalMask {
    len_bytes: u32,
    signals: [u8; size_of::<u64>()],
}

/// Registers `slot` with KVM, or changes its flags. `region` backs the slot.
///
/// The caller must keep `region` mapped while the VM has vCPUs that may run.
pub(crate) fn set_memory_slot<B: Bitmap>(
    vm: &VmFd,
    slot: &GuestSlot,
    region: &GuestRegionMmap<B>,
    flags: u32,
) -> errno::Result<()> {
    if region.len() != slot.bytes() {
        return Err(errno::Error::new(libc::EINVAL));
    }
    let memory = kvm_userspace_memory_region {
        slot: slot.id,
        flags,
        guest_phys_addr: slot.guest_address,
        memory_size: slot.bytes(),
        userspace_addr: region.as_ptr() as u64,
    };
    // SAFETY: the region is a mapping of exactly this size (checked above), it is guest memory
    // that the host accesses through vm-memory alone, and every `Guest` and `GuestVcpu` keeps it
    // mapped.
    unsafe { vm.set_user_memory_region(memory) }
}

/// Removes slot `id` from KVM.
pub(crate) fn remove_memory_slot(vm: &VmFd, id: u32) -> errno::Result<()> {
    let nothing = kvm_userspace_memory_region {
        slot: id,
        ..kvm_userspace_memory_region::default()
    };
    // SAFETY: a size of 0 removes the slot (api.rst 4.35): KVM gets no memory.
    unsafe { vm.set_user_memory_region(nothing) }
}

/// Returns the calling thread's id, as `tgkill` expects it.
pub(crate) fn current_thread_id() -> pid_t {
    // SAFETY: gettid takes no argument, can't fail and has no side effect.
    unsafe { libc::gettid() }
}

/// Sends `signal` to a thread of this process.
pub(crate) fn signal_thread(thread_id: pid_t, signal: c_int) -> errno::Result<()> {
    // SAFETY: getpid takes no argument, can't fail and has no side effect.
    let process_id = unsafe { libc::getpid() };
    // SAFETY: tgkill takes integers only and affects this process alone.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, process_id, thread_id, signal) };
    if result == 0 {
        Ok(())
    } else {
        Err(errno::Error::last())
    }
}

/// Sets the signals that are blocked while the vCPU is in `KVM_RUN`; bit n stands for signal n + 1.
pub(crate) fn set_run_signal_mask(vcpu: &VcpuFd, blocked: u64) -> errno::Result<()> {
    let signals = blocked.to_ne_bytes();
    let mask = SignalMask {
        len_bytes: signals.len() as u32,
        signals,
    };
    // SAFETY: the kernel reads `len_bytes` bytes after the length field, all within `mask`.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_SET_SIGNAL_MASK, &mask) };
    if result == 0 {
        Ok(())
    } else {
        Err(errno::Error::last())
    }
}

/// Lets KVM reset harvested entries of all rings; returns how many it reset.
#[cfg(test)]
pub(crate) fn reset_dirty_rings(vm: &VmFd) -> errno::Result<u32> {
    use vmm_sys_util::ioctl::{_IOC_NONE, ioctl};

    const KVM_RESET_DIRTY_RINGS: c_ulong = ioctl_expr(_IOC_NONE, KVMIO as c_uint, 0xc7, 0);
    // SAFETY: the request takes no argument and touches only memory that KVM owns.
    let result = unsafe { ioctl(vm, KVM_RESET_DIRTY_RINGS) };
    u32::try_from(result).map_err(|_| errno::Error::last())
}
