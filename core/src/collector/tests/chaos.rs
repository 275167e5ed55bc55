//! Everything that may happen to a VM, in random order: no drain says that it is complete while a page
//! is missing.

use std::collections::HashMap;

use super::*;
use crate::testing::Random;

const RINGS: usize = 3;

/// A VM with its consumer, which copies a page when it is published.
struct World {
    collector: Collector<Kvm, 64>,
    random: Random,
    /// How often each page was written.
    written: HashMap<u64, u32>,
    copied: HashMap<u64, u32>,
    /// Times that all memory was counted as dirty.
    counted: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::seeded(seed);
        random.below(2);
        Self {
            collector: collector(RINGS),
            random,
            written: HashMap::new(),
            copied: HashMap::new(),
            counted: 0,
        }
    }

    fn write(&mut self) {
        let ring = self.random.below(RINGS as u64) as usize;
        let first = self.random.below(600);
        for offset in first..first + self.random.below(90) {
            let gfn = page(offset * (1 + self.random.below(2)));
            let kvm = self.collector.backend_mut();
            if kvm.memory(ring).is_soft_full() {
                break;
            }
            kvm.write(ring, gfn);
            *self.written.entry(gfn.offset).or_default() += 1;
        }
    }

    fn copy(&mut self) {
        let kvm = self.collector.backend_mut();
        if kvm.published_all != self.counted {
            self.counted = kvm.published_all;
            self.copied = self.written.clone();
        }
        for offset in kvm.published.drain(..) {
            self.copied.insert(offset, self.written[&offset]);
        }
    }

    fn weather(&mut self) {
        let entries = self.random.below(120) as u32;
        let weather = match self.random.below(3) {
            0 => Weather::Short(0),
            _ => Weather::Interrupted(entries),
        };
        set_weather(&mut self.collector, [weather]);
    }

    fn resync(&mut self) {
        self.collector.begin_resync().unwrap();
        if self.random.below(3) == 0 {
            return;
        }
        self.collector.backend_mut().writable.clear();
        self.collector.backend_mut().forget_resets();
        let ended = self.collector.end_resync(Instant(1));
        assert!(matches!(ended, Ok(()) | Err(CollectError::Publish(_))));
    }

    fn step(&mut self) {
        let now = Instant(1);
        let ring = self.random.below(RINGS as u64) as usize;
        match self.random.below(16) {
            0..6 => self.write(),
            6..8 => self.weather(),
            8 => {
                let scope = [Scope::Planned, Scope::All][self.random.below(2) as usize];
                self.collector
                    .begin_pass(now, scope, |rings| _ = rings.leave(ring));
            }
            9 | 10 => _ = self.collector.reap(now),
            11 => {
                if self.collector.backend().memory(ring).is_soft_full() {
                    let mode = [RingFullMode::Chunk(20), RingFullMode::Whole];
                    let mode = mode[self.random.below(2) as usize];
                    _ = self.collector.ring_full(ring, mode, now);
                }
            }
            12 => {
                if self.random.below(8) == 0 {
                    self.resync();
                }
            }
            13 => {
                let fails = self.random.below(4) == 0;
                self.collector.backend_mut().publication_fails = fails;
            }
            14 => self.collector.forgive_publication(),
            _ => {
                let drained = self.collector.drain(now);
                self.copy();
                if drained == Ok(true) {
                    for (offset, times) in &self.written {
                        let copied = self.copied.get(offset).copied().unwrap_or(0);
                        assert_eq!(copied, *times, "page {offset}");
                    }
                }
            }
        }
        self.copy();
    }
}

#[test]
fn no_drain_is_complete_while_a_page_is_missing() {
    let mut drains = 0;
    for seed in (0..200).chain(5250..5320) {
        let mut world = World::new(seed);
        (0..400).for_each(|_| world.step());
        // Whatever it was, it passes.
        world.collector.backend_mut().publication_fails = false;
        world.collector.backend_mut().weather.clear();
        world.collector.forgive_publication();
        if world.collector.check_reaping() == Err(CollectError::Resyncing) {
            world.collector.backend_mut().writable.clear();
            world.collector.backend_mut().forget_resets();
            world.collector.begin_resync().unwrap();
            world.collector.end_resync(Instant(2)).unwrap();
        }
        drains += u32::from(world.collector.drain(Instant(2)) == Ok(true));
    }
    assert!(drains > 200, "{drains}");
}
