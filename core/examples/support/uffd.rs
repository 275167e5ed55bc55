//! Memory of this process, write-protected by userfaultfd. All `unsafe` code of the example is here.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a page.
pub(crate) const PAGE_BYTES: usize = 4096;
/// Words of a page.
pub(crate) const PAGE_WORDS: usize = PAGE_BYTES / size_of::<u64>();

// include/uapi/linux/userfaultfd.h
const UFFD_USER_MODE_ONLY: libc::c_int = 1;
const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
const UFFDIO_WRITEPROTECT_MODE_WP: u64 = 1 << 0;
const UFFD_EVENT_PAGEFAULT: u8 = 0x12;
/// Number of the request in which a kernel with write protection says that it has it.
const WRITEPROTECT: u32 = 6;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    bytes: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct WriteProtect {
    start: u64,
    bytes: u64,
    mode: u64,
}

#[repr(C)]
#[derive(Default)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    thread: u64,
}

const _: () = assert!(size_of::<Message>() == 32);

/// Memory whose pages are protected one by one. It stays mapped until the process ends.
pub(crate) struct Memory {
    words: &'static [AtomicU64],
    uffd: OwnedFd,
}

impl Memory {
    /// Maps `pages` pages of zeroes and protects all of them.
    ///
    /// # Errors
    /// What this kernel refuses.
    pub(crate) fn protected(pages: usize) -> io::Result<Self> {
        // Faults of this program's own code are all that has to be seen, which needs no privilege.
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | UFFD_USER_MODE_ONLY;
        // SAFETY: the call takes integers only.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
        let fd = check(fd as libc::c_int)?;
        // SAFETY: the kernel has just made it, and nothing else has it.
        let uffd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut api = Api {
            api: UFFD_API,
            features: UFFD_FEATURE_PAGEFAULT_FLAG_WP,
            ioctls: 0,
        };
        ioctl(&uffd, 0x3f, &mut api)?;
        let memory = Self {
            words: map(pages)?,
            uffd,
        };
        // A page that isn't there can't be protected.
        for page in memory.words.chunks(PAGE_WORDS) {
            page[0].store(0, Ordering::Relaxed);
        }
        let mut register = Register {
            start: memory.words.as_ptr().addr() as u64,
            bytes: (pages * PAGE_BYTES) as u64,
            mode: UFFDIO_REGISTER_MODE_WP,
            ioctls: 0,
        };
        ioctl(&memory.uffd, 0, &mut register)?;
        if register.ioctls & (1 << WRITEPROTECT) == 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        (0..pages).try_for_each(|page| memory.protect(page, true))?;
        Ok(memory)
    }

    /// Returns the memory. A write to a protected page waits until the protection is lifted.
    pub(crate) fn words(&self) -> &'static [AtomicU64] {
        self.words
    }

    /// Returns how many pages there are.
    pub(crate) fn pages(&self) -> usize {
        self.words.len() / PAGE_WORDS
    }

    /// Protects a page, or lifts its protection and lets its writer go on.
    pub(crate) fn protect(&self, page: usize, on: bool) -> io::Result<()> {
        let mut protect = WriteProtect {
            start: self.words[page * PAGE_WORDS..].as_ptr().addr() as u64,
            bytes: PAGE_BYTES as u64,
            mode: if on { UFFDIO_WRITEPROTECT_MODE_WP } else { 0 },
        };
        ioctl(&self.uffd, WRITEPROTECT, &mut protect)
    }

    /// Waits for a write to a protected page, for 20 ms at most; returns the page.
    pub(crate) fn next_fault(&self) -> io::Result<Option<usize>> {
        let mut poll = libc::pollfd {
            fd: self.uffd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: it is one structure, as the call says.
        check(unsafe { libc::poll(&raw mut poll, 1, 20) })?;
        if poll.revents == 0 {
            return Ok(None);
        }
        let mut message = Message::default();
        let place = (&raw mut message).cast();
        // SAFETY: the kernel writes whole messages only, and there is room for one.
        let bytes = unsafe { libc::read(self.uffd.as_raw_fd(), place, size_of::<Message>()) };
        check(bytes as libc::c_int)?;
        if message.event != UFFD_EVENT_PAGEFAULT {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let offset = message.address as usize - self.words.as_ptr().addr();
        Ok(Some(offset / PAGE_BYTES))
    }
}

fn map(pages: usize) -> io::Result<&'static [AtomicU64]> {
    let (read_write, anonymous) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    let bytes = pages * PAGE_BYTES;
    // SAFETY: a new mapping touches nothing that is there already.
    let address = unsafe { libc::mmap(ptr::null_mut(), bytes, read_write, anonymous, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping has so many words, zeroed and aligned, and is never unmapped; all access is
    // atomic.
    Ok(unsafe { slice::from_raw_parts(address.cast(), pages * PAGE_WORDS) })
}

/// Calls request `number` of userfaultfd, all of which read and write their structure.
fn ioctl<T>(uffd: &OwnedFd, number: u32, argument: &mut T) -> io::Result<()> {
    let request = 3 << 30 | (size_of::<T>() as u32) << 16 | 0xaa << 8 | number;
    // SAFETY: the request says how large the structure is, and the memory that it names is this module's,
    // which reads and writes it with atomics alone.
    let result = unsafe { libc::ioctl(uffd.as_raw_fd(), request as libc::Ioctl, argument) };
    check(result).map(drop)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}
