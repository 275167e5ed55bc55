//! What is remembered of one ring, to tell how long it can be left alone.
//!
//! Plain data that lives in the ring; [`Deadline`](crate::controller::Deadline) reads and writes
//! it.

use crate::entry::DirtyGfn;

/// Recurrences in a row that make a working set known.
const CONFIRMATIONS: u32 = 3;

/// A recurrence proves less each time that the ring was full all the same: the confirmations
/// wanted double, this often at the most. No more, because it is cheap to be wrong: a ring-full
/// costs its vCPU some 40 us, and a needless reap a fault for each page of the set, some ms.
const MOST_DOUBLINGS: u32 = 2;

/// How a ring behaved when somebody looked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outlook {
    /// The last look, and KVM's free-running index then, or somewhat more.
    pub(crate) seen_us: u64,
    pub(crate) seen_published: u32,
    /// When it was last emptied, or found empty once its pages were due.
    pub(crate) emptied_us: u64,
    /// Ring-fulls known.
    pub(crate) ring_fulls: u64,
    /// The occupancy up to which growth is no news: it was there before, and settled.
    pub(crate) level: u32,
    /// The rate at which it has grown beyond that lately, in pages per second: a maximum that
    /// fades.
    pub(crate) rate_per_s: u64,
    /// Since when that rate hasn't been surprised.
    pub(crate) calm_since_us: u64,
    /// It hasn't grown for so long, going by the last look alone.
    pub(crate) still_us: u64,
    /// It was left longer than its headroom would have lasted at the highest rate.
    pub(crate) is_trusted: bool,
    /// How often that trust was disappointed lately: it is halved as often.
    pub(crate) disappointments: u8,
}

impl Outlook {
    pub(crate) const fn starting_at(now_us: u64) -> Self {
        Self {
            seen_us: now_us,
            seen_published: 0,
            emptied_us: now_us,
            ring_fulls: 0,
            level: 0,
            rate_per_s: 0,
            calm_since_us: now_us,
            still_us: 0,
            is_trusted: false,
            disappointments: 0,
        }
    }
}

/// Finds out whether a vCPU dirties the same pages over and over, and how many: the distance, in
/// entries, at which one page comes round again.
///
/// A working set that fits into the ring fills it up to a level and no further. To reap such a
/// ring because it is nearly full would only make the guest fault for the same pages again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recurrence {
    sample: Option<DirtyGfn>,
    /// Entries since the sample was seen last.
    distance: u32,
    /// The longest of the last recurrences.
    working_set: u32,
    /// Recurrences in a row that fitted.
    fitting: u32,
    /// How often the ring was full although the working set seemed to fit.
    disappointments: u32,
}

impl Recurrence {
    pub(crate) const fn new() -> Self {
        Self {
            sample: None,
            distance: 0,
            working_set: 0,
            fitting: 0,
            disappointments: 0,
        }
    }

    /// An entry was harvested from a ring that is full at `soft_limit`.
    pub(crate) fn see(&mut self, gfn: DirtyGfn, soft_limit: u32) {
        self.distance = self.distance.saturating_add(1);
        if self.sample == Some(gfn) {
            if self.distance <= soft_limit {
                self.fitting = self.fitting.saturating_add(1);
                self.working_set = self.working_set.max(self.distance);
            } else {
                self.doesnt_fit();
            }
            self.distance = 0;
        } else if self.sample.is_none() {
            self.sample = Some(gfn);
            self.distance = 0;
        } else if self.distance > soft_limit {
            // It may come round some day, but not within one ring.
            self.doesnt_fit();
            self.sample = Some(gfn);
            self.distance = 0;
        }
    }

    /// The ring was emptied with a settled working set in it: where the guest goes on in its round
    /// is anyone's guess, so distances across this point say nothing.
    pub(crate) const fn interrupt(&mut self) {
        self.sample = None;
        self.distance = 0;
    }

    /// The ring was full: if its working set seemed to fit, it didn't.
    pub(crate) fn ring_full(&mut self) {
        if self.fitting >= self.confirmations() {
            self.disappointments = self.disappointments.saturating_add(1).min(MOST_DOUBLINGS);
        }
        self.doesnt_fit();
    }

    /// The size of the working set, in pages, if it is known to fit.
    pub(crate) fn fitting_set(&self) -> Option<u32> {
        (self.fitting >= self.confirmations()).then_some(self.working_set)
    }

    fn confirmations(&self) -> u32 {
        CONFIRMATIONS << self.disappointments.min(MOST_DOUBLINGS)
    }

    const fn doesnt_fit(&mut self) {
        self.fitting = 0;
        self.working_set = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::SlotId;

    fn gfn(offset: u64) -> DirtyGfn {
        DirtyGfn {
            slot: SlotId(0),
            offset,
        }
    }

    fn rounds(recurrence: &mut Recurrence, pages: u64, entries: u64) {
        (0..entries).for_each(|entry| recurrence.see(gfn(entry % pages), 1000));
    }

    #[test]
    fn a_round_that_fits_is_known_after_three_recurrences() {
        let mut recurrence = Recurrence::new();
        rounds(&mut recurrence, 990, 3 * 990);
        assert_eq!(recurrence.fitting_set(), None);
        rounds(&mut recurrence, 990, 1);
        assert_eq!(recurrence.fitting_set(), Some(990));
    }

    #[test]
    fn a_round_that_is_larger_than_the_ring_never_fits() {
        let mut recurrence = Recurrence::new();
        for entry in 0..20 * 1001 {
            recurrence.see(gfn(entry % 1001), 1000);
            assert_eq!(recurrence.fitting_set(), None);
        }
    }

    #[test]
    fn a_set_that_grows_is_unlearned() {
        let mut recurrence = Recurrence::new();
        rounds(&mut recurrence, 500, 2001);
        assert_eq!(recurrence.fitting_set(), Some(500));
        rounds(&mut recurrence, 5000, 5000);
        assert_eq!(recurrence.fitting_set(), None);
    }

    #[test]
    fn each_disappointment_doubles_the_confirmations_up_to_a_bound() {
        let mut recurrence = Recurrence::new();
        for disappointment in 0..20 {
            let needed = 3 << disappointment.min(2);
            recurrence.interrupt();
            rounds(&mut recurrence, 10, needed * 10);
            assert_eq!(recurrence.fitting_set(), None, "{disappointment}");
            rounds(&mut recurrence, 10, 1);
            assert_eq!(recurrence.fitting_set(), Some(10), "{disappointment}");
            recurrence.ring_full();
            assert_eq!(recurrence.fitting_set(), None);
        }
    }

    #[test]
    fn an_interruption_makes_no_distance_of_two_halves() {
        let mut recurrence = Recurrence::new();
        rounds(&mut recurrence, 900, 2701);
        recurrence.interrupt();
        assert_eq!(recurrence.fitting_set(), Some(900));
        // The guest goes on elsewhere in its round: the old sample may be any distance away.
        (0..2000).for_each(|entry| recurrence.see(gfn((entry + 600) % 900), 1000));
        assert_eq!(recurrence.fitting_set(), Some(900));
    }
}
