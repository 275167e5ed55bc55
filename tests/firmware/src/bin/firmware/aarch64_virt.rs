//! QEMU's `virt` machine for 64-bit Arm (hw/arm/virt.c), at EL1 and without an MMU.

use core::arch::{asm, global_asm};
use core::ptr;

use dirty_ring_firmware::Console;

// The compiler moves memory through the vector registers, so they are switched on.
global_asm!(
    ".section .boot, \"ax\"",
    ".globl _start",
    "_start:",
    "mrs x0, cpacr_el1",
    "orr x0, x0, #(3 << 20)", // FPEN
    "msr cpacr_el1, x0",
    "isb",
    "ldr x0, =stack_top",
    "mov sp, x0",
    "b start",
);

/// The registers of the PL011 (`VIRT_UART`): data, flags, and the flag of a full buffer.
const DATA: *mut u32 = 0x900_0000 as *mut u32;
const FLAGS: *const u32 = 0x900_0018 as *const u32;
const FULL: u32 = 1 << 5;

/// The call of Arm's PSCI that switches the machine off (Arm DEN 0022, `SYSTEM_OFF`).
const SYSTEM_OFF: u64 = 0x8400_0008;

/// The console.
pub(crate) struct Uart;

impl Uart {
    pub(crate) fn open() -> Self {
        Self
    }
}

impl Console for Uart {
    fn byte(&mut self, byte: u8) {
        // SAFETY: the register is there on this machine and is no memory.
        while unsafe { ptr::read_volatile(FLAGS) } & FULL != 0 {
            core::hint::spin_loop();
        }
        // SAFETY: as above.
        unsafe { ptr::write_volatile(DATA, byte.into()) }
    }
}

/// Switches the machine off.
pub(crate) fn power_off() -> ! {
    // SAFETY: QEMU answers PSCI calls at EL1; this one touches no memory and doesn't return.
    unsafe { asm!("hvc #0", in("x0") SYSTEM_OFF) }
    loop {
        core::hint::spin_loop();
    }
}
