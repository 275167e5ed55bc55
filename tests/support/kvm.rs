//! The host's KVM, for tests that need it.

use dirty_ring::kvm::Support;
use kvm_ioctls::Kvm;

/// KVM with dirty rings and a host that runs the test guest, or a line that says why what needs
/// them is skipped.
pub(crate) fn kvm() -> Option<Kvm> {
    if cfg!(not(target_arch = "x86_64")) {
        println!("skipped: the test guest is written for x86_64");
        return None;
    }
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            println!("skipped: /dev/kvm can't be used here: {error}");
            return None;
        }
    };
    match Support::probe(&kvm) {
        Ok(_) => Some(kvm),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}
