//! A PC, entered in 32-bit mode as PVH has it (Xen's `pvh.rst`; QEMU's hw/i386/x86.c).

use core::arch::{asm, global_asm};

use dirty_ring_firmware::Console;

// Identity-maps the first GiB with pages of 2 MiB and goes to 64-bit mode.
global_asm!(
    ".section .note.pvh, \"a\", @note",
    ".balign 4",
    ".long 4, 8, 18", // lengths of name and entry; XEN_ELFNOTE_PHYS32_ENTRY
    ".asciz \"Xen\"",
    ".quad _start",
    ".section .boot, \"ax\"",
    ".code32",
    ".globl _start",
    "_start:",
    "mov esp, offset stack_top",
    "mov eax, offset directories",
    "or eax, 3", // present, writable
    "mov [root], eax",
    "mov eax, offset pages",
    "or eax, 3",
    "mov [directories], eax",
    "mov edi, offset pages",
    "mov eax, 0x83", // present, writable, 2 MiB
    "2:",
    "mov [edi], eax",
    "add edi, 8",
    "add eax, 0x200000",
    "cmp eax, 0x40000000",
    "jb 2b",
    "mov eax, offset root",
    "mov cr3, eax",
    "mov eax, cr4",
    "or eax, 0x20", // PAE
    "mov cr4, eax",
    "mov ecx, 0xC0000080", // EFER
    "rdmsr",
    "or eax, 0x100", // LME
    "wrmsr",
    "mov eax, cr0",
    "or eax, 0x80000000", // PG
    "mov cr0, eax",
    "lgdt [descriptors_end]",
    "push 8",
    "mov eax, offset long_mode",
    "push eax",
    "retf",
    ".code64",
    "long_mode:",
    "xor eax, eax",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "call start",
    ".balign 8",
    "descriptors:",
    ".quad 0, 0x00AF9A000000FFFF", // 64-bit code
    "descriptors_end:",
    ".word descriptors_end - descriptors - 1",
    ".long descriptors",
    ".section .bss.tables, \"aw\", @nobits",
    ".balign 4096",
    "root: .skip 4096",
    "directories: .skip 4096",
    "pages: .skip 4096",
    ".text",
);

/// Ports of the first serial line: data, line status, and the status that takes a byte.
const DATA: u16 = 0x3F8;
const STATUS: u16 = 0x3FD;
const EMPTY: u8 = 1 << 5;

/// QEMU's `isa-debug-exit`: what is written, doubled and one more, is QEMU's exit code.
const EXIT: u16 = 0xF4;

/// The console.
pub(crate) struct Uart;

impl Uart {
    pub(crate) fn open() -> Self {
        Self
    }
}

impl Console for Uart {
    fn byte(&mut self, byte: u8) {
        while input(STATUS) & EMPTY == 0 {
            core::hint::spin_loop();
        }
        output(DATA, byte);
    }
}

/// Ends QEMU, with exit code 1.
pub(crate) fn power_off() -> ! {
    output(EXIT, 0);
    loop {
        core::hint::spin_loop();
    }
}

fn input(port: u16) -> u8 {
    let byte;
    // SAFETY: the program owns the machine, and the ports read here change no memory.
    unsafe { asm!("in al, dx", in("dx") port, out("al") byte, options(nomem, nostack)) }
    byte
}

fn output(port: u16, byte: u8) {
    // SAFETY: the program owns the machine, and the ports written here change no memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack)) }
}
