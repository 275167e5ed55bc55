//! What a VM is like, and how it is reaped.

use std::fmt;

use dirty_ring_core::collector::RingFullMode;
use dirty_ring_core::controller::PolicySpec;
use dirty_ring_core::size::{MAX_ENTRIES, RingSize};
use dirty_ring_core::time::Micros;
use dirty_ring_kvm::Support;

use super::SoakConfig;
use super::dice::Dice;
use crate::error::CallbackError;
use crate::layout::GuestConfig;

/// The smallest ring that a soak uses by its own choice, in entries.
const LEAST_ENTRIES: u32 = 1024;
/// Most vCPUs that a soak uses by its own choice.
const MOST_VCPUS: u64 = 4;
/// Most data slots.
const MOST_SLOTS: u64 = 5;
/// Data pages of all vCPUs: fewer and more than the rings hold.
const PAGES: [u64; 6] = [600, 3_000, 6_000, 12_000, 24_000, 24_000];

/// Every policy; the fixed ones leave all to the reaper, to both, and to the vCPUs.
const POLICIES: [(&str, Option<Micros>); 10] = [
    ("deadline", None),
    ("deadline", Some(Micros::from_millis(2))),
    ("ladder", None),
    ("seed", None),
    ("halving", None),
    ("fixed", Some(Micros(200))),
    ("fixed", Some(Micros::from_millis(1))),
    ("fixed", Some(Micros::from_millis(10))),
    ("fixed", Some(Micros::from_millis(100))),
    ("fixed", Some(Micros::from_secs(3600))),
];

const MODES: [RingFullMode; 4] = [
    RingFullMode::Whole,
    RingFullMode::Whole,
    RingFullMode::Chunk(dirty_ring_core::collector::DEFAULT_CHUNK),
    RingFullMode::Chunk(20),
];

/// What a VM is like.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) guest: GuestConfig,
    pub(super) size: RingSize,
    pub(super) mode: RingFullMode,
}

impl Shape {
    /// Chooses the shape of a VM on a host with `support`.
    pub(super) fn choose(
        dice: &mut Dice,
        support: &Support,
        config: &SoakConfig,
    ) -> Result<Self, CallbackError> {
        // Each number is drawn even where it is given: the others stay the same then.
        let vcpus = 1 + dice.below(MOST_VCPUS) as usize;
        let pages = dice.pick(&PAGES);
        let slots = 2 + dice.below(MOST_SLOTS - 1) as usize;
        let mode = dice.pick(&MODES);
        let sizes: Vec<RingSize> = (LEAST_ENTRIES.ilog2()..=MAX_ENTRIES.ilog2())
            .filter_map(|power| support.size(1 << power).ok())
            .collect();
        // Small rings fill up, so they come more often.
        let at = (0..3).map(|_| dice.below(sizes.len().max(1) as u64)).min();
        let size = match config.ring_entries {
            Some(entries) => support.size(entries)?,
            None => *at
                .and_then(|at| sizes.get(at as usize))
                .ok_or("this host offers no dirty ring of 1024 entries or more")?,
        };
        let vcpus = config.vcpus.unwrap_or(vcpus);
        let pages = config.pages.unwrap_or(pages);
        Ok(Self {
            guest: GuestConfig {
                vcpus,
                data_pages_per_vcpu: pages.div_ceil(vcpus.max(1) as u64),
                data_slots: slots,
                ..GuestConfig::default()
            },
            size,
            mode,
        })
    }

    /// Returns the name of the doing that a ring-full is.
    pub(super) const fn ring_full_name(&self) -> &'static str {
        match self.mode {
            RingFullMode::Chunk(_) => "ring_full_chunk",
            RingFullMode::Whole => "ring_full_whole",
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GuestConfig {
            vcpus,
            data_pages_per_vcpu,
            data_slots,
            ..
        } = self.guest;
        write!(
            f,
            "{vcpus} vCPUs, {} pages in {data_slots} slots, rings of {} entries, {:?}",
            vcpus as u64 * data_pages_per_vcpu,
            self.size.entries(),
            self.mode
        )
    }
}

/// Chooses a policy.
pub(super) fn policy(dice: &mut Dice) -> Result<PolicySpec, CallbackError> {
    let (name, argument) = dice.pick(&POLICIES);
    Ok(PolicySpec::new(name, argument)?)
}
