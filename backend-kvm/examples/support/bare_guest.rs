//! The smallest guest that runs natively on every host: ten instructions in 64-bit mode at CPL 3 that
//! write a word to each page of their data, round after round.

pub(crate) const PAGE_BYTES: u64 = 4096;
/// Code and page tables.
pub(crate) const SYSTEM: u64 = 2 << 20;
pub(crate) const SYSTEM_PAGES: u64 = 4;
/// What the guest writes to.
pub(crate) const DATA: u64 = 256 << 20;
pub(crate) const DATA_PAGES: u64 = 16384;

pub(crate) const IS_HERE: bool = cfg!(target_arch = "x86_64");

#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::load;

/// Loads nothing.
#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn load(
    _kvm: &kvm_ioctls::Kvm,
    _vcpu: &kvm_ioctls::VcpuFd,
    _memory: &vm_memory::GuestMemoryMmap,
) -> Result<(), super::Failure> {
    Err("the guest's code is written for x86_64".into())
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_sregs};
    use kvm_ioctls::{Kvm, VcpuFd};
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    use super::{DATA, DATA_PAGES, PAGE_BYTES, SYSTEM};
    use crate::Failure;

    const PML4: u64 = SYSTEM + PAGE_BYTES;
    const PDPT: u64 = PML4 + PAGE_BYTES;
    const DIRECTORY: u64 = PDPT + PAGE_BYTES;
    const LARGE_PAGE_BYTES: u64 = 2 << 20;

    // Page table entries (Intel SDM 3, 4.5.4). Accessed and dirty are set, so no CPU writes to tables.
    const TABLE: u64 = 0x27; // present, writable, user, accessed
    const READ_ONLY: u64 = 0xe5; // present, user, accessed, dirty, 2 MiB
    const READ_WRITE: u64 = 0xe7;

    #[rustfmt::skip]
    const CODE: [u8; 25] = [
        // round:
        0x48, 0x89, 0xf1,                         // mov rcx, rsi
        // write:
        0x48, 0xff, 0xc0,                         // inc rax
        0x48, 0x89, 0x01,                         // mov [rcx], rax
        0x48, 0x81, 0xc1, 0x00, 0x10, 0x00, 0x00, // add rcx, 4096
        0x48, 0x39, 0xd1,                         // cmp rcx, rdx
        0x72, 0xee,                               // jb write
        0xeb, 0xe9,                               // jmp round
        0x0f, 0x0b,                               // ud2
    ];

    /// Loads code and page tables, and puts the vCPU at the first instruction.
    pub(crate) fn load(kvm: &Kvm, vcpu: &VcpuFd, memory: &GuestMemoryMmap) -> Result<(), Failure> {
        memory.write_slice(&CODE, GuestAddress(SYSTEM))?;
        memory.write_obj(PDPT | TABLE, GuestAddress(PML4))?;
        memory.write_obj(DIRECTORY | TABLE, GuestAddress(PDPT))?;
        let end = DATA + DATA_PAGES * PAGE_BYTES;
        for address in (0..end).step_by(LARGE_PAGE_BYTES as usize) {
            let entry = GuestAddress(DIRECTORY + address / LARGE_PAGE_BYTES * 8);
            match address {
                SYSTEM => memory.write_obj(address | READ_ONLY, entry)?,
                DATA.. => memory.write_obj(address | READ_WRITE, entry)?,
                _ => {}
            }
        }
        vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
        vcpu.set_sregs(&user_mode(vcpu.get_sregs()?))?;
        vcpu.set_regs(&kvm_regs {
            rip: SYSTEM,
            rsi: DATA,
            rdx: end,
            rflags: 2,
            ..kvm_regs::default()
        })?;
        Ok(())
    }

    /// Returns 64-bit mode at CPL 3. (Hosts without hardware virtualization emulate CPL 0.)
    fn user_mode(sregs: kvm_sregs) -> kvm_sregs {
        let code = kvm_segment {
            limit: u32::MAX,
            selector: 0x13,
            type_: 11, // execute, read, accessed
            present: 1,
            dpl: 3,
            s: 1,
            l: 1,
            g: 1,
            ..kvm_segment::default()
        };
        let data = kvm_segment {
            selector: 0x1b,
            type_: 3, // read, write, accessed
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
            cr0: 0x8001_0031, // paging, write protection, numeric error, extension type, protected mode
            cr3: PML4,
            cr4: 0x20,   // physical address extension
            efer: 0x500, // long mode, enabled and active
            ..sregs
        }
    }
}
