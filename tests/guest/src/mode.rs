//! The processor mode in which the guest's code runs.

use kvm_bindings::{kvm_segment, kvm_sregs};

// Intel SDM volume 3, 2.5 (control registers) and 2.2.1 (EFER).
const CR0_PROTECTED: u64 = 1 << 0;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_NUMERIC_ERROR: u64 = 1 << 5;
const CR0_WRITE_PROTECT: u64 = 1 << 16;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG_MODE_ENABLE: u64 = 1 << 8;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;

// Segments without descriptor tables behind them: the guest's code loads none.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const CODE_TYPE: u8 = 11; // execute, read, accessed
const DATA_TYPE: u8 = 3; // read, write, accessed

/// The privilege level at which the guest's code runs. The code is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Privilege {
    /// CPL 3, which runs natively on every KVM host.
    #[default]
    User,
    /// CPL 0. Hosts without hardware virtualization emulate it, many instructions between two looks
    /// at the dirty ring, so that the ring can overrun there. Elsewhere it makes no difference.
    Kernel,
}

impl Privilege {
    const fn cpl(self) -> u8 {
        match self {
            Self::User => 3,
            Self::Kernel => 0,
        }
    }
}

/// Returns `sregs` in 64-bit mode at `privilege`, with the page tables at `pml4`.
///
/// The page tables map everything as user-accessible, which both levels may use: CR4 has neither
/// SMEP nor SMAP.
pub(crate) fn long_mode(sregs: kvm_sregs, privilege: Privilege, pml4: u64) -> kvm_sregs {
    let cpl = privilege.cpl();
    let code = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: CODE_SELECTOR | u16::from(cpl),
        type_: CODE_TYPE,
        present: 1,
        dpl: cpl,
        db: 0,
        s: 1,
        l: 1,
        g: 1,
        ..kvm_segment::default()
    };
    let data = kvm_segment {
        selector: DATA_SELECTOR | u16::from(cpl),
        type_: DATA_TYPE,
        db: 1,
        l: 0,
        ..code
    };
    kvm_sregs {
        cs: code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        cr0: CR0_PROTECTED
            | CR0_EXTENSION_TYPE
            | CR0_NUMERIC_ERROR
            | CR0_WRITE_PROTECT
            | CR0_PAGING,
        cr3: pml4,
        cr4: CR4_PAE,
        efer: EFER_LONG_MODE_ENABLE | EFER_LONG_MODE_ACTIVE,
        ..sregs
    }
}
