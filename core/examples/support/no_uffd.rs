//! No userfaultfd: it is Linux's.

use std::io;
use std::sync::atomic::AtomicU64;

pub(crate) const PAGE_BYTES: usize = 4096;
pub(crate) const PAGE_WORDS: usize = PAGE_BYTES / size_of::<u64>();

/// What there is none of.
pub(crate) enum Memory {}

impl Memory {
    pub(crate) fn protected(_pages: usize) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn words(&self) -> &'static [AtomicU64] {
        match *self {}
    }

    pub(crate) fn pages(&self) -> usize {
        match *self {}
    }

    pub(crate) fn protect(&self, _page: usize, _on: bool) -> io::Result<()> {
        match *self {}
    }

    pub(crate) fn next_fault(&self) -> io::Result<Option<usize>> {
        match *self {}
    }
}
