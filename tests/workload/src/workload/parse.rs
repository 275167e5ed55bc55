//! Parsing of presets and specifications.

use core::fmt;
use core::str::FromStr;

use thiserror::Error;

use super::{
    MAX_GIVEN_VCPUS, MAX_PAGES, MAX_PHASE_MS, MAX_PHASES, MAX_SPIN, PRESETS, Phase, Workload,
};

/// A position in a specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The vCPU, from 0.
    pub vcpu: usize,
    /// The phase of the vCPU, from 1.
    pub phase: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vCPU {}, phase {}", self.vcpu, self.phase)
    }
}

/// The reason why a text is not a workload.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// The text is neither the name of a preset nor a specification.
    #[error(
        "no workload is called {name:?}: choose {presets}, or specify one as pages=N,spin=N",
        presets = preset_names()
    )]
    UnknownPreset {
        /// The text.
        name: String,
    },
    /// A phase is empty.
    #[error("workload, {at}: there is nothing; a phase is pages=N,spin=N[,ms=N]")]
    EmptyPhase {
        /// The position.
        at: Place,
    },
    /// A part of a phase is not `key=number`.
    #[error("workload, {at}: {part:?} is not key=number; a phase is pages=N,spin=N[,ms=N]")]
    NotAPair {
        /// The position.
        at: Place,
        /// The part.
        part: String,
    },
    /// A key is unknown.
    #[error("workload, {at}: {key:?} is no key of a phase; there are pages, spin and ms")]
    UnknownKey {
        /// The position.
        at: Place,
        /// The key.
        key: String,
    },
    /// A key is given twice.
    #[error("workload, {at}: {key} is given twice")]
    Duplicate {
        /// The position.
        at: Place,
        /// The key.
        key: &'static str,
    },
    /// A key that every phase needs is missing.
    #[error("workload, {at}: {key}=N is missing; a phase is pages=N,spin=N[,ms=N]")]
    Missing {
        /// The position.
        at: Place,
        /// The key.
        key: &'static str,
    },
    /// One of several phases has no length.
    #[error("workload, {at}: ms=N is missing; where a vCPU has several phases, each needs it")]
    MissingLength {
        /// The position.
        at: Place,
    },
    /// A value is not a whole number in decimal digits.
    #[error("workload, {at}: {key}={value:?} is not a number; write it in decimal digits")]
    NotANumber {
        /// The position.
        at: Place,
        /// The key.
        key: &'static str,
        /// The text.
        value: String,
    },
    /// A number is out of range.
    #[error("workload, {at}: {key}={value} is out of range; {min} to {max} is allowed")]
    OutOfRange {
        /// The position.
        at: Place,
        /// The key.
        key: &'static str,
        /// The number, as given.
        value: String,
        /// The minimum.
        min: u32,
        /// The maximum.
        max: u32,
    },
    /// A vCPU has more than [`MAX_PHASES`] phases.
    #[error("workload, vCPU {vcpu}: there are {phases} phases; {MAX_PHASES} at most are allowed")]
    TooManyPhases {
        /// The vCPU, from 0.
        vcpu: usize,
        /// The number of phases.
        phases: usize,
    },
    /// More than [`MAX_GIVEN_VCPUS`] vCPUs are specified.
    #[error("workload: {vcpus} vCPUs are given one by one; {MAX_GIVEN_VCPUS} at most are allowed")]
    TooManyVcpus {
        /// The number of vCPUs.
        vcpus: usize,
    },
}

fn preset_names() -> String {
    PRESETS.map(|(name, _)| name).join(", ")
}

impl FromStr for Workload {
    type Err = WorkloadError;

    fn from_str(text: &str) -> Result<Self, WorkloadError> {
        let preset = PRESETS.iter().find(|&&(name, _)| name == text);
        let specification = preset.map_or(text, |&(_, specification)| specification);
        if !specification.contains(['=', ',', '/', '|']) {
            let name = text.to_owned();
            return Err(WorkloadError::UnknownPreset { name });
        }
        let vcpus = specification.split('|').count();
        if vcpus > MAX_GIVEN_VCPUS {
            return Err(WorkloadError::TooManyVcpus { vcpus });
        }
        let parts = specification.split('|').enumerate();
        let vcpus = parts
            .map(|(vcpu, part)| phases(vcpu, part))
            .collect::<Result<_, _>>()?;
        Ok(Self { vcpus })
    }
}

fn phases(vcpu: usize, text: &str) -> Result<Vec<Phase>, WorkloadError> {
    let count = text.split('/').count();
    if count > MAX_PHASES {
        return Err(WorkloadError::TooManyPhases {
            vcpu,
            phases: count,
        });
    }
    let parts = text.split('/').enumerate();
    parts
        .map(|(index, part)| {
            let at = Place {
                vcpu,
                phase: index + 1,
            };
            let phase = phase(at, part)?;
            if count > 1 && phase.ms.is_none() {
                return Err(WorkloadError::MissingLength { at });
            }
            Ok(phase)
        })
        .collect()
}

fn phase(at: Place, text: &str) -> Result<Phase, WorkloadError> {
    if text.is_empty() {
        return Err(WorkloadError::EmptyPhase { at });
    }
    let mut pages = Number::new("pages", 0, MAX_PAGES);
    let mut spin = Number::new("spin", 0, MAX_SPIN);
    let mut ms = Number::new("ms", 1, MAX_PHASE_MS);
    for part in text.split(',') {
        let Some((key, value)) = part.split_once('=') else {
            let part = part.to_owned();
            return Err(WorkloadError::NotAPair { at, part });
        };
        let numbers = [&mut pages, &mut spin, &mut ms];
        let Some(number) = numbers.into_iter().find(|number| number.key == key) else {
            let key = key.to_owned();
            return Err(WorkloadError::UnknownKey { at, key });
        };
        number.set(at, value)?;
    }
    Ok(Phase {
        pages: pages.required(at)?,
        spin: spin.required(at)?,
        ms: ms.given,
    })
}

/// One number of a phase.
struct Number {
    key: &'static str,
    min: u32,
    max: u32,
    given: Option<u32>,
}

impl Number {
    const fn new(key: &'static str, min: u32, max: u32) -> Self {
        Self {
            key,
            min,
            max,
            given: None,
        }
    }

    fn set(&mut self, at: Place, value: &str) -> Result<(), WorkloadError> {
        let key = self.key;
        if self.given.is_some() {
            return Err(WorkloadError::Duplicate { at, key });
        }
        // `parse` would accept a sign as well.
        if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
            let value = value.to_owned();
            return Err(WorkloadError::NotANumber { at, key, value });
        }
        // A string of digits fails to parse only if it is too long.
        let number = value.parse().ok();
        self.given = number.filter(|number| (self.min..=self.max).contains(number));
        match self.given {
            Some(_) => Ok(()),
            None => Err(WorkloadError::OutOfRange {
                at,
                key,
                value: value.to_owned(),
                min: self.min,
                max: self.max,
            }),
        }
    }

    fn required(self, at: Place) -> Result<u32, WorkloadError> {
        let key = self.key;
        self.given.ok_or(WorkloadError::Missing { at, key })
    }
}
