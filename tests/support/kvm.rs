//! The host's KVM, for tests that need one.

use dirty_ring::kvm::Support;
use kvm_ioctls::Kvm;

/// Opens KVM where it has dirty rings and the host can run the test guest; else prints why tests
/// that need it are skipped.
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
