//! Simulated VMs that break one rule each.

mod blind;

use std::marker::PhantomData;

use dirty_ring_core::backend::{Backend, Reset};
use dirty_ring_core::entry::{DirtyGfn, SlotId};
use dirty_ring_core::ring::{Ring, RingState};
use dirty_ring_core::time::Instant;
use dirty_ring_mock::{RingMemory, VirtualBackend, Vm, VmError};

pub(crate) use blind::Blind;

/// What a backend does otherwise than the VM in it.
pub(crate) trait Flaw: 'static {
    fn reset(vm: &mut Vm) -> Result<Reset, VmError> {
        vm.reset()
    }
    fn publish(vm: &mut Vm, pages: &[DirtyGfn]) -> Result<(), VmError> {
        vm.publish(pages)
    }
    fn publish_all(vm: &mut Vm) -> Result<(), VmError> {
        vm.publish_all()
    }
    fn is_registered(vm: &Vm, gfn: &DirtyGfn) -> bool {
        vm.is_registered(gfn)
    }
    fn was_removed(vm: &Vm, slot: SlotId) -> bool {
        vm.was_removed(slot)
    }
    fn unplug(vm: &mut Vm) -> Option<SlotId> {
        vm.unplug()
    }
    fn log_anew(vm: &mut Vm) {
        vm.log_anew();
    }
    fn restored(state: &RingState) -> RingState {
        *state
    }
}

/// Resets that nothing is left to do for end a call.
const BARREN: u32 = 100;

/// Resets again until nothing is left, and says nothing of interruptions.
pub(crate) struct HidesInterruptions;

impl Flaw for HidesInterruptions {
    fn reset(vm: &mut Vm) -> Result<Reset, VmError> {
        let (mut entries, mut barren) = (0, 0);
        while barren < BARREN {
            let done = vm.reset()?.entries;
            entries += done;
            barren = if done == 0 { barren + 1 } else { 0 };
        }
        Ok(Reset::of(entries))
    }
}

/// Says nothing of interruptions after the last entry.
pub(crate) struct HidesLateOnes;

impl Flaw for HidesLateOnes {
    fn reset(vm: &mut Vm) -> Result<Reset, VmError> {
        vm.reset().map(|done| Reset::of(done.entries))
    }
}

/// Says that the sink took what it refused.
pub(crate) struct SwallowsFailures;

impl Flaw for SwallowsFailures {
    fn publish(vm: &mut Vm, pages: &[DirtyGfn]) -> Result<(), VmError> {
        vm.publish(pages).or_else(|_| {
            vm.replace_sink();
            Ok(())
        })
    }
}

/// Doesn't count all memory as dirty after a resync.
pub(crate) struct NeverCountsAll;

impl Flaw for NeverCountsAll {
    fn publish_all(_vm: &mut Vm) -> Result<(), VmError> {
        Ok(())
    }
}

/// Doesn't switch logging off and on for a resync.
pub(crate) struct NeverLogsAnew;

impl Flaw for NeverLogsAnew {
    fn log_anew(_vm: &mut Vm) {}
}

/// Restores a ring that is still to be found as if it were where it was.
pub(crate) struct ForgetsLostRings;

impl Flaw for ForgetsLostRings {
    fn restored(state: &RingState) -> RingState {
        RingState {
            is_lost: false,
            ..*state
        }
    }
}

/// Takes every entry for that of a page.
pub(crate) struct AcceptsGarbage;

impl Flaw for AcceptsGarbage {
    fn is_registered(_vm: &Vm, _gfn: &DirtyGfn) -> bool {
        true
    }
}

/// Knows nothing of slots that were removed.
pub(crate) struct ForgetsRemovals;

impl Flaw for ForgetsRemovals {
    fn was_removed(_vm: &Vm, _slot: SlotId) -> bool {
        false
    }
}

/// Doesn't tell which slot was removed.
pub(crate) struct KeepsSuspects;

impl Flaw for KeepsSuspects {
    fn unplug(vm: &mut Vm) -> Option<SlotId> {
        vm.unplug();
        None
    }
}

/// A VM with a flaw.
pub(crate) struct Flawed<F> {
    vm: Vm,
    flaw: PhantomData<F>,
}

impl<F: Flaw> Backend for Flawed<F> {
    type Memory = RingMemory;
    type Error = VmError;

    fn rings(&self) -> &[Ring<RingMemory>] {
        self.vm.rings()
    }
    fn rings_mut(&mut self) -> &mut [Ring<RingMemory>] {
        self.vm.rings_mut()
    }
    fn is_registered(&self, gfn: &DirtyGfn) -> bool {
        F::is_registered(&self.vm, gfn)
    }
    fn was_removed(&self, slot: SlotId) -> bool {
        F::was_removed(&self.vm, slot)
    }
    fn reset(&mut self) -> Result<Reset, VmError> {
        F::reset(&mut self.vm)
    }
    fn publish(&mut self, pages: &[DirtyGfn]) -> Result<(), VmError> {
        F::publish(&mut self.vm, pages)
    }
    fn publish_all(&mut self) -> Result<(), VmError> {
        F::publish_all(&mut self.vm)
    }
}

impl<F: Flaw> VirtualBackend for Flawed<F> {
    fn around(vm: Vm) -> Self {
        Self {
            vm,
            flaw: PhantomData,
        }
    }
    fn vm(&self) -> &Vm {
        &self.vm
    }
    fn vm_mut(&mut self) -> &mut Vm {
        &mut self.vm
    }
    fn restore_rings(&mut self, states: &[RingState], now: Instant) {
        let states: Vec<_> = states.iter().map(F::restored).collect();
        self.vm.restore_rings(&states, now);
    }
    fn unplug(&mut self) -> Option<SlotId> {
        F::unplug(&mut self.vm)
    }
    fn log_anew(&mut self) {
        F::log_anew(&mut self.vm);
    }
}
