//! A kit that checks a [`Backend`], to be run by its author.
//!
//! ```text
//! conformance::check(&mut subject)?;
//! ```
//!
//! The author gives it a [`Subject`]: a VM with guests that can be told to write. The kit plays the
//! whole life of pages through the collector and compares what is published with what was written.

use core::fmt;

use crate::backend::Backend;
use crate::collector::{CollectError, Collector, RingFullMode};
use crate::time::Instant;

/// Pages that a guest writes at a time: less than the smallest ring holds.
pub const PAGES: u32 = 40;

/// A VM under test.
///
/// Each vCPU has at least [`PAGES`] pages of its own, numbered from 0, all registered and logged.
pub trait Subject {
    /// The backend.
    type Backend: Backend;

    /// Returns the VM's collector. Its rings are fresh at first.
    fn collector(&mut self) -> &mut Collector<Self::Backend>;

    /// Lets vCPU `vcpu` write its first `pages` pages once, in order, and returns after the last
    /// write. At most as many are asked for as are known to have room in the ring.
    fn write(&mut self, vcpu: usize, pages: u32);

    /// Returns how often page `page` of vCPU `vcpu` has been published since the last call for it.
    fn take_published(&mut self, vcpu: usize, page: u32) -> u32;

    /// Puts an entry that names no registered page into the ring of `vcpu`; returns whether it can.
    fn log_garbage(&mut self, vcpu: usize) -> bool {
        let _ = vcpu;
        false
    }
}

/// A MUST of [`Backend`] that doesn't hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule that doesn't hold.
    pub rule: &'static str,
    /// The vCPU.
    pub vcpu: usize,
    /// What was expected, in pages or entries.
    pub expected: u64,
    /// What was found.
    pub found: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rule,
            vcpu,
            expected,
            found,
        } = self;
        write!(f, "vCPU {vcpu}: {rule}: expected {expected}, found {found}")
    }
}

impl core::error::Error for Violation {}

/// Checks the subject.
///
/// # Errors
/// The first [`Violation`].
pub fn check<S: Subject>(subject: &mut S) -> Result<(), Violation> {
    let vcpus = subject.collector().backend().rings().len();
    let same = subject.collector().backend_mut().rings_mut().len();
    expect("rings() and rings_mut() are the same slice", 0, vcpus, same)?;
    expect("there is a ring", 0, 1, vcpus.min(1))?;
    for vcpu in 0..vcpus {
        let found = occupancy(subject, vcpu);
        expect("a fresh ring is empty", vcpu, 0u32, found)?;
    }
    for vcpu in 0..vcpus {
        one_ring(subject, vcpu, vcpus)?;
    }
    all_rings(subject, vcpus)?;
    for vcpu in 0..vcpus {
        once_round(subject, vcpu)?;
    }
    for vcpu in 0..vcpus {
        garbage(subject, vcpu)?;
    }
    Ok(())
}

/// Checks that a write is logged in its vCPU's ring alone, and published only after its reset.
fn one_ring<S: Subject>(subject: &mut S, vcpu: usize, vcpus: usize) -> Result<(), Violation> {
    subject.write(vcpu, PAGES);
    expect(
        "a write to a protected page is logged",
        vcpu,
        PAGES,
        occupancy(subject, vcpu),
    )?;
    for other in (0..vcpus).filter(|other| *other != vcpu) {
        let found = occupancy(subject, other);
        expect(
            "an entry is in the ring of the vCPU that wrote",
            other,
            0u32,
            found,
        )?;
    }
    for page in 0..PAGES {
        // Suspects that were published with the pages of another vCPU.
        if subject.collector().totals().suspects_published != 0 {
            subject.take_published(vcpu, page);
        }
    }
    let collector = subject.collector();
    collector.begin_pass(NOW, crate::collector::Scope::All, |_| ());
    let taken = collector.harvest(NOW).map_or(0, |(taken, _)| taken);
    expect("a harvest takes what waits", vcpu, PAGES, taken)?;
    published(subject, vcpu, 0, "nothing is published before its reset")?;
    let reset_before = subject.collector().totals().entries_reset;
    settle(subject, vcpu)?;
    let reset = subject
        .collector()
        .totals()
        .entries_reset
        .saturating_sub(reset_before);
    expect("a reset counts what was harvested", vcpu, PAGES, reset)?;
    published(subject, vcpu, 1, "every harvested page is published once")?;
    // Protected again: the same writes are logged again.
    subject.write(vcpu, PAGES);
    expect(
        "after a reset writes are logged again",
        vcpu,
        PAGES,
        occupancy(subject, vcpu),
    )?;
    drain(subject, vcpu)?;
    published(subject, vcpu, 1, "every harvested page is published once")
}

/// Checks the ring-full path after writes by all vCPUs.
fn all_rings<S: Subject>(subject: &mut S, vcpus: usize) -> Result<(), Violation> {
    for vcpu in 0..vcpus {
        subject.write(vcpu, PAGES);
    }
    let report = subject.collector().ring_full(0, RingFullMode::Whole, NOW);
    expect("a reset doesn't fail", 0, 1u32, u32::from(report.is_ok()))?;
    let taken = report.map_or(0, |report| u64::from(report.harvested));
    let written = u64::from(PAGES).saturating_mul(vcpus as u64);
    expect("the ring-full path takes all rings", 0, written, taken)?;
    drain(subject, 0)?;
    for vcpu in 0..vcpus {
        published(subject, vcpu, 1, "every harvested page is published once")?;
    }
    Ok(())
}

/// Checks that nothing is lost where the ring wraps around.
fn once_round<S: Subject>(subject: &mut S, vcpu: usize) -> Result<(), Violation> {
    let rings = subject.collector().backend().rings();
    let entries = rings.get(vcpu).map_or(0, |ring| ring.size().entries());
    let rounds = entries.div_ceil(PAGES).saturating_add(1);
    for _ in 0..rounds {
        subject.write(vcpu, PAGES);
        drain(subject, vcpu)?;
        published(
            subject,
            vcpu,
            1,
            "no page is lost where the ring wraps around",
        )?;
    }
    Ok(())
}

/// Checks that an entry that names no page is counted and not published, and never passed over in
/// silence.
fn garbage<S: Subject>(subject: &mut S, vcpu: usize) -> Result<(), Violation> {
    if !subject.log_garbage(vcpu) {
        return Ok(());
    }
    subject.write(vcpu, PAGES);
    let drained = subject.collector().drain(NOW);
    let is_told = matches!(drained, Err(CollectError::BadEntries { ring, .. }) if ring == vcpu);
    expect(
        "a drain fails where an entry named no page",
        vcpu,
        1u32,
        u32::from(is_told),
    )?;
    let rings = subject.collector().backend().rings();
    let bad = rings.get(vcpu).map_or(0, |ring| ring.stats().bad_entries);
    expect("an entry that names no page is refused", vcpu, 1u64, bad)?;
    published(
        subject,
        vcpu,
        1,
        "the pages behind a refused entry are published",
    )
}

const NOW: Instant = Instant(1);
/// Short resets in a row after which the kit gives up: a reset may come back short, but not this
/// often.
const PATIENCE: u32 = 1000;

fn occupancy<S: Subject>(subject: &mut S, vcpu: usize) -> u32 {
    let rings = subject.collector().backend().rings();
    rings.get(vcpu).map_or(0, |ring| ring.occupancy())
}

fn settle<S: Subject>(subject: &mut S, vcpu: usize) -> Result<(), Violation> {
    let collector = subject.collector();
    let mut settled = Ok(false);
    for _ in 0..PATIENCE {
        settled = collector.settle();
        if !matches!(settled, Ok(false)) {
            break;
        }
    }
    match settled {
        Ok(true) => {}
        Ok(false) | Err(CollectError::Stalled { .. }) => {
            return expect("resets come to an end", vcpu, 1u32, 0u32);
        }
        Err(CollectError::ForeignReset { reset, outstanding }) => {
            let rule = "a reset counts no entry that wasn't harvested";
            return expect(rule, vcpu, outstanding, reset);
        }
        Err(_) => return expect("a reset doesn't fail", vcpu, 1u32, 0u32),
    }
    expect(
        "nothing is left to reset",
        vcpu,
        0u64,
        collector.outstanding(),
    )
}

fn drain<S: Subject>(subject: &mut S, vcpu: usize) -> Result<(), Violation> {
    let drained = subject.collector().drain(NOW);
    expect(
        "a drain doesn't fail",
        vcpu,
        1u32,
        u32::from(drained.is_ok()),
    )?;
    settle(subject, vcpu)?;
    expect(
        "a drain empties the ring",
        vcpu,
        0u32,
        occupancy(subject, vcpu),
    )
}

fn published<S: Subject>(
    subject: &mut S,
    vcpu: usize,
    times: u32,
    rule: &'static str,
) -> Result<(), Violation> {
    // Pages whose reset was interrupted are published again whenever all are asked for.
    let may_repeat = subject.collector().totals().suspects_published != 0;
    for page in 0..PAGES {
        let mut found = subject.take_published(vcpu, page);
        if may_repeat && times != 0 {
            found = found.min(times);
        }
        expect(rule, vcpu, times, found)?;
    }
    Ok(())
}

fn expect<A, B>(rule: &'static str, vcpu: usize, expected: A, found: B) -> Result<(), Violation>
where
    A: TryInto<u64>,
    B: TryInto<u64>,
{
    let expected = expected.try_into().unwrap_or(u64::MAX);
    let found = found.try_into().unwrap_or(u64::MAX);
    if expected == found {
        return Ok(());
    }
    Err(Violation {
        rule,
        vcpu,
        expected,
        found,
    })
}
