//! A vCPU's faults: garbage in its ring, and a ring overrun.

use super::Vcpu;
use crate::cost::PS_PER_US;
use crate::faults::{Dice, Overrun};
use crate::kernel::KernelRing;

/// Different entries that name no page.
const GARBAGE_DRAWS: u64 = 1 << 21;

/// Entries that name no page, mixed into the ring.
#[derive(Debug)]
pub(super) struct Garbage {
    dice: Dice,
    permille: u16,
    /// Sound entries until the next one.
    pub(super) left: u32,
}

impl Vcpu {
    /// Makes it a vCPU with garbage in its ring.
    pub(crate) fn with_garbage(mut self, mut dice: Dice, permille: u16) -> Self {
        self.garbage = (permille != 0).then(|| Garbage {
            left: dice.times_until(permille),
            dice,
            permille,
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
        ring.push(self.slots.garbage(garbage.dice.below(GARBAGE_DRAWS)));
    }

    /// Makes it overrun its ring from `at_us` on.
    pub(crate) fn overrun_from(&mut self, at_us: u64, entries_beyond: u32) {
        self.overrun = Some(Overrun {
            vcpu: self.index as u32,
            at_us,
            entries_beyond,
        });
    }

    /// Returns whether it is still to overrun its ring.
    pub(crate) fn is_overrun_due(&self) -> bool {
        self.overrun.is_some()
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
