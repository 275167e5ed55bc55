//! A second opinion on the planner: what it has to do, by its rules.

use dirty_ring_core::collector::{PassTally, Scope};
use dirty_ring_core::controller::Measurement;
use dirty_ring_core::doorbell::Wakes;
use dirty_ring_core::planner::{Action, Phase};
use dirty_ring_core::time::{Instant, Micros};

/// What the reaper leaves the guest at least between two passes.
const LEAST_WAIT: Micros = Micros(100);

/// Where the machine is, with all that the place remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Never started.
    Fresh,
    /// Asleep until the time.
    Asleep { until: Instant },
    /// In a pass.
    Pass {
        began: Instant,
        /// How long after the time that it was planned for.
        late: Micros,
        /// What began it.
        causes: Wakes,
    },
    /// After the last pass.
    Ended,
}

/// The machine, as its rules have it.
#[derive(Clone, Debug)]
pub struct ReferencePlanner {
    place: Place,
    /// Causes that came during the pass.
    kept: Wakes,
    last_began: Instant,
    /// When the controller was asked for a plan.
    plans: Vec<Instant>,
    /// Every pass ended so far: what it measured, and when it ended.
    passes: Vec<(Measurement, Instant)>,
    /// The waits that the controller answers, round and round; the first one at the start.
    waits: Vec<Micros>,
}

impl ReferencePlanner {
    /// Creates a machine whose controller answers `waits` in turn.
    pub fn new(waits: Vec<Micros>) -> Self {
        Self {
            place: Place::Fresh,
            kept: Wakes::empty(),
            last_began: Instant(0),
            plans: Vec::new(),
            passes: Vec::new(),
            waits,
        }
    }

    /// Returns when the controller was asked for a plan.
    pub fn plans(&self) -> &[Instant] {
        &self.plans
    }

    /// Returns what each pass measured, and when it ended.
    pub fn passes(&self) -> &[(Measurement, Instant)] {
        &self.passes
    }

    /// Returns what the driver has to do now. A pass that a kick or a stop began takes every ring.
    pub fn action(&self) -> Action {
        match self.place {
            Place::Fresh | Place::Ended => Action::Done,
            Place::Asleep { until } => Action::Wait { until },
            Place::Pass { causes, .. } => {
                let all = causes.contains(Wakes::KICK) || causes.contains(Wakes::STOP);
                Action::Reap {
                    scope: if all { Scope::All } else { Scope::Planned },
                }
            }
        }
    }

    /// Returns the phase.
    pub fn phase(&self) -> Phase {
        match self.place {
            Place::Fresh | Place::Ended => Phase::Idle,
            Place::Asleep { .. } => Phase::Waiting,
            Place::Pass { .. } => Phase::Reaping,
        }
    }

    /// Returns the wait that follows the passes so far, never a shorter one than the guest is due.
    pub fn wait(&self) -> Micros {
        let wait = self.waits[self.passes.len() % self.waits.len()];
        wait.max(LEAST_WAIT)
    }

    fn sleep(&mut self, now: Instant) {
        let until = now + self.wait();
        self.place = Place::Asleep { until };
    }

    fn begin(&mut self, now: Instant, planned: Instant, causes: Wakes) {
        self.place = Place::Pass {
            began: now,
            late: now - planned,
            causes,
        };
    }

    /// Begins the first wait, or the first after an end; elsewhere it does nothing.
    pub fn start(&mut self, now: Instant) {
        if matches!(self.place, Place::Fresh | Place::Ended) {
            self.last_began = now;
            self.kept = Wakes::empty();
            self.sleep(now);
        }
    }

    /// Ends the wait on a cause; on a timer only once the time has come, which the clock alone
    /// shows as well. During a pass a cause is kept for a pass of its own, but a timer has no
    /// meaning there.
    pub fn wake(&mut self, now: Instant, causes: Wakes) {
        match self.place {
            Place::Fresh | Place::Ended => {}
            Place::Pass { .. } => self.kept |= causes - Wakes::TIMER,
            Place::Asleep { until } => {
                let rung = causes - Wakes::TIMER;
                let time_is_up = now >= until;
                if !rung.is_empty() || time_is_up {
                    // The clock says whether the time was up as well.
                    let mut causes = rung;
                    causes.set(Wakes::TIMER, time_is_up);
                    self.begin(now, until, causes);
                }
            }
        }
    }

    /// Lets the controller plan during a pass, and at no other time.
    pub fn plan(&mut self, now: Instant) {
        if matches!(self.place, Place::Pass { .. }) {
            self.plans.push(now);
        }
    }

    /// Ends a pass. Nothing comes after one that a stop began; after any other, the causes kept
    /// begin the next at once.
    pub fn reaped(&mut self, now: Instant, found: &PassTally) {
        let Place::Pass {
            began,
            late,
            causes,
        } = self.place
        else {
            return;
        };
        let measurement = Measurement {
            elapsed: began - self.last_began,
            harvested: found.harvested,
            ring_full_harvested: found.ring_full_harvested,
            fullest: found.fullest,
            ring_fulls: found.ring_fulls,
            wakes: causes,
            late,
            took: now - began,
        };
        self.passes.push((measurement, now));
        self.last_began = began;
        if causes.contains(Wakes::STOP) {
            self.place = Place::Ended;
            return;
        }
        let kept = std::mem::take(&mut self.kept);
        if kept.is_empty() {
            self.sleep(now);
        } else {
            self.begin(now, now, kept);
        }
    }
}
