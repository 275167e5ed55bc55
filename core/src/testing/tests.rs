//! The conformance kit: the VM of these tests passes it, and each broken one fails by its rule.

use core::cell::Cell;

use super::*;
use crate::collector::Collector;
use crate::conformance::{PAGES, Subject, Violation, check};

/// What is wrong with a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    NoRings,
    RingsMutLeavesOneOut,
    StartsWithAnEntry,
    LogsNothing,
    LogsTwice,
    LogsInTheWrongRing,
    LogsInAllRings,
    LosesWhatWrapsAround,
    PublishesBeforeTheReset,
    ResetCountsOneMore,
    ResetCountsOneLess,
    ResetCountsWhatItLeaves,
    ResetDoesNothing,
    ResetTakesAges,
    ResetFails,
    ResetFailsWhereTwoRingsWait,
    ResetProtectsNothing,
    PublishesNothing,
    PublishesTwice,
    PublishesAllButTheLast,
    RefusesAPage,
    AcceptsGarbage,
}

/// A [`Kvm`] with a fault, and the consumer of its pages.
#[derive(Debug)]
struct Faulty {
    kvm: Kvm,
    fault: Fault,
    /// How often each page was published and not asked for yet.
    published: HashMap<DirtyGfn, u32>,
    /// Resets in a row that did nothing, of the fault that takes ages.
    barren: Cell<u32>,
}

/// Page `page` of vCPU `vcpu`.
fn page_of(vcpu: usize, page: u32) -> DirtyGfn {
    super::page(vcpu as u64 * 1000 + u64::from(page))
}

impl Faulty {
    fn log_all(&mut self, gfn: DirtyGfn) {
        self.kvm
            .rings
            .iter()
            .for_each(|ring| ring.memory().log(gfn));
    }

    fn write(&mut self, vcpu: usize, gfn: DirtyGfn) {
        let rings = self.kvm.rings.len();
        match self.fault {
            Fault::LogsNothing => {}
            Fault::LogsTwice => (0..2).for_each(|_| self.kvm.memory(vcpu).log(gfn)),
            Fault::LogsInTheWrongRing => self.kvm.write((vcpu + 1) % rings, gfn),
            Fault::LogsInAllRings => self.log_all(gfn),
            Fault::LosesWhatWrapsAround => {
                let memory = self.kvm.memory(vcpu);
                if memory.dirty.get() < memory.size.entries() {
                    self.kvm.write(vcpu, gfn);
                }
            }
            Fault::PublishesBeforeTheReset => {
                self.kvm.write(vcpu, gfn);
                *self.published.entry(gfn).or_default() += 1;
            }
            _ => self.kvm.write(vcpu, gfn),
        }
    }

    /// Rings in which harvested entries wait for their reset.
    fn waiting_rings(&self) -> usize {
        let rings = self.kvm.rings.iter();
        rings.filter(|ring| ring.has_unreset()).count()
    }
}

impl Backend for Faulty {
    type Memory = Cells;
    type Error = &'static str;

    fn rings(&self) -> &[Ring<Cells>] {
        self.kvm.rings()
    }
    fn rings_mut(&mut self) -> &mut [Ring<Cells>] {
        let rings = self.kvm.rings_mut();
        match self.fault {
            Fault::RingsMutLeavesOneOut => &mut rings[1..],
            _ => rings,
        }
    }
    fn is_registered(&self, gfn: &DirtyGfn) -> bool {
        match self.fault {
            Fault::RefusesAPage => *gfn != page_of(1, 7),
            Fault::AcceptsGarbage => true,
            _ => self.kvm.is_registered(gfn),
        }
    }
    fn reset(&mut self) -> Result<Reset, &'static str> {
        match self.fault {
            Fault::ResetCountsOneMore => self.kvm.reset().map(|done| Reset::of(done.entries + 1)),
            Fault::ResetCountsOneLess => self
                .kvm
                .reset()
                .map(|done| Reset::of(done.entries.max(1) - 1)),
            Fault::ResetCountsWhatItLeaves => {
                self.kvm.weather.push_back(Weather::Short(PAGES / 2));
                self.kvm.reset().map(|done| Reset::of(2 * done.entries))
            }
            Fault::ResetDoesNothing => Ok(Reset::default()),
            Fault::ResetTakesAges => {
                self.barren.set(self.barren.get() + 1);
                let is_barren = !self.barren.get().is_multiple_of(900);
                self.kvm
                    .weather
                    .push_back(Weather::Short(u32::from(!is_barren)));
                self.kvm.reset()
            }
            Fault::ResetFails => Err(RESET_FAILS),
            Fault::ResetFailsWhereTwoRingsWait if self.waiting_rings() > 1 => Err(RESET_FAILS),
            Fault::ResetProtectsNothing => {
                let writable = self.kvm.writable.clone();
                let entries = self.kvm.reset();
                self.kvm.writable = writable;
                entries
            }
            _ => self.kvm.reset(),
        }
    }
    fn publish_all(&mut self) -> Result<(), &'static str> {
        Ok(())
    }
    fn publish(&mut self, pages: &[DirtyGfn]) -> Result<(), &'static str> {
        let (times, pages) = match self.fault {
            Fault::PublishesNothing => (0, pages),
            Fault::PublishesTwice => (2, pages),
            Fault::PublishesAllButTheLast => (1, &pages[..pages.len() - 1]),
            _ => (1, pages),
        };
        for gfn in pages {
            *self.published.entry(*gfn).or_default() += times;
        }
        Ok(())
    }
}

/// A VM with two vCPUs.
struct Vm(Collector<Faulty>);

impl Vm {
    fn with(fault: Fault) -> Self {
        let rings = if fault == Fault::NoRings { 0 } else { 2 };
        let mut kvm = Kvm::new(rings, ring_size(256));
        if fault == Fault::StartsWithAnEntry {
            kvm.write(1, page_of(1, 0));
        }
        Self(Collector::new(Faulty {
            kvm,
            fault,
            published: HashMap::new(),
            barren: Cell::new(0),
        }))
    }
}

impl Subject for Vm {
    type Backend = Faulty;

    fn collector(&mut self) -> &mut Collector<Faulty> {
        &mut self.0
    }
    fn write(&mut self, vcpu: usize, pages: u32) {
        let backend = self.0.backend_mut();
        (0..pages).for_each(|page| backend.write(vcpu, page_of(vcpu, page)));
    }
    fn take_published(&mut self, vcpu: usize, page: u32) -> u32 {
        let published = &mut self.0.backend_mut().published;
        published.remove(&page_of(vcpu, page)).unwrap_or(0)
    }
    fn log_garbage(&mut self, vcpu: usize) -> bool {
        self.0
            .backend()
            .kvm
            .memory(vcpu)
            .log(super::page(SLOT_PAGES));
        true
    }
}

/// Checks a VM with `fault`.
fn checked(fault: Fault) -> Result<(), Violation> {
    check(&mut Vm::with(fault))
}

#[test]
fn the_vm_of_these_tests_conforms() {
    assert_eq!(checked(Fault::None), Ok(()));
}

#[test]
fn short_resets_conform() {
    let mut vm = Vm::with(Fault::None);
    let weather = &mut vm.0.backend_mut().kvm.weather;
    weather.extend((0..200).map(|at| Weather::Short(at % 7)));
    assert_eq!(check(&mut vm), Ok(()));
}

#[test]
fn each_broken_backend_fails_by_the_rule_that_it_breaks() {
    let pages = u64::from(PAGES);
    let logged = "a write to a protected page is logged";
    let published = "every harvested page is published once";
    let ends = "resets come to an end";
    let fails = "a reset doesn't fail";
    for (fault, rule, vcpu, expected, found) in [
        (Fault::NoRings, "there is a ring", 0, 1, 0),
        (
            Fault::RingsMutLeavesOneOut,
            "rings() and rings_mut() are the same slice",
            0,
            2,
            1,
        ),
        (Fault::StartsWithAnEntry, "a fresh ring is empty", 1, 0, 1),
        (Fault::LogsNothing, logged, 0, pages, 0),
        (Fault::LogsTwice, logged, 0, pages, 2 * pages),
        (Fault::LogsInTheWrongRing, logged, 0, pages, 0),
        (
            Fault::LogsInAllRings,
            "an entry is in the ring of the vCPU that wrote",
            1,
            0,
            pages,
        ),
        (
            Fault::LosesWhatWrapsAround,
            "no page is lost where the ring wraps around",
            0,
            1,
            0,
        ),
        (
            Fault::PublishesBeforeTheReset,
            "nothing is published before its reset",
            0,
            0,
            1,
        ),
        (
            Fault::ResetCountsOneMore,
            "a reset counts no entry that wasn't harvested",
            0,
            pages,
            pages + 1,
        ),
        (Fault::ResetCountsOneLess, ends, 0, 1, 0),
        (Fault::ResetDoesNothing, ends, 0, 1, 0),
        (Fault::ResetTakesAges, ends, 0, 1, 0),
        (Fault::ResetFails, fails, 0, 1, 0),
        (Fault::ResetFailsWhereTwoRingsWait, fails, 0, 1, 0),
        (
            Fault::ResetCountsWhatItLeaves,
            "after a reset writes are logged again",
            0,
            pages,
            pages / 2,
        ),
        (
            Fault::ResetProtectsNothing,
            "after a reset writes are logged again",
            0,
            pages,
            0,
        ),
        (Fault::PublishesNothing, published, 0, 1, 0),
        (Fault::PublishesTwice, published, 0, 1, 2),
        (Fault::PublishesAllButTheLast, published, 0, 1, 0),
        (Fault::RefusesAPage, published, 1, 1, 0),
        (
            Fault::AcceptsGarbage,
            "a drain fails where an entry named no page",
            0,
            1,
            0,
        ),
    ] {
        let violation = Violation {
            rule,
            vcpu,
            expected,
            found,
        };
        assert_eq!(checked(fault), Err(violation), "{fault:?}");
    }
}

#[test]
fn a_violation_says_what_was_expected_of_which_vcpu() {
    let message = std::string::ToString::to_string(&checked(Fault::LogsNothing).unwrap_err());
    let expected = "vCPU 0: a write to a protected page is logged: expected 40, found 0";
    assert_eq!(message, expected);
}
