//! What the tests on real KVM share.

// Each test file uses a part of it.
#![allow(dead_code)]

pub(crate) mod confine;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dirty_ring_core::controller::Policy;
use dirty_ring_core::entry::DirtyGfn;
use dirty_ring_core::time::Micros;
use dirty_ring_guest::{
    Guest, GuestConfig, GuestRam, GuestVcpu, ReapedGuest, Reaping, RunningGuest,
};
use dirty_ring_kvm::{KvmRings, MemorySlot, PageSink, SinkFailure, Support};
use kvm_ioctls::Kvm;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

pub(crate) const AN_HOUR: Micros = Micros::from_secs(3600);

/// How long a condition may take: far longer than in the slowest emulator.
const PATIENCE: Duration = Duration::from_secs(120);

/// Returns KVM with dirty rings, or prints why this test is skipped.
pub(crate) fn kvm() -> Option<(Kvm, Support)> {
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => {
            println!("skipped: /dev/kvm can't be used here: {error}");
            return None;
        }
    };
    match Support::probe(&kvm) {
        Ok(support) => Some((kvm, support)),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

/// Registers the data slots of `guest` with `rings`, then its vCPUs, which it creates.
pub(crate) fn register(rings: &mut KvmRings, guest: &Guest) -> Vec<GuestVcpu> {
    for slot in guest.data_slots() {
        rings.add_slot(slot.memory_slot()).unwrap();
    }
    let vcpus = guest.create_vcpus().unwrap();
    for vcpu in &vcpus {
        rings.add_vcpu(vcpu.fd()).unwrap();
    }
    vcpus
}

/// Starts a guest with a reaper that reaps every `wait`.
pub(crate) fn start(config: GuestConfig, reaping: Reaping, wait: Micros) -> Option<ReapedGuest> {
    let (kvm, _) = kvm()?;
    let policy = |_| Policy::fixed(wait).unwrap();
    Some(ReapedGuest::start(&kvm, config, reaping, policy).unwrap())
}

/// Waits until `is_met`; panics with `what` where it never is.
pub(crate) fn wait_until(what: &str, mut is_met: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !is_met() {
        assert!(Instant::now() < give_up, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Guest addresses of the pages that a vCPU's first `pages` writes touch.
pub(crate) fn pages(
    guest: &Guest,
    vcpu: usize,
    pages: u64,
) -> impl Iterator<Item = GuestAddress> + use<> {
    let first = guest.layout().data_address(vcpu);
    (0..pages).map(move |page| GuestAddress(first + page * 4096))
}

pub(crate) fn word(guest: &Guest, address: GuestAddress) -> u64 {
    guest.ram().read_obj(address).unwrap()
}

pub(crate) fn is_dirty(guest: &Guest, address: GuestAddress) -> bool {
    let region = guest.ram().find_region(address).unwrap();
    let offset = address.0 - region.start_addr().0;
    region.bitmap().dirty_at(offset as usize)
}

/// Waits until `vcpu` has written its first `count` pages.
pub(crate) fn wait_until_written(guest: &Guest, vcpu: usize, count: u64) {
    let last = pages(guest, vcpu, count).last().unwrap();
    wait_until("the guest doesn't write", || word(guest, last) != 0);
}

/// Waits until the vCPUs, which were told to write no more, have ended their last writes.
pub(crate) fn wait_until_idle(running: &RunningGuest) {
    // A vCPU that was kicked in the middle of its last write may be kicked again before it goes on:
    // only counts that agree several times show that it idles.
    let mut agreed = 0;
    let mut before = running.page_writes().unwrap();
    wait_until("the guest writes on", || {
        let now = running.page_writes().unwrap();
        agreed = if now == before { agreed + 1 } else { 0 };
        before = now;
        agreed == 5
    });
}

/// Waits until `vcpu` has gone once more round its first `count` pages.
pub(crate) fn wait_for_a_round(guest: &Guest, vcpu: usize, count: u64) {
    let last = pages(guest, vcpu, count).last().unwrap();
    let before = word(guest, last);
    wait_until("the guest doesn't get round", || {
        word(guest, last) > before + count
    });
}

/// The pages of a migration's copy, by guest address.
pub(crate) type Copies = Arc<Mutex<HashMap<u64, u64>>>;

/// Copies each page's word when it is published, as a migration does.
pub(crate) struct Copying {
    ram: GuestRam,
    copies: Copies,
}

impl Copying {
    pub(crate) fn new(guest: &Guest, copies: &Copies) -> Self {
        Self {
            ram: guest.ram().clone(),
            copies: Arc::clone(copies),
        }
    }
}

impl PageSink for Copying {
    fn publish(&mut self, slot: &MemorySlot, pages: &[DirtyGfn]) -> Result<(), SinkFailure> {
        let mut copies = self.copies.lock().unwrap();
        for page in pages {
            let address = slot.address + page.offset * 4096;
            let word = self.ram.read_obj(GuestAddress(address)).unwrap();
            copies.insert(address, word);
        }
        Ok(())
    }
}

/// Returns the data pages whose copy isn't what is in memory. A page that was never written needs no
/// copy.
pub(crate) fn stale_pages(guest: &Guest, copies: &Copies) -> u64 {
    let copies = copies.lock().unwrap();
    let slots = guest.data_slots().iter();
    let addresses =
        slots.flat_map(|slot| (0..slot.pages).map(|page| slot.guest_address + page * 4096));
    let stale = addresses.filter(|address| {
        let word = word(guest, GuestAddress(*address));
        copies.get(address).copied().unwrap_or(0) != word
    });
    stale.count() as u64
}
