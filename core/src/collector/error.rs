//! Why a collector can't go on.

use core::fmt;

/// Why a collector can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CollectError<E> {
    /// The backend's reset failed.
    Reset(E),
    /// KVM reset more entries than were harvested: another program or reaper harvests these rings.
    ForeignReset {
        /// Entries that KVM reset.
        reset: u32,
        /// Entries that were waiting for it.
        outstanding: u64,
    },
    /// KVM resets nothing any more although entries wait for it.
    Stalled {
        /// Entries waiting.
        outstanding: u64,
    },
    /// A vCPU leaves with ring-full again and again while there is nothing to harvest or to reset:
    /// KVM's indices have passed the entries.
    Overrun {
        /// The vCPU's index.
        ring: usize,
    },
    /// There is no ring of that index.
    NoSuchRing {
        /// The index asked for.
        ring: usize,
        /// How many rings there are.
        rings: usize,
    },
}

impl<E> fmt::Display for CollectError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset(_) => f.write_str("resetting the dirty rings failed"),
            Self::ForeignReset { reset, outstanding } => write!(
                f,
                "KVM reset {reset} ring entries but only {outstanding} were harvested: \
                 something else harvests this VM's dirty rings, stop it"
            ),
            Self::Stalled { outstanding } => write!(
                f,
                "KVM resets no ring entries any more although {outstanding} wait for it: \
                 stop the VM, its dirty log can't be trusted"
            ),
            Self::Overrun { ring } => write!(
                f,
                "the dirty ring of vCPU {ring} has overrun: it is full, yet holds nothing to \
                 harvest or to reset; stop the VM, pages are lost (use a larger ring, or guest \
                 code that this host does not emulate in batches)"
            ),
            Self::NoSuchRing { ring, rings } => {
                write!(f, "there is no dirty ring {ring}: this VM has {rings}")
            }
        }
    }
}

impl<E: core::error::Error + 'static> core::error::Error for CollectError<E> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Reset(error) => Some(error),
            _ => None,
        }
    }
}
