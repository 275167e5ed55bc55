//! The run levels of the 2022 patch, as meant.

use core::fmt;

use super::{
    Controller, Decision, LEVELS, LevelState, Measurement, PolicyError, Reasons, Registered,
    RunLevel, StateError, Waits, WaitsError, permille,
};
use crate::size::RingSize;
use crate::time::Micros;

/// The level table of [`Seed`]: waits, the ratio below which each level is wanted, and how many
/// lows the speed-down filter swallows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelTable {
    waits: Waits,
    /// Per mille of the ring; MAX_SPEED is wanted from the last one on.
    below_permille: [u16; LEVELS - 1],
    stable_lows: u32,
}

/// Why a level table was refused. `level` is the number of the first wrong level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LevelTableError {
    /// The waits are wrong.
    Waits(WaitsError),
    /// A threshold of 0: the level could never be wanted.
    ZeroThreshold {
        /// The level.
        level: u8,
    },
    /// A threshold that isn't above that of the slower level before it.
    ThresholdNotIncreasing {
        /// The level.
        level: u8,
    },
    /// A speed-down filter that swallows nothing filters nothing.
    ZeroStableLows,
}

impl fmt::Display for LevelTableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waits(error) => error.fmt(f),
            Self::ZeroThreshold { level } => write!(
                f,
                "the threshold of run level {level} is 0: no ratio is below that, raise it"
            ),
            Self::ThresholdNotIncreasing { level } => write!(
                f,
                "the threshold of run level {level} isn't above that of the level before: \
                 list the thresholds from the lowest to the highest"
            ),
            Self::ZeroStableLows => f.write_str(
                "the speed-down filter's stable count is 0: it would filter nothing, give it 1 \
                 or more",
            ),
        }
    }
}

impl core::error::Error for LevelTableError {}

impl LevelTable {
    /// The table of the patch: 1 s to 80 ms, a level every tenth of the ring, 5 lows swallowed.
    pub const PATCH: Self = match Self::new(
        [1_000_000, 500_000, 250_000, 125_000, 100_000, 80_000],
        [100, 200, 300, 400, 500],
        5,
    ) {
        Ok(table) => table,
        Err(_) => panic!("the level table of the patch is valid"),
    };

    /// Checks a table: `waits_us` and `below_permille` slowest level first.
    ///
    /// # Errors
    /// [`LevelTableError`], one for each way to be wrong.
    // A `const fn` can neither iterate nor call `get`; the loop keeps to the array.
    #[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
    pub const fn new(
        waits_us: [u32; LEVELS],
        below_permille: [u16; LEVELS - 1],
        stable_lows: u32,
    ) -> Result<Self, LevelTableError> {
        let waits = match Waits::new(waits_us) {
            Ok(waits) => waits,
            Err(error) => return Err(LevelTableError::Waits(error)),
        };
        let mut at = 0;
        while at < below_permille.len() {
            if below_permille[at] == 0 {
                return Err(LevelTableError::ZeroThreshold { level: at as u8 });
            }
            if at > 0 && below_permille[at] <= below_permille[at - 1] {
                return Err(LevelTableError::ThresholdNotIncreasing { level: at as u8 });
            }
            at += 1;
        }
        if stable_lows == 0 {
            return Err(LevelTableError::ZeroStableLows);
        }
        Ok(Self {
            waits,
            below_permille,
            stable_lows,
        })
    }

    /// Returns the level that `pages` out of a ring of `entries` ask for.
    ///
    /// Integers, where the patch divides floats; the buckets are the same for every size that a
    /// ring can have.
    pub const fn wanted(&self, pages: u64, entries: u32) -> RunLevel {
        let ratio = permille(pages, entries);
        let [normal, fast1, fast2, fast3, fast4] = self.below_permille;
        if ratio < normal as u64 {
            RunLevel::Normal
        } else if ratio < fast1 as u64 {
            RunLevel::Fast1
        } else if ratio < fast2 as u64 {
            RunLevel::Fast2
        } else if ratio < fast3 as u64 {
            RunLevel::Fast3
        } else if ratio < fast4 as u64 {
            RunLevel::Fast4
        } else {
            RunLevel::MaxSpeed
        }
    }
}

/// The controller of "kvm: Dynamically control the load of the reaper thread" (Chongyun Wu, 2022),
/// with its pointer bug repaired and nothing else.
///
/// After each pass, with `ratio` = pages that the reaper harvested from all rings / entries of
/// *one* ring:
/// 1. a ring-full since the last pass: one level up, nothing else;
/// 2. else, the ratio wants a higher level: one level up, and the count of lows becomes 0;
/// 3. else, it wants a lower one: count a low; above the stable count, one level down;
/// 4. else: keep.
///
/// The repair: the patch counts lows with `*speed_down_cnt++`, which moves the pointer, so its
/// filter never let a step down through; here the count goes up. Its other defects are kept (see
/// [`Ladder`](super::Ladder)), except those of its *thread*: the count of ring-fulls is atomic, no
/// event is lost between two samples of it, and the wait can be ended early, as for every policy
/// here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    table: LevelTable,
    ring_entries: u32,
    state: LevelState,
}

const _: () = assert!(size_of::<Seed>() <= 64, "a controller is a few words");

impl Seed {
    /// Creates the controller at NORMAL, for rings of `size`.
    pub const fn new(table: LevelTable, size: RingSize) -> Self {
        Self {
            table,
            ring_entries: size.entries(),
            state: LevelState {
                level: RunLevel::Normal,
                lows: 0,
            },
        }
    }

    fn decision(&self, reasons: Reasons) -> Decision {
        Decision {
            wait: self.table.waits.wait(self.state.level),
            level: Some(self.state.level),
            reasons,
        }
    }

    fn one_faster(&mut self, reasons: Reasons) -> Reasons {
        if self.state.level == RunLevel::MaxSpeed {
            return reasons | Reasons::AT_FASTEST;
        }
        self.state.level = self.state.level.faster_by(1);
        reasons | Reasons::FASTER
    }
}

impl Controller for Seed {
    type State = LevelState;

    fn current(&self) -> Decision {
        self.decision(Reasons::START)
    }

    fn on_reaped(&mut self, measurement: &Measurement) -> Decision {
        if measurement.ring_fulls != 0 {
            let reasons = self.one_faster(Reasons::RING_FULL);
            return self.decision(reasons);
        }
        let wanted = self.table.wanted(measurement.harvested, self.ring_entries);
        let reasons = if wanted > self.state.level {
            self.state.lows = 0;
            self.one_faster(Reasons::empty())
        } else if wanted < self.state.level {
            self.state.lows = self.state.lows.saturating_add(1);
            if self.state.lows > self.table.stable_lows {
                // To the letter: the count stays, so every further low steps down at once.
                self.state.level = self.state.level.slower();
                Reasons::SLOWER
            } else {
                Reasons::FILTERED
            }
        } else {
            Reasons::KEEP
        };
        self.decision(reasons)
    }

    fn state(&self) -> LevelState {
        self.state
    }

    fn restore(&mut self, state: &LevelState) -> Result<(), StateError> {
        self.state = *state;
        Ok(())
    }
}

impl Registered for Seed {
    const NAME: &'static str = "seed";

    fn build(_argument: Option<Micros>, size: RingSize) -> Result<Self, PolicyError> {
        Ok(Self::new(LevelTable::PATCH, size))
    }
}
