//! A VM for the examples that are about something else: the test guest on one vCPU, rings, and a tracker.
//! `minimal_vmm.rs` shows how a VMM sets these up.

// Each example uses a part of it.
#![allow(dead_code)]

#[cfg_attr(not(target_arch = "x86_64"), path = "no_vm.rs")]
mod vm;

use std::thread;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, MemoryRegionAddress};

pub(crate) use vm::Vm;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long a guest may take on a host that is busy otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of a page, the unit of dirty logging.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// Returns the pages whose bits are set in `log`, which is in the format of `KVM_GET_DIRTY_LOG`.
pub(crate) fn pages(log: &[u64]) -> impl Iterator<Item = u64> {
    let words = (0..).step_by(64).zip(log);
    words.flat_map(|(first, word)| {
        (0..64)
            .filter(move |bit| word & (1 << bit) != 0)
            .map(move |bit| first + bit)
    })
}

/// Switches logging on or off; `migration.rs` says why in this way.
pub(crate) fn set_logging(vm: &Vm, on: bool) -> Result<(), Failure> {
    let slot = vm.slot().id;
    vm.tracker()
        .update_memory(|memory| memory.set_logging(slot, on, |_, flags| vm.set_slot_flags(flags)))
}

/// Returns whether the guest has ever written to page `page`: it counts its writes from 1, and writes the
/// count.
fn is_written(vm: &Vm, page: u64) -> Result<bool, Failure> {
    let address = MemoryRegionAddress(page * PAGE_BYTES);
    let word: u64 = vm.memory().read_obj(address)?;
    Ok(word != 0)
}

/// Waits until the guest has written its first `pages` pages.
pub(crate) fn wait_until_written(vm: &Vm, pages: u64) -> Result<(), Failure> {
    let give_up = Instant::now() + PATIENCE;
    while !is_written(vm, pages - 1)? {
        if Instant::now() > give_up {
            return Err("the guest doesn't write".into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Checks that every page is in `log` that the guest has ever written; returns how many those are.
pub(crate) fn check_log(vm: &Vm, log: &[u64]) -> Result<u64, Failure> {
    let mut logged = pages(log).peekable();
    let mut written = 0;
    for page in 0..vm.slot().pages {
        let is_logged = logged.next_if_eq(&page).is_some();
        if is_written(vm, page)? {
            written += 1;
            if !is_logged {
                return Err(format!("page {page} was written and is not in the log").into());
            }
        }
    }
    match written {
        0 => Err("the guest has written nothing".into()),
        _ => Ok(written),
    }
}
