//! The life of one VM: it runs, something is done to it, and what fails is made good.

use dirty_ring_core::collector::CollectError;
use dirty_ring_core::controller::{Policy, PolicySpec};
use dirty_ring_core::size::RingSize;

use super::doings::Doing;
use super::outcome::{SoakError, SoakReport};
use super::{SoakConfig, shape};
use crate::config::SimConfig;
use crate::cost::PS_PER_US;
use crate::faults::{Dice, Stream};
use crate::machine::{Failure, Machine, VirtualBackend};
use crate::vm::Vm;

/// Entries that a vCPU logs in a microsecond, at most, rounded up.
const ENTRIES_PER_US: u64 = 1;

/// A VM that lives.
pub(super) struct Life<B: VirtualBackend> {
    pub(super) machine: Machine<B, Policy>,
    pub(super) dice: Dice,
    pub(super) ring: RingSize,
    pub(super) vcpus: u64,
    pub(super) due: Due,
    pub(super) report: SoakReport,
    config: SimConfig<PolicySpec>,
    doing: &'static str,
}

/// Failures that something was done for, so that they have to be expected.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Due {
    /// The indices of a ring have parted, or a position is wrong.
    pub(super) parted: bool,
    /// Resets fail.
    pub(super) reset: bool,
    /// The sink fails.
    pub(super) sink: bool,
    /// A ring holds entries that name no page.
    pub(super) garbage: bool,
    /// Resets were interrupted, maybe too many of them.
    pub(super) interruptions: bool,
}

impl<B: VirtualBackend> Life<B> {
    pub(super) fn new(seed: u64, soak: &SoakConfig) -> Self {
        let mut dice = Dice::new(seed, Stream::Soak);
        let config = shape::draw(&mut dice, soak, seed);
        let vm = Vm::new(&config).expect("every draw is a VM");
        let (mode, cost, faults) = (config.ring_full_mode, config.cost, config.faults);
        let mut life = Self {
            machine: Machine::new(B::around(vm), mode, cost, faults, seed),
            dice,
            ring: config.ring,
            vcpus: config.vcpus.into(),
            due: Due {
                interruptions: faults.interrupted_reset_permille != 0,
                ..Due::default()
            },
            report: SoakReport {
                seed,
                shape: describe(&config),
                ..SoakReport::default()
            },
            config,
            doing: "start",
        };
        if let Some(policy) = life.config.policy {
            life.start_reaper(policy);
        }
        life
    }

    /// Lets the VM live while `doings` things are done to it.
    pub(super) fn live(mut self, doings: u32) -> Result<SoakReport, SoakError> {
        for _ in 0..doings {
            self.run()?;
            let doing = Doing::draw(&mut self.dice);
            self.begin(doing.name());
            self.perform(doing)?;
        }
        self.run()?;
        self.begin("end");
        self.checkpoint()?;
        let report = &mut self.report;
        self.machine.with(|collector| {
            let vm = collector.backend().vm();
            report.virtual_us = vm.now_us();
            report.page_writes = (0..self.vcpus as usize)
                .map(|vcpu| vm.page_writes(vcpu))
                .sum();
            report.forgotten_pages = vm.forgotten_pages();
            report.premature_publications = vm.premature_publications();
            report.unregistered_publications = vm.unregistered_publications();
        });
        Ok(self.report)
    }

    /// Counts something that is done from now on.
    pub(super) fn begin(&mut self, doing: &'static str) {
        self.doing = doing;
        self.report.count(doing);
    }

    /// Returns a vCPU.
    pub(super) fn any_vcpu(&mut self) -> usize {
        self.dice.below(self.vcpus) as usize
    }

    /// Lets a new reaper with any policy take over.
    pub(super) fn start_any_reaper(&mut self) {
        let policy = shape::policy(&mut self.dice);
        self.start_reaper(policy);
    }

    fn start_reaper(&mut self, policy: PolicySpec) {
        let policy = policy.build(self.ring).expect("checked when it was named");
        self.machine.start_reaper(policy);
    }

    /// Creates a VM without entries, to stand in for the real one for a moment.
    pub(super) fn stand_in(&self) -> B {
        let config = SimConfig {
            vcpus: 1,
            workload: self.config.workload.clone(),
            policy: Some(()),
            ..SimConfig::new(RingSize::new(256, 4096, 0).expect("256 entries are a ring"))
        };
        B::around(Vm::new(&config).expect("a small VM"))
    }

    /// Lets the guest run for a while: now and then as long as it takes to fill a ring.
    pub(super) fn run(&mut self) -> Result<(), SoakError> {
        let fill_us = 3 * u64::from(self.ring.entries()) / ENTRIES_PER_US;
        let us = match self.dice.below(8) {
            0 => 0,
            1..6 => self.dice.below(2_000),
            _ => self.dice.below(2_000 + fill_us),
        };
        for us in [us / 2, us - us / 2] {
            self.run_for_us(us)?;
            self.write_slot();
        }
        Ok(())
    }

    fn run_for_us(&mut self, us: u64) -> Result<(), SoakError> {
        let end_ps = self.machine.now_ps() + us * PS_PER_US;
        loop {
            match self.machine.run_until_ps(end_ps, &mut |_| ()) {
                Ok(()) => return Ok(()),
                Err(failure) => self.make_good(failure)?,
            }
        }
    }

    /// Reads all pages.
    pub(super) fn read(&mut self) -> Result<(), SoakError> {
        loop {
            match self.machine.read() {
                Ok(()) => return Ok(()),
                Err(failure) => self.make_good(failure)?,
            }
        }
    }

    /// Holds the vCPUs, drains the rings and compares every page with what was reported of it.
    pub(super) fn checkpoint(&mut self) -> Result<(), SoakError> {
        self.machine.vm(Vm::hold);
        self.read()?;
        let (pages, lost) = self.machine.vm(|vm| {
            let pages: usize = vm.slots().iter().map(|(_, pages)| pages).sum();
            ((pages + vm.plugged_pages()) as u64, vm.unpublished_pages())
        });
        self.report.pages_checked += pages;
        self.report.pages_lost += lost;
        if lost != 0 {
            self.report.lost_after.get_or_insert(self.doing);
        }
        self.machine.vm(Vm::release);
        Ok(())
    }

    /// Makes good what failed, if it was due.
    pub(super) fn make_good(&mut self, failure: Failure) -> Result<(), SoakError> {
        let is_due = match failure {
            CollectError::Publish(_) => self.due.sink,
            CollectError::Reset(_) => self.due.reset,
            CollectError::Overrun { .. }
            | CollectError::Parted { .. }
            | CollectError::Stalled { .. }
            | CollectError::ForeignReset { .. } => self.due.parted,
            CollectError::BadEntries { .. } => self.due.garbage,
            CollectError::TooManySuspects { .. } => self.due.interruptions,
            _ => false,
        };
        if !is_due {
            return Err(self.error(failure));
        }
        self.report.count(name(&failure));
        if matches!(failure, CollectError::Publish(_)) {
            self.replace_sink();
            self.machine
                .with(|collector| collector.forgive_publication());
            return Ok(());
        }
        self.resync()
    }

    pub(super) fn replace_sink(&mut self) {
        self.machine.vm(Vm::replace_sink);
        self.due.sink = false;
        self.report.count("sink_replacement");
    }

    /// Gives the rings back and counts all memory as dirty, with the vCPUs in guest mode or out of it.
    pub(super) fn resync(&mut self) -> Result<(), SoakError> {
        let was_held = self.machine.vm(|vm| vm.is_held());
        if self.dice.below(2) == 0 {
            self.machine.vm(Vm::hold);
        }
        self.machine.vm(|vm| vm.break_reset(false));
        let rests_us = [self.dice.below(200), self.dice.below(200)];
        let mut done = self.machine.with(|collector| {
            let rest = |vm: &mut Vm, us| vm.run_until_us(vm.now_us() + us);
            collector.begin_resync()?;
            rest(collector.backend_mut().vm_mut(), rests_us[0]);
            collector.backend_mut().log_anew();
            rest(collector.backend_mut().vm_mut(), rests_us[1]);
            Ok(())
        });
        while done.is_ok() {
            let now = self.machine.now();
            done = self.machine.with(|collector| collector.end_resync(now));
            match done {
                Err(CollectError::Publish(_)) if self.due.sink => {
                    self.replace_sink();
                    done = Ok(());
                }
                _ => break,
            }
        }
        if !was_held {
            self.machine.vm(Vm::release);
        }
        self.due = Due {
            parted: self.machine.vm(|vm| vm.is_overrun_due()),
            sink: self.due.sink,
            interruptions: self.due.interruptions,
            ..Due::default()
        };
        self.report.count("resynced");
        done.map_err(|failure| self.error(failure))
    }

    pub(super) fn error(&self, source: Failure) -> SoakError {
        SoakError {
            seed: self.report.seed,
            shape: self.report.shape.clone(),
            at_us: self.machine.now().0,
            doing: self.doing,
            source,
        }
    }

    /// Changes what goes wrong from now on.
    pub(super) fn change_weather(&mut self) {
        let faults = shape::weather(&mut self.dice);
        self.due.interruptions |= faults.interrupted_reset_permille != 0;
        self.machine.set_faults(faults);
    }
}

/// Returns the name under which a failure is counted.
fn name(failure: &Failure) -> &'static str {
    match failure {
        CollectError::Publish(_) => "found_sink_failure",
        CollectError::Reset(_) => "found_reset_failure",
        CollectError::Overrun { .. } => "found_overrun",
        CollectError::Parted { .. } => "found_parted",
        CollectError::Stalled { .. } => "found_stalled",
        CollectError::ForeignReset { .. } => "found_foreign_reset",
        CollectError::BadEntries { .. } => "found_bad_entries",
        CollectError::TooManySuspects { .. } => "found_too_many_suspects",
        _ => "found_other",
    }
}

fn describe(config: &SimConfig<PolicySpec>) -> String {
    let SimConfig {
        vcpus,
        ring,
        workload,
        ring_full_mode,
        ..
    } = config;
    let policy = config.policy.map_or("none", |policy| policy.name());
    format!(
        "{vcpus} vCPUs, {} entries, soft limit {}, {policy}, {ring_full_mode:?}, {workload}",
        ring.entries(),
        ring.soft_limit()
    )
}
