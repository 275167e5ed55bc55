//! A reaper over rings that the caller has mapped.

mod memory;
mod reading;

use std::ffi::c_int;
use std::sync::atomic::AtomicU32;
use std::sync::{Mutex, PoisonError};

use dirty_ring_core::backend::Backend;
use dirty_ring_core::collector::{Collector, DEFAULT_CHUNK, Drain, RingFullMode};
use dirty_ring_core::controller::Policy;
use dirty_ring_core::doorbell::Doorbell;
use dirty_ring_core::planner::Planner;
use dirty_ring_core::reaper::{Reaper as CoreReaper, Turn as CoreTurn};
use dirty_ring_core::shared::SharedCollector;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::sync::Lock;
use dirty_ring_core::time::Instant;

use crate::backend::{Callbacks, CallerPark, CallerRings};
use crate::controller::{Controller, Size};
use crate::error::{Code, Failure};
use crate::figures::RingFull;
use crate::handle::exclusively;
use crate::state::PlannerState;

/// The version of the interface, which header and library must share.
pub const ABI: u32 = 1;
/// Entries that a vCPU takes from its full ring; a usual number.
pub const CHUNK: u32 = 256;
/// Instead of a number of entries: the whole of all rings.
pub const WHOLE: u32 = u32::MAX;
/// A deadline that never comes.
pub const NEVER: u64 = u64::MAX;

// They are written as literals above, because the header has them as literals.
const _: () = assert!(CHUNK == DEFAULT_CHUNK && NEVER == Instant::MAX.0);

/// What a turn, or one batch of a drain, leaves to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum Turn {
    /// Nothing: it is over.
    Done = 0,
    /// More: call again at once, or after others had their turn.
    Again = 1,
    /// Nothing until the deadline, or until the wake callback.
    Wait = 2,
}

/// How far a drain is; all 0 at its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DrainPosition {
    /// The ring where it goes on.
    pub ring: u32,
    /// 1 where it is inside that ring, else 0.
    pub is_inside: u32,
    /// Entries that it still takes from that ring.
    pub left: u32,
}

/// The collector's lock. It is never contended: whoever comes here has the reaper's machine. Its box keeps
/// the collector, with its batch, off the stack of whoever creates a reaper.
struct Guard(Box<Mutex<Collector<CallerRings>>>);

impl Lock for Guard {
    type Guarded = Collector<CallerRings>;

    fn with<R>(&self, critical: impl FnOnce(&mut Self::Guarded) -> R) -> R {
        // A panic poisons the machine's lock as well, and no call gets past that.
        critical(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

type Shared = SharedCollector<Guard, AtomicU32, CallerPark>;

/// What a `struct dirty_ring_reaper` is.
pub struct Reaper {
    shared: Shared,
    /// Held by every call but those that any thread may make.
    machine: Mutex<Machine>,
    size: RingSize,
}

struct Machine {
    reaper: CoreReaper<Policy>,
    /// It has taken a turn, and neither ended nor failed since.
    is_running: bool,
    /// It was stopped and has drained the rings.
    is_done: bool,
}

impl Reaper {
    /// Creates a reaper without rings.
    ///
    /// # Errors
    /// [`Code::Abi`], [`Code::Size`], [`Code::Null`], [`Code::Busy`].
    pub fn new(
        abi: u32,
        controller: &Controller,
        size: &Size,
        callbacks: &Callbacks,
    ) -> Result<Self, Failure> {
        if abi != ABI {
            return Err(Failure::new(
                Code::Abi,
                format_args!(
                    "the program was compiled with version {abi} of dirty_ring.h, and this library \
                     is version {ABI}: take both from the same place"
                ),
            ));
        }
        let size = size.check()?;
        let (rings, park) = callbacks.split()?;
        let guard = Guard(Box::new(Mutex::new(Collector::new(rings))));
        Ok(Self {
            shared: Shared::new(guard, park),
            machine: Mutex::new(Machine {
                reaper: CoreReaper::new(Planner::new(controller.policy()?)),
                is_running: false,
                is_done: false,
            }),
            size,
        })
    }

    /// Runs `body` with the collector, as the only call at work.
    fn with<T>(
        &self,
        body: impl FnOnce(&mut Collector<CallerRings>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let _machine = exclusively(&self.machine)?;
        self.shared.with(body)
    }

    /// Fails where another call is at work, so that the handle can't be freed.
    ///
    /// # Errors
    /// [`Code::Busy`].
    pub fn check_idle(&self) -> Result<(), Failure> {
        match exclusively(&self.machine) {
            Err(failure) if failure.code == Code::Busy => Err(failure),
            _ => Ok(()),
        }
    }

    /// Returns the doorbell, which any thread may ring at any time.
    pub const fn doorbell(&self) -> &Doorbell<AtomicU32, CallerPark> {
        self.shared.doorbell()
    }

    /// Takes a turn; returns what is left to do, and until when there is nothing.
    ///
    /// # Errors
    /// [`Code::Stopped`], or why the rings can't be reaped.
    pub fn turn(&self, now: Instant) -> Result<(Turn, Instant), Failure> {
        let mut machine = exclusively(&self.machine)?;
        if machine.is_done {
            return Err(Failure::new(
                Code::Stopped,
                "the reaper was stopped and is done: free it, or resume it",
            ));
        }
        machine.is_running = false;
        let turn = machine.reaper.turn(&self.shared, now)?;
        machine.is_done = turn == CoreTurn::Done;
        machine.is_running = !machine.is_done;
        Ok(match turn {
            CoreTurn::Again => (Turn::Again, now),
            CoreTurn::Wait { until } => (Turn::Wait, until),
            CoreTurn::Done => (Turn::Done, Instant::MAX),
        })
    }

    /// Lets a reaper that has ended or failed, or hasn't begun, begin with `controller`.
    ///
    /// # Errors
    /// [`Code::Running`], [`Code::State`].
    pub fn resume(
        &self,
        controller: &Controller,
        saved: Option<&PlannerState>,
    ) -> Result<c_int, Failure> {
        let mut machine = exclusively(&self.machine)?;
        if machine.is_running {
            return Err(Failure::new(
                Code::Running,
                "the reaper is at work: stop it, and take turns until it is done",
            ));
        }
        let policy = controller.policy()?;
        let planner = match saved {
            Some(saved) => Planner::from_state(policy, &saved.try_into()?)?,
            None => Planner::new(policy),
        };
        *machine = Machine {
            reaper: CoreReaper::following(planner, self.doorbell().seen_now()),
            is_running: false,
            is_done: false,
        };
        let is_any_used = self.shared.with(|collector| {
            let mut rings = collector.backend().rings().iter();
            rings.any(|ring| ring.is_at_least(1))
        });
        if is_any_used {
            // What was logged before may nearly fill a ring.
            self.doorbell().ring_full();
        }
        Ok(0)
    }

    /// Makes room for a vCPU whose ring is full.
    ///
    /// # Errors
    /// [`Code::NoSuchRing`], or why the vCPU can't go on.
    pub fn ring_full(&self, ring: u32, entries: u32, now: Instant) -> Result<RingFull, Failure> {
        let mode = match entries {
            WHOLE => RingFullMode::Whole,
            entries => RingFullMode::Chunk(entries),
        };
        let machine = exclusively(&self.machine)?;
        let report = self.shared.ring_full(ring as usize, mode, now);
        drop(machine);
        Ok(report?.into())
    }

    /// Takes one batch of a drain.
    ///
    /// # Errors
    /// Why the rings can't be drained, or that pages were lost.
    pub fn drain(&self, position: &mut DrainPosition, now: Instant) -> Result<Turn, Failure> {
        let mut drain = Drain {
            ring: position.ring as usize,
            left: (position.is_inside != 0).then_some(position.left),
        };
        let is_over = self.with(|collector| {
            if drain.ring > collector.backend().rings().len() {
                return Err(Failure::new(
                    Code::NoSuchRing,
                    "the drain was not begun: set its struct to 0 before the first batch",
                ));
            }
            Ok(collector.drain_batch(&mut drain, now)?)
        })?;
        if is_over {
            // Ready for the next one: a drain that goes on behind the last ring would take nothing.
            *position = DrainPosition::default();
            return Ok(Turn::Done);
        }
        *position = DrainPosition {
            // There are fewer rings than that: `add_ring` returns their index as an int.
            ring: u32::try_from(drain.ring).unwrap_or(u32::MAX),
            is_inside: drain.left.is_some().into(),
            left: drain.left.unwrap_or(0),
        };
        Ok(Turn::Again)
    }

    /// Begins a resynchronisation.
    ///
    /// # Errors
    /// [`Code::Reset`].
    pub fn begin_resync(&self) -> Result<c_int, Failure> {
        self.with(|collector| Ok(collector.begin_resync().map(|()| 0)?))
    }

    /// Ends a resynchronisation.
    ///
    /// # Errors
    /// [`Code::Publish`], [`Code::Reset`].
    pub fn end_resync(&self, now: Instant) -> Result<c_int, Failure> {
        self.with(|collector| Ok(collector.end_resync(now).map(|()| 0)?))
    }

    /// Forgets a failed publication.
    ///
    /// # Errors
    /// [`Code::Busy`].
    pub fn retry_publish(&self) -> Result<c_int, Failure> {
        self.with(|collector| {
            collector.forgive_publication();
            Ok(0)
        })
    }
}
