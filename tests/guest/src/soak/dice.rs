//! The random numbers that decide what happens to one VM.

use crate::random::{SPREAD_INCREMENT, spread};

/// A SplitMix64. What it decides depends on the seed and the VM's number alone, so that a VM can be
/// run again.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    /// Creates the dice of VM number `vm`.
    pub(super) const fn new(seed: u64, vm: u64) -> Self {
        Self(spread(spread(seed).wrapping_add(vm)))
    }

    /// Returns 64 random bits.
    pub(super) const fn bits(&mut self) -> u64 {
        let bits = spread(self.0);
        self.0 = self.0.wrapping_add(SPREAD_INCREMENT);
        bits
    }

    /// Returns a number below `limit`, which is above 0 and at most 2^32.
    pub(super) const fn below(&mut self, limit: u64) -> u64 {
        (self.bits() >> 32).wrapping_mul(limit) >> 32
    }

    /// Returns whether an event of probability 1 / `times` happens.
    pub(super) const fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// Returns one of `items`, which are not empty.
    pub(super) fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize].clone()
    }

    /// Shuffles `items`.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}
