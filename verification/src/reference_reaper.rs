//! A second opinion on the reaper machine: what it has to do, by its rules.

use dirty_ring_core::collector::PassTally;
use dirty_ring_core::controller::Measurement;
use dirty_ring_core::doorbell::Wakes;
use dirty_ring_core::reaper::{Action, State};

/// Where the machine is, with all that the place remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Never started.
    Fresh,
    /// Asleep until the time.
    Asleep { until_us: u64 },
    /// In a pass.
    Pass {
        began_us: u64,
        /// How long after the time that it was planned for.
        late_us: u64,
        /// What began it.
        causes: Wakes,
        doing: Doing,
        ring_fulls: u32,
        tally: PassTally,
    },
    /// After the last pass.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// The first harvest of the pass.
    First,
    /// A further one.
    Further,
    /// A reset; `more` says whether a harvest follows.
    Reset { more: bool },
}

/// The machine, as its rules have it.
#[derive(Clone, Debug)]
pub struct ReferenceReaper {
    place: Place,
    /// Causes that came during the pass.
    kept: Wakes,
    ring_fulls_seen: u32,
    last_began_us: u64,
    /// Every pass begun so far: when, and why.
    begun: Vec<(u64, Wakes)>,
    /// Every pass ended so far: what it measured.
    passes: Vec<Measurement>,
    /// The waits that the controller will answer, round and round; the first one at the start.
    waits_us: Vec<u64>,
}

impl ReferenceReaper {
    /// A machine whose controller answers `waits_us` in turn.
    pub fn new(waits_us: Vec<u64>) -> Self {
        Self {
            place: Place::Fresh,
            kept: Wakes::empty(),
            ring_fulls_seen: 0,
            last_began_us: 0,
            begun: Vec::new(),
            passes: Vec::new(),
            waits_us,
        }
    }

    /// When and why each pass began.
    pub fn begun(&self) -> &[(u64, Wakes)] {
        &self.begun
    }

    /// What each pass measured.
    pub fn passes(&self) -> &[Measurement] {
        &self.passes
    }

    /// What the driver has to do now.
    pub fn action(&self) -> Action {
        match self.place {
            Place::Fresh | Place::Ended => Action::Done,
            Place::Asleep { until_us } => Action::Wait { until_us },
            Place::Pass { doing, .. } => match doing {
                Doing::First => Action::Harvest { begin: true },
                Doing::Further => Action::Harvest { begin: false },
                Doing::Reset { .. } => Action::Reset,
            },
        }
    }

    /// The state as the 2022 patch names them.
    pub fn state(&self) -> State {
        match self.place {
            Place::Fresh | Place::Ended => State::None,
            Place::Asleep { .. } => State::Wait,
            Place::Pass { .. } => State::Reaping,
        }
    }

    fn sleep(&mut self, now_us: u64) {
        let wait_us = self.waits_us[self.passes.len() % self.waits_us.len()];
        let until_us = now_us.saturating_add(wait_us);
        self.place = Place::Asleep { until_us };
    }

    fn begin(&mut self, now_us: u64, planned_us: u64, causes: Wakes) {
        self.begun.push((now_us, causes));
        self.place = Place::Pass {
            began_us: now_us,
            late_us: now_us.saturating_sub(planned_us),
            causes,
            doing: Doing::First,
            ring_fulls: 0,
            tally: PassTally::default(),
        };
    }

    /// A start begins the first wait, or the first after an end; elsewhere it does nothing.
    pub fn start(&mut self, now_us: u64) {
        if matches!(self.place, Place::Fresh | Place::Ended) {
            self.last_began_us = now_us;
            self.kept = Wakes::empty();
            self.sleep(now_us);
        }
    }

    /// A cause ends the wait, a timer only once the time has come. During a pass it is kept for
    /// one of its own, but a timer has no meaning there.
    pub fn wake(&mut self, now_us: u64, causes: Wakes) {
        match self.place {
            Place::Fresh | Place::Ended => {}
            Place::Pass { .. } => self.kept |= causes - Wakes::TIMER,
            Place::Asleep { until_us } => {
                let somebody_rang = !(causes - Wakes::TIMER).is_empty();
                let time_is_up = causes.contains(Wakes::TIMER) && now_us >= until_us;
                if somebody_rang || time_is_up {
                    // The clock says whether the time was up as well.
                    let mut causes = causes;
                    causes.set(Wakes::TIMER, now_us >= until_us);
                    self.begin(now_us, until_us, causes);
                }
            }
        }
    }

    /// A harvest is always followed by a reset. The ring-fulls are those of the pass's first
    /// harvest; the tally is that of its last.
    pub fn harvested(&mut self, found: PassTally, harvest_more: bool, count: u32) {
        let Place::Pass {
            doing,
            ring_fulls,
            tally,
            ..
        } = &mut self.place
        else {
            return;
        };
        match doing {
            Doing::Reset { .. } => return,
            Doing::Further => {}
            Doing::First => {
                *ring_fulls = count.wrapping_sub(self.ring_fulls_seen);
                self.ring_fulls_seen = count;
            }
        }
        *tally = found;
        *doing = Doing::Reset { more: harvest_more };
    }

    /// A settled reset ends the pass, or goes back to the harvest where the batch was full; one
    /// that is not settled is done again. After a pass that a stop began comes nothing; after
    /// another one, the causes kept begin the next at once.
    pub fn reset(&mut self, now_us: u64, settled: bool) {
        let Place::Pass {
            began_us,
            late_us,
            causes,
            doing,
            ring_fulls,
            tally,
        } = &mut self.place
        else {
            return;
        };
        let Doing::Reset { more } = *doing else {
            return;
        };
        if !settled {
            return;
        }
        if more {
            *doing = Doing::Further;
            return;
        }
        let (began_us, causes) = (*began_us, *causes);
        self.passes.push(Measurement {
            elapsed_us: began_us.saturating_sub(self.last_began_us),
            harvested: tally.harvested,
            ring_full_harvested: tally.ring_full_harvested,
            fullest: tally.fullest,
            ring_fulls: *ring_fulls,
            wakes: causes,
            late_us: *late_us,
            took_us: now_us.saturating_sub(began_us),
        });
        self.last_began_us = began_us;
        if causes.contains(Wakes::STOP) {
            self.place = Place::Ended;
            return;
        }
        let kept = std::mem::take(&mut self.kept);
        if kept.is_empty() {
            self.sleep(now_us);
        } else {
            self.begin(now_us, now_us, kept);
        }
    }
}
