//! What went wrong while pages were collected.

use core::fmt;

use crate::entry::DirtyGfn;

/// What went wrong while pages were collected.
///
/// Most errors end the reaping: the rings can't be trusted any more. Two mean that pages were lost
/// while the rings are sound: see [`ends_reaping`](Self::ends_reaping).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CollectError<E> {
    /// The backend's reset failed.
    Reset(E),
    /// The consumer didn't take the pages. They are kept.
    Publish(E),
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
    /// The entries of a ring aren't where KVM's next entry is expected.
    Parted {
        /// The vCPU's index.
        ring: usize,
    },
    /// A resynchronisation was begun and not ended.
    Resyncing,
    /// Entries named no registered page, so their pages were not published.
    BadEntries {
        /// How many.
        entries: u64,
        /// The vCPU in whose ring the last one was.
        ring: usize,
        /// The last one.
        last: DirtyGfn,
    },
    /// So many resets were interrupted that not all pages which KVM may have forgotten could be
    /// remembered.
    TooManySuspects {
        /// Pages that are remembered.
        suspects: usize,
    },
    /// There is no ring of that index.
    NoSuchRing {
        /// The index asked for.
        ring: usize,
        /// How many rings there are.
        rings: usize,
    },
}

impl<E> CollectError<E> {
    /// Returns whether nothing can be reaped any more. Otherwise the rings are sound and vCPUs can go
    /// on, but pages were lost: the log of this session can't be used.
    pub const fn ends_reaping(&self) -> bool {
        !matches!(
            self,
            Self::BadEntries { .. } | Self::TooManySuspects { .. } | Self::NoSuchRing { .. }
        )
    }
}

impl<E> fmt::Display for CollectError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset(_) => f.write_str("resetting the dirty rings failed"),
            Self::Publish(_) => f.write_str(
                "the sink did not take dirty pages: they are kept; start again with another sink",
            ),
            Self::ForeignReset { reset, outstanding } => write!(
                f,
                "KVM reset {reset} ring entries but only {outstanding} were harvested: \
                 another reaper or program harvests this VM's dirty rings; stop it, then resync"
            ),
            Self::Stalled { outstanding } => write!(
                f,
                "KVM resets no ring entries any more although {outstanding} wait for it: a ring has \
                 overrun, its position is wrong, or another reaper or program harvests it; resync \
                 the rings and count all memory as dirty"
            ),
            Self::Overrun { ring } => write!(
                f,
                "the dirty ring of vCPU {ring} has overrun: it is full, yet holds nothing to \
                 harvest or to reset; pages are lost: resync the rings and count all memory as \
                 dirty (a larger ring helps, or guest code that this host does not emulate in \
                 batches)"
            ),
            Self::Parted { ring } => write!(
                f,
                "the dirty ring of vCPU {ring} holds entries, but not where the next one is \
                 expected: it has overrun, its position is wrong, or another reaper or program \
                 harvests it; resync the rings and count all memory as dirty"
            ),
            Self::Resyncing => f.write_str(
                "a resync of the dirty rings was begun and did not end: resync them again",
            ),
            Self::BadEntries {
                entries,
                ring,
                last,
            } => write!(
                f,
                "{entries} dirty ring entries named no registered page and were not published, \
                 the last one in the ring of vCPU {ring}: page {} of slot {} in address space {}; \
                 register every memory slot that is logged",
                last.offset,
                last.slot.slot(),
                last.slot.address_space()
            ),
            Self::TooManySuspects { suspects } => write!(
                f,
                "too many resets were interrupted: more than the {suspects} pages that are \
                 remembered may be dirty without being logged; count all memory as dirty, and keep \
                 SIGSTOP, debuggers and the freezer away from the threads that reap"
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
            Self::Reset(error) | Self::Publish(error) => Some(error),
            _ => None,
        }
    }
}
