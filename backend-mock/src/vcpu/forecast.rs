//! When a vCPU will next do something that others must know of.

use super::Vcpu;
use super::mishaps::overrun_ps;
use crate::cost::ps;
use crate::kernel::KernelRing;

impl Vcpu {
    /// Returns a time before which its ring can't become full, as if every write from now on would
    /// fault: this needs no scan of the pages. Only while it is in guest mode.
    pub(crate) fn earliest_full_ps(&self, ring: &KernelRing) -> u64 {
        let faults = u64::from(self.faults_left(ring).saturating_sub(1));
        let each_ps = ps(self.cost.fault_ns).saturating_add(self.step_ps);
        let first_ps = if self.faulting {
            self.next_ps
        } else {
            self.next_ps.saturating_add(each_ps)
        };
        let full_ps = first_ps.saturating_add(faults.saturating_mul(each_ps));
        self.limited(full_ps.min(self.until_ps.max(self.next_ps)))
    }

    /// Returns the time when its ring becomes full, or an earlier one up to which it surely
    /// doesn't.
    ///
    /// The answer isn't before the time it has been simulated up to. Once it has been simulated up
    /// to the answer, the next answer is later or it has left. Only while it is in guest mode.
    pub(crate) fn forecast_ps(&self, ring: &KernelRing) -> u64 {
        let faults = self.faults_left(ring);
        let fault_step_ps = ps(self.cost.fault_ns).saturating_add(self.step_ps);
        if let Some(full_ps) = self.fault_done_ps(faults) {
            let begun_ps = full_ps.saturating_sub(fault_step_ps);
            let in_fault = self.faulting && faults == 1;
            if in_fault || begun_ps < self.until_ps {
                return self.limited(full_ps);
            }
        }
        // Not in this phase. It ends with the first write that begins after its time.
        let end_ps = if self.next_ps >= self.until_ps {
            self.next_ps
        } else if self.local_ps < self.until_ps {
            self.until_ps
        } else {
            // The access that straddles the end; were it a fault already, `next_ps` would be past.
            self.next_ps.saturating_add(self.step_ps)
        };
        self.limited(end_ps)
    }

    /// Returns the faults until the ring is full or holds an entry that can't be foreseen.
    fn faults_left(&self, ring: &KernelRing) -> u32 {
        let garbage = self.garbage.as_ref().map_or(u32::MAX, |g| g.left);
        ring.headroom().min(garbage)
    }

    /// Returns when the `faults`th fault from now (counted from 1) is done, if the phase lasts so
    /// long.
    fn fault_done_ps(&self, faults: u32) -> Option<u64> {
        let fault_ps = ps(self.cost.fault_ns);
        let left = (faults as usize).checked_sub(1)?;
        let (from, left) = if self.faulting {
            match left.checked_sub(1) {
                None => return Some(self.next_ps),
                Some(left) => ((self.cursor + 1) % self.pages, left),
            }
        } else {
            (self.cursor, left)
        };
        if left >= self.protected.len() {
            return None;
        }
        let page = match self.protected.nth_in(from, self.pages, left) {
            Ok(page) => page,
            Err(found) => self.pages + self.protected.nth_in(0, from, left - found).ok()?,
        };
        if self.faulting && page % self.pages == self.cursor {
            // Once round: that page is being logged already.
            return None;
        }
        let steps = ((page - from) as u64 + 1).saturating_mul(self.step_ps);
        let faults_ps = (left as u64 + 1).saturating_mul(fault_ps);
        let done_ps = self.next_ps.saturating_add(steps);
        Some(done_ps.saturating_add(faults_ps))
    }

    /// Returns `at_ps`, or the time of the overrun if that comes first.
    fn limited(&self, at_ps: u64) -> u64 {
        match &self.overrun {
            Some(overrun) if overrun_ps(overrun) > self.local_ps => at_ps.min(overrun_ps(overrun)),
            // It is due as soon as it runs.
            Some(_) => at_ps.min(self.next_ps.max(self.local_ps)),
            None => at_ps,
        }
    }
}
