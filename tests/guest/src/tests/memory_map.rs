//! The layout and its page tables, which need no KVM.

use super::*;
use crate::machine::allocate_slot;
use crate::tables::write_page_tables;

#[test]
fn layout_cuts_the_data_area_into_slots_without_gaps() {
    let layout = GuestLayout::new(config(3, 100, 7)).unwrap();
    let slots = layout.data_slots();
    assert_eq!(slots.len(), 7);
    assert_eq!(slots.iter().map(|slot| slot.pages).sum::<u64>(), 300);
    assert!(slots.iter().all(|slot| (42..=43).contains(&slot.pages)));
    assert_eq!(slots[0].guest_address, layout.data_address(0));
    for (index, pair) in slots.windows(2).enumerate() {
        assert_eq!(pair[0].id, index as u32 + 1);
        assert_eq!(
            pair[0].guest_address + pair[0].bytes(),
            pair[1].guest_address
        );
    }
}

#[test]
fn layout_rejects_what_is_out_of_range() {
    let max_pages = GuestConfig {
        data_pages_per_vcpu: MAX_DATA_PAGES,
        ..GuestConfig::default()
    };
    assert!(GuestLayout::new(max_pages).is_ok());
    for (rejected, why) in [
        (config(0, 1, 1), "vCPUs"),
        (config(MAX_VCPUS + 1, 1, 1), "vCPUs"),
        (config(1, 0, 1), "pages"),
        (config(1, MAX_DATA_PAGES + 1, 1), "pages"),
        (config(2, u64::MAX, 1), "pages"),
        (config(1, 10, 0), "slots"),
        (config(1, 10, 11), "slots"),
        (config(1, 1000, MAX_DATA_SLOTS + 1), "slots"),
    ] {
        let error = GuestLayout::new(rejected).unwrap_err().to_string();
        assert!(error.contains(why), "{rejected:?}: {error}");
    }
}

/// Returns the page directory entry that maps `address`, or 0.
fn walk(layout: &GuestLayout, ram: &GuestRam, address: u64) -> u64 {
    const FRAME: u64 = !0xfff;
    [39, 30, 21]
        .into_iter()
        .try_fold(layout.pml4_address(), |table, shift| {
            let index = address >> shift & 0x1ff;
            let entry: u64 = ram
                .read_obj(GuestAddress((table & FRAME) + index * 8))
                .unwrap();
            (entry & 1 != 0).then_some(entry)
        })
        .unwrap_or(0)
}

#[test]
fn page_tables_map_slot_0_read_only_and_the_data_writable_and_nothing_else() {
    const LARGE_PAGE_BYTES: u64 = 2 << 20;
    const READ_ONLY: u64 = 0xe5;
    const READ_WRITE: u64 = 0xe7;
    // More than one GiB of data, and an end within a large page.
    let layout = GuestLayout::new(config(2, 200_001, 3)).unwrap();
    let system = layout.system_slot();
    let ram = GuestRam::from_regions(vec![allocate_slot(&system).unwrap()]).unwrap();
    write_page_tables(&layout, &ram).unwrap();

    let data_start = layout.data_address(0);
    let data_end = data_start + layout.data_pages() * PAGE_BYTES;
    let system_range = system.guest_address..system.guest_address + system.bytes();
    for address in (0..data_end + (2 << 30)).step_by(LARGE_PAGE_BYTES as usize) {
        let expected = if system_range.contains(&address) {
            address | READ_ONLY
        } else if (data_start..data_end).contains(&address) {
            address | READ_WRITE
        } else {
            0
        };
        assert_eq!(walk(&layout, &ram, address), expected, "{address:#x}");
    }
}
