//! One interval for ever.

use core::fmt;

use super::{Controller, Decision, Measurement, Reasons, StateError};

/// Waits the same time before every reap, as QEMU does with its second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    wait_us: u64,
}

/// A fixed interval of 0 microseconds: the reaper would spin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedError;

impl fmt::Display for FixedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a fixed interval of 0 us would make the reaper spin: give it a length")
    }
}

impl core::error::Error for FixedError {}

impl Fixed {
    /// Waits `wait_us` microseconds each time.
    ///
    /// # Errors
    /// [`FixedError`] where that is 0.
    pub const fn new(wait_us: u64) -> Result<Self, FixedError> {
        if wait_us == 0 {
            return Err(FixedError);
        }
        Ok(Self { wait_us })
    }

    const fn decision(&self, reasons: Reasons) -> Decision {
        Decision {
            wait_us: self.wait_us,
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
