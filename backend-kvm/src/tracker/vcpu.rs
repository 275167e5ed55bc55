//! A vCPU's side of the tracker.

use std::fmt;
use std::sync::Arc;

use dirty_ring_core::collector::RingFullReport;

use crate::error::Error;
use crate::session::Session;

/// A vCPU's side: call [`on_ring_full`](Self::on_ring_full) on its thread.
///
/// It is right for as long as the VM lives, whichever reaper runs, and while none does. It keeps the
/// VM's file descriptor, the rings and the sink alive: drop it with its vCPU.
#[derive(Clone)]
pub struct VcpuHandle {
    pub(super) session: Arc<Session>,
    pub(super) vcpu: usize,
}

impl VcpuHandle {
    /// Makes room in this vCPU's ring after `KVM_EXIT_DIRTY_RING_FULL`; then enter the guest again. Call it
    /// for the vCPU that had the exit, once for each exit, and for no other: exits without anything to take
    /// are how an overrun is recognised, and how KVM's index is brought back after a
    /// [`resync`](crate::Tracker::resync). A call without an exit can keep its vCPU out for good then.
    ///
    /// # Errors
    /// The vCPU can't go on until the tracker is mended. [`Error::Collect`]: a ring has overrun,
    /// KVM's reset fails, or the sink does; stop the reaper, and [`resync`](crate::Tracker::resync) unless it
    /// was the sink. [`Error::Panicked`]: the reaper has; stop it. [`Error::Reentrant`].
    pub fn on_ring_full(&self) -> Result<RingFullReport, Error> {
        let Session { clock, mode, .. } = &*self.session;
        let collector = self.session.collector()?;
        self.session.check_reaper()?;
        Ok(collector.ring_full(self.vcpu, *mode, clock.now())?)
    }

    /// Returns the vCPU's index.
    pub const fn index(&self) -> usize {
        self.vcpu
    }
}

impl fmt::Debug for VcpuHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VcpuHandle")
            .field("vcpu", &self.vcpu)
            .finish_non_exhaustive()
    }
}
