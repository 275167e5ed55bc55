//! A vCPU's parameter page, through which the host controls it.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use vm_memory::{Bytes, GuestAddress};

use crate::code::{
    BASE_OFFSET, GENERATION_OFFSET, PAGES_OFFSET, RANDOM_PAGES_OFFSET, RANDOM_STATE_OFFSET,
    SPIN_OFFSET, STAMP_BASE_OFFSET,
};
use crate::error::GuestError;
use crate::layout::{GuestLayout, PAGE_BYTES};
use crate::machine::GuestRam;
use crate::random::{RandomPages, Stamp};

/// Sets what one vCPU does, even while it runs. Clones control the same vCPU.
///
/// A new vCPU idles.
#[derive(Debug, Clone)]
pub struct VcpuParams {
    ram: GuestRam,
    page_address: u64,
    data_address: u64,
    max_pages: u64,
    /// Address of the first data page of all vCPUs.
    all_data_address: u64,
    all_pages: u64,
    stamp_base: u64,
    /// The generation written last; the lock excludes concurrent writers.
    generation: Arc<Mutex<u64>>,
}

/// What a vCPU reads from its parameter page; without pages, it idles.
#[derive(Default)]
struct Phase {
    base: u64,
    pages: u64,
    spin: u64,
    random_pages: u64,
    random_state: u64,
}

impl VcpuParams {
    pub(crate) fn new(layout: &GuestLayout, ram: &GuestRam, vcpu: usize) -> Self {
        Self {
            ram: ram.clone(),
            page_address: layout.params_address(vcpu),
            data_address: layout.data_address(vcpu),
            max_pages: layout.config().data_pages_per_vcpu,
            all_data_address: layout.data_address(0),
            all_pages: layout.data_pages(),
            stamp_base: Stamp { vcpu, count: 0 }.word(),
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
        self.begin(&Phase {
            base: self.data_address,
            pages,
            spin,
            ..Phase::default()
        })
    }

    /// Begins a phase of random writes: the vCPU writes its [`Stamp`] to one of `pages` pages after
    /// another, with `spin` empty loop iterations between two writes. It picks them as
    /// [`RandomPages`] does, which `seed` determines. With 0 pages it idles.
    ///
    /// `first_page` is an index into the whole data area, so the range may cross slots and overlap
    /// the ranges of other vCPUs. The phase begins as that of [`set`](Self::set) does.
    ///
    /// # Errors
    ///
    /// [`GuestError::RandomPagesOutOfRange`] if the range leaves the data area; the previous phase
    /// continues.
    pub fn set_random(
        &self,
        first_page: u64,
        pages: u64,
        spin: u64,
        seed: u64,
    ) -> Result<(), GuestError> {
        let end = first_page.checked_add(pages);
        if end.is_none_or(|end| end > self.all_pages) {
            return Err(GuestError::RandomPagesOutOfRange {
                first_page,
                pages,
                data_pages: self.all_pages,
            });
        }
        self.begin(&Phase {
            base: self.all_data_address + first_page * PAGE_BYTES,
            spin,
            random_pages: pages,
            random_state: RandomPages::initial_state(seed),
            ..Phase::default()
        })
    }

    /// Returns the maximum number of pages of a phase: the vCPU's data pages.
    #[must_use]
    pub const fn max_pages(&self) -> u64 {
        self.max_pages
    }

    fn begin(&self, phase: &Phase) -> Result<(), GuestError> {
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
        for (offset, value) in [
            (BASE_OFFSET, phase.base),
            (PAGES_OFFSET, phase.pages),
            (SPIN_OFFSET, phase.spin),
            (RANDOM_PAGES_OFFSET, phase.random_pages),
            (RANDOM_STATE_OFFSET, phase.random_state),
            (STAMP_BASE_OFFSET, self.stamp_base),
        ] {
            self.store(offset, value, Ordering::Relaxed)?;
        }
        self.store(GENERATION_OFFSET, written, Ordering::Release)?;
        *generation = written;
        Ok(())
    }

    fn store(&self, offset: u64, value: u64, order: Ordering) -> Result<(), GuestError> {
        self.ram
            .store(value, GuestAddress(self.page_address + offset), order)
            .map_err(GuestError::memory("write a vCPU's parameters"))
    }
}
