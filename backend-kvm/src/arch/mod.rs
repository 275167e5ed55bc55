//! Differences between CPU architectures that concern dirty rings.
//!
//! Each architecture is a constant, and all of them compile everywhere, so that tests on one host
//! cover the rules of the others.

mod aarch64;
mod other;
mod x86_64;

/// Rules of one CPU architecture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arch {
    /// Whether `KVM_CAP_DIRTY_LOG_RING` is legal. It promises userspace no ordering, so the CPU
    /// itself must keep stores in order (virt/kvm/Kconfig, `HAVE_KVM_DIRTY_RING_TSO`).
    pub(crate) allows_ordered_ring: bool,
    /// Returns the entries of the CPU's own log of dirty pages, which KVM keeps free in each ring
    /// (virt/kvm/dirty_ring.c, `kvm_cpu_dirty_log_size`).
    pub(crate) cpu_log_entries: fn() -> u32,
    /// Whether KVM writes guest memory outside any vCPU. Such writes reach no ring, but a bitmap
    /// (`KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP`, api.rst 8.29).
    pub(crate) writes_without_vcpu: bool,
}

/// Rules of the architecture that this crate is built for.
pub(crate) const HOST: Arch = if cfg!(target_arch = "x86_64") {
    x86_64::ARCH
} else if cfg!(target_arch = "aarch64") {
    aarch64::ARCH
} else {
    other::ARCH
};

#[cfg(test)]
pub(crate) const ALL: [(&str, Arch); 3] = [
    ("x86_64", x86_64::ARCH),
    ("aarch64", aarch64::ARCH),
    ("other", other::ARCH),
];
