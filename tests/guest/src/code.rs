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
/// Offset in bytes of the number of pages (u64) to write in order; 0 leaves the choice to the
/// number of pages to write at random.
pub(crate) const PAGES_OFFSET: u64 = 16;
/// Offset in bytes of the number of empty loop iterations between two writes (u64).
pub(crate) const SPIN_OFFSET: u64 = 24;
/// Offset in bytes of the number of pages (u64) to write at random; 0 idles.
pub(crate) const RANDOM_PAGES_OFFSET: u64 = 32;
/// Offset in bytes of the random generator's state (u64, not 0) at the begin of the phase.
pub(crate) const RANDOM_STATE_OFFSET: u64 = 40;
/// Offset in bytes of what is added to the count (u64) to give a [`Stamp`](crate::Stamp).
pub(crate) const STAMP_BASE_OFFSET: u64 = 48;

/// Offsets in [`CODE`] of the instructions that write a page, in order and at random.
///
/// The instruction before each increments the count, so a vCPU that stops at one of them has
/// counted one write too many; anywhere else it has made exactly the writes that it has counted.
pub(crate) const STORE_OFFSETS: [u64; 2] = [0x2d, 0xaf];

/// The guest's code. Its entry point is its first byte, with `rdi` = parameter page and `rax` = 0.
///
/// | register | holds |
/// |---|---|
/// | `rax` | page writes so far, which is also the value that is written in order |
/// | `rbx` | generation of the parameters in use |
/// | `rcx` | address of the next page to write |
/// | `rdx` | address after the last page; at random: number of pages |
/// | `rsi` | address of the first page |
/// | `rdi` | address of the parameter page |
/// | `r8`, `r9` | spin iterations, and how many of them are left |
/// | `r10` | state of the random generator, see [`RandomPages`](crate::RandomPages) |
/// | `r11`, `r12` | base of the stamps, and the stamp that is written at random |
///
/// The loop that writes in order comes first and shares no instruction with the random one: its
/// speed is what other measurements are compared with.
#[rustfmt::skip]
pub(crate) const CODE: [u8; 0xc1] = [
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
    0x74, 0x39,                               // 1d  jz unordered
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
    // 58 unordered:
    0x48, 0x8b, 0x57, 0x20,                   // 58  mov rdx, [rdi + 32]  pages to write at random
    0x4c, 0x8b, 0x57, 0x28,                   // 5c  mov r10, [rdi + 40]  state
    0x4c, 0x8b, 0x5f, 0x30,                   // 60  mov r11, [rdi + 48]  base of the stamps
    0x48, 0x3b, 0x1f,                         // 64  cmp rbx, [rdi]       torn: try again
    0x75, 0xeb,                               // 67  jne busy
    0x48, 0x85, 0xd2,                         // 69  test rdx, rdx
    0x74, 0xdd,                               // 6c  jz idle
    // 6e stamp:
    0x48, 0x3b, 0x1f,                         // 6e  cmp rbx, [rdi]       a new phase?
    0x75, 0x8d,                               // 71  jne reload
    0x4c, 0x89, 0xd1,                         // 73  mov rcx, r10         xorshift64
    0x48, 0xc1, 0xe1, 0x0d,                   // 76  shl rcx, 13
    0x49, 0x31, 0xca,                         // 7a  xor r10, rcx
    0x4c, 0x89, 0xd1,                         // 7d  mov rcx, r10
    0x48, 0xc1, 0xe9, 0x07,                   // 80  shr rcx, 7
    0x49, 0x31, 0xca,                         // 84  xor r10, rcx
    0x4c, 0x89, 0xd1,                         // 87  mov rcx, r10
    0x48, 0xc1, 0xe1, 0x11,                   // 8a  shl rcx, 17
    0x49, 0x31, 0xca,                         // 8e  xor r10, rcx
    0x4c, 0x89, 0xd1,                         // 91  mov rcx, r10         its upper half, scaled to
    0x48, 0xc1, 0xe9, 0x20,                   // 94  shr rcx, 32          the number of pages
    0x48, 0x0f, 0xaf, 0xca,                   // 98  imul rcx, rdx
    0x48, 0xc1, 0xe9, 0x20,                   // 9c  shr rcx, 32
    0x48, 0xc1, 0xe1, 0x0c,                   // a0  shl rcx, 12          pages to bytes
    0x48, 0x01, 0xf1,                         // a4  add rcx, rsi
    0x4e, 0x8d, 0x64, 0x18, 0x01,             // a7  lea r12, [rax + r11 + 1]
    0x48, 0xff, 0xc0,                         // ac  inc rax
    0x4c, 0x89, 0x21,                         // af  mov [rcx], r12       the page write
    0x4d, 0x89, 0xc1,                         // b2  mov r9, r8
    0x4d, 0x85, 0xc9,                         // b5  test r9, r9
    0x74, 0xb4,                               // b8  jz stamp
    // ba wait:
    0x49, 0xff, 0xc9,                         // ba  dec r9
    0x75, 0xfb,                               // bd  jnz wait
    0xeb, 0xad,                               // bf  jmp stamp
];
