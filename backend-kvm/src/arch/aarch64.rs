//! Arm64.

use super::Arch;

pub(super) const ARCH: Arch = Arch {
    allows_ordered_ring: false,
    // KVM on arm64 uses no log of the CPU.
    cpu_log_entries: || 0,
    // KVM writes the tables of the vGIC and the ITS when userspace saves them
    // (arch/arm64/kvm/vgic/vgic-its.c, `kvm_arch_allow_write_without_running_vcpu`).
    writes_without_vcpu: true,
};
