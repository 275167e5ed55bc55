//! The check itself: it passes for each policy, and catches a controller that breaks a rule.

use core::cell::Cell;

use super::*;

/// Waits as many microseconds as `wait` says; the test breaks one rule with it.
struct Odd<F> {
    wait: F,
    steps: u64,
    keeps_steps: bool,
    refuses: bool,
}

impl<F: Fn(u64) -> u64> Odd<F> {
    fn new(wait: F) -> Self {
        Self {
            wait,
            steps: 0,
            keeps_steps: true,
            refuses: false,
        }
    }
}

impl<F: Fn(u64) -> u64> Controller for Odd<F> {
    type State = u64;

    fn current(&self) -> Decision {
        Decision {
            wait: Micros((self.wait)(self.steps)),
            level: None,
            reasons: Reasons::empty(),
        }
    }
    fn on_reaped(&mut self, _measurement: &Measurement) -> Decision {
        self.steps += 1;
        self.current()
    }
    fn state(&self) -> u64 {
        self.steps
    }
    fn restore(&mut self, steps: &u64) -> Result<(), StateError> {
        if self.refuses {
            return Err(StateError::OutOfRange);
        }
        if self.keeps_steps {
            self.steps = *steps;
        }
        Ok(())
    }
}

#[test]
fn every_policy_keeps_the_rules() {
    for (name, argument) in Policy::NAMES {
        let limits = match argument {
            Argument::None => [None].as_slice(),
            Argument::Optional => &[None, Some(Micros(1)), Some(Micros::SECOND)],
            Argument::Required => &[Some(Micros(1)), Some(Micros::SECOND)],
        };
        for &limit in limits {
            let checked = check(|size| Policy::named(name, limit, size).unwrap());
            assert_eq!(checked, Ok(()), "{name} {limit:?}");
        }
    }
    let assured = check(|size| {
        let config = DeadlineConfig::STANDARD.assured(50_000, Micros(100), size);
        Deadline::new(config.unwrap(), size)
    });
    assert_eq!(assured, Ok(()));
    assert_eq!(check(|_| Odd::new(|steps| 1 + steps)), Ok(()));
}

#[test]
fn a_decision_that_depends_on_what_another_controller_did_is_impure() {
    let hidden = Cell::new(0);
    let impure = check(|_| {
        Odd::new(|_| {
            hidden.set(hidden.get() + 1);
            hidden.get()
        })
    });
    let Err(Violation::Impure {
        pass,
        first,
        second,
    }) = impure
    else {
        panic!("{impure:?}");
    };
    assert_eq!(pass, 1);
    assert_eq!(second.wait, first.wait + Micros(1));
    let message = impure.unwrap_err().to_string();
    assert!(message.contains("keep what a decision depends on in the controller"));
}

#[test]
fn a_wait_of_0_is_caught_before_the_first_pass_and_after_any() {
    for bad in [0, 1, 1000] {
        let zero = check(|_| Odd::new(|steps| u64::from(steps != bad)));
        let pass = bad as u32;
        assert_eq!(zero, Err(Violation::ZeroWait { pass }));
        assert!(
            zero.unwrap_err()
                .to_string()
                .ends_with("makes the reaper spin")
        );
    }
}

#[test]
fn what_a_state_leaves_out_is_caught_after_the_first_restore() {
    let forgetful = check(|_| Odd {
        keeps_steps: false,
        ..Odd::new(|steps| 1 + steps)
    });
    let Err(Violation::NotRestored {
        pass,
        original,
        restored,
    }) = forgetful
    else {
        panic!("{forgetful:?}");
    };
    assert_eq!(
        (original.wait, restored.wait),
        (Micros(1 + u64::from(pass)), Micros(2))
    );
    let message = forgetful.unwrap_err().to_string();
    assert!(message.contains("put what is missing into its state"));
}

/// A counter of each controller's own that isn't in the state is no hidden state before the first
/// restore.
#[test]
fn a_count_beside_the_state_is_caught_as_not_restored() {
    struct Counts(Cell<u64>);
    impl Controller for Counts {
        type State = ();
        fn current(&self) -> Decision {
            Decision {
                wait: Micros(1 + self.0.get()),
                level: None,
                reasons: Reasons::empty(),
            }
        }
        fn on_reaped(&mut self, _measurement: &Measurement) -> Decision {
            self.0.set(self.0.get() + 1);
            self.current()
        }
        fn state(&self) {}
        fn restore(&mut self, (): &()) -> Result<(), StateError> {
            Ok(())
        }
    }
    let caught = check(|_| Counts(Cell::new(0)));
    assert!(
        matches!(caught, Err(Violation::NotRestored { .. })),
        "{caught:?}"
    );
}

#[test]
fn a_controller_that_refuses_its_own_state_is_caught() {
    let refuses = check(|_| Odd {
        refuses: true,
        ..Odd::new(|steps| 1 + steps)
    });
    assert!(
        matches!(refuses, Err(Violation::RefusedItsOwnState { .. })),
        "{refuses:?}"
    );
    let message = refuses.unwrap_err().to_string();
    assert!(message.ends_with("the controller refused its own state"));
}

/// What a ring shows of its growth is saved with it, the rate meter's figures excepted.
#[test]
fn a_controller_that_depends_on_all_that_rings_show_goes_on_as_before() {
    struct Reads(u64);
    impl Controller for Reads {
        type State = u64;
        fn current(&self) -> Decision {
            Decision {
                wait: Micros(1 + self.0),
                level: None,
                reasons: Reasons::empty(),
            }
        }
        fn plan<M: EntryMemory>(&mut self, now: Instant, rings: &mut PassRings<'_, M>) {
            self.0 = 0;
            for index in 0..rings.len() {
                let ring = rings.get(index).unwrap();
                let growth = ring.growth;
                let ages = [
                    Some(growth.oldest_since()),
                    growth.watched_since(),
                    growth.full_at(),
                ];
                let ages = ages.into_iter().flatten().map(|since| (now - since).0);
                self.0 += ages.sum::<u64>() + growth.rate_per_s() + growth.peak_per_s();
                self.0 += u64::from(ring.occupancy) + u64::from(growth.grown());
                if ring.occupancy.is_multiple_of(3) {
                    rings.leave(index);
                }
            }
        }
        fn on_reaped(&mut self, _measurement: &Measurement) -> Decision {
            self.current()
        }
        fn state(&self) -> u64 {
            self.0
        }
        fn restore(&mut self, state: &u64) -> Result<(), StateError> {
            self.0 = *state;
            Ok(())
        }
    }
    assert_eq!(check(|_| Reads(0)), Ok(()));
}
