//! Any of the controllers, without allocation.

use super::{
    Controller, Deadline, DeadlineConfig, DeadlineState, Decision, Fixed, FixedError, Halving,
    HalvingConfig, HalvingState, Ladder, LadderTable, LevelState, LevelTable, Measurement, Seed,
    StateError,
};
use crate::doorbell::Wakes;
use crate::entry::EntryMemory;
use crate::ring::Ring;
use crate::size::RingSize;

/// Any controller of this crate, chosen at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// One interval.
    Fixed(Fixed),
    /// The patch's run levels, as meant.
    Seed(Seed),
    /// The patch's run levels, mended.
    Ladder(Ladder),
    /// Halve or add.
    Halving(Halving),
    /// Looks, and waits as long as is safe.
    Deadline(Deadline),
}

const _: () = assert!(size_of::<Policy>() <= 136, "a policy is a few words");

/// The state of a [`Policy`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PolicyState {
    /// Of [`Fixed`]: none.
    Fixed,
    /// Of [`Seed`].
    Seed(LevelState),
    /// Of [`Ladder`].
    Ladder(LevelState),
    /// Of [`Halving`].
    Halving(HalvingState),
    /// Of [`Deadline`].
    Deadline(DeadlineState),
}

impl Policy {
    /// [`Fixed`], every `wait_us` microseconds.
    ///
    /// # Errors
    /// [`FixedError`] where that is 0.
    pub const fn fixed(wait_us: u64) -> Result<Self, FixedError> {
        match Fixed::new(wait_us) {
            Ok(fixed) => Ok(Self::Fixed(fixed)),
            Err(error) => Err(error),
        }
    }

    /// [`Seed`] with the patch's table.
    pub const fn seed(size: RingSize) -> Self {
        Self::Seed(Seed::new(LevelTable::PATCH, size))
    }

    /// [`Ladder`] with its standard table.
    pub const fn ladder(size: RingSize) -> Self {
        Self::Ladder(Ladder::new(LadderTable::STANDARD, size))
    }

    /// [`Halving`] with the review's constants.
    pub const fn halving(size: RingSize) -> Self {
        Self::Halving(Halving::new(HalvingConfig::REVIEW, size))
    }

    /// [`Deadline`] that learns.
    pub const fn deadline(size: RingSize) -> Self {
        Self::Deadline(Deadline::new(DeadlineConfig::STANDARD, size))
    }
}

impl Controller for Policy {
    type State = PolicyState;

    fn current(&self) -> Decision {
        match self {
            Self::Fixed(controller) => controller.current(),
            Self::Seed(controller) => controller.current(),
            Self::Ladder(controller) => controller.current(),
            Self::Halving(controller) => controller.current(),
            Self::Deadline(controller) => controller.current(),
        }
    }

    fn on_wake(&mut self, now_us: u64, wakes: Wakes) {
        if let Self::Deadline(controller) = self {
            controller.on_wake(now_us, wakes);
        }
    }

    fn looks(&self) -> bool {
        matches!(self, Self::Deadline(_))
    }

    fn wants<M: EntryMemory>(&mut self, ring: &mut Ring<M>) -> bool {
        match self {
            Self::Deadline(controller) => controller.wants(ring),
            _ => true,
        }
    }

    fn on_reaped(&mut self, measurement: &Measurement) -> Decision {
        match self {
            Self::Fixed(controller) => controller.on_reaped(measurement),
            Self::Seed(controller) => controller.on_reaped(measurement),
            Self::Ladder(controller) => controller.on_reaped(measurement),
            Self::Halving(controller) => controller.on_reaped(measurement),
            Self::Deadline(controller) => controller.on_reaped(measurement),
        }
    }

    fn state(&self) -> PolicyState {
        match self {
            Self::Fixed(_) => PolicyState::Fixed,
            Self::Seed(controller) => PolicyState::Seed(controller.state()),
            Self::Ladder(controller) => PolicyState::Ladder(controller.state()),
            Self::Halving(controller) => PolicyState::Halving(controller.state()),
            Self::Deadline(controller) => PolicyState::Deadline(controller.state()),
        }
    }

    fn restore(&mut self, state: &PolicyState) -> Result<(), StateError> {
        match (self, state) {
            (Self::Fixed(controller), PolicyState::Fixed) => controller.restore(&()),
            (Self::Seed(controller), PolicyState::Seed(state)) => controller.restore(state),
            (Self::Ladder(controller), PolicyState::Ladder(state)) => controller.restore(state),
            (Self::Halving(controller), PolicyState::Halving(state)) => controller.restore(state),
            (Self::Deadline(controller), PolicyState::Deadline(state)) => controller.restore(state),
            _ => Err(StateError::OtherPolicy),
        }
    }
}
