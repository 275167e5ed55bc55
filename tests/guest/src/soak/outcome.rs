//! What was done to a VM, and how it ended.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use crate::error::{CallbackError, GuestError};
use crate::random::Stamp;

/// Doings that are remembered for a report.
const LAST_DOINGS: usize = 12;

/// Why a VM ended before its time.
#[derive(Debug)]
pub(super) enum Ended {
    Lost(Loss),
    Failed(CallbackError),
}

/// Pages that are lost, and the first of them.
#[derive(Debug)]
pub(super) struct Loss {
    pub(super) pages: u64,
    pub(super) slot: u32,
    pub(super) offset: u64,
    pub(super) in_memory: u64,
    pub(super) in_copy: u64,
}

impl From<GuestError> for Ended {
    fn from(error: GuestError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<dirty_ring_kvm::Error> for Ended {
    fn from(error: dirty_ring_kvm::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<CallbackError> for Ended {
    fn from(error: CallbackError) -> Self {
        Self::Failed(error)
    }
}

/// What was done to a VM.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) pages_checked: u64,
    pub(super) page_writes: u64,
    pub(super) doings: BTreeMap<&'static str, u64>,
    pub(super) shape: String,
    last: VecDeque<String>,
}

impl Tally {
    /// Counts something that is done from now on.
    pub(super) fn begin(&mut self, doing: &'static str) {
        self.begin_with(doing, "");
    }

    /// Counts something that is done from now on, in some way.
    pub(super) fn begin_with(&mut self, doing: &'static str, way: impl fmt::Display) {
        self.add(doing, 1);
        if self.last.len() == LAST_DOINGS {
            self.last.pop_front();
        }
        self.last
            .push_back(format!("{doing} {way}").trim_end().to_owned());
    }

    /// Counts something that happens by itself.
    pub(super) fn add(&mut self, doing: &'static str, times: u64) {
        *self.doings.entry(doing).or_default() += times;
    }

    pub(super) fn place(&mut self, seed: u64, vm: u64) -> Place {
        Place {
            seed,
            vm,
            shape: std::mem::take(&mut self.shape),
            last_doings: self.last.drain(..).collect(),
        }
    }
}

/// Where in a soak something happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    seed: u64,
    vm: u64,
    shape: String,
    last_doings: Vec<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            vm,
            shape,
            last_doings,
        } = self;
        let doings = last_doings.join(", ");
        write!(f, "VM {vm} of seed {seed} ({shape}; last: {doings})")
    }
}

/// The first page that a soak found lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostPage {
    place: Place,
    /// Pages found lost at the same time.
    pub pages: u64,
    /// Number of its memory slot.
    pub slot: u32,
    /// Its index in the slot.
    pub offset: u64,
    /// The word in memory: a [`Stamp`].
    pub in_memory: u64,
    /// The word in the copy: a [`Stamp`], or 0 where the page was never copied.
    pub in_copy: u64,
}

impl LostPage {
    pub(super) fn new(place: Place, loss: Loss) -> Self {
        let Loss {
            pages,
            slot,
            offset,
            in_memory,
            in_copy,
        } = loss;
        Self {
            place,
            pages,
            slot,
            offset,
            in_memory,
            in_copy,
        }
    }

    /// Returns the seed of the soak.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.place.seed
    }

    /// Returns the number of the VM.
    #[must_use]
    pub const fn vm(&self) -> u64 {
        self.place.vm
    }

    /// Returns what the VM was like.
    #[must_use]
    pub fn shape(&self) -> &str {
        &self.place.shape
    }

    /// Returns what was done last, oldest first.
    #[must_use]
    pub fn last_doings(&self) -> &[String] {
        &self.place.last_doings
    }
}

impl fmt::Display for LostPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            place,
            pages,
            slot,
            offset,
            in_memory,
            in_copy,
        } = self;
        let (in_memory, in_copy) = (Word(*in_memory), Word(*in_copy));
        write!(
            f,
            "{pages} pages lost, the first of them page {offset} of slot {slot}: its memory holds \
             {in_memory}, its copy {in_copy}; in {place}"
        )
    }
}

/// What a page's first word says of its writer.
struct Word(u64);

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Stamp::from_word(self.0) {
            Some(Stamp { vcpu, count }) => write!(f, "write {count} of vCPU {vcpu}"),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

/// A guest or a tracker that failed in a soak.
#[derive(Debug, thiserror::Error)]
#[error("{place} failed")]
pub struct SoakError {
    place: Place,
    source: CallbackError,
}

impl SoakError {
    pub(super) const fn new(place: Place, source: CallbackError) -> Self {
        Self { place, source }
    }

    /// Returns the seed of the soak.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.place.seed
    }
}
