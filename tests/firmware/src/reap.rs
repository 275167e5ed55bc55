//! A reaper over two rings, which fill as the trace recorded it.

use core::sync::atomic::AtomicU32;

use dirty_ring_core::collector::{Collector, RingFullMode};
use dirty_ring_core::controller::Policy;
use dirty_ring_core::fair::FairLock;
use dirty_ring_core::planner::{PassRecord, Planner};
use dirty_ring_core::reaper::{Reaper, Turn};
use dirty_ring_core::shared::SharedCollector;
use dirty_ring_core::time::{Instant, Micros};

use crate::kernel::{Kernel, Never, RINGS};
use crate::print::{Console, Printer};
use crate::single::{Line, Single, Yard};
use crate::trace::{Row, TRACE};

/// Pages of one batch: 4 KiB of memory.
const BATCH: usize = 256;

/// Parts of a recorded interval; the pages of the interval come in equal shares.
const PARTS: u64 = 8;

/// How long a turn of the reaper takes.
const TURN: Micros = Micros(5);

/// The collector of a small machine.
pub(crate) type SmallCollector = Collector<Kernel, BATCH>;

/// The reaper of a small machine: it remembers one pass.
pub(crate) type SmallReaper = Reaper<Policy, 1>;

type Shared = SharedCollector<FairLock<Line, AtomicU32, Single<SmallCollector>>, AtomicU32, Yard>;

/// Prints a line for each pass of the reaper, and its totals.
pub(crate) fn reap(policy: Policy, printer: &mut Printer<'_, impl Console>) {
    let now = Instant(0);
    let collector = Single::new(Collector::new(Kernel::new(now)));
    let mut machine = Machine {
        shared: SharedCollector::new(FairLock::new(Line::default(), collector), Yard),
        reaper: Reaper::new(Planner::new(policy)),
        now,
        passes: 0,
    };
    let mut outcome = machine.turns(printer);
    for row in &TRACE {
        if outcome.is_ok() {
            outcome = machine.live_through(row, printer);
        }
    }
    machine.shared.doorbell().stop();
    let outcome = outcome.and_then(|()| machine.turns(printer));
    machine.print_totals(printer);
    printer.text(if outcome.is_ok() { "drained" } else { "failed" });
    printer.end();
}

/// Why the reaping ended early: the collector has failed.
struct Failed;

impl From<dirty_ring_core::collector::CollectError<Never>> for Failed {
    fn from(_: dirty_ring_core::collector::CollectError<Never>) -> Self {
        Self
    }
}

struct Machine {
    shared: Shared,
    reaper: SmallReaper,
    now: Instant,
    /// Passes that were printed.
    passes: u64,
}

impl Machine {
    /// Lets the vCPUs write what they wrote in the interval of `row`.
    fn live_through<C: Console>(
        &mut self,
        row: &Row,
        printer: &mut Printer<'_, C>,
    ) -> Result<(), Failed> {
        let recorded = &row.measurement;
        let pages = recorded
            .harvested
            .saturating_add(recorded.ring_full_harvested);
        let fullest = u64::from(recorded.fullest);
        let shares = [fullest, pages.saturating_sub(fullest)];
        for part in 1..=PARTS {
            self.now = self.now + recorded.elapsed / PARTS;
            for (vcpu, pages) in shares.into_iter().enumerate().take(RINGS) {
                let so_far = |part: u64| pages.saturating_mul(part) / PARTS;
                self.write(
                    vcpu,
                    so_far(part).saturating_sub(so_far(part.saturating_sub(1))),
                )?;
            }
            self.turns(printer)?;
        }
        Ok(())
    }

    /// Lets a vCPU write `pages` pages. A full ring sends it out to make room.
    fn write(&mut self, vcpu: usize, pages: u64) -> Result<(), Failed> {
        for _ in 0..pages {
            while !self
                .shared
                .with(|collector| collector.backend_mut().write(vcpu))
            {
                let mode = RingFullMode::default();
                self.shared.ring_full(vcpu, mode, self.now)?;
            }
        }
        Ok(())
    }

    /// Takes turns of the reaper until it waits, and prints its passes.
    fn turns<C: Console>(&mut self, printer: &mut Printer<'_, C>) -> Result<(), Failed> {
        loop {
            let turn = self.reaper.turn(&self.shared, self.now)?;
            if self.reaper.planner().passes() != self.passes {
                self.passes = self.reaper.planner().passes();
                self.reaper
                    .planner()
                    .history()
                    .for_each(|pass| print_pass(pass, printer));
            }
            if turn != Turn::Again {
                return Ok(());
            }
            self.now = self.now + TURN;
        }
    }

    fn print_totals<C: Console>(&self, printer: &mut Printer<'_, C>) {
        self.shared.with(|collector| {
            let totals = collector.totals();
            let kernel = collector.backend();
            printer.text("harvested ").number(totals.harvested());
            printer.text("  ring-fulls ").number(totals.ring_fulls);
            printer.text("  resets ").number(totals.resets);
            printer.text("  peeks ").number(totals.peeks);
            printer.text("  published ").number(kernel.published());
            printer.text("  checksum ").number(kernel.checksum()).end();
        });
    }
}

fn print_pass(pass: &PassRecord, printer: &mut Printer<'_, impl Console>) {
    let found = &pass.measurement;
    printer.text("pass ").padded(pass.number, 6);
    printer.text("  at ").padded(pass.now.0, 8);
    printer.text("  harvested ").padded(found.harvested, 5);
    printer
        .text("  by-vcpus ")
        .padded(found.ring_full_harvested, 5);
    printer.text("  fullest ").padded(found.fullest.into(), 5);
    printer
        .text("  ring-fulls ")
        .number(found.ring_fulls.into());
    printer.decision(&pass.decision).end();
}
