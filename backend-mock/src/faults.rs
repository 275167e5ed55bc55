//! What goes wrong, and how often.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Certainty, in per mille.
const PERMILLE: u32 = 1000;

/// Seeded faults. All probabilities are per mille; [`NONE`](Self::NONE) is the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// A signal becomes pending while a reset is on its way, at any point from before its first entry
    /// to after its last one. Since Linux 6.17 the reset ends then, and forgets up to 64 pages that it
    /// has counted. A quarter as often, a reset that was whole says that it may have been interrupted.
    pub interrupted_reset_permille: u16,
    /// A signal is pending before a reset begins: it does nothing.
    pub barren_reset_permille: u16,
    /// A wake-up of the reaper comes late.
    pub late_wake_permille: u16,
    /// How late, in microseconds, on top of the usual latency.
    pub late_wake_us: u32,
    /// A ring of the doorbell doesn't wake the reaper.
    pub lost_wake_permille: u16,
    /// After an entry, the ring gets one that names no registered page: an unknown slot, or an
    /// offset beyond its slot.
    pub garbage_permille: u16,
    /// A vCPU that overruns its ring. Needs dirty logging, like all of these.
    pub overrun: Option<Overrun>,
}

/// A vCPU that ignores the soft limit, such as one whose instructions are emulated in batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// The vCPU's index.
    pub vcpu: u32,
    /// When, in microseconds of virtual time; where it stands still then, as soon as it runs.
    pub at_us: u64,
    /// How many entries it pushes beyond the ring's end, at least 1; then it obeys the limit again.
    /// From the soft limit on, the ring stays full until the end. Below that the vCPU has to dirty
    /// the rest first; where it never does, only the oracle notices.
    pub entries_beyond: u32,
}

impl Faults {
    /// No faults.
    pub const NONE: Self = Self {
        interrupted_reset_permille: 0,
        barren_reset_permille: 0,
        late_wake_permille: 0,
        late_wake_us: 0,
        lost_wake_permille: 0,
        garbage_permille: 0,
        overrun: None,
    };

    /// Returns the probabilities by name.
    pub(crate) fn permilles(&self) -> [(&'static str, u16); 5] {
        [
            (
                "interrupted_reset_permille",
                self.interrupted_reset_permille,
            ),
            ("barren_reset_permille", self.barren_reset_permille),
            ("late_wake_permille", self.late_wake_permille),
            ("lost_wake_permille", self.lost_wake_permille),
            ("garbage_permille", self.garbage_permille),
        ]
    }
}

/// Draws of one kind, independent of those of any other kind.
#[derive(Clone, Debug)]
pub(crate) struct Dice {
    rng: ChaCha8Rng,
}

/// What a [`Dice`] is for. Each has a stream of its own, so one fault doesn't move another.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    Resets,
    Wakes,
    Soak,
    Garbage { vcpu: usize },
}

impl Dice {
    pub(crate) fn new(seed: u64, stream: Stream) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(match stream {
            Stream::Resets => 0,
            Stream::Wakes => 1,
            Stream::Garbage { vcpu } => 2 + vcpu as u64,
            Stream::Soak => u64::MAX,
        });
        Self { rng }
    }

    /// Returns a number below `bound`; 0 for 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product: without a division, and the same on every machine.
        ((u128::from(self.rng.next_u64()) * u128::from(bound)) >> u64::BITS) as u64
    }

    /// Returns whether it happens this time.
    pub(crate) fn happens(&mut self, permille: u16) -> bool {
        permille != 0 && self.below(PERMILLE.into()) < permille.into()
    }

    /// Returns how many times until it happens, that time included.
    pub(crate) fn times_until(&mut self, permille: u16) -> u32 {
        let mut times = 1;
        while !self.happens(permille) {
            times += 1;
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_a_seed_never_change() {
        let mut dice = Dice::new(42, Stream::Wakes);
        let draws: Vec<u64> = (0..6).map(|_| dice.below(1000)).collect();
        assert_eq!(draws, EXPECTED);
    }

    const EXPECTED: [u64; 6] = [716, 166, 482, 846, 66, 773];

    #[test]
    fn streams_of_one_seed_differ() {
        let draw = |stream| Dice::new(7, stream).below(u64::MAX);
        let garbage = |vcpu| draw(Stream::Garbage { vcpu });
        assert_ne!(draw(Stream::Resets), draw(Stream::Wakes));
        assert_ne!(garbage(0), garbage(1));
    }

    #[test]
    fn the_extremes_are_never_and_always() {
        let mut dice = Dice::new(1, Stream::Resets);
        assert!((0..1000).all(|_| !dice.happens(0) && dice.happens(1000)));
        assert_eq!((dice.below(0), dice.below(1)), (0, 0));
    }
}
