//! A workload, as named on the command line.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use dirty_ring_workload::{Workload, WorkloadError};

/// A workload with the text that it was parsed from, so that a preset is reported by its name.
#[derive(Clone, Debug)]
pub(crate) struct NamedWorkload {
    name: String,
    workload: Workload,
}

impl FromStr for NamedWorkload {
    type Err = WorkloadError;

    fn from_str(text: &str) -> Result<Self, WorkloadError> {
        let name = text.trim();
        Ok(Self {
            name: name.to_owned(),
            workload: name.parse()?,
        })
    }
}

impl fmt::Display for NamedWorkload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Deref for NamedWorkload {
    type Target = Workload;

    fn deref(&self) -> &Workload {
        &self.workload
    }
}
