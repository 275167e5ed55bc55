//! The six run levels, and a checked table of their waits.

use core::fmt;

use crate::time::Micros;

/// How many run levels there are.
pub const LEVELS: usize = 6;

/// A run level: how often the reaper reaps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum RunLevel {
    /// The longest wait.
    #[default]
    Normal,
    /// Faster.
    Fast1,
    /// Faster still.
    Fast2,
    /// Faster still.
    Fast3,
    /// Faster still.
    Fast4,
    /// The shortest wait.
    MaxSpeed,
}

impl RunLevel {
    /// All levels, slowest first.
    pub const ALL: [Self; LEVELS] = [
        Self::Normal,
        Self::Fast1,
        Self::Fast2,
        Self::Fast3,
        Self::Fast4,
        Self::MaxSpeed,
    ];

    /// Returns the level's number: 0 for NORMAL to 5 for MAX_SPEED.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Returns the level of a number; numbers above 5 are MAX_SPEED.
    pub const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Normal,
            1 => Self::Fast1,
            2 => Self::Fast2,
            3 => Self::Fast3,
            4 => Self::Fast4,
            _ => Self::MaxSpeed,
        }
    }

    /// Returns the level that is `levels` faster, MAX_SPEED at most.
    pub const fn faster_by(self, levels: u32) -> Self {
        let number = (self.number() as u32).saturating_add(levels);
        Self::from_number(if number > u8::MAX as u32 {
            u8::MAX
        } else {
            number as u8
        })
    }

    /// Returns the next slower level, NORMAL at least.
    pub const fn slower(self) -> Self {
        Self::from_number(self.number().saturating_sub(1))
    }
}

/// The state of a controller with levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelState {
    /// The run level.
    pub level: RunLevel,
    /// Lows that the speed-down filter has counted.
    pub lows: u32,
}

/// The wait of each level, in microseconds: none 0, each shorter than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits([u32; LEVELS]);

/// Why a table of waits was refused. `level` is the number of the first wrong level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitsError {
    /// A wait of 0 would spin.
    Zero {
        /// The level.
        level: u8,
    },
    /// A wait that isn't shorter than that of the slower level before it.
    NotDecreasing {
        /// The level.
        level: u8,
    },
}

impl fmt::Display for WaitsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero { level } => write!(
                f,
                "the wait of run level {level} is 0 us: the reaper would spin, give it a length"
            ),
            Self::NotDecreasing { level } => write!(
                f,
                "the wait of run level {level} isn't shorter than that of the level before: \
                 list the waits from the longest to the shortest"
            ),
        }
    }
}

impl core::error::Error for WaitsError {}

impl Waits {
    /// Checks `waits_us`, slowest level first.
    ///
    /// # Errors
    /// [`WaitsError`].
    // A `const fn` can neither iterate nor call `get`; the loop keeps to the array.
    #[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)]
    pub const fn new(waits_us: [u32; LEVELS]) -> Result<Self, WaitsError> {
        let mut at = 0;
        while at < LEVELS {
            if waits_us[at] == 0 {
                return Err(WaitsError::Zero { level: at as u8 });
            }
            if at > 0 && waits_us[at] >= waits_us[at - 1] {
                return Err(WaitsError::NotDecreasing { level: at as u8 });
            }
            at += 1;
        }
        Ok(Self(waits_us))
    }

    /// Returns the wait of `level`.
    pub const fn wait(&self, level: RunLevel) -> Micros {
        let [normal, fast1, fast2, fast3, fast4, max_speed] = self.0;
        let us = match level {
            RunLevel::Normal => normal,
            RunLevel::Fast1 => fast1,
            RunLevel::Fast2 => fast2,
            RunLevel::Fast3 => fast3,
            RunLevel::Fast4 => fast4,
            RunLevel::MaxSpeed => max_speed,
        };
        Micros(us as u64)
    }
}
