//! The idea of the 2022 patch, with its defects mended.

use core::fmt;

use super::{
    Controller, Decision, LEVELS, LevelState, Measurement, PolicyError, Reasons, Registered,
    RunLevel, StateError, Waits, WaitsError,
};
use crate::size::RingSize;
use crate::time::Micros;

/// The level table of [`Ladder`]: waits, one high-water mark, and how many lows in a row the
/// speed-down filter swallows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LadderTable {
    waits: Waits,
    /// Per mille of the soft limit.
    high_water_permille: u16,
    stable_lows: u32,
}

/// Why a ladder's table was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LadderTableError {
    /// The waits are wrong.
    Waits(WaitsError),
    /// A high-water mark of 0, or above the soft limit.
    HighWater {
        /// The mark, per mille of the soft limit.
        permille: u16,
    },
    /// A speed-down filter that swallows nothing filters nothing.
    ZeroStableLows,
}

impl fmt::Display for LadderTableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waits(error) => error.fmt(f),
            Self::HighWater { permille } => write!(
                f,
                "the high-water mark is {permille} per mille of the soft limit: \
                 choose 1 to 1000"
            ),
            Self::ZeroStableLows => f.write_str(
                "the speed-down filter's stable count is 0: it would filter nothing, give it 1 \
                 or more",
            ),
        }
    }
}

impl core::error::Error for LadderTableError {}

impl LadderTable {
    /// 1 s to 2 ms, each level about a third or a quarter of the one before; wait as long as the
    /// fullest ring stays below three quarters of its soft limit; 5 lows in a row swallowed.
    ///
    /// 2 ms because a vCPU that dirties 400 000 pages a second fills the 960 usable entries of a
    /// small ring in 2.4 ms. Three quarters leaves room for a rate that grows within an interval
    /// and for a late wake-up.
    pub const STANDARD: Self =
        match Self::new([1_000_000, 300_000, 80_000, 24_000, 7_000, 2_000], 750, 5) {
            Ok(table) => table,
            Err(_) => panic!("the standard ladder is valid"),
        };

    /// Checks a table: `waits_us` slowest level first, `high_water_permille` of the soft limit.
    ///
    /// # Errors
    /// [`LadderTableError`], one for each way to be wrong.
    pub const fn new(
        waits_us: [u32; LEVELS],
        high_water_permille: u16,
        stable_lows: u32,
    ) -> Result<Self, LadderTableError> {
        let waits = match Waits::new(waits_us) {
            Ok(waits) => waits,
            Err(error) => return Err(LadderTableError::Waits(error)),
        };
        if high_water_permille == 0 || high_water_permille > 1000 {
            return Err(LadderTableError::HighWater {
                permille: high_water_permille,
            });
        }
        if stable_lows == 0 {
            return Err(LadderTableError::ZeroStableLows);
        }
        Ok(Self {
            waits,
            high_water_permille,
            stable_lows,
        })
    }
}

/// Run levels without the defects of [`Seed`](super::Seed).
///
/// It asks of each level how full the fullest ring would have become in that level's wait, at the
/// rate just seen, and wants the slowest level that stays below the high-water mark.
///
/// | | `Seed` | `Ladder` |
/// |---|---|---|
/// | lows | cumulative; only a step up clears them, so after one step down each further low steps down at once | *consecutive*; every other event clears them, a finished step down included |
/// | ratio | pages per interval, whatever its length: at most rates no level is a fixed point, and it hunts between two | pages per time, scaled to each level's wait: the wanted level doesn't depend on the present one (but for one entry in favour of it), so it settles |
/// | several vCPUs | the sum of all rings over one ring's size: many idle vCPUs look like a storm, and one ring that is nearly full looks like many that aren't | the fullest ring |
/// | capacity | the ring's size | the soft limit |
/// | floor | 80 ms | 2 ms |
/// | steps up | one level a pass, a hundred ring-fulls count as one | at once to the wanted level; each ring-full is worth a level |
/// | pages that the ring-full path took | not in the ratio: looks idle when the load is highest | counted in |
///
/// One defect remains: like the patch it sees pages, not headroom. A working set that is smaller
/// than the ring but dirtied anew in each interval looks like a high rate and keeps it fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ladder {
    table: LadderTable,
    /// Entries of the fullest ring from which on a level is too slow.
    high_water: u64,
    state: LevelState,
}

const _: () = assert!(size_of::<Ladder>() <= 64, "a controller is a few words");

impl Ladder {
    /// Creates the controller at NORMAL, for rings of `size`.
    pub const fn new(table: LadderTable, size: RingSize) -> Self {
        let share = (size.soft_limit() as u64).saturating_mul(table.high_water_permille as u64);
        Self {
            table,
            // A mark of 0 would be reached by a ring that is empty.
            high_water: if share < 1000 { 1 } else { share / 1000 },
            state: LevelState {
                level: RunLevel::Normal,
                lows: 0,
            },
        }
    }

    /// Returns the slowest level in whose wait a ring that took `entries` in `elapsed` stays below
    /// the high-water mark; MAX_SPEED if there is none.
    fn wanted(&self, entries: u32, elapsed: Micros) -> RunLevel {
        let entries = u128::from(entries);
        // Two passes within a microsecond say nothing of the rate but that it is finite.
        let allowed = u128::from(self.high_water).saturating_mul(elapsed.0.max(1).into());
        RunLevel::ALL
            .into_iter()
            .find(|&level| {
                let wait = self.table.waits.wait(level);
                // A rate seen through whole entries is up to one entry too low. In a longer wait
                // that one counts many times over: near a mark it would let a level through that
                // is too slow, and the ladder would hunt.
                let unseen = u128::from(level < self.state.level && entries != 0);
                entries.saturating_add(unseen).saturating_mul(wait.0.into()) < allowed
            })
            .unwrap_or(RunLevel::MaxSpeed)
    }

    fn decision(&self, reasons: Reasons) -> Decision {
        Decision {
            wait: self.table.waits.wait(self.state.level),
            level: Some(self.state.level),
            reasons,
        }
    }
}

impl Controller for Ladder {
    type State = LevelState;

    fn current(&self) -> Decision {
        self.decision(Reasons::START)
    }

    fn on_reaped(&mut self, measurement: &Measurement) -> Decision {
        let before = self.state.level;
        let mut wanted = self.wanted(measurement.fullest, measurement.elapsed);
        let mut reasons = Reasons::empty();
        if measurement.ring_fulls != 0 {
            reasons |= Reasons::RING_FULL;
            // Whatever the rate says: the present level was too slow.
            wanted = wanted.max(before.faster_by(measurement.ring_fulls));
        }
        let lows = self.state.lows.saturating_add(1);
        self.state.lows = 0;
        if wanted > before {
            self.state.level = wanted;
            reasons |= Reasons::FASTER;
        } else if wanted < before {
            if lows > self.table.stable_lows {
                self.state.level = before.slower();
                reasons |= Reasons::SLOWER;
            } else {
                self.state.lows = lows;
                reasons |= Reasons::FILTERED;
            }
        } else if measurement.ring_fulls != 0 {
            reasons |= Reasons::AT_FASTEST;
        } else {
            reasons |= Reasons::KEEP;
        }
        self.decision(reasons)
    }

    fn state(&self) -> LevelState {
        self.state
    }

    fn restore(&mut self, state: &LevelState) -> Result<(), StateError> {
        if state.lows > self.table.stable_lows {
            return Err(StateError::OutOfRange);
        }
        self.state = *state;
        Ok(())
    }
}

impl Registered for Ladder {
    const NAME: &'static str = "ladder";

    fn build(_argument: Option<Micros>, size: RingSize) -> Result<Self, PolicyError> {
        Ok(Self::new(LadderTable::STANDARD, size))
    }
}
