//! What the tests do to a collector, and what they know of it from outside.

use std::cell::RefCell;
use std::rc::Rc;

use dirty_ring_core::collector::{
    Backend, CollectError, Collector, PassTally, Reset, RingFullMode,
};
use dirty_ring_core::ring::OVERRUN_EXITS;
use dirty_ring_core::size::RingSize;
use dirty_ring_verification::sim::{Outcome, SimRing, SimVm};

/// Rings of the property tests.
pub(crate) const RINGS: usize = 3;

/// Something that happens to a collector.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Push {
        ring: usize,
        pages: u32,
    },
    PushGarbage {
        ring: usize,
    },
    ShortenResets(Vec<u32>),
    /// A harvest of all rings, or of those that are wanted when the pass begins.
    Harvest {
        begin: bool,
        wanted: Option<[bool; RINGS]>,
    },
    Reset {
        publish: bool,
    },
    Settle,
    RingFull {
        ring: usize,
        mode: RingFullMode,
    },
    Drain,
}

/// What the tests know of a collector from outside.
pub(crate) struct World<const BATCH: usize> {
    collector: Collector<SimVm, BATCH>,
    pub(crate) kernel: Vec<Rc<SimRing>>,
    outcome: Rc<RefCell<Outcome>>,
    /// Offsets pushed, good and bad, by ring.
    good: Vec<Vec<u64>>,
    bad: Vec<Vec<u64>>,
    /// Entries taken on ring-full since the last pass began, and in the present pass, by ring.
    at_ring_full: Vec<u64>,
    in_pass: Vec<u64>,
    /// The pass's tally as it has to be.
    pass: PassTally,
    by_reaper: u64,
    by_ring_full: u64,
    /// Fruitless ring-full exits in a row.
    fruitless: Vec<u32>,
    /// Another vCPU's ring-full made room in the ring, and nobody has harvested it since.
    served: Vec<bool>,
    /// The rings that the present pass takes entries from.
    wanted: Vec<bool>,
    now_us: u64,
}

impl<const BATCH: usize> World<BATCH> {
    pub(crate) fn new(sizes: &[RingSize]) -> Self {
        let (vm, kernel, outcome) = SimVm::new(sizes);
        let rings = sizes.len();
        Self {
            collector: Collector::new(vm),
            kernel,
            outcome,
            good: vec![Vec::new(); rings],
            bad: vec![Vec::new(); rings],
            at_ring_full: vec![0; rings],
            in_pass: vec![0; rings],
            pass: PassTally::default(),
            by_reaper: 0,
            by_ring_full: 0,
            fruitless: vec![0; rings],
            served: vec![false; rings],
            wanted: vec![true; rings],
            now_us: 0,
        }
    }

    fn taken(&self) -> Vec<u64> {
        self.kernel.iter().map(|ring| ring.taken()).collect()
    }

    /// What was taken since `before`, by ring; a ring that gave anything is not overrun.
    fn taken_since(&mut self, before: &[u64]) -> Vec<u64> {
        let now = self.taken();
        let taken: Vec<_> = now
            .iter()
            .zip(before)
            .map(|(now, then)| now - then)
            .collect();
        for (ring, &taken) in taken.iter().enumerate() {
            if taken != 0 {
                self.fruitless[ring] = 0;
                self.served[ring] = false;
            }
        }
        taken
    }

    fn refused(&self) -> u64 {
        let outcome = self.outcome.borrow();
        outcome.rejected.iter().map(|ring| ring.len() as u64).sum()
    }

    /// Pages in the batch.
    fn unpublished(&self) -> u64 {
        let published: usize = self.outcome.borrow().published.iter().map(Vec::len).sum();
        self.taken().iter().sum::<u64>() - self.refused() - published as u64
    }

    fn deficit(&self) -> u64 {
        self.kernel.iter().map(|r| r.taken() - r.resets()).sum()
    }

    fn push(&mut self, ring: usize, registered: bool) -> bool {
        let log = if registered {
            &mut self.good
        } else {
            &mut self.bad
        };
        let at = self.kernel[ring].taken() + self.kernel[ring].occupancy();
        let pushed = self.kernel[ring].push(registered);
        if pushed {
            log[ring].push(at);
        }
        pushed
    }

    /// Keeps the pass's books, as the reaper's harvests and [`Collector::drain`] have to.
    fn note_pass(&mut self, begin: bool, before: &[u64]) {
        if begin {
            self.in_pass = std::mem::replace(&mut self.at_ring_full, vec![0; before.len()]);
            self.pass = PassTally {
                harvested: 0,
                ring_full_harvested: self.in_pass.iter().sum(),
                fullest: 0,
            };
        }
        for (ring, taken) in self.taken_since(before).into_iter().enumerate() {
            self.in_pass[ring] += taken;
            self.pass.harvested += taken;
            self.by_reaper += taken;
        }
        let fullest = self.in_pass.iter().max().copied().unwrap_or(0);
        self.pass.fullest = fullest as u32;
    }

    fn harvest(&mut self, begin: bool, wanted: Option<[bool; RINGS]>) {
        if begin {
            let all = vec![true; self.kernel.len()];
            self.wanted = wanted.map_or(all, Vec::from);
        }
        let before = self.taken();
        let waiting: Vec<_> = self.kernel.iter().map(|ring| ring.occupancy()).collect();
        let refused = self.refused();
        let harvested = match wanted {
            None => self.collector.harvest(self.now_us, begin),
            Some(wanted) => {
                let mut wanted = wanted.into_iter();
                let wants = |_: &mut _| wanted.next().expect("asked once of each ring");
                self.collector.harvest_where(self.now_us, begin, wants)
            }
        };
        self.note_pass(begin, &before);
        let refused = self.refused() - refused;
        let now = self.taken();
        let taken: Vec<_> = now
            .iter()
            .zip(&before)
            .map(|(now, then)| now - then)
            .collect();
        let total: u64 = taken.iter().sum();
        assert_eq!(u64::from(harvested.entries), total);
        assert_eq!(harvested.tally, self.pass);
        assert!(total - refused <= BATCH as u64, "more than the batch holds");
        for (ring, taken) in taken.into_iter().enumerate() {
            if !self.wanted[ring] {
                assert_eq!(taken, 0, "a ring was harvested that nobody wanted");
            } else if begin && !harvested.more {
                assert_eq!(taken, waiting[ring], "a whole pass left entries behind");
            }
        }
    }

    /// A ring-full exit of the vCPU with ring `ring`. Its own ring gives a chunk, or all; another
    /// one a chunk if it is full as well, or all. Whoever was served like that by another's exit
    /// takes nothing at its own, if nothing waits for a reset.
    fn ring_full(&mut self, ring: usize, mode: RingFullMode) {
        let before = self.taken();
        let waiting: Vec<_> = self.kernel.iter().map(|ring| ring.occupancy()).collect();
        let deficit = self.deficit();
        let own_deficit = self.kernel[ring].taken() - self.kernel[ring].resets();
        let unpublished = self.unpublished();
        let served = std::mem::replace(&mut self.served[ring], false);
        let result = self.collector.ring_full(ring, mode, self.now_us);
        let taken = self.taken_since(&before);
        let total: u64 = taken.iter().sum();
        self.by_ring_full += total;
        for (sum, taken) in self.at_ring_full.iter_mut().zip(&taken) {
            *sum += taken;
        }
        if served && deficit == 0 && unpublished == 0 {
            assert_eq!(total, 0, "it was served already");
            let report = result.expect("who was served has nothing to do");
            assert!(report.settled && report.harvested == 0);
            return;
        }
        if own_deficit == 0 && taken[ring] == 0 {
            self.fruitless[ring] += 1;
            if self.fruitless[ring] >= OVERRUN_EXITS {
                assert_eq!(result, Err(CollectError::Overrun { ring }));
                return;
            }
        }
        let report = result.expect("nothing else can go wrong");
        assert_eq!(u64::from(report.harvested), total);
        assert_eq!(report.settled, self.deficit() == 0);
        for (index, (&taken, &waiting)) in taken.iter().zip(&waiting).enumerate() {
            let own = index == ring;
            let most = match mode {
                RingFullMode::Whole => waiting,
                RingFullMode::Chunk(chunk) if own || self.is_full(waiting, index) => {
                    waiting.min(chunk.max(1).into())
                }
                RingFullMode::Chunk(_) => 0,
            };
            if matches!(mode, RingFullMode::Chunk(_)) && !own {
                if taken != 0 {
                    self.served[index] = true;
                }
                assert!(taken == 0 || taken == most, "half a chunk");
            } else if report.settled {
                assert_eq!(taken, most, "less was taken than there was room for");
            }
            assert!(taken <= most, "more was taken than the mode allows");
        }
    }

    fn is_full(&self, waiting: u64, ring: usize) -> bool {
        let size = self.collector.backend().rings()[ring].size();
        waiting >= size.soft_limit().into()
    }

    pub(crate) fn apply(&mut self, op: &Op) {
        self.now_us += 1000;
        match op {
            &Op::Push { ring, pages } => {
                let _ = (0..pages).all(|_| self.push(ring, true));
            }
            &Op::PushGarbage { ring } => {
                self.push(ring, false);
            }
            Op::ShortenResets(limits) => {
                let backend = self.collector.backend_mut();
                backend.shorten_resets(limits.iter().copied());
            }
            &Op::Harvest { begin, wanted } => self.harvest(begin, wanted),
            &Op::Reset { publish } => match self.collector.reset().unwrap() {
                Reset::Settled(publishable) if publish => {
                    publishable.publish();
                }
                // Dropping it must lose nothing.
                Reset::Settled(_) => {}
                Reset::Short { outstanding, .. } => {
                    assert_eq!(outstanding, self.deficit());
                }
            },
            Op::Settle => {
                let before = self.deficit();
                let (entries, settled) = self.collector.settle().unwrap();
                assert_eq!(entries, before - self.deficit());
                assert_eq!(settled, self.deficit() == 0);
            }
            &Op::RingFull { ring, mode } => self.ring_full(ring, mode),
            Op::Drain => {
                let before = self.taken();
                let settled = self.collector.drain(self.now_us).unwrap();
                // No pass: the reaper's next one counts it as taken meanwhile.
                let taken = self.taken_since(&before);
                for (sum, taken) in self.at_ring_full.iter_mut().zip(taken) {
                    *sum += taken;
                    self.by_reaper += taken;
                }
                assert_eq!(settled, self.deficit() == 0);
            }
        }
    }

    pub(crate) fn check(&self) {
        assert_eq!(self.collector.outstanding(), self.deficit(), "the deficit");
        let totals = self.collector.totals();
        assert_eq!(totals.reaper_harvested, self.by_reaper);
        assert_eq!(totals.ring_full_harvested, self.by_ring_full);
        let reset: u64 = self.kernel.iter().map(|ring| ring.resets()).sum();
        assert_eq!(totals.entries_reset, reset);
        let outcome = self.outcome.borrow();
        let published: usize = outcome.published.iter().map(Vec::len).sum();
        assert_eq!(totals.published, published as u64);
        for (ring, core) in self.collector.backend().rings().iter().enumerate() {
            // A peek never says that a ring is full to the last entry.
            let most = u64::from(core.size().entries()) - 1;
            let occupancy = self.kernel[ring].occupancy().min(most);
            assert_eq!(u64::from(core.occupancy()), occupancy);
            assert_eq!(core.stats().harvested, self.kernel[ring].taken());
            let bad = outcome.rejected[ring].len();
            assert_eq!(core.stats().bad_entries, bad as u64);
            assert!(self.good[ring].starts_with(&outcome.published[ring]));
            assert!(self.bad[ring].starts_with(&outcome.rejected[ring]));
        }
    }

    /// Ends all short resets and drains: everything that was pushed has to come out.
    pub(crate) fn finish(&mut self) {
        self.collector.backend_mut().end_short_resets();
        self.apply(&Op::Drain);
        self.check();
        let outcome = self.outcome.borrow();
        assert_eq!(outcome.published, self.good, "lost, doubled or reordered");
        assert_eq!(outcome.rejected, self.bad, "bad entries lost or doubled");
        assert_eq!(self.deficit(), 0);
    }
}
