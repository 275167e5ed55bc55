//! The guest's machine code, the registers that it keeps its state in, and its parameter page.
//!
//! The code is position independent. It reads its parameter page, writes its data pages and
//! otherwise uses registers alone. A sequence lock guards the parameters: the generation is odd
//! while the host writes them, and the code accepts a set of parameters only if the generation was
//! even and the same before and after reading them. It compares the generation at every write, so
//! that a phase change takes effect within one page write and its `spin` iterations.

/// Offset in bytes of the generation (u64) in the parameter page.
pub(crate) const GENERATION_OFFSET: u64 = 0;
/// Offset in bytes of the first data page's address (u64) in the parameter page.
pub(crate) const BASE_OFFSET: u64 = 8;
/// Offset in bytes of the number of pages (u64) in the parameter page; 0 idles.
pub(crate) const PAGES_OFFSET: u64 = 16;
/// Offset in bytes of the number of empty loop iterations between two writes (u64).
pub(crate) const SPIN_OFFSET: u64 = 24;

/// Offset in [`CODE`] of the instruction that writes a page.
///
/// The instruction before it increments the count, so a vCPU that stops here has counted one write
/// too many.
pub(crate) const STORE_OFFSET: u64 = 0x2d;

/// The guest's code. Its entry point is its first byte, with `rdi` = parameter page and `rax` = 0.
///
/// | register | holds |
/// |---|---|
/// | `rax` | page writes so far, which is also the value that is written |
/// | `rbx` | generation of the parameters in use |
/// | `rcx` | address of the next page to write |
/// | `rdx` | address after the last page |
/// | `rsi` | address of the first page |
/// | `rdi` | address of the parameter page |
/// | `r8`, `r9` | spin iterations, and how many of them are left |
#[rustfmt::skip]
pub(crate) const CODE: [u8; 0x58] = [
    // 00 reload:
    0x48, 0x8b, 0x1f,                         // 00  mov rbx, [rdi]       generation
    0xf6, 0xc3, 0x01,                         // 03  test bl, 1           odd: an update is under way
    0x75, 0x4c,                               // 06  jnz busy
    0x48, 0x8b, 0x77, 0x08,                   // 08  mov rsi, [rdi + 8]   base
    0x48, 0x8b, 0x57, 0x10,                   // 0c  mov rdx, [rdi + 16]  pages
    0x4c, 0x8b, 0x47, 0x18,                   // 10  mov r8, [rdi + 24]   spin
    0x48, 0x3b, 0x1f,                         // 14  cmp rbx, [rdi]       torn: try again
    0x75, 0x3b,                               // 17  jne busy
    0x48, 0xc1, 0xe2, 0x0c,                   // 19  shl rdx, 12          pages to bytes
    0x74, 0x2c,                               // 1d  jz idle
    0x48, 0x01, 0xf2,                         // 1f  add rdx, rsi         end
    // 22 round:
    0x48, 0x89, 0xf1,                         // 22  mov rcx, rsi
    // 25 write:
    0x48, 0x3b, 0x1f,                         // 25  cmp rbx, [rdi]       a new phase?
    0x75, 0xd6,                               // 28  jne reload
    0x48, 0xff, 0xc0,                         // 2a  inc rax
    0x48, 0x89, 0x01,                         // 2d  mov [rcx], rax       the page write
    0x4d, 0x89, 0xc1,                         // 30  mov r9, r8
    0x4d, 0x85, 0xc9,                         // 33  test r9, r9
    0x74, 0x05,                               // 36  jz next
    // 38 spin:
    0x49, 0xff, 0xc9,                         // 38  dec r9
    0x75, 0xfb,                               // 3b  jnz spin
    // 3d next:
    0x48, 0x81, 0xc1, 0x00, 0x10, 0x00, 0x00, // 3d  add rcx, 4096
    0x48, 0x39, 0xd1,                         // 44  cmp rcx, rdx
    0x72, 0xdc,                               // 47  jb write
    0xeb, 0xd7,                               // 49  jmp round
    // 4b idle:
    0xf3, 0x90,                               // 4b  pause
    0x48, 0x3b, 0x1f,                         // 4d  cmp rbx, [rdi]
    0x74, 0xf9,                               // 50  je idle
    0xeb, 0xac,                               // 52  jmp reload
    // 54 busy:
    0xf3, 0x90,                               // 54  pause
    0xeb, 0xa8,                               // 56  jmp reload
];
