//! The deadline controller's promise on a small model, whatever the adversary does: no ring fills
//! faster than the assured rate, no pass is over later than the assured latency after its wake, so
//! no ring is ever full. What these bounds mean to the page is in
//! [`virtual_time`](dirty_ring_verification::virtual_time).
//!
//! The search knows a state by what can be told of it from outside (the planned wake, the rings'
//! occupancies, the guests' paces). That is all that an assured controller without a freshness
//! limit goes by; so where no new state comes up any more, the promise holds for series of wakes of
//! any length.

use std::collections::HashSet;

use dirty_ring_core::controller::{Deadline, DeadlineConfig};
use dirty_ring_core::planner::SHORTEST_WAIT;
use dirty_ring_core::size::RingSize;
use dirty_ring_core::time::Micros;
use dirty_ring_verification::virtual_time::{Activity, Drive, Round, Setup, longest_latency};

/// Returns a ring with a soft limit of `entries` less 64.
const fn ring(entries: u32) -> RingSize {
    match RingSize::new(entries, 16, 0) {
        Ok(size) => size,
        Err(_) => panic!("a small page makes a small ring legal"),
    }
}

/// Soft limit 64.
const SMALL: RingSize = ring(128);

/// A rate in pages per second, and a ring that bears it for longer than the shortest wait.
type Borne = (u64, RingSize);

/// A page takes several microseconds.
const SLOW: [Borne; 3] = [(100_000, SMALL), (125_000, SMALL), (500_000, ring(512))];
/// Each microsecond has a page or several.
const FAST: [Borne; 2] = [(1_000_000, ring(512)), (2_000_000, ring(1024))];

fn setup((rate_per_s, size): Borne, latency: Micros, rings: usize) -> Setup {
    configured(DeadlineConfig::STANDARD, rate_per_s, size, latency, rings)
}

fn configured(
    config: DeadlineConfig,
    rate_per_s: u64,
    size: RingSize,
    latency: Micros,
    rings: usize,
) -> Setup {
    let config = config.assured(rate_per_s, latency, size).unwrap();
    Setup {
        deadline: Deadline::new(config, size),
        size,
        rings,
        rate_per_s,
    }
}

/// Returns the ways to be `latency` late in all, or not at all.
fn delays(latency: Micros) -> Vec<[Micros; 5]> {
    let zero = Micros::ZERO;
    let half = latency / 2;
    let rest = latency - half;
    let mut delays = vec![
        [zero; 5],
        [latency, zero, zero, zero, zero],
        [zero, latency, zero, zero, zero],
        [zero, zero, latency, zero, zero],
        [zero, zero, zero, latency, zero],
        [zero, zero, zero, zero, latency],
        [half, zero, zero, rest, zero],
        [zero, half, rest, zero, zero],
        [half, zero, rest, zero, zero],
        [zero, zero, half, zero, rest],
    ];
    delays.sort_unstable();
    delays.dedup();
    delays
}

/// Returns all that the adversary may do in one round. Two rings are filled alike or by turns.
fn rounds(latency: Micros, rings: usize, kicks: &[Option<Micros>]) -> Vec<Round> {
    use Activity::{All, Half, None};
    let patterns: &[&[Activity]] = match rings {
        1 => &[&[None], &[Half], &[All]],
        _ => &[&[None], &[All], &[None, All], &[All, None], &[Half, All]],
    };
    let mut rounds = Vec::new();
    for &kick_after in kicks {
        for delays in delays(latency) {
            for waiting in patterns {
                for reacting in patterns {
                    rounds.push(Round {
                        kick_after,
                        delays,
                        waiting: waiting.to_vec(),
                        reacting: reacting.to_vec(),
                    });
                }
            }
        }
    }
    rounds
}

/// A depth that no search reaches before it is complete.
const DEPTH: usize = 60;

#[derive(Debug, Default)]
struct Found {
    states: usize,
    sequences: usize,
    depth: usize,
    /// No new state came up at the end.
    complete: bool,
    /// The series of rounds that made a ring full.
    full: Option<Vec<Round>>,
}

/// Searches all series of `rounds` up to `depth`, breadth first; each state is expanded once.
fn search(setup: &Setup, rounds: &[Round], depth: usize) -> Found {
    let mut found = Found::default();
    let mut known = HashSet::new();
    let mut frontier: Vec<Vec<usize>> = vec![Vec::new()];
    while found.depth < depth && !frontier.is_empty() {
        found.depth += 1;
        let mut next = Vec::new();
        for path in &frontier {
            for last in 0..rounds.len() {
                found.sequences += 1;
                let mut drive = Drive::<64>::new(setup);
                path.iter().for_each(|&at| drive.round(&rounds[at]));
                drive.round(&rounds[last]);
                let path = || path.iter().copied().chain([last]);
                if drive.full().is_some() {
                    found.full = Some(path().map(|at| rounds[at].clone()).collect());
                    return found;
                }
                if known.insert(drive.outside()) {
                    next.push(path().collect());
                }
            }
        }
        frontier = next;
    }
    found.states = known.len();
    found.complete = frontier.is_empty();
    found
}

/// Searches where a clean answer is expected; prints what it covered.
fn assert_never_full(setup: &Setup, rounds: &[Round], depth: usize, what: &str) -> Found {
    let begin = std::time::Instant::now();
    let found = search(setup, rounds, depth);
    println!(
        "{what}: depth {}, {} series, {} states, complete: {}, {:.1} s",
        found.depth,
        found.sequences,
        found.states,
        found.complete,
        begin.elapsed().as_secs_f32(),
    );
    assert_eq!(found.full, None, "{what}");
    found
}

/// Searches with the longest latency that can be assured, divided by each of `parts`.
fn assert_never_full_within(borne: Borne, parts: &[u64]) {
    let (rate_per_s, size) = borne;
    let longest = longest_latency(rate_per_s, size).unwrap();
    for latency in parts.iter().map(|&part| longest / part) {
        let setup = setup(borne, latency, 1);
        let what = format!("{rate_per_s}/s, {latency}, {} entries", size.entries());
        let found = assert_never_full(&setup, &rounds(latency, 1, &[None]), DEPTH, &what);
        assert!(found.complete && found.states >= 3, "{what}");
    }
}

/// Divides any latency to nothing.
const TO_NOTHING: u64 = 1_000_000;

#[test]
fn within_its_bounds_no_series_of_wakes_makes_a_slowly_filled_ring_full() {
    for borne in SLOW {
        assert_never_full_within(borne, &[1, 2, TO_NOTHING]);
    }
}

#[test]
fn within_its_bounds_no_series_of_wakes_makes_a_fast_filled_ring_full() {
    let [one, several] = FAST;
    assert_never_full_within(one, &[1, 2, TO_NOTHING]);
    assert_never_full_within(several, &[1, TO_NOTHING]);
}

#[test]
fn kicks_at_any_time_make_no_ring_full() {
    type Choose = fn(Micros, usize, &[Option<Micros>]) -> Vec<Round>;
    let searches: [(Borne, Choose); 2] = [(SLOW[1], rounds), (FAST[0], some_rounds)];
    for (borne @ (rate_per_s, size), choose) in searches {
        let latency = longest_latency(rate_per_s, size).unwrap();
        let setup = setup(borne, latency, 1);
        let kicks = [None, Some(Micros(0)), Some(Micros(1)), Some(Micros(20))];
        let what = format!("{rate_per_s}/s, {latency}, kicked");
        let found = assert_never_full(&setup, &choose(latency, 1, &kicks), DEPTH, &what);
        assert!(found.complete, "{what}");
    }
}

#[test]
fn two_rings_that_are_out_of_step_are_never_full() {
    let borne @ (rate_per_s, size) = (50_000, SMALL);
    let latency = longest_latency(rate_per_s, size).unwrap();
    let setup = setup(borne, latency, 2);
    let rounds = some_rounds(latency, 2, &[None]);
    let found = assert_never_full(&setup, &rounds, DEPTH, "two rings");
    assert!(found.complete);
}

/// With a latency beyond what was assured, the same search finds a full ring.
#[test]
fn control_a_latency_of_twice_the_bound_makes_a_ring_full() {
    for borne @ (rate_per_s, size) in SLOW.into_iter().chain(FAST) {
        let latency = longest_latency(rate_per_s, size).unwrap();
        let setup = setup(borne, latency, 1);
        let found = search(&setup, &rounds(latency * 2, 1, &[None]), 4);
        assert!(found.full.is_some(), "{rate_per_s}/s: {found:?}");
    }
}

/// With guests faster than was assured, the same search finds a full ring.
#[test]
fn control_a_rate_a_third_over_the_bound_makes_a_ring_full() {
    for borne @ (rate_per_s, size) in SLOW.into_iter().chain(FAST) {
        let latency = longest_latency(rate_per_s, size).unwrap() / 2;
        let mut setup = setup(borne, latency, 1);
        setup.rate_per_s = rate_per_s * 13 / 10;
        let found = search(&setup, &rounds(latency, 1, &[None]), 3);
        assert!(found.full.is_some(), "{rate_per_s}/s: {found:?}");
    }
}

/// One microsecond over the bound, and one round is enough: the bound isn't a generous one.
#[test]
fn control_the_latency_that_is_assured_is_the_most_that_an_empty_ring_bears() {
    let borne @ (rate_per_s, size) = FAST[0];
    let latency = longest_latency(rate_per_s, size).unwrap();
    let setup = setup(borne, latency, 1);
    let busy = |late| Round {
        kick_after: None,
        delays: late_at_first(late),
        waiting: vec![Activity::All],
        reacting: vec![Activity::All],
    };
    let mut drive = Drive::<64>::new(&setup);
    (0..100).for_each(|_| drive.round(&busy(latency)));
    assert_eq!(drive.full(), None);
    drive.round(&busy(latency + Micros(1)));
    assert!(drive.full().is_some());
}

fn late_at_first(late: Micros) -> [Micros; 5] {
    let mut delays = [Micros::ZERO; 5];
    delays[0] = late;
    delays
}

fn late_before_reset(late: Micros) -> [Micros; 5] {
    let mut delays = [Micros::ZERO; 5];
    delays[3] = late;
    delays
}

fn late_at_last(late: Micros) -> [Micros; 5] {
    let mut delays = [Micros::ZERO; 5];
    delays[4] = late;
    delays
}

#[test]
fn no_page_waits_longer_than_the_freshness_limit_and_the_latency() {
    const LATENCY: Micros = Micros(20);
    // At the assured rate the ring is full after 512 us: the limit comes before that, at it, and
    // after it. At a tenth of the rate the rings' first pages come at different times.
    for limit in [180, 400, 512, 1800].map(Micros) {
        for (rings, pace_per_s) in [(1, 125_000), (1, 12_500), (2, 125_000), (2, 12_500)] {
            let config = DeadlineConfig::STANDARD.freshness(limit).unwrap();
            let mut setup = configured(config, 125_000, SMALL, LATENCY, rings);
            setup.rate_per_s = pace_per_s;
            let (kicks, depth): (&[_], _) = match rings {
                1 => (&[None, Some(Micros(100))], 3),
                _ => (&[None], 2),
            };
            let rounds = some_rounds(LATENCY, rings, kicks);
            for_each_series(rounds.len(), depth, |series| {
                let mut drive = Drive::<64>::new(&setup);
                let mut before = drive.now();
                for &at in series {
                    drive.round(&rounds[at]);
                    assert!(drive.now() >= before + SHORTEST_WAIT.min(kicked_at(&rounds[at])));
                    before = drive.now();
                }
                // The tail lets the oldest page become as old as it may.
                (0..8).for_each(|_| drive.round(&quiet(LATENCY)));
                let waited = drive.longest_wait();
                assert!(waited <= limit + LATENCY, "{waited}: {series:?}");
                assert_eq!(drive.full(), None);
            });
        }
    }
}

/// Returns when the kick of `round` comes, if there is one.
fn kicked_at(round: &Round) -> Micros {
    round.kick_after.unwrap_or(Micros::MAX)
}

fn quiet(late: Micros) -> Round {
    Round {
        kick_after: None,
        delays: late_before_reset(late),
        waiting: vec![Activity::None],
        reacting: vec![Activity::None],
    }
}

/// Returns a selection of the rounds: on time, or late at either end.
fn some_rounds(latency: Micros, rings: usize, kicks: &[Option<Micros>]) -> Vec<Round> {
    let all = rounds(latency, rings, kicks);
    let before_reset = late_before_reset(latency);
    let others = [
        [Micros::ZERO; 5],
        late_at_first(latency),
        late_at_last(latency),
    ];
    all.into_iter()
        .filter(|round| {
            let alike = round.reacting == round.waiting && others.contains(&round.delays);
            alike || round.delays == before_reset
        })
        .collect()
}

/// Runs all series of `depth` numbers below `choices`.
fn for_each_series(choices: usize, depth: u32, mut go: impl FnMut(&[usize])) {
    for number in 0..choices.pow(depth) {
        let series: Vec<usize> = (0..depth)
            .map(|place| number / choices.pow(place) % choices)
            .collect();
        go(&series);
    }
}

#[test]
fn an_idle_guest_costs_one_wake_per_freshness_limit_however_many_rings_it_has() {
    const RINGS: usize = 8;
    const LIMIT: Micros = Micros::from_millis(40);
    let config = DeadlineConfig::STANDARD.freshness(LIMIT).unwrap();
    let setup = configured(config, 1000, SMALL, Micros::from_millis(1), RINGS);
    let mut drive = Drive::<64>::new(&setup);
    // Each ring becomes old at a time of its own.
    for busy in 0..RINGS {
        let mut round = quiet(Micros::ZERO);
        round.kick_after = Some(Micros(4000));
        round.waiting = vec![Activity::None; RINGS];
        round.waiting[busy] = Activity::All;
        drive.round(&round);
    }
    let (begin, mut wakes) = (drive.now(), 0);
    while drive.now() < begin + LIMIT * 10 {
        drive.round(&quiet(Micros::ZERO));
        wakes += 1;
    }
    assert!((10..=12).contains(&wakes), "{wakes} in ten times the limit");
}
