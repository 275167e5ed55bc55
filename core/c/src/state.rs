//! Saved states, as plain structs.

use std::ffi::c_int;

use dirty_ring_core::controller::{
    DeadlineState, HalvingState, LevelState, PolicyState, RunLevel, StateError,
};
use dirty_ring_core::entry::{DirtyGfn, SlotId};
use dirty_ring_core::growth::{GrowthState, Recurrence};
use dirty_ring_core::planner::PlannerState as CorePlannerState;
use dirty_ring_core::ring::{RingPosition, RingState as CoreRingState};
use dirty_ring_core::time::Micros;

use crate::error::{Code, Failure};

/// [`RingState::known`]: the ring was looked at.
const WATCHED: u32 = 1 << 0;
/// [`RingState::known`]: the ring was full once.
const FULL: u32 = 1 << 1;
/// [`RingState::known`]: what follows of recurrence counts.
const RECURRENCE: u32 = 1 << 2;
/// [`RingState::known`]: the position means nothing, because of a resync after which nothing was logged.
const LOST: u32 = 1 << 3;

/// A ring's saved state. With everything but the position 0 it is that of a ring of which only the
/// position is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RingState {
    /// The free-running index of the next entry to harvest.
    pub position: u32,
    /// Which of the fields below were known.
    pub known: u32,
    /// The highest rate seen, in pages per second.
    pub peak_per_s: u64,
    /// The rate of late, in pages per second.
    pub rate_per_s: u64,
    /// How long the present measurement of the peak has taken.
    pub measured_for_us: u64,
    /// How long the ring has been watched.
    pub watched_for_us: u64,
    /// How long its oldest entry may have waited.
    pub oldest_for_us: u64,
    /// How long ago it was full.
    pub full_for_us: u64,
    /// Entries that came in the present measurement.
    pub measured: u32,
    /// Entries that came between the last two looks.
    pub grown: u32,
    /// The page that is followed.
    pub recurrence_offset: u64,
    /// The slot of that page.
    pub recurrence_slot: u32,
    /// Entries since that page was seen.
    pub recurrence_distance: u32,
    /// The longest of the last recurrences.
    pub recurrence_longest: u32,
    /// How sure that is.
    pub recurrence_score: i32,
}

impl From<&CoreRingState> for RingState {
    fn from(state: &CoreRingState) -> Self {
        let growth = &state.growth;
        let recurrence = &growth.recurrence;
        let known = |is_known: bool, bit| if is_known { bit } else { 0 };
        Self {
            position: state.position.index(),
            known: known(growth.watched_for.is_some(), WATCHED)
                | known(growth.full_for.is_some(), FULL)
                | known(state.is_lost, LOST)
                | RECURRENCE,
            peak_per_s: growth.peak_per_s,
            rate_per_s: growth.rate_per_s,
            measured_for_us: growth.measured_for.0,
            watched_for_us: growth.watched_for.unwrap_or_default().0,
            oldest_for_us: growth.oldest_for.0,
            full_for_us: growth.full_for.unwrap_or_default().0,
            measured: growth.measured,
            grown: growth.grown,
            recurrence_offset: recurrence.page.offset,
            recurrence_slot: recurrence.page.slot.0,
            recurrence_distance: recurrence.distance,
            recurrence_longest: recurrence.longest,
            recurrence_score: recurrence.score.into(),
        }
    }
}

impl TryFrom<&RingState> for CoreRingState {
    type Error = Failure;

    fn try_from(state: &RingState) -> Result<Self, Failure> {
        let known = |bit| state.known & bit != 0;
        let recurrence = Recurrence {
            page: DirtyGfn {
                slot: SlotId(state.recurrence_slot),
                offset: state.recurrence_offset,
            },
            distance: state.recurrence_distance,
            longest: state.recurrence_longest,
            score: i8::try_from(state.recurrence_score).map_err(|_| StateError::OutOfRange)?,
        };
        Ok(Self {
            position: RingPosition::from_index(state.position),
            is_lost: known(LOST),
            growth: GrowthState {
                peak_per_s: state.peak_per_s,
                measured_for: Micros(state.measured_for_us),
                measured: state.measured,
                rate_per_s: state.rate_per_s,
                grown: state.grown,
                watched_for: known(WATCHED).then_some(Micros(state.watched_for_us)),
                oldest_for: Micros(state.oldest_for_us),
                full_for: known(FULL).then_some(Micros(state.full_for_us)),
                recurrence: if known(RECURRENCE) {
                    recurrence
                } else {
                    Recurrence::default()
                },
            },
        })
    }
}

/// The saved state of a reaper's machine and of its controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PlannerState {
    /// Passes so far.
    pub passes: u64,
    /// Which controller the rest belongs to.
    pub policy: c_int,
    /// The run level, where the controller has levels.
    pub level: u32,
    /// What else the controller keeps.
    pub values: [u64; 2],
}

/// Numbers of the controllers in a saved state, which must stay as they are.
mod number {
    use std::ffi::c_int;
    pub(super) const SEED: c_int = 1;
    pub(super) const LADDER: c_int = 2;
    pub(super) const HALVING: c_int = 3;
    pub(super) const DEADLINE: c_int = 4;
    pub(super) const FIXED: c_int = 5;
}

impl TryFrom<&CorePlannerState<PolicyState>> for PlannerState {
    type Error = Failure;

    fn try_from(state: &CorePlannerState<PolicyState>) -> Result<Self, Failure> {
        let levels = |state: &LevelState| (state.level.number(), [state.lows.into(), 0]);
        let (policy, (level, values)) = match &state.controller {
            PolicyState::Seed(state) => (number::SEED, levels(state)),
            PolicyState::Ladder(state) => (number::LADDER, levels(state)),
            PolicyState::Halving(state) => (number::HALVING, (0, [state.wait_us.into(), 0])),
            PolicyState::Deadline(state) => {
                (number::DEADLINE, (0, [state.peak_per_s, state.reaction.0]))
            }
            PolicyState::Fixed(()) => (number::FIXED, (0, [0, 0])),
            _ => {
                return Err(Failure::new(
                    Code::State,
                    "this library can't save this controller's state: start afresh",
                ));
            }
        };
        Ok(Self {
            passes: state.passes,
            policy,
            level: level.into(),
            values,
        })
    }
}

impl TryFrom<&PlannerState> for CorePlannerState<PolicyState> {
    type Error = Failure;

    fn try_from(state: &PlannerState) -> Result<Self, Failure> {
        let [first, second] = state.values;
        let in_range = |value: u64| u32::try_from(value).map_err(|_| StateError::OutOfRange);
        let levels = || {
            let level = u8::try_from(state.level).ok();
            let level = level.filter(|level| *level <= RunLevel::MaxSpeed.number());
            Ok::<_, StateError>(LevelState {
                level: RunLevel::from_number(level.ok_or(StateError::OutOfRange)?),
                lows: in_range(first)?,
            })
        };
        let controller = match state.policy {
            number::SEED => PolicyState::Seed(levels()?),
            number::LADDER => PolicyState::Ladder(levels()?),
            number::HALVING => PolicyState::Halving(HalvingState {
                wait_us: in_range(first)?,
            }),
            number::DEADLINE => PolicyState::Deadline(DeadlineState {
                peak_per_s: first,
                reaction: Micros(second),
            }),
            number::FIXED => PolicyState::Fixed(()),
            _ => return Err(StateError::OtherPolicy.into()),
        };
        Ok(Self {
            controller,
            passes: state.passes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dirty_ring_core::controller::{Argument, Controller, Measurement, Policy};
    use dirty_ring_core::size::RingSize;

    #[test]
    fn the_state_of_every_policy_comes_back_as_it_was() {
        for (name, argument) in Policy::NAMES {
            let argument = (argument == Argument::Required).then_some(Micros(10_000));
            let mut policy = Policy::named(name, argument, RingSize::LARGEST).unwrap();
            let _ = policy.on_reaped(&Measurement {
                fullest: 60_000,
                harvested: 60_000,
                ring_fulls: 3,
                late: Micros(700),
                ..Measurement::default()
            });
            let state = CorePlannerState {
                controller: policy.state(),
                passes: 9,
            };
            let saved = PlannerState::try_from(&state).unwrap();
            assert_eq!(CorePlannerState::try_from(&saved), Ok(state), "{name}");
        }
    }

    #[test]
    fn a_state_that_no_controller_saves_is_refused() {
        let code = |state: PlannerState| {
            let refused = CorePlannerState::try_from(&state);
            refused.map_err(|failure| failure.code)
        };
        for policy in [0, 6, -1] {
            let wrong = PlannerState {
                policy,
                ..PlannerState::default()
            };
            assert_eq!(code(wrong), Err(Code::State), "{policy}");
        }
        for (level, lows) in [(6, 0), (u32::MAX, 0), (0, u64::MAX)] {
            let wrong = PlannerState {
                policy: number::LADDER,
                level,
                values: [lows, 0],
                ..PlannerState::default()
            };
            assert_eq!(code(wrong), Err(Code::State), "{level} {lows}");
        }
    }

    #[test]
    fn a_ring_state_comes_back_as_it_was() {
        for (watched_for, full_for) in [(None, None), (Some(Micros(0)), Some(Micros(7)))] {
            let state = CoreRingState {
                position: RingPosition::from_index(u32::MAX),
                is_lost: full_for.is_some(),
                growth: GrowthState {
                    peak_per_s: 1,
                    measured_for: Micros(2),
                    measured: 3,
                    rate_per_s: 4,
                    grown: 5,
                    watched_for,
                    oldest_for: Micros(6),
                    full_for,
                    recurrence: Recurrence {
                        page: DirtyGfn {
                            slot: SlotId::new(1, 2),
                            offset: 8,
                        },
                        distance: 9,
                        longest: 10,
                        score: -3,
                    },
                },
            };
            let saved = RingState::from(&state);
            assert_eq!(CoreRingState::try_from(&saved), Ok(state));
        }
        let position = RingState {
            position: 77,
            ..RingState::default()
        };
        let expected = CoreRingState::from(RingPosition::from_index(77));
        assert_eq!(CoreRingState::try_from(&position), Ok(expected));
    }
}
