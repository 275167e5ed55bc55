//! The planner against a second opinion, on any reports of a driver in any order, fitting or not. A
//! driver that keeps to the rules always comes to the end.

use dirty_ring_core::collector::{Collector, PassRings, PassTally, Scope};
use dirty_ring_core::controller::{Controller, Decision, Measurement, Reasons, StateError};
use dirty_ring_core::doorbell::Wakes;
use dirty_ring_core::entry::EntryMemory;
use dirty_ring_core::planner::{Action, PassRecord, Planner};
use dirty_ring_core::time::{Instant, Micros};
use dirty_ring_verification::reference_planner::ReferencePlanner;
use dirty_ring_verification::sim::SimVm;
use proptest::collection::vec;
use proptest::prelude::*;

/// Answers waits in turn and remembers what it was told.
#[derive(Clone, Debug)]
struct Script {
    waits: Vec<Micros>,
    planned: Vec<Instant>,
    told: Vec<Measurement>,
}

impl Controller for Script {
    type State = ();

    fn current(&self) -> Decision {
        Decision {
            wait: self.waits[self.told.len() % self.waits.len()],
            level: None,
            reasons: Reasons::KEEP,
        }
    }
    fn plan<M: EntryMemory>(&mut self, now: Instant, _rings: &mut PassRings<'_, M>) {
        self.planned.push(now);
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
    Plan,
    Reaped(PassTally),
    /// The report that the present action asks for.
    Fitting {
        wakes: Wakes,
        tally: PassTally,
    },
}

fn wakes() -> impl Strategy<Value = Wakes> {
    prop_oneof![
        4 => (0u8..8).prop_map(Wakes::from_bits_truncate),
        1 => (0u8..16).prop_map(Wakes::from_bits_truncate),
    ]
}

fn tally() -> impl Strategy<Value = PassTally> {
    let ring_fulls = prop_oneof![0u32..5, any::<u32>(), Just(u32::MAX)];
    (any::<[u64; 2]>(), any::<u32>(), ring_fulls).prop_map(
        |([harvested, ring_full_harvested], fullest, ring_fulls)| PassTally {
            harvested,
            ring_full_harvested,
            fullest,
            ring_fulls,
        },
    )
}

/// Microseconds since the last event: none, some, many, or back.
fn elapsed_us() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0i64), 0i64..200, 0i64..2_000_000, -50i64..0]
}

fn after(now: Instant, elapsed_us: i64) -> Instant {
    Instant(now.0.saturating_add_signed(elapsed_us))
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => Just(Event::Start),
        3 => wakes().prop_map(Event::Wake),
        2 => Just(Event::Plan),
        1 => tally().prop_map(Event::Reaped),
        6 => (wakes(), tally()).prop_map(|(wakes, tally)| Event::Fitting { wakes, tally }),
    ]
}

type Machine = Planner<Script, 4>;

/// Tells both of `event`; returns what the machine answered, if it was told.
fn tell(
    machine: &mut Machine,
    reference: &mut ReferencePlanner,
    event: &Event,
    now: Instant,
) -> Option<Action> {
    Some(match event {
        Event::Start => {
            reference.start(now);
            machine.start(now)
        }
        Event::Wake(wakes) => {
            reference.wake(now, *wakes);
            machine.on_wake(now, *wakes)
        }
        Event::Plan => {
            reference.plan(now);
            // Only a collector has the rings of a pass.
            let mut collector = Collector::<_, 1>::new(SimVm::new(&[]).0);
            collector.begin_pass(now, Scope::All, |rings| machine.plan(now, rings));
            return None;
        }
        Event::Reaped(tally) => {
            reference.reaped(now, tally);
            machine.on_reaped(now, tally)
        }
        Event::Fitting { wakes, tally } => {
            let fitting = match machine.action() {
                Action::Wait { .. } => Event::Wake(*wakes),
                Action::Reap { .. } => Event::Reaped(*tally),
                Action::Done => return None,
            };
            return tell(machine, reference, &fitting, now);
        }
    })
}

fn check(machine: &Machine, reference: &ReferencePlanner) {
    assert_eq!(machine.action(), reference.action());
    assert_eq!(machine.phase(), reference.phase());
    assert_eq!(machine.passes(), reference.passes().len() as u64);
    assert_eq!(machine.state().passes, machine.passes());
    assert_eq!(machine.controller().planned, reference.plans());
    let told = reference
        .passes()
        .iter()
        .map(|(measurement, _)| measurement);
    assert!(machine.controller().told.iter().eq(told));
    let records: Vec<&PassRecord> = machine.history().collect();
    assert_eq!(records.len(), reference.passes().len().min(4));
    let numbered = (1..).zip(reference.passes());
    for (record, (number, (measurement, now))) in records
        .iter()
        .rev()
        .zip(numbered.collect::<Vec<_>>().iter().rev())
    {
        assert_eq!(record.number, *number);
        assert_eq!((record.measurement, record.now), (*measurement, *now));
    }
    assert_eq!(machine.last_pass(), records.last().copied());
    if let Some(last) = machine.last_pass() {
        assert_eq!(
            last.decision.wait,
            reference.wait(),
            "the wait that is recorded"
        );
    }
}

fn pair(waits_us: Vec<u64>) -> (Machine, ReferencePlanner) {
    let waits: Vec<_> = waits_us.into_iter().map(Micros).collect();
    let script = Script {
        waits: waits.clone(),
        planned: Vec::new(),
        told: Vec::new(),
    };
    (Planner::new(script), ReferencePlanner::new(waits))
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
        events in vec((elapsed_us(), event()), 0..80),
    ) {
        let (mut machine, mut reference) = pair(waits_us);
        let mut now = Instant(begin_us);
        check(&machine, &reference);
        tell(&mut machine, &mut reference, &Event::Start, now);
        for (elapsed_us, event) in events {
            now = after(now, elapsed_us);
            if let Some(answer) = tell(&mut machine, &mut reference, &event, now) {
                assert_eq!(answer, machine.action());
            }
            check(&machine, &reference);
        }
    }

    #[test]
    fn a_stop_at_any_time_ends_after_a_whole_pass_that_began_after_it(
        before in vec((elapsed_us(), event()), 0..40),
        tallies in vec(tally(), 2),
    ) {
        let (mut machine, mut reference) = pair(vec![100]);
        let mut now = Instant(1_000);
        tell(&mut machine, &mut reference, &Event::Start, now);
        for (elapsed_us, event) in before {
            now = after(now, elapsed_us);
            tell(&mut machine, &mut reference, &event, now);
        }
        if machine.action() != Action::Done {
            let _ = machine.on_wake(now, Wakes::STOP);
            // The pass in progress, and the one that begins after the stop.
            for tally in &tallies {
                match machine.action() {
                    Action::Reap { .. } => {
                        let _ = machine.on_reaped(now, tally);
                    }
                    Action::Wait { .. } => panic!("it waits although it was stopped"),
                    Action::Done => {}
                }
            }
            assert_eq!(machine.action(), Action::Done, "it never ends");
            // Only a pass that begins after the stop has it among its causes.
            let last = machine.last_pass().unwrap();
            assert!(last.measurement.wakes.contains(Wakes::STOP));
        }
    }
}
