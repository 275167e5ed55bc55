//! What a collector counts.

/// What one pass of the reaper found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassTally {
    /// Entries that the reaper harvested in this pass, all rings.
    pub harvested: u64,
    /// Entries that the ring-full path harvested since the last pass ended, all rings.
    pub ring_full_harvested: u64,
    /// The most entries that one ring gave since the last pass ended, by whatever path.
    pub fullest: u32,
    /// Ring-full exits since the last pass ended, all rings.
    pub ring_fulls: u32,
}

/// Totals over all rings since the collector was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Entries harvested by the reaper's passes.
    pub reaper_harvested: u64,
    /// Entries harvested by vCPUs on ring-full.
    pub ring_full_harvested: u64,
    /// Entries harvested by drains: a flush, or a change of memory slots.
    pub drain_harvested: u64,
    /// Ring-full exits.
    pub ring_fulls: u64,
    /// Calls of the backend's reset.
    pub resets: u64,
    /// Of those, the ones that came back short.
    pub short_resets: u64,
    /// Entries reset.
    pub entries_reset: u64,
    /// Of the whole ones, those that may have been interrupted after their last entry.
    pub maybe_interrupted_resets: u64,
    /// Pages published, once for each harvest.
    pub published: u64,
    /// Suspects published again.
    pub suspects_published: u64,
    /// Looks at a ring that a plan used; controllers that don't plan have none.
    pub peeks: u64,
}

impl Totals {
    /// No totals yet.
    pub(crate) const ZERO: Self = Self {
        reaper_harvested: 0,
        ring_full_harvested: 0,
        drain_harvested: 0,
        ring_fulls: 0,
        resets: 0,
        short_resets: 0,
        entries_reset: 0,
        maybe_interrupted_resets: 0,
        published: 0,
        suspects_published: 0,
        peeks: 0,
    };

    /// Returns the entries harvested on all paths.
    pub const fn harvested(&self) -> u64 {
        self.reaper_harvested
            .saturating_add(self.ring_full_harvested)
            .saturating_add(self.drain_harvested)
    }
}

/// Adds to a total.
pub(super) fn add(total: &mut u64, more: impl Into<u64>) {
    *total = total.saturating_add(more.into());
}
