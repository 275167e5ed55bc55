//! The core's kit for backends, run on the simulated VM of the property tests. The two were written
//! independently from the same rules and have to agree.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use dirty_ring_core::collector::Collector;
use dirty_ring_core::conformance::{Subject, check};
use dirty_ring_core::size::RingSize;
use dirty_ring_verification::sim::{Outcome, SimRing, SimVm};

/// A simulated VM whose guests have pages. An entry of its rings carries its own number as the
/// offset, so this remembers which page each entry stands for.
struct Simulated {
    collector: Collector<SimVm>,
    kernel: Vec<Rc<SimRing>>,
    outcome: Rc<RefCell<Outcome>>,
    /// The pages that the entries of each ring stand for; `None` for garbage.
    pages: Vec<Vec<Option<u32>>>,
    /// Pages published and not yet taken note of, by ring.
    published: Vec<VecDeque<u32>>,
}

impl Simulated {
    fn new(sizes: &[RingSize]) -> Self {
        let (vm, kernel, outcome) = SimVm::new(sizes);
        Self {
            collector: Collector::new(vm),
            kernel,
            outcome,
            pages: vec![Vec::new(); sizes.len()],
            published: vec![VecDeque::new(); sizes.len()],
        }
    }
}

impl Subject for Simulated {
    type Backend = SimVm;

    fn collector(&mut self) -> &mut Collector<SimVm> {
        &mut self.collector
    }

    fn write(&mut self, vcpu: usize, pages: u32) {
        for page in 0..pages {
            assert!(self.kernel[vcpu].push(true), "the kit writes too much");
            self.pages[vcpu].push(Some(page));
        }
    }

    fn take_published(&mut self, vcpu: usize, page: u32) -> u32 {
        let entries = std::mem::take(&mut self.outcome.borrow_mut().published[vcpu]);
        let pages = &self.pages[vcpu];
        let published = &mut self.published[vcpu];
        published.extend(
            entries
                .iter()
                .map(|&entry| pages[entry as usize].expect("garbage isn't published")),
        );
        let before = published.len();
        published.retain(|&other| other != page);
        (before - published.len()) as u32
    }

    fn log_garbage(&mut self, vcpu: usize) -> bool {
        self.pages[vcpu].push(None);
        self.kernel[vcpu].push(false)
    }
}

fn sizes() -> Vec<RingSize> {
    [128, 256, 128]
        .map(|entries| RingSize::new(entries, 16, 0).unwrap())
        .to_vec()
}

#[test]
fn the_simulated_vm_is_a_backend_as_the_kit_wants_it() {
    check(&mut Simulated::new(&sizes())).unwrap();
}

#[test]
fn the_simulated_vm_is_one_with_short_resets_as_well() {
    let mut vm = Simulated::new(&sizes());
    let limits = (0..300).map(|n| [0, 7, 1, 0, 0, 0, 0, 0][n % 8]);
    vm.collector.backend_mut().shorten_resets(limits);
    check(&mut vm).unwrap();
}

/// Checks that the kit notices a guest that forgets a page's entry.
#[test]
fn control_a_write_that_is_not_logged_is_noticed() {
    struct Forgetful(Simulated);

    impl Subject for Forgetful {
        type Backend = SimVm;

        fn collector(&mut self) -> &mut Collector<SimVm> {
            self.0.collector()
        }
        fn write(&mut self, vcpu: usize, pages: u32) {
            self.0.write(vcpu, pages - 1);
        }
        fn take_published(&mut self, vcpu: usize, page: u32) -> u32 {
            self.0.take_published(vcpu, page)
        }
    }

    let violation = check(&mut Forgetful(Simulated::new(&sizes()))).unwrap_err();
    assert_eq!(violation.rule, "a write to a protected page is logged");
}
