//! What userspace does to the VM: harvests, resets and publications, and the time they take.

use core::convert::Infallible;
use std::collections::HashSet;

use dirty_ring_core::backend::{Backend, Reset};
use dirty_ring_core::entry::DirtyGfn;
use dirty_ring_core::ring::Ring;

use super::Vm;
use crate::cost::ps;
use crate::kernel::KernelRing;
use crate::memory::RingMemory;

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

    /// Returns how many of `waiting` entries the next reset gets through.
    fn reset_limit(&mut self, waiting: u64) -> u64 {
        if self.dice.happens(self.faults.interrupted_reset_permille) {
            0
        } else if self.dice.happens(self.faults.short_reset_permille) {
            self.dice.below(waiting)
        } else {
            waiting
        }
    }

    /// Resets up to `limit` entries, vCPU by vCPU, and in each ring in order.
    fn reset_entries(&mut self, limit: u64) -> u32 {
        let map = self.layout.slot_map();
        let mut left = limit;
        for vcpu in 0..self.kernel.len() {
            let before = left;
            while left != 0
                && let Some(gfn) = self.kernel[vcpu].reset_next()
            {
                left -= 1;
                // KVM as well passes over an entry that names no page.
                if let Some(page) = map.page(&gfn) {
                    let (owner, offset) = self.layout.owner(page);
                    self.vcpus[owner].protect(offset);
                }
            }
            if left != before {
                self.forecast_anew(vcpu);
            }
        }
        u32::try_from(limit - left).unwrap_or(u32::MAX)
    }
}

impl Backend for Vm {
    type Memory = RingMemory;
    type Error = Infallible;

    fn rings(&self) -> &[Ring<RingMemory>] {
        &self.rings
    }

    fn rings_mut(&mut self) -> &mut [Ring<RingMemory>] {
        &mut self.rings
    }

    fn is_registered(&self, gfn: &DirtyGfn) -> bool {
        self.slots.contains(gfn)
    }

    fn reset(&mut self) -> Result<Reset, Infallible> {
        let harvested = self.meter.accesses().harvested;
        let limit = self.reset_limit(harvested.saturating_sub(self.reset));
        let work_ps = self
            .uncharged_ps()
            .saturating_add(ps(self.cost.reset_call_ns))
            .saturating_add(ps(self.cost.reset_entry_ns).saturating_mul(limit));
        // The guest runs on; what it writes now to a harvested page is what the order of reset and
        // publication is about.
        self.run_until_ps(self.now_ps.saturating_add(work_ps));
        let entries = self.reset_entries(limit);
        self.reset += u64::from(entries);
        if entries != 0 {
            for vcpu in 0..self.vcpus.len() {
                self.vcpus[vcpu].interrupt(ps(self.cost.tlb_flush_ns));
                self.forecast_anew(vcpu);
            }
        }
        Ok(Reset::of(entries))
    }

    fn publish(&mut self, pages: &[DirtyGfn]) -> Result<(), Infallible> {
        let waiting: HashSet<_> = self.kernel.iter().flat_map(KernelRing::waiting).collect();
        for gfn in pages {
            let waits = waiting.contains(gfn);
            self.truth
                .on_published(gfn, waits, &self.layout, &self.vcpus);
        }
        Ok(())
    }

    fn publish_all(&mut self) -> Result<(), Infallible> {
        self.truth.on_all_published(&self.layout, &self.vcpus);
        Ok(())
    }
}
