//! One vCPU of the guest.

use std::thread::{self, ThreadId};

use kvm_bindings::{CpuId, KVM_EXIT_DIRTY_RING_FULL, kvm_regs};
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::code::STORE_OFFSETS;
use crate::error::GuestError;
use crate::kick::{Entry, VcpuKicker};
use crate::machine::GuestRam;
use crate::mode::{Privilege, long_mode};
use crate::params::VcpuParams;

/// Bit 1 of RFLAGS, which is always set.
const RFLAGS_RESERVED: u64 = 1 << 1;

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

/// What a vCPU's initial registers hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub(crate) privilege: Privilege,
    pub(crate) pml4: u64,
    pub(crate) code: u64,
    pub(crate) params: u64,
}

impl GuestVcpu {
    /// Puts `fd` into 64-bit mode, at the first instruction of the guest's code.
    pub(crate) fn new(
        index: usize,
        fd: VcpuFd,
        cpuid: &CpuId,
        start: Start,
        params: VcpuParams,
        ram: GuestRam,
    ) -> Result<Self, GuestError> {
        fd.set_cpuid2(cpuid)
            .map_err(GuestError::kvm(format!("set the CPUID of vCPU {index}")))?;
        let sregs = fd.get_sregs().map_err(GuestError::kvm(format!(
            "read the system registers of vCPU {index}"
        )))?;
        fd.set_sregs(&long_mode(sregs, start.privilege, start.pml4))
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

    /// Runs the guest until an exit that the caller has to handle. A paused vCPU waits before it
    /// enters guest mode; a kick makes it return [`GuestExit::Interrupted`] without entering.
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

impl Drop for GuestVcpu {
    fn drop(&mut self) {
        self.kicker.note_gone();
    }
}

/// An end of `KVM_RUN` that is no [`GuestExit`].
enum Failure {
    Exit(String),
    Run(kvm_ioctls::Error),
}
