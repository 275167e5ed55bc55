//! Whether a vCPU dirties the same pages over and over, told from one page at a time.

use crate::entry::{DirtyGfn, SlotId};

/// A page that no ring names.
const NONE: DirtyGfn = DirtyGfn {
    slot: SlotId(u32::MAX),
    offset: u64::MAX,
};

/// A verdict is believed from this score on, either way.
const BELIEVED: i8 = 2;
/// A score goes no further, so that a guest that changes is believed soon.
const SURE: i8 = 3;

/// Follows one page of the ring until it comes round again, or until a whole ring has passed
/// without it, and keeps score.
///
/// A working set that fits into the ring fills it up to a level and no further. A reap of such a
/// ring, only because it is nearly full, makes the guest fault for the same pages again. Where no
/// page comes round within one ring, an early reap costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recurrence {
    /// The page that is followed. Public as the fields below are, so that a saved state can be written
    /// in any format.
    pub page: DirtyGfn,
    /// Entries since the page was seen.
    pub distance: u32,
    /// The longest of the last recurrences, in entries; [`working_set`](Self::working_set) says whether
    /// it counts.
    pub longest: u32,
    /// One up for a page that came round within one ring, one down for one that didn't. One odd page
    /// changes no verdict.
    pub score: i8,
}

impl Default for Recurrence {
    fn default() -> Self {
        Self::new()
    }
}

impl Recurrence {
    pub(crate) const fn new() -> Self {
        Self {
            page: NONE,
            distance: 0,
            longest: 0,
            score: 0,
        }
    }

    /// Returns the size of the working set, in entries, if its pages come round within one ring: the
    /// longest distance of late.
    pub const fn working_set(&self) -> Option<u32> {
        if self.score >= BELIEVED {
            Some(self.longest)
        } else {
            None
        }
    }

    /// Returns whether no page comes round within one ring.
    pub const fn is_stream(&self) -> bool {
        self.score <= -BELIEVED
    }

    /// Returns the page that is followed; [`seen`](Self::seen) has to be called for it.
    pub(crate) const fn page(&self) -> DirtyGfn {
        self.page
    }

    /// Notes that the page came again, `entries` after it was seen or the present harvest began.
    pub(crate) fn seen(&mut self, entries: u32, soft_limit: u32) {
        let distance = self.distance.saturating_add(entries);
        self.distance = 0;
        if distance > soft_limit {
            self.stranger();
        } else {
            self.score = self.score.saturating_add(1).min(SURE);
            self.longest = self.longest.max(distance);
        }
    }

    /// Ends a harvest: `entries` came since it began or the page was seen, and `last` was its last
    /// page.
    pub(crate) fn harvested(&mut self, entries: u32, last: DirtyGfn, soft_limit: u32) {
        self.distance = self.distance.saturating_add(entries);
        if self.page == NONE {
            self.follow(last);
        } else if self.distance > soft_limit {
            self.stranger();
            self.follow(last);
        }
    }

    /// Stops following, because the ring was emptied on request. Where the guest goes on in its
    /// round is unknown, so distances across this point say nothing.
    pub(crate) const fn interrupt(&mut self) {
        self.page = NONE;
        self.distance = 0;
    }

    /// Notes that the ring was full: a working set that seemed to fit doesn't.
    pub(crate) fn ring_full(&mut self) {
        self.score = self.score.min(0);
        self.longest = 0;
    }

    const fn follow(&mut self, page: DirtyGfn) {
        self.page = page;
        self.distance = 0;
    }

    fn stranger(&mut self) {
        self.score = self.score.saturating_sub(1).max(-SURE);
        if self.score <= 0 {
            self.longest = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gfn(offset: u64) -> DirtyGfn {
        DirtyGfn {
            slot: SlotId(0),
            offset,
        }
    }

    /// One harvest, as [`Ring`](crate::ring::Ring) does it.
    fn harvest(recurrence: &mut Recurrence, pages: impl Iterator<Item = u64>) {
        let (mut since, mut last) = (0, None);
        for page in pages {
            since += 1;
            if gfn(page) == recurrence.page() {
                recurrence.seen(since, 1000);
                since = 0;
            }
            last = Some(gfn(page));
        }
        if let Some(last) = last {
            recurrence.harvested(since, last, 1000);
        }
    }

    fn rounds(recurrence: &mut Recurrence, pages: u64, entries: u64) {
        // In harvests of odd sizes: where one ends must make no difference.
        let all: std::vec::Vec<u64> = (0..entries).map(|entry| entry % pages).collect();
        for chunk in all.chunks(97) {
            harvest(recurrence, chunk.iter().copied());
        }
    }

    #[test]
    fn a_round_that_fits_is_believed_after_two_with_its_distance() {
        let mut recurrence = Recurrence::new();
        rounds(&mut recurrence, 990, 2 * 990);
        assert_eq!(recurrence.working_set(), None);
        rounds(&mut recurrence, 990, 990);
        assert_eq!(recurrence.working_set(), Some(990));
        assert!(!recurrence.is_stream());
    }

    #[test]
    fn a_round_that_is_larger_than_the_ring_is_a_stream() {
        let mut recurrence = Recurrence::new();
        for entry in 0..20 * 1001 {
            harvest(&mut recurrence, core::iter::once(entry % 1001));
            assert_eq!(recurrence.working_set(), None);
        }
        assert!(recurrence.is_stream());
    }

    #[test]
    fn a_guest_that_changes_is_believed_within_a_few_rounds_either_way() {
        let mut recurrence = Recurrence::new();
        rounds(&mut recurrence, 500, 5000);
        assert_eq!(recurrence.working_set(), Some(500));
        rounds(&mut recurrence, 20_000, 6500);
        assert_eq!(recurrence.working_set(), None);
        assert!(recurrence.is_stream());
        rounds(&mut recurrence, 500, 4500);
        assert_eq!(recurrence.working_set(), Some(500));
    }

    #[test]
    fn a_ring_full_refutes_a_working_set_that_seemed_to_fit() {
        let mut recurrence = Recurrence::new();
        rounds(&mut recurrence, 500, 3000);
        recurrence.ring_full();
        assert_eq!(recurrence.working_set(), None);
    }

    #[test]
    fn one_page_that_is_logged_twice_changes_no_verdict() {
        let mut recurrence = Recurrence::new();
        rounds(&mut recurrence, 20_000, 10_000);
        assert!(recurrence.is_stream());
        let followed = recurrence.page().offset;
        harvest(&mut recurrence, core::iter::once(followed));
        assert!(recurrence.is_stream());
    }

    #[test]
    fn an_interruption_makes_no_distance_of_two_halves() {
        let mut recurrence = Recurrence::new();
        rounds(&mut recurrence, 900, 4501);
        assert_eq!(recurrence.working_set(), Some(900));
        recurrence.interrupt();
        // The guest goes on elsewhere in its round: the old page may be any distance away.
        harvest(&mut recurrence, (0..899).map(|entry| (entry + 600) % 900));
        assert_eq!(recurrence.working_set(), Some(900));
    }
}
