//! What a collector counts.

/// What a pass of the reaper found so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassTally {
    /// Entries that the reaper harvested in this pass, all rings.
    pub harvested: u64,
    /// Entries taken outside of the reaper's passes since the last one (by the ring-full path, or
    /// a drain before slots change), all rings.
    pub ring_full_harvested: u64,
    /// The largest share of one ring in the two figures above, in entries.
    pub fullest: u32,
}

/// The answer to [`Collector::harvest`](super::Collector::harvest).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Harvested {
    /// Entries taken by this call.
    pub entries: u32,
    /// The batch is full: reset, publish and harvest again, the pass isn't over.
    pub more: bool,
    /// The pass so far.
    pub tally: PassTally,
}

/// Totals over all rings since the collector was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Entries harvested by the reaper, or by a drain.
    pub reaper_harvested: u64,
    /// Entries harvested by vCPUs on ring-full.
    pub ring_full_harvested: u64,
    /// Calls of the backend's reset.
    pub resets: u64,
    /// Of those, the ones that came back short.
    pub short_resets: u64,
    /// Entries reset.
    pub entries_reset: u64,
    /// Pages published.
    pub published: u64,
    /// Rings that the reaper looked at before it decided which to harvest.
    pub peeks: u64,
}
