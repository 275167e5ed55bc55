//! What userspace does to the VM: harvests, resets and publications, and the time they take.

use std::collections::HashSet;

use dirty_ring_core::backend::{Backend, Reset};
use dirty_ring_core::entry::{DirtyGfn, SlotId};
use dirty_ring_core::ring::{Ring, RingState};
use dirty_ring_core::time::Instant;

use super::{Vm, plugged};
use crate::cost::ps;
use crate::error::VmError;
use crate::kernel::{Interrupted, KernelRing, Signal};
use crate::machine::VirtualBackend;
use crate::memory::RingMemory;

/// Interruptions for one false alarm.
const FALSE_ALARM_SHARE: u16 = 4;

impl Vm {
    /// Returns the cost of what userspace did to the rings since the last call.
    pub(super) fn uncharged_ps(&mut self) -> u64 {
        let now = self.meter.accesses();
        let before = std::mem::replace(&mut self.charged, now);
        let entries = now.harvested - before.harvested;
        // A harvested entry's load is part of its harvest.
        let scanned = (now.scanned - before.scanned).saturating_sub(entries);
        let cost = |ns, times| ps(ns).saturating_mul(times);
        cost(self.cost.harvest_entry_ns, entries)
            .saturating_add(cost(self.cost.scan_load_ns, scanned))
            .saturating_add(cost(self.cost.peek_load_ns, now.loads - before.loads))
    }

    /// Returns when a signal interrupts the next reset, which `waiting` entries wait for.
    fn next_signal(&mut self, waiting: u64) -> Signal {
        if self.dice.happens(self.faults.barren_reset_permille) {
            Signal::after(0)
        } else if self.dice.happens(self.faults.interrupted_reset_permille) {
            // KVM checks before each entry, and once more at the end of each ring.
            let checks = waiting + self.kernel.len() as u64;
            Signal::after(self.dice.below(checks))
        } else {
            Signal::NEVER
        }
    }

    /// Lets the consumer count `pages` as dirty.
    pub(crate) fn count_as_dirty(&mut self, pages: &[DirtyGfn]) {
        let waiting: HashSet<_> = self.kernel.iter().flat_map(KernelRing::waiting).collect();
        for gfn in pages {
            if gfn.slot == plugged::SLOT && self.plugged.on_published(gfn) {
                self.truth.on_plugged_published(waiting.contains(gfn));
                continue;
            }
            let waits = waiting.contains(gfn);
            self.truth
                .on_published(gfn, waits, &self.layout, &self.vcpus);
        }
    }

    /// Resets the rings, vCPU by vCPU, until a signal is pending
    /// (`kvm_vm_ioctl_reset_dirty_pages`). Returns the entries reset.
    fn reset_rings(&mut self, mut signal: Signal) -> (u32, Result<(), Interrupted>) {
        let map = self.layout.slot_map();
        let mut total = 0;
        for vcpu in 0..self.kernel.len() {
            let mut count = 0;
            let done = self.kernel[vcpu].reset(&mut signal, &mut count, |mask| {
                if mask.last().slot == plugged::SLOT {
                    self.plugged.protect(&mask);
                }
                for page in map.protected_by(&mask) {
                    let (owner, offset) = self.layout.owner(page);
                    self.vcpus[owner].protect(offset);
                }
            });
            if count != 0 {
                self.forecast_anew(vcpu);
            }
            total += count;
            if done.is_err() {
                return (total, done);
            }
        }
        (total, Ok(()))
    }
}

impl Backend for Vm {
    type Memory = RingMemory;
    type Error = VmError;

    fn rings(&self) -> &[Ring<RingMemory>] {
        &self.rings
    }

    fn rings_mut(&mut self) -> &mut [Ring<RingMemory>] {
        &mut self.rings
    }

    fn is_registered(&self, gfn: &DirtyGfn) -> bool {
        self.slots.contains(gfn)
    }

    fn was_removed(&self, slot: SlotId) -> bool {
        slot == plugged::SLOT && self.plugged.was_removed()
    }

    fn reset(&mut self) -> Result<Reset, VmError> {
        if self.mishaps.resets_fail {
            return Err(VmError::Reset);
        }
        let waiting = self.meter.waiting();
        let signal = self.next_signal(waiting);
        let work_ps = self
            .uncharged_ps()
            .saturating_add(ps(self.cost.reset_call_ns))
            .saturating_add(ps(self.cost.reset_entry_ns).saturating_mul(signal.limit(waiting)));
        // The guest runs on; what it writes now to a harvested page is what the order of reset and
        // publication is about.
        self.run_until_ps(self.now_ps.saturating_add(work_ps));
        let (entries, done) = self.reset_rings(signal);
        if let Err(Interrupted {
            forgotten: Some(mask),
        }) = done
        {
            self.forgotten += mask.pages().count() as u64;
        }
        if entries != 0 {
            for vcpu in 0..self.vcpus.len() {
                self.vcpus[vcpu].interrupt(ps(self.cost.tlb_flush_ns));
                self.forecast_anew(vcpu);
            }
        }
        let false_alarm = self.faults.interrupted_reset_permille / FALSE_ALARM_SHARE;
        Ok(Reset {
            entries,
            maybe_interrupted: self.dice.happens(false_alarm) || done.is_err(),
        })
    }

    fn publish(&mut self, pages: &[DirtyGfn]) -> Result<(), VmError> {
        self.mishaps.take_pages()?;
        self.count_as_dirty(pages);
        Ok(())
    }

    fn publish_all(&mut self) -> Result<(), VmError> {
        self.mishaps.take_pages()?;
        self.plugged.on_all_published();
        self.truth.on_all_published(&self.layout, &self.vcpus);
        Ok(())
    }
}

impl VirtualBackend for Vm {
    fn around(vm: Vm) -> Self {
        vm
    }

    fn vm(&self) -> &Vm {
        self
    }

    fn vm_mut(&mut self) -> &mut Vm {
        self
    }

    fn restore_rings(&mut self, states: &[RingState], now: Instant) {
        for (ring, state) in self.rings.iter_mut().zip(states) {
            *ring = Ring::from_state(ring.memory().clone(), state, now);
        }
    }
}
