//! The guest's page tables: identity-mapped, user-accessible 2 MiB pages.

use vm_memory::{Bytes, GuestAddress};

use crate::error::GuestError;
use crate::layout::{DIRECTORY_BYTES, GuestLayout, LARGE_PAGE_BYTES, PAGE_BYTES};
use crate::machine::GuestRam;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
// Accessed and dirty are set from the start, so that no CPU writes to the tables.
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;

const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED;
const READ_ONLY: u64 = PRESENT | USER | ACCESSED | DIRTY | LARGE;
const READ_WRITE: u64 = READ_ONLY | WRITABLE;

const ENTRY_BYTES: u64 = 8;

/// Writes tables that identity-map slot 0 (read-only) and the data area (writable), and nothing
/// else.
pub(crate) fn write_page_tables(layout: &GuestLayout, ram: &GuestRam) -> Result<(), GuestError> {
    let pml4 = layout.pml4_address();
    let pdpt = pml4 + PAGE_BYTES;
    let system_directory = pdpt + PAGE_BYTES;
    let data_directories = system_directory + PAGE_BYTES;

    write_entry(ram, pml4, pdpt | TABLE)?;

    let system = layout.system_slot();
    write_entry(ram, pdpt, system_directory | TABLE)?;
    write_leaves(
        ram,
        system_directory,
        system.guest_address,
        system.guest_address + system.bytes(),
        READ_ONLY,
    )?;

    let data_start = layout.data_address(0);
    let data_end = data_start + layout.data_pages() * PAGE_BYTES;
    let gibs = (data_end - data_start).div_ceil(DIRECTORY_BYTES);
    for gib in 0..gibs {
        let start = data_start + gib * DIRECTORY_BYTES;
        let directory = data_directories + gib * PAGE_BYTES;
        let entry = pdpt + start / DIRECTORY_BYTES * ENTRY_BYTES;
        write_entry(ram, entry, directory | TABLE)?;
        let end = data_end.min(start + DIRECTORY_BYTES);
        write_leaves(ram, directory, start, end, READ_WRITE)?;
    }
    Ok(())
}

/// Maps `start..end`, which must lie within one GiB, in `directory`.
fn write_leaves(
    ram: &GuestRam,
    directory: u64,
    start: u64,
    end: u64,
    flags: u64,
) -> Result<(), GuestError> {
    let mut address = start;
    while address < end {
        let entry = directory + address % DIRECTORY_BYTES / LARGE_PAGE_BYTES * ENTRY_BYTES;
        write_entry(ram, entry, address | flags)?;
        address += LARGE_PAGE_BYTES;
    }
    Ok(())
}

fn write_entry(ram: &GuestRam, address: u64, entry: u64) -> Result<(), GuestError> {
    ram.write_obj(entry, GuestAddress(address))
        .map_err(GuestError::memory("write the guest's page tables"))
}
