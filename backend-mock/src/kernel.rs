//! The kernel's side of one dirty ring, index by index as virt/kvm/dirty_ring.c has it (Linux 6.17).

mod mask;

use dirty_ring_core::entry::DirtyGfn;
use dirty_ring_core::size::RingSize;

use crate::memory::RingMemory;
pub(crate) use mask::Mask;

/// A ring as KVM sees it: free-running indices of the next entry to publish and the next to reset.
#[derive(Debug)]
pub(crate) struct KernelRing {
    memory: RingMemory,
    size: RingSize,
    dirty_index: u32,
    reset_index: u32,
}

/// When a signal becomes pending for the thread that resets: after so many checks, or never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signal(Option<u64>);

/// A signal ended a reset (`-EINTR`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interrupted {
    /// The pages of entries that were counted, and that stay writable.
    pub(crate) forgotten: Option<Mask>,
}

impl Signal {
    pub(crate) const NEVER: Self = Self(None);

    pub(crate) const fn after(checks: u64) -> Self {
        Self(Some(checks))
    }

    /// Returns how many of `waiting` entries are reset before it is pending.
    pub(crate) fn limit(self, waiting: u64) -> u64 {
        self.0.map_or(waiting, |checks| checks.min(waiting))
    }

    /// Returns whether it is pending (`signal_pending(current)`).
    fn is_pending(&mut self) -> bool {
        match &mut self.0 {
            Some(0) => true,
            Some(checks) => {
                *checks -= 1;
                false
            }
            None => false,
        }
    }
}

impl KernelRing {
    pub(crate) fn new(memory: RingMemory, size: RingSize) -> Self {
        Self {
            memory,
            size,
            dirty_index: 0,
            reset_index: 0,
        }
    }

    /// Publishes an entry (`kvm_dirty_ring_push`). Like KVM it doesn't check whether there is room.
    pub(crate) fn push(&mut self, gfn: DirtyGfn) {
        self.memory.publish(self.dirty_index, gfn);
        self.dirty_index = self.dirty_index.wrapping_add(1);
    }

    /// Returns the entries published and not reset (`kvm_dirty_ring_used`). An index that was reset
    /// too far makes that a huge number: the ring is full for good.
    pub(crate) fn used(&self) -> u32 {
        self.dirty_index.wrapping_sub(self.reset_index)
    }

    /// Returns the entries that may still come until the vCPU has to leave.
    pub(crate) fn headroom(&self) -> u32 {
        self.size.soft_limit().saturating_sub(self.used())
    }

    /// Returns whether the ring is at its soft limit (`kvm_dirty_ring_soft_full`).
    pub(crate) fn is_soft_full(&self) -> bool {
        self.headroom() == 0
    }

    /// Returns the ring's entries.
    pub(crate) fn entries(&self) -> u32 {
        self.size.entries()
    }

    /// Returns the entries that were harvested and not reset, in order.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = DirtyGfn> {
        let indices = (0..self.size.entries()).map(|ahead| self.reset_index.wrapping_add(ahead));
        indices.map_while(|index| self.memory.harvested(index))
    }

    /// Resets the harvested entries in order, adds them to `count` and lets `protect` write-protect
    /// their pages, up to 64 neighbours at a time (`kvm_dirty_ring_reset`).
    ///
    /// # Errors
    /// [`Interrupted`] where the signal is pending before an entry, or after the last one. KVM returns
    /// at once and forgets the pages that it has gathered.
    pub(crate) fn reset(
        &mut self,
        signal: &mut Signal,
        count: &mut u32,
        mut protect: impl FnMut(Mask),
    ) -> Result<(), Interrupted> {
        let mut gathered: Option<Mask> = None;
        loop {
            if signal.is_pending() {
                return Err(Interrupted {
                    forgotten: gathered,
                });
            }
            let Some(gfn) = self.memory.take_harvested(self.reset_index) else {
                break;
            };
            self.reset_index = self.reset_index.wrapping_add(1);
            *count += 1;
            if !gathered.as_mut().is_some_and(|mask| mask.gather(&gfn)) {
                gathered.replace(Mask::of(&gfn)).map(&mut protect);
            }
        }
        gathered.map(protect);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
