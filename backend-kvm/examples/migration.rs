//! A live migration: pre-copy rounds under a running guest, stop-and-copy, and a comparison byte for byte.
//!
//! ```sh
//! cargo run -p dirty-ring-kvm --example migration
//! ```
//!
//! Why no page is lost: a page is in the log only after the reset that follows its harvest, so it is
//! write-protected again *before* it is copied. A write that comes during the copy, or after it, faults
//! and is logged anew. To copy first and reset then would lose the writes in between.

use std::time::Instant;

use dirty_ring_core::controller::Policy;
use dirty_ring_kvm::no_kick;
use vm_memory::{Bytes, MemoryRegionAddress};

use support::{Failure, PAGE_BYTES, Vm, pages, wait_until_written};

mod support;

const PAGES: u64 = 16384;
/// Few pages enough for the downtime, and rounds after which a guest that dirties more has to stop anyway.
const FEW_PAGES: u64 = 64;
const MOST_ROUNDS: u32 = 30;

/// The other end: what arrived of the guest's memory.
struct Destination {
    memory: Vec<u8>,
}

impl Destination {
    /// Copies one page, as a migration sends it.
    fn copy(&mut self, vm: &Vm, page: u64) -> Result<(), Failure> {
        let begin = page * PAGE_BYTES;
        let place = &mut self.memory[begin as usize..][..PAGE_BYTES as usize];
        vm.memory().read_slice(place, MemoryRegionAddress(begin))?;
        Ok(())
    }

    /// Copies what was dirtied since the last time: by the vCPU, as the tracker's log says, and by the
    /// VMM itself, whose writes never reach a ring; vm-memory notes those. Returns how many pages.
    fn copy_dirty(&mut self, vm: &Vm, by_vcpu: &[u64]) -> Result<u64, Failure> {
        let by_vmm = vm.memory().bitmap().get_and_reset();
        let dirty: Vec<u64> = by_vcpu.iter().zip(by_vmm).map(|(a, b)| a | b).collect();
        let mut copied = 0;
        for page in pages(&dirty) {
            self.copy(vm, page)?;
            copied += 1;
        }
        Ok(copied)
    }
}

/// Stands for a device of the VMM, which writes to guest memory by itself.
fn receive_packet(vm: &Vm, number: u32) -> Result<(), Failure> {
    let page = PAGES - 1 - u64::from(number);
    let end_of_page = MemoryRegionAddress((page + 1) * PAGE_BYTES - 8);
    Ok(vm.memory().write_obj(u64::from(number), end_of_page)?)
}

fn main() -> Result<(), Failure> {
    let Some(vm) = Vm::create(PAGES, 65536)? else {
        return Ok(());
    };
    let tracker = vm.tracker();
    vm.write(PAGES)?;
    wait_until_written(&vm, PAGES)?;

    // Tracking begins under the running vCPU: logging of each slot, and a reaper for the tracker's log.
    tracker.update_memory(|memory| {
        memory.set_logging(vm.slot().id, true, |_, flags| vm.set_slot_flags(flags))
    })?;
    vm.memory().bitmap().reset();
    let policy = Policy::deadline(tracker.ring_size()?);
    let reaper = tracker.reaper_for_log().start(policy)?;

    // Round 0 copies all; each round after it what was dirtied during the one before.
    let mut destination = Destination {
        memory: vec![0; (PAGES * PAGE_BYTES) as usize],
    };
    let begin = Instant::now();
    for page in 0..PAGES {
        destination.copy(&vm, page)?;
    }
    println!("round  0: {PAGES:5} pages, {:?}", begin.elapsed());
    for round in 1..=MOST_ROUNDS {
        receive_packet(&vm, round)?;
        let begin = Instant::now();
        // No kick: what a vCPU hasn't logged yet comes with a later round.
        let logs = tracker.take_all(no_kick)?;
        let copied = destination.copy_dirty(&vm, &logs[0].1)?;
        println!("round {round:2}: {copied:5} pages, {:?}", begin.elapsed());
        if copied <= FEW_PAGES {
            break;
        }
    }

    // Stop and copy. The vCPU is out of guest mode, so all that it wrote is logged.
    let paused = vm.pause()?;
    let begin = Instant::now();
    let logs = tracker.take_all(no_kick)?;
    let copied = destination.copy_dirty(&vm, &logs[0].1)?;
    println!(
        "last    : {copied:5} pages, {:?} of downtime",
        begin.elapsed()
    );

    let mut memory = vec![0; destination.memory.len()];
    vm.memory()
        .read_slice(&mut memory, MemoryRegionAddress(0))?;
    let page_bytes = PAGE_BYTES as usize;
    let (here, there) = (
        memory.chunks(page_bytes),
        destination.memory.chunks(page_bytes),
    );
    let stale = here
        .zip(there)
        .filter(|(here, there)| here != there)
        .count();
    if stale != 0 {
        return Err(format!("{stale} pages of the copy are stale").into());
    }
    println!("the copy is what is in memory, byte for byte");

    // Tracking ends. The source would be destroyed now; after a migration that failed it goes on.
    tracker.update_memory(|memory| {
        memory.set_logging(vm.slot().id, false, |_, flags| vm.set_slot_flags(flags))
    })?;
    reaper.stop()?;
    drop(paused);
    vm.stop()
}
