//! A policy, as named on the command line.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use dirty_ring::core::controller::{Policy, PolicyError, PolicyNames, PolicySpec};
use dirty_ring::core::size::RingSize;

use super::units;

/// A policy of the core's registry, or none, which turns dirty logging off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PolicyName(Option<PolicySpec>);

impl PolicyName {
    /// No dirty logging.
    pub(crate) const NONE: Self = Self(None);

    /// Returns a fixed interval; `None` where it has no length.
    pub(crate) fn fixed(wait: Duration) -> Option<Self> {
        let spec = PolicySpec::new("fixed", Some(wait.into())).ok()?;
        Some(Self(Some(spec)))
    }

    /// Returns whether the policy is `deadline`, with whatever freshness limit.
    pub(crate) fn is_deadline(self) -> bool {
        self.0.is_some_and(|spec| spec.name() == "deadline")
    }

    /// Returns the controller for rings of `size`; `None` where logging is off.
    pub(crate) fn controller(self, size: RingSize) -> Option<Policy> {
        // What is wrong with a policy was said when it was parsed.
        self.0.and_then(|spec| spec.build(size).ok())
    }
}

fn too_long(spec: &PolicySpec) -> bool {
    spec.argument()
        .is_some_and(|length| Duration::from(length) > units::LONGEST)
}

impl FromStr for PolicyName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "none" => Ok(Self::NONE),
            name => match name.parse() {
                Ok(spec) if too_long(&spec) => {
                    Err(format!("'{name}' is too long: give 24h or less"))
                }
                Ok(spec) => Ok(Self(Some(spec))),
                Err(PolicyError::Unknown) => Err(format!(
                    "'{name}' is not a policy: choose {PolicyNames} or none"
                )),
                Err(error) => Err(format!("{error}; the policies are {PolicyNames} and none")),
            },
        }
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(spec) => spec.fmt(f),
            None => f.write_str("none"),
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
