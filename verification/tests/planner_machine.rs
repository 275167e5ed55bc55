//! The reaper machine against a second opinion, on whatever a driver may report in whatever order,
//! fitting or not; and a driver that keeps to the rules always comes to the end.

use dirty_ring_core::collector::{Harvested, PassTally};
use dirty_ring_core::controller::{Controller, Decision, Measurement, Reasons, StateError};
use dirty_ring_core::doorbell::Wakes;
use dirty_ring_core::handoff::{ReaperHarvest, ReaperReset};
use dirty_ring_core::reaper::{Action, Reaper};
use dirty_ring_verification::reference_reaper::ReferenceReaper;
use proptest::collection::vec;
use proptest::prelude::*;

/// Answers waits in turn and remembers what it was told.
#[derive(Clone, Debug)]
struct Script {
    waits_us: Vec<u64>,
    woken: Vec<(u64, Wakes)>,
    told: Vec<Measurement>,
}

impl Controller for Script {
    type State = ();

    fn current(&self) -> Decision {
        Decision {
            wait_us: self.waits_us[self.told.len() % self.waits_us.len()],
            level: None,
            reasons: Reasons::KEEP,
        }
    }
    fn on_wake(&mut self, now_us: u64, wakes: Wakes) {
        self.woken.push((now_us, wakes));
    }
    fn on_reaped(&mut self, measurement: &Measurement) -> Decision {
        self.told.push(*measurement);
        self.current()
    }
    fn state(&self) {}
    fn restore(&mut self, (): &()) -> Result<(), StateError> {
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Event {
    Start,
    Wake(Wakes),
    Harvested(ReaperHarvest),
    Reset(ReaperReset),
    /// The report that the present action asks for.
    Fitting {
        wakes: Wakes,
        harvest: ReaperHarvest,
        settled: bool,
    },
}

fn wakes() -> impl Strategy<Value = Wakes> {
    prop_oneof![
        4 => (0u8..8).prop_map(Wakes::from_bits_truncate),
        1 => (0u8..16).prop_map(Wakes::from_bits_truncate),
    ]
}

fn harvest() -> impl Strategy<Value = ReaperHarvest> {
    let ring_fulls = prop_oneof![0u32..5, any::<u32>(), Just(u32::MAX)];
    (any::<u32>(), any::<bool>(), any::<[u32; 3]>(), ring_fulls).prop_map(
        |(entries, more, [harvested, ring_full_harvested, fullest], ring_fulls)| ReaperHarvest {
            harvested: Harvested {
                entries,
                more,
                tally: PassTally {
                    harvested: harvested.into(),
                    ring_full_harvested: ring_full_harvested.into(),
                    fullest,
                },
            },
            ring_fulls,
        },
    )
}

/// Time since the last event: none, some, much, or back.
fn elapsed() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0i64), 0i64..200, 0i64..2_000_000, -50i64..0]
}

fn event() -> impl Strategy<Value = Event> {
    let reset = |settled| ReaperReset {
        entries: 7,
        settled,
    };
    prop_oneof![
        1 => Just(Event::Start),
        3 => wakes().prop_map(Event::Wake),
        1 => harvest().prop_map(Event::Harvested),
        1 => any::<bool>().prop_map(move |settled| Event::Reset(reset(settled))),
        8 => (wakes(), harvest(), prop::bool::weighted(0.8)).prop_map(
            |(wakes, harvest, settled)| Event::Fitting { wakes, harvest, settled }
        ),
    ]
}

type Machine = Reaper<Script, 4>;

/// Tells both of `event`; returns what the machine answered, if it was told.
fn tell(
    machine: &mut Machine,
    reference: &mut ReferenceReaper,
    event: &Event,
    now_us: u64,
) -> Option<Action> {
    Some(match *event {
        Event::Start => {
            reference.start(now_us);
            machine.start(now_us)
        }
        Event::Wake(wakes) => {
            reference.wake(now_us, wakes);
            machine.on_wake(now_us, wakes)
        }
        Event::Harvested(harvest) => {
            let Harvested { tally, more, .. } = harvest.harvested;
            reference.harvested(tally, more, harvest.ring_fulls);
            machine.on_harvested(&harvest)
        }
        Event::Reset(reset) => {
            reference.reset(now_us, reset.settled);
            machine.on_reset(now_us, &reset)
        }
        Event::Fitting {
            wakes,
            harvest,
            settled,
        } => {
            let fitting = match machine.action() {
                Action::Wait { .. } => Event::Wake(wakes),
                Action::Harvest { .. } => Event::Harvested(harvest),
                Action::Reset => Event::Reset(ReaperReset {
                    entries: 1,
                    settled,
                }),
                Action::Done => return None,
            };
            return tell(machine, reference, &fitting, now_us);
        }
    })
}

fn check(machine: &Machine, reference: &ReferenceReaper) {
    assert_eq!(machine.action(), reference.action());
    assert_eq!(machine.phase(), reference.state());
    assert_eq!(machine.iterations(), reference.passes().len() as u64);
    assert_eq!(machine.controller().told, reference.passes());
    assert_eq!(machine.controller().woken, reference.begun());
    let steps: Vec<_> = machine.history().collect();
    let remembered = reference.passes().len().min(4);
    assert_eq!(steps.len(), remembered);
    for (step, pass) in steps.iter().rev().zip(reference.passes().iter().rev()) {
        assert_eq!(step.measurement, *pass);
    }
    let last = machine.last_step().map(|step| step.iteration);
    assert_eq!(last.unwrap_or(0), machine.iterations());
}

fn pair(waits_us: Vec<u64>) -> (Machine, ReferenceReaper) {
    let script = Script {
        waits_us: waits_us.clone(),
        woken: Vec::new(),
        told: Vec::new(),
    };
    (Reaper::new(script), ReferenceReaper::new(waits_us))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_machine_keeps_its_rules_whatever_it_is_told(
        waits_us in vec(prop_oneof![1u64..300, Just(1_000_000), Just(u64::MAX)], 1..4),
        begin_us in prop_oneof![Just(0), 0u64..1000, Just(u64::MAX - 1000)],
        events in vec((elapsed(), event()), 0..80),
    ) {
        let (mut machine, mut reference) = pair(waits_us);
        let mut now_us = begin_us;
        check(&machine, &reference);
        tell(&mut machine, &mut reference, &Event::Start, now_us);
        for (elapsed_us, event) in events {
            now_us = now_us.saturating_add_signed(elapsed_us);
            if let Some(answer) = tell(&mut machine, &mut reference, &event, now_us) {
                assert_eq!(answer, machine.action());
            }
            check(&machine, &reference);
        }
    }

    #[test]
    fn a_stop_at_any_time_ends_after_a_whole_pass_that_began_after_it(
        before in vec((elapsed(), event()), 0..40),
        rest in vec((harvest(), any::<bool>()), 100),
    ) {
        let (mut machine, mut reference) = pair(vec![100]);
        let mut now_us = 1_000;
        tell(&mut machine, &mut reference, &Event::Start, now_us);
        for (elapsed_us, event) in before {
            now_us = now_us.saturating_add_signed(elapsed_us);
            tell(&mut machine, &mut reference, &event, now_us);
        }
        if machine.action() != Action::Done {
            let _ = machine.on_wake(now_us, Wakes::STOP);
            for (mut harvest, settled) in rest {
                // The batch is full now and then, but not for ever.
                harvest.harvested.more &= harvest.harvested.entries.is_multiple_of(3);
                let _ = match machine.action() {
                    Action::Harvest { .. } => machine.on_harvested(&harvest),
                    Action::Reset => {
                        machine.on_reset(now_us, &ReaperReset { entries: 0, settled })
                    }
                    Action::Wait { .. } => panic!("it waits although it was stopped"),
                    Action::Done => break,
                };
            }
            assert_eq!(machine.action(), Action::Done, "it never ends");
            // Only a pass that begins after the stop has it among its causes.
            let last = machine.last_step().unwrap();
            assert!(last.measurement.wakes.contains(Wakes::STOP));
        }
    }
}
