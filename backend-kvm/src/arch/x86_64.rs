//! x86-64, whose Intel CPUs may keep a log of dirty pages of their own (page-modification logging).

use std::path::Path;

use dirty_ring_core::size::PML_ENTRIES;

use super::Arch;

pub(super) const ARCH: Arch = Arch {
    allows_ordered_ring: true,
    cpu_log_entries: || if logs_with_pml() { PML_ENTRIES } else { 0 },
    writes_without_vcpu: false,
};

/// Returns whether KVM uses page-modification logging on this host (arch/x86/kvm/vmx/vmx.c,
/// parameter `pml`).
fn logs_with_pml() -> bool {
    logs_with_pml_under(Path::new("/sys/module"), Path::new("/proc/cpuinfo"))
}

fn logs_with_pml_under(modules: &Path, cpuinfo: &Path) -> bool {
    // The parameter exists whether kvm_intel is a module or built in. Other flavours of KVM on an
    // Intel CPU (kvm_pvm, or a guest without VMX) have no such log.
    if modules.join("kvm").is_dir() {
        let pml = std::fs::read_to_string(modules.join("kvm_intel/parameters/pml"));
        return pml.is_ok_and(|value| value.trim() == "Y");
    }
    // Sysfs is hidden, as in a jail. Assuming a log that does not exist wastes 512 entries. Missing
    // one that does exist means planning with entries that KVM keeps free.
    match std::fs::read_to_string(cpuinfo) {
        Ok(cpus) => cpus.split_ascii_whitespace().any(|flag| flag == "vmx"),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pml_is_what_kvm_intel_says_and_assumed_only_where_sysfs_is_hidden() {
        let root = std::env::temp_dir().join(format!("dirty-ring-pml-{}", std::process::id()));
        let (modules, cpuinfo) = (root.join("module"), root.join("cpuinfo"));
        let write = |path: &Path, text: &str| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let logs = || logs_with_pml_under(&modules, &cpuinfo);
        assert!(logs(), "sysfs and procfs are hidden");
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
}
