//! A simulated VM, its collector and its reaper: they take turns in virtual time.

use std::sync::atomic::AtomicU32;

use dirty_ring_core::backend::Backend;
use dirty_ring_core::collector::{CollectError, Collector, RingFullMode};
use dirty_ring_core::controller::Controller;
use dirty_ring_core::entry::SlotId;
use dirty_ring_core::planner::{PassRecord, Planner};
use dirty_ring_core::reaper::{Reaper, Turn};
use dirty_ring_core::ring::RingState;
use dirty_ring_core::shared::SharedCollector;
use dirty_ring_core::time::Instant;

use crate::cost::{CostModel, PS_PER_NS, PS_PER_US, ps};
use crate::error::VmError;
use crate::faults::{Dice, Faults, Stream};
use crate::report::Tally;
use crate::sync::{Alone, VirtualPark};
use crate::vm::{VcpuState, Vm};

/// A backend that is a simulated VM, or something around one that breaks a rule on purpose.
pub trait VirtualBackend: Backend<Error = VmError> {
    /// Creates it around `vm`.
    fn around(vm: Vm) -> Self;
    /// Returns the VM.
    fn vm(&self) -> &Vm;
    /// Returns the VM, to let time pass.
    fn vm_mut(&mut self) -> &mut Vm;
    /// Creates the rings anew, from `states`, over the memory that they have.
    fn restore_rings(&mut self, states: &[RingState], now: Instant);
    /// Removes the slot that comes and goes; returns it if it was there, to be forgotten.
    fn unplug(&mut self) -> Option<SlotId> {
        self.vm_mut().unplug()
    }
    /// Switches logging off and on again: all memory is protected after that.
    fn log_anew(&mut self) {
        self.vm_mut().log_anew();
    }
}

/// What a collector of a simulated VM fails with.
pub(crate) type Failure = CollectError<VmError>;

type Shared<B> = SharedCollector<Alone<Collector<B>>, AtomicU32, VirtualPark>;

/// A VM that runs.
#[derive(Debug)]
pub(crate) struct Machine<B: VirtualBackend, C> {
    shared: Shared<B>,
    park: VirtualPark,
    reaper: Option<Driver<C>>,
    ring_full_mode: RingFullMode,
    half_exit_ps: u64,
    wake: WakeLatency,
    pub(crate) tally: Tally,
}

/// The reaper, and when it takes its next turn.
#[derive(Debug)]
struct Driver<C> {
    reaper: Reaper<C>,
    /// What the last turn said.
    turn: Turn,
    /// When it takes the next, at the earliest.
    at_ps: u64,
    /// The doorbell rang, and it is on its way out of the wait.
    called: bool,
}

/// How late the reaper runs.
#[derive(Debug)]
struct WakeLatency {
    dice: Dice,
    cost: CostModel,
    faults: Faults,
}

impl WakeLatency {
    fn draw_ps(&mut self) -> u64 {
        let jitter_ps = ps(self.cost.wake_jitter_ns);
        let least_ps = ps(self.cost.wake_latency_ns).saturating_sub(jitter_ps);
        let usual_ps = least_ps.saturating_add(self.dice.below(2 * jitter_ps + 1));
        if self.dice.happens(self.faults.late_wake_permille) {
            usual_ps.saturating_add(u64::from(self.faults.late_wake_us) * PS_PER_US)
        } else {
            usual_ps
        }
    }
}

impl<B: VirtualBackend, C: Controller> Machine<B, C> {
    /// Creates a machine at time 0, without a reaper.
    pub(crate) fn new(
        backend: B,
        ring_full_mode: RingFullMode,
        cost: CostModel,
        faults: Faults,
        seed: u64,
    ) -> Self {
        let half_exit_ps = backend.vm().half_exit_ps();
        let park = VirtualPark::default();
        Self {
            shared: SharedCollector::new(Alone::new(Collector::new(backend)), park.clone()),
            park,
            reaper: None,
            ring_full_mode,
            half_exit_ps,
            wake: WakeLatency {
                dice: Dice::new(seed, Stream::Wakes),
                cost,
                faults,
            },
            tally: Tally::default(),
        }
    }

    /// Lets a new reaper take over; what rang before isn't for it.
    pub(crate) fn start_reaper(&mut self, controller: C) {
        let seen = self.shared.doorbell().seen_now();
        self.reaper = Some(Driver {
            reaper: Reaper::following(Planner::new(controller), seen),
            turn: Turn::Again,
            at_ps: self.now_ps(),
            called: false,
        });
    }

    /// Ends the reaper in whatever it does.
    pub(crate) fn drop_reaper(&mut self) {
        self.reaper = None;
    }

    pub(crate) fn with<R>(&self, critical: impl FnOnce(&mut Collector<B>) -> R) -> R {
        self.shared.with(critical)
    }

    pub(crate) fn vm<R>(&self, look: impl FnOnce(&mut Vm) -> R) -> R {
        self.with(|collector| look(collector.backend_mut().vm_mut()))
    }

    pub(crate) fn now_ps(&self) -> u64 {
        self.vm(|vm| vm.now_ps())
    }

    pub(crate) fn now(&self) -> Instant {
        self.vm(|vm| Instant(vm.now_us()))
    }

    /// Lets another collector take over what `prepare` has made of the backend. `stand_in` is there for
    /// a moment. The reaper has gone with the collector.
    pub(crate) fn replace_collector(&mut self, stand_in: B, prepare: impl FnOnce(&mut B)) {
        self.reaper = None;
        let old = self.with(|collector| core::mem::replace(collector, Collector::new(stand_in)));
        let mut backend = old.into_backend();
        prepare(&mut backend);
        let collector = Alone::new(Collector::new(backend));
        self.shared = SharedCollector::new(collector, self.park.clone());
    }

    /// Changes what goes wrong from now on.
    pub(crate) fn set_faults(&mut self, faults: Faults) {
        self.wake.faults = faults;
        self.vm(|vm| vm.set_faults(faults));
    }

    /// Lets reaper and vCPUs take turns up to `end_ps`. `observe` hears of each pass.
    ///
    /// # Errors
    /// What a vCPU or the reaper met. It tries again when the machine goes on.
    pub(crate) fn run_until_ps(
        &mut self,
        end_ps: u64,
        observe: &mut impl FnMut(&PassRecord),
    ) -> Result<(), Failure> {
        loop {
            let reaper_ps = self.reaper.as_ref().map_or(u64::MAX, |driver| driver.at_ps);
            if let Some((at_ps, vcpu)) = self.vm(|vm| vm.next_stop(reaper_ps.min(end_ps))) {
                match self.vm(|vm| vm.state(vcpu)) {
                    VcpuState::Running => self.vm(|vm| vm.run_vcpu_until_ps(vcpu, at_ps)),
                    VcpuState::RingFull { since_ps } => self.ring_full(vcpu, since_ps, at_ps)?,
                }
            } else if reaper_ps < end_ps {
                self.reaper_turn(observe)?;
            } else {
                self.vm(|vm| vm.run_until_ps(end_ps));
                return Ok(());
            }
        }
    }

    /// Asks the reaper for all pages.
    pub(crate) fn kick(&mut self) {
        self.shared.doorbell().kick();
        self.wake_if_rung();
    }

    /// Stops the reaper, which drains the rings. The vCPUs have left guest mode and stay out.
    ///
    /// # Errors
    /// Those of the reaper.
    pub(crate) fn stop_reaper(
        &mut self,
        observe: &mut impl FnMut(&PassRecord),
    ) -> Result<(), Failure> {
        self.shared.doorbell().stop();
        self.wake_if_rung();
        while self
            .reaper
            .as_ref()
            .is_some_and(|driver| driver.turn != Turn::Done)
        {
            self.reaper_turn(observe)?;
        }
        Ok(())
    }

    /// Takes all dirty pages on the caller's own thread, as a reader does.
    ///
    /// # Errors
    /// Those of the drain.
    pub(crate) fn read(&mut self) -> Result<(), Failure> {
        let now = self.now();
        let done = self.shared.drain(|| now);
        self.vm(Vm::charge);
        self.tally.reads += 1;
        done
    }

    /// Makes room for a vCPU that left at `since_ps` and asks for the lock at `at_ps`.
    fn ring_full(&mut self, vcpu: usize, since_ps: u64, at_ps: u64) -> Result<(), Failure> {
        self.vm(|vm| vm.run_until_ps(at_ps));
        let now = self.now();
        self.shared.ring_full(vcpu, self.ring_full_mode, now)?;
        let half_exit_ps = self.half_exit_ps;
        let back_ps = self.vm(|vm| {
            vm.charge();
            let back_ps = vm.now_ps().saturating_add(half_exit_ps);
            vm.enter(vcpu, back_ps);
            back_ps
        });
        let stall_ps = back_ps.saturating_sub(since_ps);
        self.tally.stalls.record(stall_ps / PS_PER_NS);
        self.wake_if_rung();
        Ok(())
    }

    /// Lets the reaper take a turn.
    fn reaper_turn(&mut self, observe: &mut impl FnMut(&PassRecord)) -> Result<(), Failure> {
        let Some(driver) = &mut self.reaper else {
            return Ok(());
        };
        let at_ps = driver.at_ps;
        let vm = |look: &mut dyn FnMut(&mut Vm)| {
            self.shared
                .with(|collector| look(collector.backend_mut().vm_mut()));
        };
        let (mut begun_ps, mut busy_ps, mut now) = (0, 0, Instant(0));
        vm(&mut |vm| {
            vm.run_until_ps(at_ps);
            (begun_ps, now) = (vm.now_ps(), Instant(vm.now_us()));
        });
        if matches!(driver.turn, Turn::Wait { .. }) {
            self.tally.wakeups += 1;
        }
        self.park.settle();
        let passes = driver.reaper.planner().passes();
        let turn = driver.reaper.turn(&self.shared, now)?;
        vm(&mut |vm| {
            vm.charge();
            busy_ps = vm.now_ps() - begun_ps;
        });
        self.tally.reaper_busy_ns += busy_ps / PS_PER_NS;
        let planner = driver.reaper.planner();
        if planner.passes() != passes {
            self.tally.passes += 1;
            planner.last_pass().map(observe);
        }
        self.schedule(turn);
        Ok(())
    }

    /// Plans the next turn: at once, or after the wait.
    fn schedule(&mut self, turn: Turn) {
        let now_ps = self.now_ps();
        let Some(driver) = &mut self.reaper else {
            return;
        };
        driver.called = false;
        driver.turn = turn;
        driver.at_ps = match turn {
            // The doorbell rang meanwhile: the reaper doesn't go to sleep.
            Turn::Wait { .. } if self.park.was_rung() => now_ps,
            Turn::Wait { until } => until
                .0
                .saturating_mul(PS_PER_US)
                .max(now_ps)
                .saturating_add(self.wake.draw_ps()),
            Turn::Again => now_ps,
            Turn::Done => u64::MAX,
        };
    }

    /// Wakes a sleeping reaper if the doorbell rang.
    fn wake_if_rung(&mut self) {
        let now_ps = self.now_ps();
        let Some(driver) = &mut self.reaper else {
            return;
        };
        let asleep = matches!(driver.turn, Turn::Wait { .. });
        if !asleep || !self.park.was_rung() || driver.called {
            return;
        }
        if self.wake.dice.happens(self.wake.faults.lost_wake_permille) {
            self.park.settle();
            return;
        }
        driver.called = true;
        let awake_ps = now_ps.saturating_add(self.wake.draw_ps());
        driver.at_ps = driver.at_ps.min(awake_ps);
    }
}
