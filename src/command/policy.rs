//! A policy, as named on the command line.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use dirty_ring::core::controller::Policy;
use dirty_ring::core::size::RingSize;

use super::units;

/// A policy, or none, which turns dirty logging off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PolicyName {
    None,
    Seed,
    Ladder,
    Halving,
    Deadline,
    Fixed(Duration),
}

impl PolicyName {
    /// Returns whether the policy reads each ring's occupancy before it decides which to reap.
    pub(crate) fn peeks(self) -> bool {
        self == Self::Deadline
    }

    /// Returns the controller for rings of `size`; `None` where logging is off.
    pub(crate) fn controller(self, size: RingSize) -> Option<Policy> {
        match self {
            Self::None => None,
            Self::Seed => Some(Policy::seed(size)),
            Self::Ladder => Some(Policy::ladder(size)),
            Self::Halving => Some(Policy::halving(size)),
            Self::Deadline => Some(Policy::deadline(size)),
            Self::Fixed(wait) => {
                let wait_us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
                // The parser refuses a wait of 0, the only error there is.
                Policy::fixed(wait_us).ok()
            }
        }
    }
}

impl FromStr for PolicyName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "none" => Ok(Self::None),
            "seed" => Ok(Self::Seed),
            "ladder" => Ok(Self::Ladder),
            "halving" => Ok(Self::Halving),
            "deadline" => Ok(Self::Deadline),
            other => match other.strip_prefix("fixed:") {
                Some(wait) => units::duration(wait).map(Self::Fixed),
                None => Err(format!(
                    "'{other}' is not a policy: choose seed, ladder, halving, deadline, \
                     fixed:DURATION (as in fixed:1s) or none"
                )),
            },
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Seed => f.write_str("seed"),
            Self::Ladder => f.write_str("ladder"),
            Self::Halving => f.write_str("halving"),
            Self::Deadline => f.write_str("deadline"),
            Self::Fixed(wait) => {
                let text = humantime::format_duration(*wait).to_string();
                write!(f, "fixed:{}", text.replace(' ', ""))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_prints_as_it_is_parsed() {
        for name in [
            "none",
            "seed",
            "ladder",
            "halving",
            "fixed:1s",
            "fixed:10ms",
            "fixed:1s500ms",
        ] {
            let policy: PolicyName = name.parse().unwrap();
            assert_eq!(policy.to_string(), name);
        }
    }

    #[test]
    fn an_unknown_policy_is_refused_with_a_list_of_all() {
        for wrong in [
            "", "fixed", "fixed:", "fixed:0s", "fixed:10", "Seed", "fastest",
        ] {
            assert!(wrong.parse::<PolicyName>().is_err(), "{wrong}");
        }
        let error = "fastest".parse::<PolicyName>().unwrap_err();
        assert!(error.contains("seed, ladder, halving"));
    }
}
