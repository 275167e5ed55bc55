//! Arm's MPS2 board with a Cortex-M4 (QEMU's `mps2-an386`, hw/arm/mps2.c).

use core::arch::{asm, global_asm};
use core::ptr;

use dirty_ring_firmware::Console;

// The vector table: the stack, and where to start. The FPU is on, as firmware for this target has it.
global_asm!(
    ".section .boot, \"ax\"",
    ".word stack_top",
    ".word _start",
    ".globl _start",
    ".thumb_func",
    "_start:",
    "ldr r0, =0xE000ED88", // CPACR
    "ldr r1, [r0]",
    "orr r1, r1, #0xF00000", // CP10, CP11: full access
    "str r1, [r0]",
    "dsb",
    "isb",
    "bl start",
);

/// The registers of the CMSDK UART0 (Arm DDI 0479, APB UART).
const DATA: *mut u32 = 0x4000_4000 as *mut u32;
const CONTROL: *mut u32 = 0x4000_4008 as *mut u32;
const BAUD_DIVIDER: *mut u32 = 0x4000_4010 as *mut u32;
const TRANSMIT: u32 = 1;
const SMALLEST_DIVIDER: u32 = 16;

/// The semihosting call that ends the program, and its reason (Arm's semihosting, `SYS_EXIT`).
const SYS_EXIT: u32 = 0x18;
const APPLICATION_EXIT: u32 = 0x2_0026;

/// The console.
pub(crate) struct Uart;

impl Uart {
    pub(crate) fn open() -> Self {
        // SAFETY: the register is there on this machine and is no memory.
        unsafe { ptr::write_volatile(BAUD_DIVIDER, SMALLEST_DIVIDER) }
        // SAFETY: as above.
        unsafe { ptr::write_volatile(CONTROL, TRANSMIT) }
        Self
    }
}

/// Bit of the state register: the transmit buffer is full.
const STATE: *const u32 = 0x4000_4004 as *const u32;
const FULL: u32 = 1;

impl Console for Uart {
    fn byte(&mut self, byte: u8) {
        // SAFETY: the register is there on this machine and is no memory.
        while unsafe { ptr::read_volatile(STATE) } & FULL != 0 {
            core::hint::spin_loop();
        }
        // SAFETY: as above.
        unsafe { ptr::write_volatile(DATA, byte.into()) }
    }
}

/// Ends the program.
pub(crate) fn power_off() -> ! {
    // SAFETY: a semihosting call, which touches no memory; QEMU was told to take it.
    unsafe { asm!("bkpt 0xAB", in("r0") SYS_EXIT, in("r1") APPLICATION_EXIT) }
    loop {
        core::hint::spin_loop();
    }
}
