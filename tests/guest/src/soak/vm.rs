//! One VM of a soak: how it begins and ends, and what is checked.

use std::sync::Arc;
use std::time::Duration;

use dirty_ring_core::collector::CollectError;
use dirty_ring_core::controller::{Policy, PolicySpec, PolicyState};
use dirty_ring_core::planner::PlannerState;
use dirty_ring_core::size::RingSize;
use dirty_ring_kvm::{Error, ReaperHandle, Support, Tracker};
use kvm_ioctls::Kvm;

use super::SoakConfig;
use super::copies::{Copies, Difference};
use super::dice::Dice;
use super::outage::Outage;
use super::outcome::{Ended, Loss, Tally};
use super::shape::Shape;
use super::slots::SoakSlot;
use crate::error::GuestError;
use crate::machine::Guest;
use crate::pause::Pause;
use crate::threads::RunningGuest;

/// Polls of a condition before it is an error. A poll takes at least [`POLL`], and a process that is
/// stopped polls nothing, so that a stop is never mistaken for a guest that stands still.
const POLLS: u32 = 60_000;
pub(super) const POLL: Duration = Duration::from_millis(1);

/// A VM.
pub(super) struct SoakVm {
    // Declared before the vCPUs, which may be waiting for it when they are stopped.
    pub(super) outage: Outage,
    pub(super) running: RunningGuest,
    pub(super) reaper: Option<ReaperHandle<Policy>>,
    pub(super) policy: PolicySpec,
    /// Of the last reaper that was stopped.
    pub(super) planner: Option<PlannerState<PolicyState>>,
    pub(super) tracker: Tracker,
    pub(super) guest: Guest,
    pub(super) size: RingSize,
    pub(super) is_logging: bool,
    pub(super) slots: Vec<SoakSlot>,
    pub(super) copies: Arc<Copies>,
    pub(super) pause: Option<Pause>,
    ring_full_name: &'static str,
}

impl SoakVm {
    /// Starts a VM whose vCPUs write and are logged and reaped.
    pub(super) fn start(
        kvm: &Kvm,
        config: &SoakConfig,
        dice: &mut Dice,
        tally: &mut Tally,
    ) -> Result<Self, Ended> {
        let support = Support::probe(kvm)?;
        let shape = Shape::choose(dice, &support, config)?;
        tally.shape = shape.to_string();
        let guest = Guest::new(kvm, shape.guest)?;
        let mut rings = support.enable(guest.vm(), shape.size.entries())?;
        let vcpus = guest.create_vcpus()?;
        for vcpu in &vcpus {
            rings.add_vcpu(vcpu.fd())?;
        }
        for slot in guest.data_slots() {
            rings.add_slot(slot.memory_slot())?;
        }
        let tracker = Tracker::with_ring_full_mode(rings, shape.mode)?;
        let handles = (0..vcpus.len()).map(|vcpu| tracker.vcpu(vcpu));
        let outage = Outage::new();
        let callback = outage.ring_full_callback(handles.collect::<Result<_, _>>()?);
        let mut vm = Self {
            copies: Arc::new(Copies::new(&guest)),
            slots: SoakSlot::all(&guest),
            running: RunningGuest::start(vcpus, callback)?,
            outage,
            reaper: None,
            policy: super::shape::policy(dice)?,
            planner: None,
            tracker,
            guest,
            size: shape.size,
            is_logging: false,
            pause: None,
            ring_full_name: shape.ring_full_name(),
        };
        vm.begin_phases(dice, tally)?;
        vm.switch_tracking_on(dice, tally)?;
        Ok(vm)
    }

    /// Stops the vCPUs and then the reaper, whose last drain must publish all that is left.
    pub(super) fn end(mut self, dice: &mut Dice, tally: &mut Tally) -> Result<(), Ended> {
        self.resume();
        self.add_missing_slots(dice, tally)?;
        self.ensure_tracking(dice, tally)?;
        tally.begin("end");
        let Self {
            outage,
            running,
            reaper,
            copies,
            slots,
            ring_full_name,
            ..
        } = self;
        for vcpu in running.stop()? {
            tally.page_writes += vcpu.page_writes;
            tally.add(ring_full_name, vcpu.ring_fulls);
        }
        drop(outage);
        if let Some(reaper) = reaper {
            let totals = reaper.stop()?.stats.totals;
            tally.interrupted_resets += totals.short_resets + totals.maybe_interrupted_resets;
        }
        let pages = slots.iter().flat_map(SoakSlot::pages);
        tally.pages_checked += pages.clone().count() as u64;
        check(&slots, &copies.differences(pages)?)
    }

    /// Returns whether every page that was written is published by the next flush.
    pub(super) const fn is_tracked(&self) -> bool {
        self.is_logging && self.reaper.is_some()
    }

    /// Returns the pages of the slots that are there.
    pub(super) fn pages(&self) -> impl Iterator<Item = u64> + Clone {
        let present = self.slots.iter().filter(|slot| slot.is_present);
        present.flat_map(SoakSlot::pages)
    }

    /// Flushes with a kick of all vCPUs.
    pub(super) fn flush(&self) -> Result<(), Error> {
        self.tracker.flush(|| self.running.kick_all_and_wait())
    }

    /// Does `work`, after which all must be published that was written before, and checks that it
    /// was. vCPUs may run.
    pub(super) fn checked<R>(
        &mut self,
        tally: &mut Tally,
        work: impl FnOnce(&mut Self, &mut Tally) -> Result<R, Ended>,
    ) -> Result<R, Ended> {
        let before = self.copies.differences(self.pages())?;
        let result = work(self, tally)?;
        if self.is_tracked() {
            tally.pages_checked += before.len() as u64;
            check(&self.slots, &self.copies.not_copied_since(&before))?;
        }
        Ok(result)
    }

    /// Compares all `pages`, to which no vCPU may write now, and of which all was published.
    pub(super) fn compare(
        &self,
        pages: impl Iterator<Item = u64> + Clone,
        tally: &mut Tally,
    ) -> Result<(), Ended> {
        tally.pages_checked += pages.clone().count() as u64;
        check(&self.slots, &self.copies.differences(pages)?)
    }

    /// Pauses all vCPUs, flushes and compares every page.
    pub(super) fn checkpoint(&mut self, tally: &mut Tally) -> Result<(), Ended> {
        self.resume();
        let pause = self.running.pause()?;
        self.flush_or_resync(tally)?;
        self.compare(self.pages(), tally)?;
        let stats = self.tracker.stats()?;
        let occupied = stats.vcpus.iter().any(|vcpu| vcpu.occupancy != 0);
        let left = stats.outstanding + stats.unpublished as u64 + stats.backlog;
        if occupied || left != 0 {
            return Err(unsound("a flush left pages behind", &stats));
        }
        pause.resume();
        Ok(())
    }

    /// Reads figures, of which some can be checked at any time.
    pub(super) fn check_figures(&self) -> Result<(), Ended> {
        let stats = self.tracker.stats()?;
        let rings = match self.tracker.state() {
            Ok(state) => state.rings.len(),
            // The next flush deals with that.
            Err(Error::Collect(CollectError::TooManySuspects { .. })) => stats.vcpus.len(),
            Err(error) => return Err(error.into()),
        };
        if stats.bad_entries() != 0 {
            return Err(unsound("an entry named no page", &stats));
        }
        if stats.has_reaper != self.reaper.is_some() || rings != stats.vcpus.len() {
            return Err(unsound("a reaper or a ring is missing", &stats));
        }
        Ok(())
    }

    /// Fails if a vCPU has.
    pub(super) fn check_vcpus(&self) -> Result<(), Ended> {
        match self.running.failed() {
            None => Ok(()),
            Some(vcpu) => Err(GuestError::VcpuFailed { vcpu }.into()),
        }
    }

    /// Returns why the VM ended before its time: where a vCPU has failed, its error.
    pub(super) fn why(self, ended: Ended) -> Ended {
        let Self {
            outage, running, ..
        } = self;
        match ended {
            Ended::Failed(_) if running.failed().is_some() => {
                drop(outage);
                running.stop().err().map_or(ended, Ended::from)
            }
            ended => ended,
        }
    }

    /// Flushes; where too many resets were interrupted, does what the error says. Returns whether
    /// they were not.
    pub(super) fn flush_or_resync(&self, tally: &mut Tally) -> Result<bool, Ended> {
        self.resync_if_needed(self.flush(), tally)
    }

    /// Ends a pause that is still on.
    pub(super) fn resume(&mut self) {
        self.pause = None;
    }
}

/// Waits until `is_met`.
pub(super) fn wait_until(
    what: &str,
    mut is_met: impl FnMut() -> Result<bool, Ended>,
) -> Result<(), Ended> {
    for _ in 0..POLLS {
        if is_met()? {
            return Ok(());
        }
        std::thread::sleep(POLL);
    }
    Err(Ended::Failed(
        format!("timed out waiting for {what}").into(),
    ))
}

/// Fails if there are pages that differ from their copies and must not.
fn check(slots: &[SoakSlot], lost: &[Difference]) -> Result<(), Ended> {
    let Some(first) = lost.first() else {
        return Ok(());
    };
    let slot = slots.iter().find(|slot| slot.pages().contains(&first.page));
    Err(Ended::Lost(Loss {
        pages: lost.len() as u64,
        slot: slot.map_or(0, |slot| slot.slot.id),
        offset: slot.map_or(first.page, |slot| first.page - slot.pages().start),
        in_memory: first.in_memory,
        in_copy: first.in_copy,
    }))
}

fn unsound(what: &str, stats: &dyn std::fmt::Debug) -> Ended {
    Ended::Failed(format!("{what}: {stats:?}").into())
}
