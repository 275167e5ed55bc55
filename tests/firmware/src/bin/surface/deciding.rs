//! What decides: policies, the planner, estimators, sizes and times.

use core::sync::atomic::AtomicU32;

use dirty_ring_core::controller::{
    Controller, DeadlineConfig, Fixed, HalvingConfig, LadderTable, LevelTable, Policy, PolicySpec,
    RunLevel, Waits, check,
};
use dirty_ring_core::counter::{EventCounter, Watermark};
use dirty_ring_core::growth::{Growth, RateMeter};
use dirty_ring_core::planner::{PassRecord, Planner};
use dirty_ring_core::size::RingSize;
use dirty_ring_core::slots::SlotTable;
use dirty_ring_core::time::Micros;
use dirty_ring_firmware::PlainMemory;

use crate::keep;

type Machine = Planner<Policy, 16>;

pub(crate) fn keep_all() {
    keep!(
        <Policy as Controller>::current,
        <Policy as Controller>::plan::<PlainMemory>,
        <Policy as Controller>::on_reaped,
        <Policy as Controller>::state,
        <Policy as Controller>::restore,
        Policy::named,
        Policy::fixed,
        Policy::seed,
        Policy::ladder,
        Policy::halving,
        Policy::deadline,
        PolicySpec::new,
        PolicySpec::build,
        <PolicySpec as core::str::FromStr>::from_str,
        <Micros as core::str::FromStr>::from_str,
        Waits::new,
        Waits::wait,
        LevelTable::new,
        LevelTable::wanted,
        LadderTable::new,
        HalvingConfig::new,
        DeadlineConfig::assured,
        DeadlineConfig::freshness,
        Fixed::new,
        RunLevel::from_number,
        RunLevel::faster_by,
        RunLevel::slower,
        check_policy,
    );
    keep!(
        Machine::new,
        Machine::from_state,
        Machine::state,
        Machine::start,
        Machine::on_wake,
        Machine::plan::<PlainMemory>,
        Machine::on_reaped,
        Machine::last_pass,
        <Machine as Clone>::clone,
        passes_of,
    );
    keep!(
        Growth::state,
        RateMeter::mean_per_s,
        RateMeter::max_per_s,
        RingSize::new,
        RingSize::bytes,
        Micros::of_entries,
        Micros::entries_at,
        Micros::rate_of,
        SlotTable::<8>::insert,
        SlotTable::<8>::remove,
        SlotTable::<8>::pages,
        SlotTable::<8>::contains,
        EventCounter::<AtomicU32>::add,
        EventCounter::<AtomicU32>::load,
        Watermark::advance,
    );
}

fn passes_of(machine: &Machine, each: &mut dyn FnMut(&PassRecord)) {
    machine.history().for_each(each);
}

fn check_policy(policy: &Policy) -> bool {
    check(|_| *policy).is_ok()
}
