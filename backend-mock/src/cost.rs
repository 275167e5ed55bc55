//! What everything costs, in virtual time.

/// Picoseconds in a nanosecond.
pub(crate) const PS_PER_NS: u64 = 1_000;
/// Picoseconds in a microsecond.
pub(crate) const PS_PER_US: u64 = 1_000_000;

/// The cost of each thing that the simulation does. Integers: picoseconds for what happens on
/// each write, nanoseconds for the rest.
///
/// The figures of [`MEASURED`](Self::MEASURED) are those of one 2-core KVM host without PML, whose
/// guest wrote one word per page; those that were not measured are marked as estimates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CostModel {
    /// A write to a writable page, in picoseconds; not 0.
    pub write_ps: u32,
    /// One empty loop turn between two writes, in picoseconds.
    pub spin_turn_ps: u32,
    /// What a write to a protected page costs on top: the fault, the log entry and the way back.
    pub fault_ns: u32,
    /// From guest mode to the ring-full path and back: half of it before, half after.
    pub ring_full_exit_ns: u32,
    /// Harvesting one entry.
    pub harvest_entry_ns: u32,
    /// One reset, whatever it finds.
    pub reset_call_ns: u32,
    /// Resetting one entry.
    pub reset_entry_ns: u32,
    /// What a reset that did something costs each vCPU in guest mode.
    pub tlb_flush_ns: u32,
    /// Loading an entry's flags without taking it.
    pub peek_load_ns: u32,
    /// The same for the next entry of a scan.
    pub scan_load_ns: u32,
    /// From the end of the reaper's wait until it runs, on average.
    pub wake_latency_ns: u32,
    /// How far that varies up and down, evenly distributed; at most the average.
    pub wake_jitter_ns: u32,
}

impl CostModel {
    /// The costs measured on the host that [`CostModel`] describes.
    pub const MEASURED: Self = Self {
        // 74.5 million writes a second over 2048 pages, undisturbed.
        write_ps: 13_400,
        // A writer with 3000 turns between two writes filled a ring of 4032 usable entries 269
        // times in 4 s: 3.69 us a page, 1.2 us more than one without turns.
        spin_turn_ps: 400,
        // Between two measurements: writes that all fault ran at 0.39 to 0.41 million a second
        // (2.4 to 2.5 us each), while 2048 pages reset every 5 ms left time for 7.4 million (at
        // most 2.3 us for each fault).
        fault_ns: 2_350,
        // Estimate.
        ring_full_exit_ns: 4_000,
        // A bare harvest plus reset was 23 ns an entry.
        harvest_entry_ns: 8,
        reset_entry_ns: 15,
        // Estimates: one system call that finds nothing; one interrupt and a cold TLB; one cache
        // line that another core wrote, and four entries in each line that was fetched ahead.
        reset_call_ns: 2_000,
        tlb_flush_ns: 2_000,
        peek_load_ns: 50,
        scan_load_ns: 1,
        // Estimates: Linux gives an ordinary thread's timer 50 us of slack (PR_SET_TIMERSLACK).
        wake_latency_ns: 80_000,
        wake_jitter_ns: 40_000,
    };

    /// Returns the time of one write to a writable page with `spin` turns before it, in
    /// picoseconds.
    pub(crate) fn step_ps(&self, spin: u32) -> u64 {
        u64::from(self.spin_turn_ps)
            .saturating_mul(spin.into())
            .saturating_add(self.write_ps.into())
    }
}

impl Default for CostModel {
    fn default() -> Self {
        Self::MEASURED
    }
}

/// Returns nanoseconds as picoseconds.
pub(crate) fn ps(ns: u32) -> u64 {
    u64::from(ns) * PS_PER_NS
}
