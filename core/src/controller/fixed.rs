//! A fixed interval.

use core::fmt;

use super::{
    Argument, Controller, Decision, Measurement, PolicyError, Reasons, Registered, StateError,
};
use crate::size::RingSize;
use crate::time::Micros;

/// Waits the same time before every reap, as QEMU does with its second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    wait: Micros,
}

/// A fixed interval of no length: the reaper would spin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedError;

impl fmt::Display for FixedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a fixed interval of 0 us would make the reaper spin: give it a length")
    }
}

impl core::error::Error for FixedError {}

impl Fixed {
    /// Creates a controller that waits `wait` each time.
    ///
    /// # Errors
    /// [`FixedError`] where that is 0.
    pub const fn new(wait: Micros) -> Result<Self, FixedError> {
        if wait.is_zero() {
            return Err(FixedError);
        }
        Ok(Self { wait })
    }

    const fn decision(&self, reasons: Reasons) -> Decision {
        Decision {
            wait: self.wait,
            level: None,
            reasons,
        }
    }
}

impl Controller for Fixed {
    type State = ();

    fn current(&self) -> Decision {
        self.decision(Reasons::START)
    }

    fn on_reaped(&mut self, measurement: &Measurement) -> Decision {
        let mut reasons = Reasons::KEEP;
        reasons.set(Reasons::RING_FULL, measurement.ring_fulls != 0);
        self.decision(reasons)
    }

    fn state(&self) {}

    fn restore(&mut self, (): &()) -> Result<(), StateError> {
        Ok(())
    }
}

impl Registered for Fixed {
    const NAME: &'static str = "fixed";
    const ARGUMENT: Argument = Argument::Required;

    fn build(argument: Option<Micros>, _size: RingSize) -> Result<Self, PolicyError> {
        let wait = argument.ok_or(PolicyError::MissingArgument { name: Self::NAME })?;
        Self::new(wait).map_err(|_| PolicyError::Refused {
            name: Self::NAME,
            why: "an interval of no length would make the reaper spin: give it a length",
        })
    }
}
