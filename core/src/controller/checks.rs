//! The MUSTs of [`Controller`] as a check that the author of one can call.

use core::cell::Cell;
use core::fmt;

use super::{Controller, Decision, Measurement};
use crate::collector::PassRings;
use crate::doorbell::Wakes;
use crate::entry::{DirtyGfn, EntryFlags, EntryMemory, SlotId};
use crate::ring::Ring;
use crate::size::{RESERVED_ENTRIES, RingSize};
use crate::time::{Instant, Micros};

/// Entries of the rings that [`check`] plays with.
const ENTRIES: u32 = 128;
/// Rings that it plays with.
const RINGS: usize = 3;
/// Passes that it plays.
const PASSES: u32 = 2_000;
/// Passes after which the controller is saved and restored.
const RESTORE_EVERY: u32 = 37;

/// A MUST of [`Controller`] that doesn't hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// A decision has no wait: the reaper would spin.
    ZeroWait {
        /// The pass, from 1; 0 is the decision before the first.
        pass: u32,
    },
    /// Two controllers that were given the same decided differently.
    Impure {
        /// The pass, from 1.
        pass: u32,
        /// What the first decided.
        first: Decision,
        /// What the second decided.
        second: Decision,
    },
    /// A controller that was restored from its own state decided differently from then on.
    NotRestored {
        /// The pass, from 1.
        pass: u32,
        /// What the original decided.
        original: Decision,
        /// What the restored one decided.
        restored: Decision,
    },
    /// A controller refused its own state.
    RefusedItsOwnState {
        /// The pass, from 1.
        pass: u32,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ZeroWait { pass } => write!(f, "pass {pass}: a wait of 0 makes the reaper spin"),
            Self::Impure {
                pass,
                first,
                second,
            } => write!(
                f,
                "pass {pass}: the same input led to {first:?} and to {second:?}: keep what a \
                 decision depends on in the controller"
            ),
            Self::NotRestored {
                pass,
                original,
                restored,
            } => write!(
                f,
                "pass {pass}: a restored controller decided {restored:?}, the original \
                 {original:?}: put what is missing into its state"
            ),
            Self::RefusedItsOwnState { pass } => {
                write!(f, "pass {pass}: the controller refused its own state")
            }
        }
    }
}

impl core::error::Error for Violation {}

/// Checks the MUSTs of [`Controller`] on the controllers that `make` creates for rings of the given
/// size. All of them must have one configuration.
///
/// It plays some thousand passes with small rings and with measurements of every size. A panic is a
/// violation as well: call it in a test.
///
/// ```
/// use dirty_ring_core::controller::{Fixed, check};
/// use dirty_ring_core::time::Micros;
///
/// check(|_size| Fixed::new(Micros::SECOND).unwrap())?;
/// # Ok::<(), dirty_ring_core::controller::Violation>(())
/// ```
///
/// # Errors
/// The first [`Violation`].
pub fn check<C: Controller>(make: impl Fn(RingSize) -> C) -> Result<(), Violation> {
    let size = RingSize::new(ENTRIES, 16, 0).unwrap_or(RingSize::LARGEST);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut worlds = [World::new(size), World::new(size)];
    let mut controllers = [make(size), make(size)];
    non_zero(0, &controllers[0].current())?;
    for pass in 1..=PASSES {
        let mut turn = Turn::draw(&mut random, size);
        let is_saved = pass.is_multiple_of(RESTORE_EVERY);
        if is_saved {
            // A look within the same microsecond joins the next one (`Growth::look`), and what comes
            // between the last look and a save is in no state (`Ring::from_state`).
            turn.elapsed = turn.elapsed.max(Micros(1));
        }
        let [first, second] = &mut controllers;
        let [world, other] = &mut worlds;
        let one = world.pass(first, &turn);
        let two = other.pass(second, &turn);
        non_zero(pass, &one)?;
        if one != two {
            return Err(if pass > RESTORE_EVERY {
                Violation::NotRestored {
                    pass,
                    original: one,
                    restored: two,
                }
            } else {
                Violation::Impure {
                    pass,
                    first: one,
                    second: two,
                }
            });
        }
        if is_saved {
            // The second goes on in a new process, from what was saved.
            let state = second.state();
            *second = make(size);
            if second.restore(&state).is_err() {
                return Err(Violation::RefusedItsOwnState { pass });
            }
            other.restore();
        }
    }
    Ok(())
}

fn non_zero(pass: u32, decision: &Decision) -> Result<(), Violation> {
    if decision.wait.is_zero() {
        return Err(Violation::ZeroWait { pass });
    }
    Ok(())
}

/// What happens in one pass.
struct Turn {
    elapsed: Micros,
    grown: [u32; RINGS],
    full: Option<usize>,
    measurement: Measurement,
}

impl Turn {
    fn draw(random: &mut Random, size: RingSize) -> Self {
        const EXTREMES: [u64; 4] = [0, 1, u64::MAX / 2, u64::MAX];
        let extreme = random.below(20) == 0;
        let mut number = |below: u64| match EXTREMES.get(random.below(4) as usize) {
            Some(&number) if extreme => number,
            _ => random.below(below),
        };
        let measurement = Measurement {
            elapsed: Micros(number(1_200_000)),
            harvested: number(10_000),
            ring_full_harvested: number(10_000),
            fullest: u32::try_from(number(1 << 13)).unwrap_or(u32::MAX),
            ring_fulls: u32::try_from(number(40).saturating_sub(37)).unwrap_or(u32::MAX),
            wakes: Wakes::from_bits_truncate(number(16) as u8),
            late: Micros(number(300)),
            took: Micros(number(500)),
        };
        let busy = random.below(3) != 0;
        Self {
            elapsed: Micros(match random.below(6) {
                0 => 0,
                1 => random.below(3_000_000),
                _ => random.below(3_000),
            }),
            grown: core::array::from_fn(|_| match busy {
                true => random.below(size.soft_limit().into()) as u32,
                false => 0,
            }),
            full: (random.below(15) == 0).then(|| random.below(RINGS as u64) as usize),
            measurement,
        }
    }
}

/// Small rings, and a clock.
struct World {
    now: Instant,
    rings: [Ring<Cells>; RINGS],
}

impl World {
    fn new(size: RingSize) -> Self {
        let now = Instant(1 << 40);
        Self {
            now,
            rings: core::array::from_fn(|_| Ring::new(Cells::new(size), now)),
        }
    }

    fn pass<C: Controller>(&mut self, controller: &mut C, turn: &Turn) -> Decision {
        self.now = self.now + turn.elapsed;
        for (ring, grown) in self.rings.iter_mut().zip(turn.grown) {
            ring.memory().log(grown);
            ring.look(self.now);
        }
        if let Some(ring) = turn.full.and_then(|full| self.rings.get_mut(full)) {
            ring.note_ring_full(self.now);
        }
        let mut left_alone = [false; RINGS];
        PassRings::play(&self.rings, &mut left_alone, |rings| {
            controller.plan(self.now, rings);
        });
        for (ring, left_alone) in self.rings.iter_mut().zip(left_alone) {
            if !left_alone {
                ring.note_taken(self.now);
                let _ = ring.harvest_without_reset(u32::MAX, |_| ());
                ring.memory().reset();
            }
        }
        controller.on_reaped(&turn.measurement)
    }

    /// Goes on with rings that were restored from their states.
    fn restore(&mut self) {
        for ring in &mut self.rings {
            let state = ring.state(self.now);
            let memory = ring.memory().clone();
            *ring = Ring::from_state(memory, &state, self.now);
        }
    }
}

/// The entries of a small ring; page `n` is the `n`-th entry.
#[derive(Clone, Debug)]
struct Cells {
    size: RingSize,
    flags: [Cell<EntryFlags>; ENTRIES as usize],
    published: Cell<u32>,
    reset: Cell<u32>,
}

impl Cells {
    fn new(size: RingSize) -> Self {
        Self {
            size,
            flags: core::array::from_fn(|_| Cell::new(EntryFlags::empty())),
            published: Cell::new(0),
            reset: Cell::new(0),
        }
    }

    fn flag(&self, index: u32) -> Option<&Cell<EntryFlags>> {
        self.flags.get((index & self.size.mask()) as usize)
    }

    /// Logs at most `entries`, as far as there is room below the reserve.
    fn log(&self, entries: u32) {
        for _ in 0..entries {
            let used = self.published.get().wrapping_sub(self.reset.get());
            if used >= ENTRIES.saturating_sub(RESERVED_ENTRIES) {
                break;
            }
            if let Some(flag) = self.flag(self.published.get()) {
                flag.set(EntryFlags::DIRTY);
            }
            self.published.set(self.published.get().wrapping_add(1));
        }
    }

    fn reset(&self) {
        while let Some(flag) = self.flag(self.reset.get())
            && flag.get() == EntryFlags::RESET
        {
            flag.set(EntryFlags::empty());
            self.reset.set(self.reset.get().wrapping_add(1));
        }
    }
}

impl EntryMemory for Cells {
    fn size(&self) -> RingSize {
        self.size
    }
    fn load_flags(&self, index: u32) -> EntryFlags {
        self.flag(index).map_or(EntryFlags::empty(), Cell::get)
    }
    fn read(&self, index: u32) -> DirtyGfn {
        // Pages come round after half a ring, or don't.
        DirtyGfn {
            slot: SlotId(0),
            offset: u64::from(index & 31),
        }
    }
    fn store_flags(&self, index: u32, flags: EntryFlags) {
        if let Some(flag) = self.flag(index) {
            flag.set(flags);
        }
    }
    fn replace_flags(&self, index: u32, old: EntryFlags, new: EntryFlags) {
        if self.load_flags(index) == old {
            self.store_flags(index, new);
        }
    }
}

/// Numbers that look random and are the same in each run (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.checked_rem(bound).unwrap_or(0)
    }
}
