//! A set of small indices.

/// A set of indices below `64 * WORDS`, one bit for each.
#[derive(Debug)]
pub(crate) struct Marks<const WORDS: usize>([u64; WORDS]);

impl<const WORDS: usize> Marks<WORDS> {
    pub(crate) const NONE: Self = Self([0; WORDS]);

    /// Adds `index`; returns whether there is room for it.
    pub(crate) fn set(&mut self, index: usize) -> bool {
        let (word, bit) = place(index);
        let Some(word) = self.0.get_mut(word) else {
            return false;
        };
        *word |= bit;
        true
    }

    pub(crate) fn contains(&self, index: usize) -> bool {
        let (word, bit) = place(index);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }
}

/// Returns the word of `index`, and its bit there.
fn place(index: usize) -> (usize, u64) {
    let bits = u64::BITS as usize;
    let bit = 1u64.wrapping_shl(index as u32 % u64::BITS);
    (index.checked_div(bits).unwrap_or(0), bit)
}
