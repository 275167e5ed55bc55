//! One collector follows another: at the saved positions, or at wrong ones.

use dirty_ring_core::collector::Scope;
use dirty_ring_core::ring::{RingPosition, RingState};

use super::life::Life;
use super::outcome::SoakError;
use crate::machine::VirtualBackend;

impl<B: VirtualBackend> Life<B> {
    /// Lets another collector and another reaper go on where these are: with the saved states, and with
    /// what was harvested and not reset. What was not published, and what may be writable without being
    /// logged, counts as dirty.
    pub(super) fn hand_over(&mut self) -> Result<(), SoakError> {
        if self.dice.below(2) == 0 {
            let now = self.machine.now();
            let harvested = self.machine.with(|collector| {
                collector.begin_pass(now, Scope::All, |_| ());
                collector.harvest(now).map(|_| ())
            });
            harvested.or_else(|failure| self.make_good(failure))?;
        }
        // A failure is in no saved state.
        while let Err(failure) = self.machine.with(|collector| collector.check()) {
            self.make_good(failure)?;
        }
        let states = self.states();
        let (mut dirty, suspects) = self.machine.with(|collector| {
            let unpublished = collector.unpublished().to_vec();
            (unpublished, collector.suspects().to_vec())
        });
        self.replace_collector(&states);
        for ring in 0..states.len() {
            let inherited = self.machine.with(|collector| collector.inherit(ring));
            inherited.map_err(|failure| self.error(failure))?;
        }
        if !suspects.is_empty() {
            self.machine
                .with(|collector| collector.backend_mut().log_anew());
            dirty.extend(suspects);
        }
        self.settle()?;
        self.machine
            .with(|collector| collector.backend_mut().vm_mut().count_as_dirty(&dirty));
        Ok(())
    }

    /// Lets another collector go on at positions that are wrong, some of them or all.
    pub(super) fn lose_positions(&mut self) -> Result<(), SoakError> {
        self.settle_all()?;
        let mut states = self.states();
        let is_forgotten = self.dice.below(2) == 0;
        for state in &mut states {
            let index = state.position.index();
            let wrong = match self.dice.below(4) {
                0 if !is_forgotten => index,
                1 => index.wrapping_sub(1 + self.dice.below(100) as u32),
                2 => index.wrapping_add(1 + self.dice.below(100) as u32),
                _ => self.dice.below(1 << 32) as u32,
            };
            *state = RingState::from(if is_forgotten {
                RingPosition::START
            } else {
                RingPosition::from_index(wrong)
            });
        }
        self.due.parted = true;
        self.replace_collector(&states);
        Ok(())
    }

    /// Publishes all that was harvested, and resynchronises if pages may be writable that no new
    /// collector would know of.
    fn settle_all(&mut self) -> Result<(), SoakError> {
        self.read()?;
        self.settle()?;
        let has_suspects = self
            .machine
            .with(|collector| !collector.suspects().is_empty());
        if has_suspects {
            self.resync()?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), SoakError> {
        loop {
            match self.machine.with(|collector| collector.settle()) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(failure) => self.make_good(failure)?,
            }
        }
    }

    fn states(&self) -> Vec<RingState> {
        let now = self.machine.now();
        self.machine.with(|collector| {
            let rings = collector.backend().rings();
            rings.iter().map(|ring| ring.state(now)).collect()
        })
    }

    fn replace_collector(&mut self, states: &[RingState]) {
        let (now, stand_in) = (self.machine.now(), self.stand_in());
        self.machine.replace_collector(stand_in, |backend| {
            backend.restore_rings(states, now);
        });
        self.start_any_reaper();
    }
}
