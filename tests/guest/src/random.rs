//! What a phase of random writes writes, and where: the host's side of the guest's code.

/// Increment and multipliers of SplitMix64, which spreads the bits of a seed.
pub(crate) const SPREAD_INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;
const SPREAD_MULTIPLIERS: [u64; 2] = [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb];

/// Bits of a stamp that hold the count; those above hold the vCPU's index plus 1.
const COUNT_BITS: u32 = 48;

/// The value of one random page write, which no other write of any vCPU has.
///
/// A word that was written in order is the count alone, and a page that was never written holds 0;
/// neither is a stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// Index of the vCPU that wrote it.
    pub vcpu: usize,
    /// The vCPU's page writes so far, including this one; below 2^48.
    pub count: u64,
}

impl Stamp {
    /// Returns the word that the guest writes.
    #[must_use]
    pub const fn word(self) -> u64 {
        (self.vcpu as u64 + 1) << COUNT_BITS | self.count
    }

    /// Returns the stamp that `word` is, or `None` if no random write wrote it.
    #[must_use]
    pub const fn from_word(word: u64) -> Option<Self> {
        let Some(vcpu) = (word >> COUNT_BITS).checked_sub(1) else {
            return None;
        };
        Some(Self {
            vcpu: vcpu as usize,
            count: word & ((1 << COUNT_BITS) - 1),
        })
    }
}

/// The pages that a phase of random writes picks, one after another and without end.
///
/// A vCPU that idled when the phase began, with `before` page writes, and that has made `now` page
/// writes has written the first `now - before` of them, each with a [`Stamp`] of the next count.
#[derive(Debug, Clone)]
pub struct RandomPages {
    first_page: u64,
    pages: u64,
    state: u64,
}

impl RandomPages {
    /// Creates the sequence of
    /// [`VcpuParams::set_random`](crate::VcpuParams::set_random)`(first_page, pages, _, seed)`.
    #[must_use]
    pub const fn new(first_page: u64, pages: u64, seed: u64) -> Self {
        Self {
            first_page,
            pages,
            state: Self::initial_state(seed),
        }
    }

    /// Returns the generator's state at the start. Seeds that differ in few bits give states that
    /// differ in many; 0 is the one state that the generator never leaves.
    pub(crate) const fn initial_state(seed: u64) -> u64 {
        let state = spread(seed);
        if state == 0 { 1 } else { state }
    }
}

/// Spreads the bits of `seed`: the output of a SplitMix64 whose state is `seed`.
pub(crate) const fn spread(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(SPREAD_INCREMENT);
    bits = (bits ^ bits >> 30).wrapping_mul(SPREAD_MULTIPLIERS[0]);
    bits = (bits ^ bits >> 27).wrapping_mul(SPREAD_MULTIPLIERS[1]);
    bits ^ bits >> 31
}

impl Iterator for RandomPages {
    /// Index of a page in the whole data area.
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.pages == 0 {
            return None;
        }
        // xorshift64, step by step as the guest's code does it.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        // Nothing is cut off: a phase has at most `MAX_DATA_PAGES` pages.
        let scaled = (self.state >> 32).wrapping_mul(self.pages) >> 32;
        Some(self.first_page + scaled)
    }
}
