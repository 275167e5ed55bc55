//! The VM, with the test guest.

use dirty_ring_guest::{Guest, GuestConfig, Pause, RunningGuest};
use dirty_ring_kvm::{MemorySlot, Support, Tracker};
use kvm_ioctls::Kvm;
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestRegionMmap};

use super::Failure;

/// A VM of one vCPU, which runs on a thread of its own and idles at first.
pub(crate) struct Vm {
    guest: Guest,
    running: RunningGuest,
    tracker: Tracker,
}

/// Keeps the vCPU out of guest mode until it is dropped.
pub(crate) type Paused = Pause;

impl Vm {
    /// Creates a VM whose guest can write `pages` pages; logging is off. Returns `None`, and prints why,
    /// where this host can't run it.
    pub(crate) fn create(pages: u64, ring_entries: u32) -> Result<Option<Self>, Failure> {
        let kvm = match Kvm::new() {
            Ok(kvm) => kvm,
            Err(error) => {
                println!("skipped: /dev/kvm can't be used here: {error}");
                return Ok(None);
            }
        };
        let support = match Support::probe(&kvm) {
            Ok(support) => support,
            Err(error) => {
                println!("skipped: {error}");
                return Ok(None);
            }
        };
        let config = GuestConfig {
            data_pages_per_vcpu: pages,
            ..GuestConfig::default()
        };
        let guest = Guest::new(&kvm, config)?;
        let mut rings = support.enable(guest.vm(), ring_entries)?;
        rings.add_slot(guest.data_slots()[0].memory_slot())?;
        let vcpus = guest.create_vcpus()?;
        rings.add_vcpu(vcpus[0].fd())?;
        let tracker = Tracker::new(rings)?;
        let ring = tracker.vcpu(0)?;
        let running = RunningGuest::start(vcpus, move |_| ring.on_ring_full().map(drop))?;
        Ok(Some(Self {
            guest,
            running,
            tracker,
        }))
    }

    /// Returns the tracker.
    pub(crate) fn tracker(&self) -> &Tracker {
        &self.tracker
    }

    /// Returns the slot that can be logged.
    pub(crate) fn slot(&self) -> MemorySlot {
        self.guest.data_slots()[0].memory_slot()
    }

    /// Returns the memory of that slot.
    pub(crate) fn memory(&self) -> &GuestRegionMmap<AtomicBitmap> {
        let address = GuestAddress(self.slot().address);
        let region = self.guest.ram().find_region(address);
        region.expect("the slot has memory")
    }

    /// Calls `KVM_SET_USER_MEMORY_REGION` for the slot, with `KVM_MEM_LOG_DIRTY_PAGES` or 0.
    pub(crate) fn set_slot_flags(&self, flags: u32) -> Result<(), Failure> {
        Ok(self.guest.set_logging(flags != 0)?)
    }

    /// Lets the guest write to its first `pages` pages, round after round; with 0 it idles.
    pub(crate) fn write(&self, pages: u64) -> Result<(), Failure> {
        Ok(self.guest.params()[0].set(pages, 0)?)
    }

    /// Makes the vCPU leave guest mode once, and waits until it has.
    pub(crate) fn kick(&self) -> Result<(), Failure> {
        Ok(self.running.kick_all_and_wait()?)
    }

    /// Makes the vCPU leave guest mode and stay out.
    pub(crate) fn pause(&self) -> Result<Paused, Failure> {
        Ok(self.running.pause()?)
    }

    /// Ends the vCPU's thread.
    pub(crate) fn stop(self) -> Result<(), Failure> {
        self.running.stop()?;
        Ok(())
    }
}
