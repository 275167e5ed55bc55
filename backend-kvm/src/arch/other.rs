//! Architectures without rules of their own, such as riscv64.

use super::Arch;

/// The defaults of virt/kvm/dirty_ring.c, and the flavour that is legal on every architecture.
pub(super) const ARCH: Arch = Arch {
    allows_ordered_ring: false,
    cpu_log_entries: || 0,
    writes_without_vcpu: false,
};
