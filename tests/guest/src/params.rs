//! A vCPU's parameter page, through which the host controls it.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::{Bytes, GuestAddress};

use crate::code::{BASE_OFFSET, GENERATION_OFFSET, PAGES_OFFSET, SPIN_OFFSET};
use crate::error::GuestError;
use crate::layout::GuestLayout;
use crate::machine::GuestRam;

/// Sets what one vCPU does, even while it runs. Clones control the same vCPU.
///
/// A new vCPU idles.
#[derive(Debug, Clone)]
pub struct VcpuParams {
    ram: GuestRam,
    page_address: u64,
    data_address: u64,
    max_pages: u64,
    /// The generation written last; the lock excludes concurrent writers.
    generation: Arc<Mutex<u64>>,
}

impl VcpuParams {
    pub(crate) fn new(layout: &GuestLayout, ram: &GuestRam, vcpu: usize) -> Self {
        Self {
            ram: ram.clone(),
            page_address: layout.params_address(vcpu),
            data_address: layout.data_address(vcpu),
            max_pages: layout.config().data_pages_per_vcpu,
            generation: Arc::new(Mutex::new(0)),
        }
    }

    /// Begins a phase: the vCPU writes one word to each of its first `pages` pages, in order and
    /// round after round, with `spin` empty loop iterations between two writes. With 0 pages it
    /// idles.
    ///
    /// A running vCPU begins the phase after its current write and `spin` iterations, and never
    /// sees one number without the other. The count of page writes continues.
    ///
    /// # Errors
    ///
    /// [`GuestError::PagesOutOfRange`] above [`max_pages`](Self::max_pages); the previous phase
    /// continues.
    pub fn set(&self, pages: u64, spin: u64) -> Result<(), GuestError> {
        if pages > self.max_pages {
            return Err(GuestError::PagesOutOfRange {
                pages,
                max_pages: self.max_pages,
            });
        }
        let mut generation = self
            .generation
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // A sequence lock read by the guest (see `code`): odd during an update.
        let writing = generation.wrapping_add(1);
        let written = generation.wrapping_add(2);
        self.store(GENERATION_OFFSET, writing, Ordering::Relaxed)?;
        // No parameter may become visible before the odd generation.
        fence(Ordering::Release);
        self.store(BASE_OFFSET, self.data_address, Ordering::Relaxed)?;
        self.store(PAGES_OFFSET, pages, Ordering::Relaxed)?;
        self.store(SPIN_OFFSET, spin, Ordering::Relaxed)?;
        self.store(GENERATION_OFFSET, written, Ordering::Release)?;
        *generation = written;
        Ok(())
    }

    /// Returns the maximum number of pages of a phase: the vCPU's data pages.
    #[must_use]
    pub const fn max_pages(&self) -> u64 {
        self.max_pages
    }

    fn store(&self, offset: u64, value: u64, order: Ordering) -> Result<(), GuestError> {
        self.ram
            .store(value, GuestAddress(self.page_address + offset), order)
            .map_err(GuestError::memory("write a vCPU's parameters"))
    }
}
