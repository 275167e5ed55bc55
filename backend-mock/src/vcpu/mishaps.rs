//! A vCPU's faults: garbage in its ring, and a ring overrun.

use dirty_ring_core::entry::{DirtyGfn, SlotId};

use super::Vcpu;
use crate::cost::PS_PER_US;
use crate::faults::{Dice, Overrun};
use crate::kernel::KernelRing;

/// A slot that the simulated VM doesn't have.
const UNKNOWN_SLOT: SlotId = SlotId::new(1, 99);

/// Pages that a reset write-protects together.
const MASK_PAGES: u64 = 64;

/// Entries that name no page, mixed into the ring.
#[derive(Debug)]
pub(super) struct Garbage {
    dice: Dice,
    permille: u16,
    /// Sound entries until the next one.
    pub(super) left: u32,
    /// Which kind it will be.
    beyond_slot: bool,
}

impl Vcpu {
    /// Makes it a vCPU with garbage in its ring.
    pub(crate) fn with_garbage(mut self, mut dice: Dice, permille: u16) -> Self {
        self.garbage = (permille != 0).then(|| Garbage {
            left: dice.times_until(permille),
            dice,
            permille,
            beyond_slot: false,
        });
        self
    }

    /// Makes it a vCPU that overruns its ring.
    pub(crate) fn with_overrun(mut self, overrun: Overrun) -> Self {
        self.overrun = Some(overrun);
        self
    }

    /// Pushes an entry that names no page, if it is time for one.
    pub(super) fn log_garbage(&mut self, ring: &mut KernelRing) {
        let Some(garbage) = &mut self.garbage else {
            return;
        };
        garbage.left -= 1;
        if garbage.left != 0 {
            return;
        }
        garbage.left = garbage.dice.times_until(garbage.permille);
        garbage.beyond_slot = !garbage.beyond_slot;
        let [_, (slot, pages)] = self.slots.slots();
        // Not within KVM's mask of a sound page: that one would stay writable.
        let beyond = MASK_PAGES + garbage.dice.below(1 << 20);
        ring.push(if garbage.beyond_slot {
            DirtyGfn {
                slot,
                offset: pages as u64 + beyond,
            }
        } else {
            DirtyGfn {
                slot: UNKNOWN_SLOT,
                offset: beyond,
            }
        });
    }

    /// Logs page after page, protected or not, past the soft limit and past the ring's end. The
    /// limit is checked only after that.
    pub(super) fn overrun_ring(&mut self, entries_beyond: u32, at_ps: u64, ring: &mut KernelRing) {
        self.overrun = None;
        self.faulting = false;
        self.next_ps = self.next_ps.max(at_ps);
        let target = ring.entries().saturating_add(entries_beyond);
        while ring.used() < target {
            if self.pages == 0 {
                ring.push(self.slots.gfn(self.region.first));
            } else {
                self.log_write(ring);
            }
        }
        self.left_ps = Some(self.next_ps);
    }
}

/// Returns when an overrun is due.
pub(super) fn overrun_ps(overrun: &Overrun) -> u64 {
    overrun.at_us.saturating_mul(PS_PER_US)
}
