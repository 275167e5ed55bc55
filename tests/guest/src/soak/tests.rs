//! A soak finds what it looks for, and what it decides can be repeated.

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::layout::PAGE_BYTES;

const ANY_TIME: Duration = Duration::from_secs(60);

/// Starts VM 0 of `seed`, or prints why it can't.
fn start(seed: u64) -> Option<(SoakVm, Dice, Tally)> {
    let kvm = Kvm::new()
        .map_err(|error| println!("skipped: /dev/kvm can't be opened: {error}"))
        .ok()?;
    dirty_ring_kvm::Support::probe(&kvm)
        .map_err(|error| println!("skipped: {error}"))
        .ok()?;
    let (mut dice, mut tally) = (Dice::new(seed, 0), Tally::default());
    let config = SoakConfig::new(ANY_TIME, seed);
    let vm = SoakVm::start(&kvm, &config, &mut dice, &mut tally).unwrap();
    Some((vm, dice, tally))
}

/// Writes to page `page` of the data area behind KVM's back: it is logged nowhere.
fn write_unlogged(vm: &SoakVm, page: u64) {
    let address = vm.guest.layout().data_address(0) + page * PAGE_BYTES;
    let word = u64::MAX;
    vm.guest
        .ram()
        .write_obj(word, GuestAddress(address))
        .unwrap();
}

/// Returns the last page of the last slot, and what a loss says of it.
fn last_page(vm: &SoakVm) -> (u64, u32, u64) {
    let last = vm.slots.last().unwrap();
    let pages = last.pages();
    (pages.end - 1, last.slot.id, pages.end - 1 - pages.start)
}

#[track_caller]
fn assert_lost<R: std::fmt::Debug>(result: Result<R, Ended>, slot: u32, offset: u64) {
    let Err(Ended::Lost(loss)) = result else {
        panic!("no page was found lost: {result:?}");
    };
    assert_eq!((loss.slot, loss.offset), (slot, offset));
    assert_eq!(loss.in_memory, u64::MAX);
    let lost = LostPage::new(Tally::default().place(3, 4), loss);
    let text = lost.to_string();
    assert!(text.contains("VM 4 of seed 3"), "{text}");
    assert!(
        text.contains(&format!("page {offset} of slot {slot}")),
        "{text}"
    );
}

/// Lets all vCPUs idle.
fn idle(vm: &SoakVm) {
    for params in vm.guest.params() {
        params.set(0, 0).unwrap();
    }
    vm.running.kick_all_and_wait().unwrap();
}

#[test]
fn a_checkpoint_finds_one_page_that_was_not_logged() {
    let Some((mut vm, _, mut tally)) = start(1) else {
        return;
    };
    vm.checkpoint(&mut tally).unwrap();
    let (page, slot, offset) = last_page(&vm);
    idle(&vm);
    vm.checkpoint(&mut tally).unwrap();
    write_unlogged(&vm, page);
    assert_lost(vm.checkpoint(&mut tally), slot, offset);
}

#[test]
fn a_flush_of_running_vcpus_finds_one_page_that_was_not_logged() {
    let Some((mut vm, _, mut tally)) = start(2) else {
        return;
    };
    // vCPUs go on with the pages before it.
    let (page, slot, offset) = last_page(&vm);
    for params in vm.guest.params() {
        params.set_random(0, page, 0, 1).unwrap();
    }
    vm.checkpoint(&mut tally).unwrap();
    vm.checked(&mut tally, |vm, tally| vm.flush_or_resync(tally))
        .unwrap();
    write_unlogged(&vm, page);
    let flushed = vm.checked(&mut tally, |vm, tally| vm.flush_or_resync(tally));
    assert_lost(flushed, slot, offset);
}

#[test]
fn the_end_of_a_vm_finds_one_page_that_was_not_logged() {
    let Some((mut vm, mut dice, mut tally)) = start(3) else {
        return;
    };
    let (page, slot, offset) = last_page(&vm);
    idle(&vm);
    vm.checkpoint(&mut tally).unwrap();
    write_unlogged(&vm, page);
    assert_lost(vm.end(&mut dice, &mut tally), slot, offset);
}

#[test]
fn what_is_done_to_a_vm_follows_from_the_seed_and_its_number() {
    let deck = |seed, vm| Doing::deck(&mut Dice::new(seed, vm));
    assert_eq!(deck(1, 0), deck(1, 0));
    assert_ne!(deck(1, 0), deck(1, 1));
    assert_ne!(deck(1, 0), deck(2, 0));
    // The second VM of one seed is no VM of another one near by.
    assert_ne!(deck(1, 1), deck(2, 0));
}

#[test]
fn dice_reach_all_numbers_below_the_limit_and_no_other() {
    let mut dice = Dice::new(0, 0);
    let mut reached = [false; 7];
    for _ in 0..1000 {
        reached[dice.below(7) as usize] = true;
    }
    assert_eq!(reached, [true; 7]);
    assert_eq!(dice.below(1), 0);
    assert!(dice.once_in(1));
}
