//! What the tests do to a collector, and what they know of it from outside.

use std::cell::RefCell;
use std::rc::Rc;

use dirty_ring_core::backend::Backend;
use dirty_ring_core::collector::suspects::MAX_SUSPECTS;
use dirty_ring_core::collector::{CollectError, Collector, Drain, PassTally, RingFullMode, Scope};
use dirty_ring_core::ring::OVERRUN_EXITS;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::{Instant, Micros};
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
    /// Begins a pass, whose plan leaves some rings alone if the scope allows it.
    BeginPass {
        scope: Scope,
        left_alone: [bool; RINGS],
    },
    /// A batch of the pass, without its reset.
    Harvest,
    /// A batch of the pass.
    Reap,
    EndPass,
    Settle,
    RingFull {
        ring: usize,
        mode: RingFullMode,
    },
    Drain,
    /// A batch of a drain that may have begun before.
    DrainBatch,
}

/// What the tests know of a collector from outside.
pub(crate) struct World<const BATCH: usize> {
    collector: Collector<SimVm, BATCH>,
    pub(crate) kernel: Vec<Rc<SimRing>>,
    outcome: Rc<RefCell<Outcome>>,
    /// Offsets pushed, good and bad, by ring.
    good: Vec<Vec<u64>>,
    bad: Vec<Vec<u64>>,
    /// Entries taken since the last pass ended, whatever took them, by ring.
    since_pass: Vec<u64>,
    /// What the present pass harvested.
    in_pass: u64,
    /// Since the last pass ended.
    ring_fulls: u32,
    ring_full_harvested: u64,
    by_reaper: u64,
    by_ring_full: u64,
    by_drain: u64,
    /// Fruitless ring-full exits in a row.
    fruitless: Vec<u32>,
    /// Another vCPU's ring-full made room in the ring, and it wasn't harvested since.
    served: Vec<bool>,
    /// The rings that the present pass may still take entries from, and how many.
    may_give: Vec<u64>,
    /// Entries that waited when the pass began, of rings that were not harvested since.
    waited: Vec<Option<u64>>,
    drain: Drain,
    now: Instant,
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
            since_pass: vec![0; rings],
            in_pass: 0,
            ring_fulls: 0,
            ring_full_harvested: 0,
            by_reaper: 0,
            by_ring_full: 0,
            by_drain: 0,
            fruitless: vec![0; rings],
            served: vec![false; rings],
            may_give: sizes.iter().map(|size| size.entries().into()).collect(),
            waited: vec![None; rings],
            drain: Drain::default(),
            now: Instant(0),
        }
    }

    fn taken(&self) -> Vec<u64> {
        self.kernel.iter().map(|ring| ring.taken()).collect()
    }

    fn waiting(&self) -> Vec<u64> {
        self.kernel.iter().map(|ring| ring.occupancy()).collect()
    }

    /// Returns what was taken since `before`, by ring; a ring that gave anything is not overrun.
    fn taken_since(&mut self, before: &[u64]) -> Vec<u64> {
        let now = self.taken();
        let taken: Vec<_> = now
            .iter()
            .zip(before)
            .map(|(now, then)| now - then)
            .collect();
        for (ring, &taken) in taken.iter().enumerate() {
            self.since_pass[ring] += taken;
            if taken != 0 {
                self.fruitless[ring] = 0;
                self.served[ring] = false;
                self.waited[ring] = None;
            }
        }
        taken
    }

    fn refused(&self) -> u64 {
        let outcome = self.outcome.borrow();
        outcome.rejected.iter().map(|ring| ring.len() as u64).sum()
    }

    /// Returns the pages in the batch.
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

    fn begin_pass(&mut self, scope: Scope, left_alone: [bool; RINGS]) {
        let seen = self.waiting();
        let before = self.taken();
        self.collector.begin_pass(self.now, scope, |rings| {
            assert_eq!((rings.len(), rings.scope()), (seen.len(), scope));
            for (ring, &seen) in seen.iter().enumerate() {
                let view = rings.get(ring).expect("there is one");
                assert_eq!(u64::from(view.occupancy), seen, "a look is wrong");
                if left_alone[ring] {
                    assert_eq!(rings.leave(ring), scope == Scope::Planned);
                }
            }
        });
        assert_eq!(self.taken(), before, "a plan took something");
        self.in_pass = 0;
        let waiting = self.waiting();
        for (ring, core) in self.collector.backend().rings().iter().enumerate() {
            let is_taken = scope == Scope::All || !left_alone[ring];
            let entries = core.size().entries().into();
            self.may_give[ring] = if is_taken { entries } else { 0 };
            self.waited[ring] = is_taken.then_some(waiting[ring]);
        }
    }

    /// Checks and counts what a batch of the pass took.
    fn note_batch(&mut self, before: &[u64], entries: u32, refused: u64) -> u64 {
        // Of a ring that only the pass can have emptied since its begin.
        let waited = self.waited.clone();
        let taken = self.taken_since(before);
        let total: u64 = taken.iter().sum();
        assert_eq!(u64::from(entries), total);
        let refused = self.refused() - refused;
        assert!(total - refused <= BATCH as u64, "more than the batch holds");
        for (ring, taken) in taken.into_iter().enumerate() {
            assert!(
                taken <= self.may_give[ring],
                "a ring was taken that was left alone, or more than it holds"
            );
            self.may_give[ring] -= taken;
            // What was there at the begin and isn't taken yet.
            self.waited[ring] = waited[ring].map(|waited| waited.saturating_sub(taken));
        }
        self.in_pass += total;
        self.by_reaper += total;
        total
    }

    /// Checks that a pass whose batches are all taken leaves nothing behind that was there when it
    /// began.
    fn check_whole(&mut self) {
        for ring in 0..self.kernel.len() {
            let left = self.waited[ring].take().unwrap_or(0);
            assert_eq!(left, 0, "a whole pass left entries behind");
            self.may_give[ring] = 0;
        }
    }

    fn harvest(&mut self) {
        let (before, refused) = (self.taken(), self.refused());
        let harvested = self.collector.harvest(self.now);
        let (entries, more) = harvested.expect("no ring has parted");
        self.note_batch(&before, entries, refused);
        if !more {
            self.check_whole();
        }
    }

    fn reap(&mut self) {
        let (before, refused) = (self.taken(), self.refused());
        let reaped = self.collector.reap(self.now).expect("no reset fails");
        self.note_batch(&before, reaped.entries, refused);
        if reaped.is_over {
            self.check_whole();
            assert_eq!((self.deficit(), self.unpublished()), (0, 0));
        }
    }

    fn end_pass(&mut self) {
        let tally = self.collector.end_pass();
        let fullest = self.since_pass.iter().max().copied().unwrap_or(0);
        let expected = PassTally {
            harvested: self.in_pass,
            ring_full_harvested: std::mem::take(&mut self.ring_full_harvested),
            fullest: fullest as u32,
            ring_fulls: std::mem::take(&mut self.ring_fulls),
        };
        assert_eq!(tally, expected);
        self.since_pass.fill(0);
    }

    /// Plays a ring-full exit of the vCPU with ring `ring`. Its own ring gives a chunk, or all.
    /// Another one gives a chunk if it is full as well, or all. A vCPU that was served by another's
    /// exit takes nothing at its own, if nothing waits for a reset.
    fn ring_full(&mut self, ring: usize, mode: RingFullMode) {
        let before = self.taken();
        let waiting = self.waiting();
        let deficit = self.deficit();
        let own_deficit = self.kernel[ring].taken() - self.kernel[ring].resets();
        let unpublished = self.unpublished();
        let served = std::mem::replace(&mut self.served[ring], false);
        let result = self.collector.ring_full(ring, mode, self.now);
        let taken = self.taken_since(&before);
        let total: u64 = taken.iter().sum();
        self.ring_fulls += 1;
        self.by_ring_full += total;
        self.ring_full_harvested += total;
        if served && deficit == 0 && unpublished == 0 {
            assert_eq!(total, 0, "it was served already");
            let report = result.expect("a served vCPU has nothing to do");
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

    fn drain(&mut self) {
        let before = self.taken();
        let seen: u64 = self.waiting().iter().sum();
        let drained = self.collector.drain(self.now);
        let settled = self.is_over(drained);
        // No pass: the reaper's next one doesn't count it as its own.
        let taken: u64 = self.taken_since(&before).iter().sum();
        self.by_drain += taken;
        assert_eq!(settled, self.deficit() == 0);
        if settled {
            assert_eq!(
                taken, seen,
                "a drain left entries behind, or took later ones"
            );
        }
    }

    /// Returns whether a drain is over: one that was ends in an error if pages were lost.
    fn is_over(&self, drained: Result<bool, CollectError<()>>) -> bool {
        let refused = self.refused();
        match drained {
            Ok(is_over) => {
                assert!(!is_over || refused == 0, "a lost page was not told");
                is_over
            }
            Err(CollectError::BadEntries { entries, .. }) => {
                assert_eq!(entries, refused, "entries that name no page");
                true
            }
            Err(CollectError::TooManySuspects { suspects }) => {
                assert_eq!((suspects, refused), (MAX_SUSPECTS, 0));
                true
            }
            Err(error) => panic!("nothing else can go wrong: {error}"),
        }
    }

    fn drain_batch(&mut self) {
        let before = self.taken();
        let drained = self.collector.drain_batch(&mut self.drain, self.now);
        let is_over = self.is_over(drained);
        self.by_drain += self.taken_since(&before).iter().sum::<u64>();
        if is_over {
            assert_eq!((self.deficit(), self.unpublished()), (0, 0));
            self.drain = Drain::default();
        }
    }

    pub(crate) fn apply(&mut self, op: &Op) {
        self.now = self.now + Micros(1000);
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
            &Op::BeginPass { scope, left_alone } => self.begin_pass(scope, left_alone),
            Op::Harvest => self.harvest(),
            Op::Reap => self.reap(),
            Op::EndPass => self.end_pass(),
            Op::Settle => {
                let settled = self.collector.settle().expect("no reset fails");
                assert_eq!(settled, self.deficit() == 0);
                assert!(
                    !settled || self.unpublished() == 0,
                    "settled pages are held back"
                );
            }
            &Op::RingFull { ring, mode } => self.ring_full(ring, mode),
            Op::Drain => self.drain(),
            Op::DrainBatch => self.drain_batch(),
        }
    }

    pub(crate) fn check(&self) {
        assert_eq!(self.collector.outstanding(), self.deficit(), "the deficit");
        let totals = self.collector.totals();
        assert_eq!(totals.reaper_harvested, self.by_reaper);
        assert_eq!(totals.ring_full_harvested, self.by_ring_full);
        assert_eq!(totals.drain_harvested, self.by_drain);
        assert_eq!(totals.harvested(), self.taken().iter().sum::<u64>());
        let reset: u64 = self.kernel.iter().map(|ring| ring.resets()).sum();
        assert_eq!(totals.entries_reset, reset);
        let outcome = self.outcome.borrow();
        let published: usize = outcome.published.iter().map(Vec::len).sum();
        assert_eq!(totals.published, published as u64);
        assert_eq!(totals.suspects_published, outcome.published_again);
        let mut ring_fulls = 0;
        for (ring, core) in self.collector.backend().rings().iter().enumerate() {
            assert_eq!(u64::from(core.occupancy()), self.kernel[ring].occupancy());
            assert_eq!(core.stats().harvested, self.kernel[ring].taken());
            let bad = outcome.rejected[ring].len();
            assert_eq!(core.stats().bad_entries, bad as u64);
            assert!(self.good[ring].starts_with(&outcome.published[ring]));
            assert!(self.bad[ring].starts_with(&outcome.rejected[ring]));
            ring_fulls += core.stats().ring_fulls;
        }
        assert_eq!(totals.ring_fulls, ring_fulls);
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
