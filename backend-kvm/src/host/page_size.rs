//! The size of a page of this host.

use crate::sys;

/// The most common page size, in bytes, for a host that doesn't tell its own.
const FALLBACK_BYTES: u32 = 4096;

/// Returns the size of a page of this host, in bytes.
pub(crate) fn page_bytes() -> u32 {
    sys::page_bytes()
        .and_then(|bytes| u32::try_from(bytes).ok())
        .unwrap_or(FALLBACK_BYTES)
}
