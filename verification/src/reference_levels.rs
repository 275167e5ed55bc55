//! Second opinions on the controllers with run levels: what a step has to do, by the rules.

/// A controller's place: the number of its run level, and the lows counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// 0 for NORMAL to 5 for MAX_SPEED.
    pub level: u8,
    /// Lows counted by the speed-down filter.
    pub lows: u32,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    /// To a shorter wait.
    Faster,
    /// To a longer one.
    Slower,
    /// A low that the filter swallowed.
    Filtered,
    /// Nothing to do.
    Keep,
    /// A ring-full, but there is no shorter wait.
    Stuck,
}

/// The highest level's number.
const TOP: u8 = 5;

/// The waits of the 2022 patch, in microseconds.
pub const SEED_WAITS_US: [u64; 6] = [1_000_000, 500_000, 250_000, 125_000, 100_000, 80_000];
/// Lows that the patch's speed-down filter swallows.
const SEED_STABLE: u32 = 5;

/// Returns the level that `pages` of a ring of `entries` ask for by the patch's formula: a `float`
/// ratio, compared with constants that are `double` in C.
pub fn seed_wanted_by_float(pages: u32, entries: u32) -> u8 {
    let ratio = f64::from(pages as f32 / entries as f32);
    [0.1, 0.2, 0.3, 0.4, 0.5]
        .iter()
        .position(|below| ratio < *below)
        .map_or(TOP, |level| level as u8)
}

/// Returns the level as [`seed_wanted_by_float`] does, with constants that are `float` as well
/// (`0.1f`).
pub fn seed_wanted_by_single_float(pages: u32, entries: u32) -> u8 {
    let ratio = pages as f32 / entries as f32;
    [0.1f32, 0.2, 0.3, 0.4, 0.5]
        .iter()
        .position(|below| ratio < *below)
        .map_or(TOP, |level| level as u8)
}

/// Returns the level by an exact fraction: one for each tenth of the ring that is reached.
pub fn seed_wanted(pages: u64, entries: u32) -> u8 {
    let tenths = u128::from(pages) * 10 / u128::from(entries);
    tenths.min(TOP.into()) as u8
}

/// Takes one step of the patch as meant:
///
/// * a ring-full goes up and does nothing else;
/// * a higher ratio goes up and clears the count;
/// * a lower one counts, and goes down above the stable count without clearing it;
/// * an equal one keeps.
pub fn seed_step(from: Place, ring_full: bool, wanted: u8) -> (Place, Move) {
    let Place { level, lows } = from;
    let up = (level + 1).min(TOP);
    if ring_full {
        let moved = if level == TOP {
            Move::Stuck
        } else {
            Move::Faster
        };
        return (Place { level: up, lows }, moved);
    }
    match wanted.cmp(&level) {
        std::cmp::Ordering::Greater => (Place { level: up, lows: 0 }, Move::Faster),
        std::cmp::Ordering::Equal => (from, Move::Keep),
        std::cmp::Ordering::Less => {
            let lows = lows.saturating_add(1);
            if lows <= SEED_STABLE {
                (Place { level, lows }, Move::Filtered)
            } else {
                let level = level - 1;
                (Place { level, lows }, Move::Slower)
            }
        }
    }
}

/// A ladder: its waits, its high-water mark as a share of the soft limit, its filter.
#[derive(Clone, Copy, Debug)]
pub struct LadderRules {
    /// Microseconds, slowest first.
    pub waits_us: [u32; 6],
    /// Per mille of the soft limit.
    pub high_water_permille: u16,
    /// Lows in a row that the filter swallows.
    pub stable: u32,
    /// Entries that fit until ring-full.
    pub soft_limit: u32,
}

/// What a pass tells a ladder.
#[derive(Clone, Copy, Debug)]
pub struct LadderInput {
    /// Entries of the fullest ring.
    pub fullest: u32,
    /// Since the last pass.
    pub elapsed_us: u64,
    /// Ring-fulls since.
    pub ring_fulls: u32,
}

impl LadderRules {
    /// Returns the slowest level in whose wait the fullest ring, filling at the rate just seen,
    /// stays below the high-water mark. A rate is seen through whole entries, so it may be an entry
    /// higher: a level slower than `present` has to hold at that rate as well, unless nothing came.
    fn wanted(&self, present: u8, input: &LadderInput) -> u8 {
        let elapsed_us = u128::from(input.elapsed_us.max(1));
        let mark = u128::from(self.soft_limit) * u128::from(self.high_water_permille);
        // entries / elapsed * wait < soft limit * permille / 1000, without division.
        let stands = |entries: u64, wait_us: u32| {
            u128::from(entries) * u128::from(wait_us) * 1000 < mark * elapsed_us
        };
        let fullest = u64::from(input.fullest);
        for (level, &wait_us) in (0..).zip(&self.waits_us) {
            let surely = level >= present || fullest == 0 || stands(fullest + 1, wait_us);
            if surely && stands(fullest, wait_us) {
                return level;
            }
        }
        TOP
    }

    /// Takes one step: up at once to the wanted level, or by a level for each ring-full if that is
    /// further; down one level after more lows *in a row* than the filter swallows.
    pub fn step(&self, from: Place, input: &LadderInput) -> (Place, Move) {
        let by_rate = self.wanted(from.level, input);
        let by_ring_fulls = u64::from(from.level) + u64::from(input.ring_fulls);
        let target = u64::from(by_rate).max(by_ring_fulls).min(TOP.into()) as u8;
        let at = |level, lows| Place { level, lows };
        if input.ring_fulls > 0 && from.level == TOP {
            (at(TOP, 0), Move::Stuck)
        } else if target > from.level {
            (at(target, 0), Move::Faster)
        } else if by_rate == from.level {
            (at(from.level, 0), Move::Keep)
        } else if from.lows >= self.stable {
            (at(from.level - 1, 0), Move::Slower)
        } else {
            (at(from.level, from.lows + 1), Move::Filtered)
        }
    }
}
