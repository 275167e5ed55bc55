//! Figures, measurements and decisions, as they cross the boundary.

use std::ffi::c_int;

use dirty_ring_core::collector::{RingFullReport, Totals as CoreTotals};
use dirty_ring_core::controller::Reasons;
use dirty_ring_core::doorbell::Wakes;
use dirty_ring_core::planner::PassRecord;
use dirty_ring_core::ring::Ring;

use crate::entries::Entries;

/// The level of a controller without levels.
pub const NO_LEVEL: c_int = -1;

/// Why the reaper woke.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub enum Wake {
    /// The wait was over.
    Timer = 1,
    /// Every page was asked for.
    Kick = 2,
    /// A vCPU's ring was full.
    RingFull = 4,
    /// The reaper was stopped.
    Stop = 8,
}

const _: () = {
    assert!(Wake::Timer as u8 == Wakes::TIMER.bits());
    assert!(Wake::Kick as u8 == Wakes::KICK.bits());
    assert!(Wake::RingFull as u8 == Wakes::RING_FULL.bits());
    assert!(Wake::Stop as u8 == Wakes::STOP.bits());
    assert!(Wakes::all().bits() == 15);
};

/// Why a controller decided as it did.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub enum Reason {
    /// No measurement yet.
    Start = 1,
    /// A ring was full.
    RingFull = 2,
    /// The rings ask for a shorter wait, and get it.
    Faster = 4,
    /// The rings ask for a longer wait, and get it.
    Slower = 8,
    /// The rings ask for a longer wait, and don't get it yet.
    Filtered = 16,
    /// The rings ask for what they have.
    Keep = 32,
    /// The policy can't go faster.
    AtFastest = 64,
    /// The policy can't go slower.
    AtSlowest = 128,
    /// A ring would have been full before the next useful wake-up.
    Headroom = 256,
    /// Pages had waited for as long as they may, or were asked for.
    Freshness = 512,
    /// A ring is left alone for as long as its recent rate allows.
    Calm = 1024,
    /// To reap a ring early costs nothing.
    Free = 2048,
}

const _: () = {
    assert!(Reason::Start as u16 == Reasons::START.bits());
    assert!(Reason::RingFull as u16 == Reasons::RING_FULL.bits());
    assert!(Reason::Faster as u16 == Reasons::FASTER.bits());
    assert!(Reason::Slower as u16 == Reasons::SLOWER.bits());
    assert!(Reason::Filtered as u16 == Reasons::FILTERED.bits());
    assert!(Reason::Keep as u16 == Reasons::KEEP.bits());
    assert!(Reason::AtFastest as u16 == Reasons::AT_FASTEST.bits());
    assert!(Reason::AtSlowest as u16 == Reasons::AT_SLOWEST.bits());
    assert!(Reason::Headroom as u16 == Reasons::HEADROOM.bits());
    assert!(Reason::Freshness as u16 == Reasons::FRESHNESS.bits());
    assert!(Reason::Calm as u16 == Reasons::CALM.bits());
    assert!(Reason::Free as u16 == Reasons::FREE.bits());
    assert!(Reasons::all().bits() == 4095);
};

/// What one pass of the reaper found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Measurement {
    /// From the beginning of the last pass to that of this one.
    pub elapsed_us: u64,
    /// Pages that the reaper's own harvest found, all rings.
    pub harvested: u64,
    /// Pages that ring-fulls took since the last pass, all rings.
    pub ring_full_harvested: u64,
    /// The most entries that one ring gave since the last pass.
    pub fullest: u32,
    /// Ring-fulls since the last pass.
    pub ring_fulls: u32,
    /// Bits of [`Wake`].
    pub wakes: u32,
    /// From the planned wake-up to the real one.
    pub late_us: u64,
    /// How long the pass took.
    pub took_us: u64,
}

/// A controller's decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Decision {
    /// How long to wait until the next pass.
    pub wait_us: u64,
    /// The run level, 0 to 5, or [`NO_LEVEL`].
    pub level: c_int,
    /// Bits of [`Reason`].
    pub reasons: u32,
}

/// A pass of the reaper that is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Pass {
    /// Its number, from 1; 0 where there was none.
    pub number: u64,
    /// When it was over.
    pub now_us: u64,
    /// What it found.
    pub found: Measurement,
    /// What was decided.
    pub decided: Decision,
}

impl From<&PassRecord> for Pass {
    fn from(pass: &PassRecord) -> Self {
        let found = &pass.measurement;
        Self {
            number: pass.number,
            now_us: pass.now.0,
            found: Measurement {
                elapsed_us: found.elapsed.0,
                harvested: found.harvested,
                ring_full_harvested: found.ring_full_harvested,
                fullest: found.fullest,
                ring_fulls: found.ring_fulls,
                wakes: found.wakes.bits().into(),
                late_us: found.late.0,
                took_us: found.took.0,
            },
            decided: pass.decision.into(),
        }
    }
}

/// What a vCPU's ring-full did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RingFull {
    /// Entries harvested, of all the rings that it took from.
    pub harvested: u32,
    /// 1 where everything harvested is reset and published, 0 where the rest is carried on.
    pub settled: u32,
}

impl From<RingFullReport> for RingFull {
    fn from(report: RingFullReport) -> Self {
        Self {
            harvested: report.harvested,
            settled: report.settled.into(),
        }
    }
}

/// Totals over all rings since the reaper was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Totals {
    /// Passes.
    pub passes: u64,
    /// Entries harvested by passes.
    pub reaper_harvested: u64,
    /// Entries harvested by ring-fulls.
    pub ring_full_harvested: u64,
    /// Entries harvested by drains.
    pub drain_harvested: u64,
    /// Ring-fulls.
    pub ring_fulls: u64,
    /// Calls of the reset callback.
    pub resets: u64,
    /// Of those, the ones that came back short.
    pub short_resets: u64,
    /// Of the whole ones, those that may have been interrupted.
    pub maybe_interrupted_resets: u64,
    /// Entries reset.
    pub entries_reset: u64,
    /// Pages published, once for each harvest.
    pub published: u64,
    /// Suspects published again.
    pub suspects_published: u64,
    /// Entries harvested and not yet reset.
    pub outstanding: u64,
    /// Pages harvested and not yet published.
    pub unpublished: u64,
    /// Pages that may be writable without being logged.
    pub suspects: u64,
}

impl Totals {
    /// Takes what the core counts.
    pub(crate) fn of(totals: &CoreTotals) -> Self {
        Self {
            reaper_harvested: totals.reaper_harvested,
            ring_full_harvested: totals.ring_full_harvested,
            drain_harvested: totals.drain_harvested,
            ring_fulls: totals.ring_fulls,
            resets: totals.resets,
            short_resets: totals.short_resets,
            maybe_interrupted_resets: totals.maybe_interrupted_resets,
            entries_reset: totals.entries_reset,
            published: totals.published,
            suspects_published: totals.suspects_published,
            ..Self::default()
        }
    }
}

/// Figures of one ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RingFigures {
    /// Entries harvested, on all paths.
    pub harvested: u64,
    /// Harvests that took at least one entry.
    pub harvests: u64,
    /// Entries that named no registered page: each is a lost page.
    pub bad_entries: u64,
    /// Entries that came after their slot was removed.
    pub late_entries: u64,
    /// Ring-fulls of its vCPU.
    pub ring_fulls: u64,
    /// Pages per second of late: the mean.
    pub mean_rate_per_s: u64,
    /// Pages per second of late: the highest.
    pub max_rate_per_s: u64,
    /// Entries that wait in it now.
    pub occupancy: u32,
    /// Most entries that were found in it.
    pub peak_occupancy: u32,
    /// 1 where its position is unknown since a resynchronisation, else 0.
    pub is_lost: u32,
}

impl From<&Ring<Entries>> for RingFigures {
    fn from(ring: &Ring<Entries>) -> Self {
        let stats = ring.stats();
        let meter = ring.growth().meter();
        Self {
            harvested: stats.harvested,
            harvests: stats.harvests,
            bad_entries: stats.bad_entries,
            late_entries: stats.late_entries,
            ring_fulls: stats.ring_fulls,
            mean_rate_per_s: meter.mean_per_s(),
            max_rate_per_s: meter.max_per_s(),
            occupancy: ring.occupancy(),
            peak_occupancy: stats.peak_occupancy,
            is_lost: ring.is_lost().into(),
        }
    }
}
