//! A memory slot is added and removed while the vCPUs run.

use super::life::Life;
use super::outcome::SoakError;
use crate::machine::VirtualBackend;
use crate::vm::Vm;

/// Most pages of the slot.
const MOST_PAGES: u64 = 500;

/// Most writes to the slot at a time.
const MOST_WRITES: u64 = 60;

impl<B: VirtualBackend> Life<B> {
    /// Adds the slot, or removes it: with drained rings, as every change of slots has to.
    pub(super) fn move_slot(&mut self) -> Result<(), SoakError> {
        let pages = 1 + self.dice.below(MOST_PAGES) as usize;
        let late = self.draw_writes();
        loop {
            let now = self.machine.now();
            let done = self.machine.with(|collector| {
                if !collector.drain(now)? {
                    return Ok(None);
                }
                let vm = collector.backend_mut().vm_mut();
                if vm.plugged_pages() == 0 {
                    vm.plug(pages);
                    return Ok(Some("slot_addition"));
                }
                // Between the drain and the removal: nothing is left of these pages but entries.
                write(vm, &late);
                if let Some(slot) = collector.backend_mut().unplug() {
                    collector.forget_suspects(slot);
                }
                Ok(Some("slot_removal"))
            });
            match done {
                Ok(Some(change)) => {
                    self.report.count(change);
                    return Ok(());
                }
                Ok(None) => {}
                Err(failure) => self.make_good(failure)?,
            }
        }
    }

    /// Lets vCPUs write pages of the slot.
    pub(super) fn write_slot(&mut self) {
        let writes = self.draw_writes();
        self.machine.vm(|vm| write(vm, &writes));
    }

    /// Draws vCPUs and the pages that they write: some of them neighbours.
    fn draw_writes(&mut self) -> Vec<(usize, usize)> {
        let first = self.dice.below(MOST_PAGES) as usize;
        let count = self.dice.below(MOST_WRITES);
        (0..count)
            .map(|_| (self.any_vcpu(), first + self.dice.below(100) as usize))
            .collect()
    }
}

fn write(vm: &mut Vm, writes: &[(usize, usize)]) {
    for &(vcpu, page) in writes {
        vm.write_plugged(vcpu, page);
    }
}
