//! Whether a vCPU dirties the same pages over and over, told from one page at a time.

use crate::entry::{DirtyGfn, SlotId};

/// A page that no ring names.
const NONE: DirtyGfn = DirtyGfn {
    slot: SlotId(u32::MAX),
    offset: u64::MAX,
};

/// Follows one page of the ring until it comes round again, or until a whole ring has passed
/// without it.
///
/// A working set that fits into the ring fills it up to a level and no further: to reap such a ring
/// because it is nearly full only makes the guest fault for the same pages again. Where no page
/// comes round within one ring, an early reap costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recurrence {
    page: DirtyGfn,
    /// Entries since the page was seen.
    distance: u32,
    /// The longest of the last recurrences, in entries.
    working_set: u32,
    /// Recurrences within one ring in a row.
    rounds: u32,
    /// Rings in a row in which the page didn't come.
    strangers: u32,
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
            working_set: 0,
            rounds: 0,
            strangers: 0,
        }
    }

    /// Returns how often in a row a page has come round within one ring.
    pub const fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Returns the distance of those rounds, in entries: the longest of them.
    pub const fn working_set(&self) -> u32 {
        self.working_set
    }

    /// Returns how often in a row a page did *not* come round within one ring.
    pub const fn strangers(&self) -> u32 {
        self.strangers
    }

    /// The page that is followed: [`seen`](Self::seen) wants to hear of it.
    pub(crate) const fn page(&self) -> DirtyGfn {
        self.page
    }

    /// The page came again, `entries` after it was seen or the present harvest began.
    pub(crate) fn seen(&mut self, entries: u32, soft_limit: u32) {
        let distance = self.distance.saturating_add(entries);
        self.distance = 0;
        if distance > soft_limit {
            self.stranger();
        } else {
            self.strangers = 0;
            self.rounds = self.rounds.saturating_add(1);
            self.working_set = self.working_set.max(distance);
        }
    }

    /// A harvest is over: `entries` came since it began or the page was seen; `last` was its last.
    pub(crate) fn harvested(&mut self, entries: u32, last: DirtyGfn, soft_limit: u32) {
        self.distance = self.distance.saturating_add(entries);
        if self.page == NONE {
            self.follow(last);
        } else if self.distance > soft_limit {
            self.stranger();
            self.follow(last);
        }
    }

    /// The ring was emptied with a settled working set in it: where the guest goes on in its round is unknown,
    /// so distances across this point say nothing.
    pub(crate) const fn interrupt(&mut self) {
        self.page = NONE;
        self.distance = 0;
    }

    const fn follow(&mut self, page: DirtyGfn) {
        self.page = page;
        self.distance = 0;
    }

    const fn stranger(&mut self) {
        self.rounds = 0;
        self.working_set = 0;
        self.strangers = self.strangers.saturating_add(1);
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
    fn a_round_that_fits_is_counted_with_its_distance() {
        let mut recurrence = Recurrence::new();
        rounds(&mut recurrence, 990, 3 * 990);
        assert_eq!(recurrence.rounds(), 2);
        rounds(&mut recurrence, 990, 990);
        assert_eq!((recurrence.rounds(), recurrence.working_set()), (3, 990));
        assert_eq!(recurrence.strangers(), 0);
    }

    #[test]
    fn a_round_that_is_larger_than_the_ring_is_all_strangers() {
        let mut recurrence = Recurrence::new();
        rounds(&mut recurrence, 1001, 20 * 1001);
        assert_eq!(recurrence.rounds(), 0);
        assert!(recurrence.strangers() >= 15, "{recurrence:?}");
    }

    #[test]
    fn a_set_that_grows_is_unlearned_and_one_that_shrinks_is_learned() {
        let mut recurrence = Recurrence::new();
        rounds(&mut recurrence, 500, 2001);
        assert!(recurrence.rounds() >= 3);
        rounds(&mut recurrence, 5000, 5000);
        assert_eq!(recurrence.rounds(), 0);
        assert!(recurrence.strangers() >= 3);
        rounds(&mut recurrence, 500, 4000);
        assert!(recurrence.rounds() >= 3);
        assert_eq!((recurrence.strangers(), recurrence.working_set()), (0, 500));
    }

    #[test]
    fn an_interruption_makes_no_distance_of_two_halves() {
        let mut recurrence = Recurrence::new();
        rounds(&mut recurrence, 900, 3601);
        recurrence.interrupt();
        let known = recurrence.rounds();
        assert!(known >= 3);
        // The guest goes on elsewhere in its round: the old page may be any distance away.
        harvest(&mut recurrence, (0..899).map(|entry| (entry + 600) % 900));
        assert_eq!(
            (recurrence.rounds(), recurrence.working_set()),
            (known, 900)
        );
    }
}
