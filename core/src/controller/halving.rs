//! The counter-proposal from the review of the 2022 patch.

use core::fmt;

use super::{Controller, Decision, Measurement, PolicyError, Reasons, Registered, StateError};
use crate::size::RingSize;
use crate::time::Micros;

/// The constants of [`Halving`], checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalvingConfig {
    min_wait_us: u32,
    max_wait_us: u32,
    step_us: u32,
    high_permille: u16,
    low_permille: u16,
}

/// Why a [`HalvingConfig`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HalvingError {
    /// The shortest wait is 0.
    ZeroWait,
    /// The shortest wait is longer than the longest.
    WaitsCrossed,
    /// The step is 0: it would never slow down.
    ZeroStep,
    /// The low threshold isn't below the high one.
    ThresholdsCrossed,
}

impl fmt::Display for HalvingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroWait => "the shortest wait is 0 us: the reaper would spin, give it a length",
            Self::WaitsCrossed => "the shortest wait is longer than the longest: swap them",
            Self::ZeroStep => "the step is 0 us: the wait could only shrink, give it a length",
            Self::ThresholdsCrossed => "the low threshold isn't below the high one: swap them",
        })
    }
}

impl core::error::Error for HalvingError {}

/// Halves the wait on a high ratio and lengthens it by a fixed amount on a low one.
///
/// The ratio is that of [`Seed`](super::Seed): pages that the reaper harvested from all rings over
/// the entries of one ring. Ring-fulls as such don't move it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halving {
    config: HalvingConfig,
    ring_entries: u32,
    wait_us: u32,
}

const _: () = assert!(size_of::<Halving>() <= 64, "a controller is a few words");

/// The state of [`Halving`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalvingState {
    /// The wait, in microseconds.
    pub wait_us: u32,
}

impl HalvingConfig {
    /// As proposed: between 100 ms and 1 s, up to 0.2 add 20 ms, above 0.8 halve.
    pub const REVIEW: Self = match Self::new(100_000, 1_000_000, 20_000, 200, 800) {
        Ok(config) => config,
        Err(_) => panic!("the constants of the review are valid"),
    };

    /// Checks the constants: the shortest and the longest wait and the step that a low ratio adds,
    /// in microseconds; the ratio up to which it is added and the one above which the wait is
    /// halved, per mille of the ring.
    ///
    /// # Errors
    /// [`HalvingError`], one for each way to be wrong.
    pub const fn new(
        min_wait_us: u32,
        max_wait_us: u32,
        step_us: u32,
        low_permille: u16,
        high_permille: u16,
    ) -> Result<Self, HalvingError> {
        if min_wait_us == 0 {
            return Err(HalvingError::ZeroWait);
        }
        if min_wait_us > max_wait_us {
            return Err(HalvingError::WaitsCrossed);
        }
        if step_us == 0 {
            return Err(HalvingError::ZeroStep);
        }
        if low_permille >= high_permille {
            return Err(HalvingError::ThresholdsCrossed);
        }
        Ok(Self {
            min_wait_us,
            max_wait_us,
            step_us,
            high_permille,
            low_permille,
        })
    }
}

impl Halving {
    /// Creates the controller at its longest wait, for rings of `size`.
    pub const fn new(config: HalvingConfig, size: RingSize) -> Self {
        Self {
            config,
            ring_entries: size.entries(),
            wait_us: config.max_wait_us,
        }
    }

    fn decision(&self, reasons: Reasons) -> Decision {
        Decision {
            wait: Micros(self.wait_us.into()),
            level: None,
            reasons,
        }
    }
}

impl Controller for Halving {
    type State = HalvingState;

    fn current(&self) -> Decision {
        self.decision(Reasons::START)
    }

    fn on_reaped(&mut self, measurement: &Measurement) -> Decision {
        // "Above 0.8" and "up to 0.2" as exact fractions, as the products can tell them.
        let pages = measurement.harvested.saturating_mul(1000);
        let share = |permille: u16| u64::from(permille).saturating_mul(self.ring_entries.into());
        let before = self.wait_us;
        let mut reasons = if pages > share(self.config.high_permille) {
            self.wait_us = (before / 2).max(self.config.min_wait_us);
            if self.wait_us == before {
                Reasons::AT_FASTEST
            } else {
                Reasons::FASTER
            }
        } else if pages <= share(self.config.low_permille) {
            let longer = before.saturating_add(self.config.step_us);
            self.wait_us = longer.min(self.config.max_wait_us);
            if self.wait_us == before {
                Reasons::AT_SLOWEST
            } else {
                Reasons::SLOWER
            }
        } else {
            Reasons::KEEP
        };
        reasons.set(Reasons::RING_FULL, measurement.ring_fulls != 0);
        self.decision(reasons)
    }

    fn state(&self) -> HalvingState {
        HalvingState {
            wait_us: self.wait_us,
        }
    }

    fn restore(&mut self, state: &HalvingState) -> Result<(), StateError> {
        if !(self.config.min_wait_us..=self.config.max_wait_us).contains(&state.wait_us) {
            return Err(StateError::OutOfRange);
        }
        self.wait_us = state.wait_us;
        Ok(())
    }
}

impl Registered for Halving {
    const NAME: &'static str = "halving";

    fn build(_argument: Option<Micros>, size: RingSize) -> Result<Self, PolicyError> {
        Ok(Self::new(HalvingConfig::REVIEW, size))
    }
}
