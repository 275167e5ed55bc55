//! QEMU's `virt` machine for RISC-V (hw/riscv/virt.c), in machine mode.

use core::arch::global_asm;
use core::ptr;

use dirty_ring_firmware::Console;

global_asm!(
    ".section .boot, \"ax\"",
    ".globl _start",
    "_start:",
    "la sp, stack_top",
    "j start",
);

/// The transmit register of the NS16550 (`VIRT_UART0`).
const UART: *mut u8 = 0x1000_0000 as *mut u8;

/// SiFive's test device (`VIRT_TEST`), and what it takes to switch the machine off.
const TEST: *mut u32 = 0x10_0000 as *mut u32;
const PASS: u32 = 0x5555;

/// The console.
pub(crate) struct Uart;

impl Uart {
    pub(crate) fn open() -> Self {
        Self
    }
}

impl Console for Uart {
    fn byte(&mut self, byte: u8) {
        // SAFETY: the register is there on this machine and is no memory. QEMU's takes a byte at any
        // time.
        unsafe { ptr::write_volatile(UART, byte) }
    }
}

/// Switches the machine off.
pub(crate) fn power_off() -> ! {
    // SAFETY: the register is there on this machine and is no memory.
    unsafe { ptr::write_volatile(TEST, PASS) }
    loop {
        core::hint::spin_loop();
    }
}
