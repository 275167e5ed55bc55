//! The fast vCPU against one that goes write by write.

use dirty_ring_core::entry::{EntryFlags, EntryMemory};
use dirty_ring_core::size::RingSize;
use proptest::prelude::*;

use super::*;
use crate::faults::Dice;
use crate::kernel::Signal;
use crate::layout::Layout;
use crate::memory::{AccessMeter, RingMemory};

/// 256 entries, 192 of them usable.
const SIZE: RingSize = match RingSize::new(256, 4096, 0) {
    Ok(size) => size,
    Err(_) => panic!("256 entries are a ring"),
};

/// Slow writes, so that a phase of a millisecond holds some dozens.
const COST: CostModel = CostModel {
    write_ps: 9_000_000,
    spin_turn_ps: 1_000_003,
    fault_ns: 7_001,
    ..CostModel::MEASURED
};

/// What is the same for both.
struct Case {
    workload: Arc<Workload>,
    layout: Layout,
}

impl Case {
    fn new(workload: &str) -> Self {
        let workload: Arc<Workload> = Arc::new(workload.parse().unwrap());
        let layout = Layout::new(&workload, 1);
        Self { workload, layout }
    }

    fn vcpu(&self) -> Vcpu {
        Vcpu::new(
            0,
            Arc::clone(&self.workload),
            COST,
            self.layout.region(0),
            self.layout.slot_map(),
            true,
        )
    }

    fn naive(&self) -> Naive {
        Naive {
            workload: Arc::clone(&self.workload),
            slots: self.layout.slot_map(),
            phase: self.workload.phase_at(0, 0),
            next_ps: 0,
            faulting: false,
            left_ps: None,
            cursor: 0,
            protected: vec![true; self.layout.region(0).pages],
            writes: 0,
            last_writes: vec![0; self.layout.region(0).pages],
        }
    }
}

fn ring() -> (KernelRing, RingMemory) {
    let memory = RingMemory::new(SIZE, &Arc::new(AccessMeter::default()));
    (KernelRing::new(memory.clone(), SIZE), memory)
}

/// The rules of the module's documentation, one write at a time.
#[derive(Clone)]
struct Naive {
    workload: Arc<Workload>,
    slots: SlotMap,
    phase: (Phase, u64),
    next_ps: u64,
    faulting: bool,
    left_ps: Option<u64>,
    cursor: usize,
    protected: Vec<bool>,
    writes: u64,
    last_writes: Vec<u64>,
}

impl Naive {
    fn advance(&mut self, to_ps: u64, ring: &mut KernelRing) {
        while self.left_ps.is_none() && self.next_ps <= to_ps {
            let (phase, until_us) = self.phase;
            let until_ps = until_us.saturating_mul(PS_PER_US);
            let step_ps = COST.step_ps(phase.spin);
            if self.faulting {
                self.faulting = false;
                self.protected[self.cursor] = false;
                ring.push(self.slots.gfn(self.cursor));
                self.write_done();
                if ring.is_soft_full() {
                    self.left_ps = Some(self.next_ps);
                }
            } else if self.next_ps >= until_ps {
                self.phase = self.workload.phase_at(0, self.next_ps / PS_PER_US);
                if self.cursor >= self.phase.0.pages as usize {
                    self.cursor = 0;
                }
            } else if phase.pages == 0 {
                if until_ps > to_ps {
                    return;
                }
                self.next_ps = until_ps;
            } else if self.next_ps + step_ps > to_ps {
                return;
            } else if self.protected[self.cursor] {
                self.faulting = true;
                self.next_ps += step_ps + ps(COST.fault_ns);
            } else {
                self.next_ps += step_ps;
                self.write_done();
            }
        }
    }

    fn write_done(&mut self) {
        self.writes += 1;
        self.last_writes[self.cursor] = self.writes;
        self.cursor = (self.cursor + 1) % self.phase.0.pages as usize;
    }

    fn interrupt(&mut self, pause_ps: u64) {
        if self.left_ps.is_none() {
            self.next_ps += pause_ps;
        }
    }

    fn enter(&mut self, at_ps: u64, ring: &KernelRing) {
        self.left_ps = ring.is_soft_full().then_some(at_ps);
        self.next_ps = at_ps;
    }
}

fn assert_same(vcpu: &Vcpu, naive: &Naive) {
    assert_eq!(vcpu.writes(), naive.writes);
    assert_eq!(vcpu.left_ps(), naive.left_ps);
    assert_eq!(vcpu.next_ps, naive.next_ps);
    assert_eq!(vcpu.faulting, naive.faulting);
    assert_eq!(vcpu.cursor, naive.cursor);
    for (page, &protected) in naive.protected.iter().enumerate() {
        assert_eq!(vcpu.protected.contains(page), protected, "page {page}");
        assert_eq!(
            vcpu.last_write(page),
            naive.last_writes[page],
            "page {page}"
        );
    }
}

/// Both rings hold the same entries in the same places.
fn assert_same_entries(one: &RingMemory, other: &RingMemory) {
    for index in 0..SIZE.entries() {
        assert_eq!(one.load_flags(index), other.load_flags(index));
        assert_eq!(one.read(index), other.read(index));
    }
}

/// What happens to both.
#[derive(Clone, Debug)]
enum Event {
    /// Time passes, in picoseconds.
    Pass(u64),
    /// So many of the oldest entries are harvested, then reset.
    Reset(u32),
    /// A pause, in picoseconds.
    Interrupt(u64),
    /// Back into guest mode, so much later, if it is out.
    Enter(u64),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => (0u64..2_000_000_000).prop_map(Event::Pass),
        4 => (0u64..40_000_000).prop_map(Event::Pass),
        4 => (0u32..200).prop_map(Event::Reset),
        1 => (0u64..50_000_000).prop_map(Event::Interrupt),
        2 => (0u64..50_000_000).prop_map(Event::Enter),
    ]
}

/// Phases as long as it takes to fill the ring once or twice, around the size of the ring or
/// of any size up to it.
fn any_workload() -> impl Strategy<Value = String> {
    let pages = prop_oneof![0u32..300, 180u32..230];
    let phases = proptest::collection::vec((pages, 0u32..4, 1u32..6), 1..4);
    phases.prop_map(|phases| {
        let text = |(pages, spin, ms): &_| format!("pages={pages},spin={spin},ms={ms}");
        phases.iter().map(text).collect::<Vec<_>>().join("/")
    })
}

/// Marks the oldest entries harvested, as userspace does, and resets them, as the kernel does.
fn reset(
    kernel: &mut KernelRing,
    memory: &RingMemory,
    at: &mut u32,
    entries: u32,
    slots: SlotMap,
) -> Vec<usize> {
    for _ in 0..entries {
        let index = *at % SIZE.entries();
        if memory.load_flags(index) != EntryFlags::DIRTY {
            break;
        }
        memory.store_flags(index, EntryFlags::RESET);
        *at += 1;
    }
    let (mut pages, mut signal) = (Vec::new(), Signal::NEVER);
    let done = kernel.reset(&mut signal, &mut 0, |mask| {
        pages.extend(slots.protected_by(&mask));
    });
    assert_eq!(done, Ok(()));
    pages
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_fast_vcpu_is_the_plain_one(
        workload in any_workload(),
        events in proptest::collection::vec(any_event(), 1..60),
    ) {
        let case = Case::new(&workload);
        let slots = case.layout.slot_map();
        let (mut vcpu, mut naive) = (case.vcpu(), case.naive());
        let ((mut fast, fast_memory), (mut plain, plain_memory)) = (ring(), ring());
        let (mut now_ps, mut fast_at, mut plain_at) = (0, 0, 0);
        for event in events {
            match event {
                Event::Pass(ps) => {
                    now_ps += ps;
                    vcpu.advance(now_ps, &mut fast);
                    naive.advance(now_ps, &mut plain);
                }
                Event::Reset(entries) => {
                    let pages = reset(&mut fast, &fast_memory, &mut fast_at, entries, slots);
                    let same = reset(&mut plain, &plain_memory, &mut plain_at, entries, slots);
                    prop_assert_eq!(&pages, &same);
                    for page in pages {
                        vcpu.protect(page);
                        naive.protected[page] = true;
                    }
                }
                Event::Interrupt(ps) => {
                    vcpu.interrupt(ps);
                    naive.interrupt(ps);
                }
                Event::Enter(later_ps) if naive.left_ps.is_some() => {
                    now_ps += later_ps;
                    vcpu.enter(now_ps, &fast);
                    naive.enter(now_ps, &plain);
                    // The time it was out is over for both.
                    vcpu.advance(now_ps, &mut fast);
                    naive.advance(now_ps, &mut plain);
                }
                Event::Enter(_) => {}
            }
            assert_same(&vcpu, &naive);
            assert_same_entries(&fast_memory, &plain_memory);
        }
    }

    #[test]
    fn a_forecast_is_exact_and_always_gets_on(
        workload in any_workload(),
        events in proptest::collection::vec(any_event(), 1..20),
        horizon_ps in 1_000_000u64..20_000_000_000,
    ) {
        let case = Case::new(&workload);
        let slots = case.layout.slot_map();
        let (mut vcpu, mut naive) = (case.vcpu(), case.naive());
        let ((mut fast, fast_memory), (mut plain, plain_memory)) = (ring(), ring());
        let (mut now_ps, mut fast_at, mut plain_at) = (0, 0, 0);
        for event in events {
            match event {
                Event::Pass(ps) => now_ps += ps,
                Event::Reset(entries) => {
                    for page in reset(&mut fast, &fast_memory, &mut fast_at, entries, slots) {
                        vcpu.protect(page);
                        naive.protected[page] = true;
                    }
                    reset(&mut plain, &plain_memory, &mut plain_at, entries, slots);
                }
                Event::Interrupt(ps) => {
                    vcpu.interrupt(ps);
                    naive.interrupt(ps);
                }
                Event::Enter(_) if naive.left_ps.is_some() => {
                    vcpu.enter(now_ps, &fast);
                    naive.enter(now_ps, &plain);
                }
                Event::Enter(_) => {}
            }
            vcpu.advance(now_ps, &mut fast);
            naive.advance(now_ps, &mut plain);
        }
        let end_ps = now_ps + horizon_ps;
        naive.advance(end_ps, &mut plain);
        let mut steps = 0;
        while vcpu.left_ps().is_none() {
            let lower_ps = vcpu.earliest_full_ps(&fast);
            let at_ps = vcpu.forecast_ps(&fast);
            prop_assert!(lower_ps <= at_ps, "{lower_ps} isn't below {at_ps}");
            prop_assert!(at_ps >= now_ps, "{at_ps} is before {now_ps}");
            if let Some(left_ps) = naive.left_ps {
                prop_assert!(at_ps <= left_ps, "{at_ps} misses the ring-full at {left_ps}");
            }
            if at_ps > end_ps {
                break;
            }
            // It can't be full just before that.
            vcpu.advance(at_ps.saturating_sub(1), &mut fast);
            prop_assert!(vcpu.left_ps().is_none());
            vcpu.advance(at_ps, &mut fast);
            now_ps = at_ps;
            steps += 1;
            prop_assert!(steps < 10_000, "the forecast doesn't get on");
        }
        prop_assert_eq!(vcpu.left_ps(), naive.left_ps);
    }
}

#[test]
fn a_saturated_working_set_costs_one_step_for_days() {
    let case = Case::new("pages=100,spin=0");
    let (mut vcpu, (mut ring, _)) = (case.vcpu(), ring());
    vcpu.advance(3_600 * PS_PER_US * 1_000_000, &mut ring);
    assert_eq!(ring.used(), 100);
    let faults_ps = 100 * ps(COST.fault_ns);
    let expected = (3_600 * PS_PER_US * 1_000_000 - faults_ps) / u64::from(COST.write_ps);
    assert_eq!(vcpu.writes(), expected);
}

#[test]
fn garbage_comes_at_its_rate_and_fills_the_ring_sooner() {
    let case = Case::new("pages=300,spin=0");
    let dice = Dice::new(5, crate::faults::Stream::Garbage { vcpu: 0 });
    let mut vcpu = case.vcpu().with_garbage(dice, 500);
    let (mut kernel, memory) = ring();
    vcpu.advance(u64::MAX, &mut kernel);
    let table = case.layout.slot_map().table();
    let used = kernel.used();
    let sound = (0..used)
        .filter(|&index| table.contains(&memory.read(index)))
        .count();
    assert!(used >= SIZE.soft_limit());
    assert_eq!(vcpu.writes(), sound as u64);
    assert!((100..150).contains(&sound), "{sound} of {used} are sound");
}

#[test]
fn an_overrun_laps_the_ring_whatever_is_protected() {
    let overrun = Overrun {
        vcpu: 0,
        at_us: 2_000,
        entries_beyond: 10,
    };
    for workload in ["pages=5,spin=0", "pages=0,spin=0"] {
        let case = Case::new(workload);
        let mut vcpu = case.vcpu().with_overrun(overrun);
        let (mut kernel, _) = ring();
        vcpu.advance(1_999 * PS_PER_US, &mut kernel);
        assert_eq!(vcpu.forecast_ps(&kernel), 2_000 * PS_PER_US);
        vcpu.advance(3_000 * PS_PER_US, &mut kernel);
        assert_eq!(kernel.used(), SIZE.entries() + 10);
        assert!(vcpu.left_ps().unwrap() < 2_100 * PS_PER_US);
    }
}
