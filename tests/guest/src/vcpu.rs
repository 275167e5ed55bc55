//! One vCPU of the guest.

use std::thread::{self, ThreadId};

use kvm_bindings::{CpuId, KVM_EXIT_DIRTY_RING_FULL, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::code::STORE_OFFSETS;
use crate::error::GuestError;
use crate::kick::{Entry, VcpuKicker};
use crate::machine::GuestRam;
use crate::params::VcpuParams;

// Intel SDM volume 3, 2.5 (control registers) and 2.2.1 (EFER).
const CR0_PROTECTED: u64 = 1 << 0;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;
const CR0_NUMERIC_ERROR: u64 = 1 << 5;
const CR0_WRITE_PROTECT: u64 = 1 << 16;
const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LONG_MODE_ENABLE: u64 = 1 << 8;
const EFER_LONG_MODE_ACTIVE: u64 = 1 << 10;
const RFLAGS_RESERVED: u64 = 1 << 1;

// Segments for CPL 3, without descriptor tables behind them: the guest's code loads none.
const USER_PRIVILEGE: u8 = 3;
const CODE_SELECTOR: u16 = 0x10 | USER_PRIVILEGE as u16;
const DATA_SELECTOR: u16 = 0x18 | USER_PRIVILEGE as u16;
const CODE_TYPE: u8 = 11; // execute, read, accessed
const DATA_TYPE: u8 = 3; // read, write, accessed

/// Why a vCPU left guest mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestExit {
    /// `KVM_EXIT_DIRTY_RING_FULL`: the ring is at its soft limit. Until it is harvested and reset,
    /// every run returns this at once.
    RingFull,
    /// A kick or another signal interrupted the vCPU: run it again.
    Interrupted,
    /// [`VcpuKicker::request_stop`] was called: don't run it again.
    Stopped,
}

/// One vCPU of the guest, which one thread at a time can run.
#[derive(Debug)]
pub struct GuestVcpu {
    index: usize,
    fd: VcpuFd,
    kicker: VcpuKicker,
    params: VcpuParams,
    store_addresses: [u64; STORE_OFFSETS.len()],
    registered: Option<ThreadId>,
    // Keeps the guest's memory mapped while the vCPU can run.
    _ram: GuestRam,
}

/// Addresses in a vCPU's initial registers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StartAddresses {
    pub(crate) pml4: u64,
    pub(crate) code: u64,
    pub(crate) params: u64,
}

impl GuestVcpu {
    /// Puts `fd` into 64-bit mode at CPL 3, at the first instruction of the guest's code.
    pub(crate) fn new(
        index: usize,
        fd: VcpuFd,
        cpuid: &CpuId,
        start: StartAddresses,
        params: VcpuParams,
        ram: GuestRam,
    ) -> Result<Self, GuestError> {
        fd.set_cpuid2(cpuid)
            .map_err(GuestError::kvm(format!("set the CPUID of vCPU {index}")))?;
        let sregs = fd.get_sregs().map_err(GuestError::kvm(format!(
            "read the system registers of vCPU {index}"
        )))?;
        fd.set_sregs(&user_mode(sregs, start.pml4))
            .map_err(GuestError::kvm(format!(
                "set the system registers of vCPU {index}"
            )))?;
        let regs = kvm_regs {
            rip: start.code,
            rdi: start.params,
            rflags: RFLAGS_RESERVED,
            ..kvm_regs::default()
        };
        fd.set_regs(&regs).map_err(GuestError::kvm(format!(
            "set the registers of vCPU {index}"
        )))?;
        Ok(Self {
            index,
            fd,
            kicker: VcpuKicker::new(index),
            params,
            store_addresses: STORE_OFFSETS.map(|offset| start.code + offset),
            registered: None,
            _ram: ram,
        })
    }

    /// Returns the vCPU's index, which is also its id in KVM.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// Returns the vCPU's file descriptor, from which its dirty ring is mapped.
    #[must_use]
    pub const fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// Returns the kicker, which makes the vCPU leave guest mode from other threads.
    #[must_use]
    pub const fn kicker(&self) -> &VcpuKicker {
        &self.kicker
    }

    /// Returns the parameters, which set what the vCPU does.
    #[must_use]
    pub const fn params(&self) -> &VcpuParams {
        &self.params
    }

    /// Prepares the calling thread to run the vCPU: it blocks the kick signal from now on, and
    /// `KVM_RUN` keeps the thread's current mask for all other signals. [`run`](Self::run) does
    /// this on an unprepared thread; an earlier call keeps it out of the first run's time.
    ///
    /// # Errors
    ///
    /// If the signal can't be set up.
    pub fn register_current_thread(&mut self) -> Result<(), GuestError> {
        self.kicker.register_current_thread(&self.fd)?;
        self.registered = Some(thread::current().id());
        Ok(())
    }

    /// Runs the guest until an exit that the caller has to handle.
    ///
    /// # Errors
    ///
    /// [`GuestError::UnexpectedExit`] for an exit that the guest's code never causes;
    /// [`GuestError::Kvm`] if KVM can't run the vCPU.
    pub fn run(&mut self) -> Result<GuestExit, GuestError> {
        if self.registered != Some(thread::current().id()) {
            self.register_current_thread()?;
        }
        match self.kicker.enter() {
            Entry::Run => {}
            Entry::Kicked => return Ok(GuestExit::Interrupted),
            Entry::Stop => return Ok(GuestExit::Stopped),
        }
        // `leave` must follow in every case, so errors are handled after it.
        let exit = match self.fd.run() {
            Ok(VcpuExit::Unsupported(KVM_EXIT_DIRTY_RING_FULL)) => Ok(GuestExit::RingFull),
            Ok(VcpuExit::Intr) => Ok(GuestExit::Interrupted),
            Ok(exit) => Err(Failure::Exit(format!("{exit:?}"))),
            Err(error) if error.errno() == libc::EINTR => Ok(GuestExit::Interrupted),
            Err(error) => Err(Failure::Run(error)),
        };
        self.kicker.leave()?;
        match exit {
            Ok(GuestExit::Interrupted) if self.kicker.stop_requested() => Ok(GuestExit::Stopped),
            Ok(exit) => Ok(exit),
            Err(Failure::Exit(exit)) => Err(GuestError::UnexpectedExit {
                vcpu: self.index,
                exit,
                rip: self.fd.get_regs().map_or(0, |regs| regs.rip),
            }),
            Err(Failure::Run(source)) => {
                Err(GuestError::kvm(format!("run vCPU {}", self.index))(source))
            }
        }
    }

    /// Returns the page writes since the vCPU was created, exact at the point where it left guest
    /// mode.
    ///
    /// # Errors
    ///
    /// If KVM can't read the registers.
    pub fn page_writes(&self) -> Result<u64, GuestError> {
        let regs = self.fd.get_regs().map_err(GuestError::kvm(format!(
            "read the registers of vCPU {}",
            self.index
        )))?;
        // The count is incremented one instruction before the write itself.
        let unwritten = u64::from(self.store_addresses.contains(&regs.rip));
        Ok(regs.rax.wrapping_sub(unwritten))
    }
}

/// An end of `KVM_RUN` that is no [`GuestExit`].
enum Failure {
    Exit(String),
    Run(kvm_ioctls::Error),
}

/// Returns `sregs` in 64-bit mode at CPL 3, with the page tables at `pml4`.
fn user_mode(sregs: kvm_sregs, pml4: u64) -> kvm_sregs {
    let code = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: CODE_SELECTOR,
        type_: CODE_TYPE,
        present: 1,
        dpl: USER_PRIVILEGE,
        db: 0,
        s: 1,
        l: 1,
        g: 1,
        ..kvm_segment::default()
    };
    let data = kvm_segment {
        selector: DATA_SELECTOR,
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
