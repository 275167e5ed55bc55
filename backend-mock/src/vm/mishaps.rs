//! What a test lets happen to a VM while it runs.

use super::Vm;
use crate::error::VmError;
use crate::faults::Faults;

/// What fails at present.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mishaps {
    /// Resets fail.
    pub(super) resets_fail: bool,
    /// Publications that the consumer still takes; `None`: it takes all.
    publications_left: Option<u32>,
}

impl Mishaps {
    /// Lets the consumer take pages.
    pub(super) fn take_pages(&mut self) -> Result<(), VmError> {
        match &mut self.publications_left {
            Some(0) => Err(VmError::Sink),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Vm {
    /// Lets every publication fail after `publications` more. A publication that fails takes no page.
    pub fn break_sink(&mut self, publications: u32) {
        self.mishaps.publications_left = Some(publications);
    }

    /// Replaces the consumer by one that doesn't fail.
    pub fn replace_sink(&mut self) {
        self.mishaps.publications_left = None;
    }

    /// Lets every reset fail, or none any more.
    pub fn break_reset(&mut self, fails: bool) {
        self.mishaps.resets_fail = fails;
    }

    /// Lets `vcpu` overrun its ring as soon as it runs, by `entries_beyond`: see
    /// [`Overrun`](crate::Overrun). Does nothing with a vCPU that isn't there.
    pub fn overrun(&mut self, vcpu: usize, entries_beyond: u32) {
        let at_us = self.now_us();
        if let Some(cpu) = self.vcpus.get_mut(vcpu) {
            cpu.overrun_from(at_us, entries_beyond);
            self.forecast_anew(vcpu);
        }
    }

    /// Returns whether a vCPU is still to overrun its ring.
    pub fn is_overrun_due(&self) -> bool {
        self.vcpus.iter().any(|cpu| cpu.is_overrun_due())
    }

    /// Puts an entry that names no registered page into the ring of `vcpu`; returns whether there was
    /// room below the soft limit.
    pub fn log_garbage(&mut self, vcpu: usize, draw: u64) -> bool {
        let slots = self.layout.slot_map();
        match self.kernel.get_mut(vcpu) {
            Some(ring) if ring.headroom() > 1 => {
                ring.push(slots.garbage(draw));
                self.forecast_anew(vcpu);
                true
            }
            _ => false,
        }
    }

    /// Write-protects all memory, as switching logging off and on again does.
    pub fn log_anew(&mut self) {
        for vcpu in 0..self.vcpus.len() {
            self.vcpus[vcpu].protect_all();
            self.forecast_anew(vcpu);
        }
        self.plugged.protect_all();
    }

    /// Keeps all vCPUs out of guest mode until [`release`](Self::release): no page is written, and
    /// none on its way.
    pub fn hold(&mut self) {
        self.is_held = true;
        self.forecasts.fill(super::agenda::Forecast::NEVER);
    }

    /// Returns whether the vCPUs are held.
    pub fn is_held(&self) -> bool {
        self.is_held
    }

    /// Changes how often resets are interrupted from now on.
    pub(crate) fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Lets the vCPUs go on.
    pub fn release(&mut self) {
        if std::mem::take(&mut self.is_held) {
            for vcpu in 0..self.vcpus.len() {
                self.vcpus[vcpu].resume(self.now_ps);
                self.forecast_anew(vcpu);
            }
        }
    }
}
