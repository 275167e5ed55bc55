//! The deadline controller's promise on a small model, whatever the adversary does: no ring fills
//! faster than the assured rate, no pass is over later than the assured latency after its wake, so
//! no ring is ever full. What these bounds mean to the page is in
//! [`virtual_time`](dirty_ring_verification::virtual_time).
//!
//! The search knows a state by what can be told of it from outside (the planned wake, the rings'
//! occupancies, the guests' paces). That is all that an assured controller goes by while no page
//! is as old as the freshness limit; so where no new state comes up any more, the promise holds
//! for series of wakes of any length.

use std::collections::HashSet;

use dirty_ring_core::controller::{Deadline, DeadlineConfig};
use dirty_ring_core::size::RingSize;
use dirty_ring_verification::virtual_time::{Activity, Drive, Setup, Turn, longest_latency_us};

/// Soft limit 64.
const SMALL: RingSize = match RingSize::new(128, 16, 0) {
    Ok(size) => size,
    Err(_) => panic!("a small page makes a small ring legal"),
};
/// Longer than any series of the search.
const NO_FRESHNESS_US: u64 = 1_000_000_000;

fn setup(freshness_us: u64, rate_per_s: u64, latency_us: u64, rings: usize) -> Setup {
    let config = DeadlineConfig::new(freshness_us).unwrap();
    let config = config.assured(rate_per_s, latency_us, SMALL).unwrap();
    Setup {
        deadline: Deadline::new(config, SMALL),
        size: SMALL,
        rings,
        rate_per_s,
    }
}

/// Ways to be `latency_us` late in all, or not at all.
fn delays(latency_us: u64) -> Vec<[u64; 4]> {
    let half = latency_us / 2;
    let rest = latency_us - half;
    let mut delays = vec![
        [0; 4],
        [latency_us, 0, 0, 0],
        [0, latency_us, 0, 0],
        [0, 0, latency_us, 0],
        [0, 0, 0, latency_us],
        [half, 0, 0, rest],
        [0, half, rest, 0],
        [half, 0, rest, 0],
    ];
    delays.sort_unstable();
    delays.dedup();
    delays
}

/// All that the adversary may do in one turn. Two rings are filled alike or by turns.
fn turns(latency_us: u64, rings: usize, kicks: &[Option<u64>]) -> Vec<Turn> {
    use Activity::{All, Half, None};
    let patterns: &[&[Activity]] = match rings {
        1 => &[&[None], &[Half], &[All]],
        _ => &[&[None], &[All], &[None, All], &[All, None], &[Half, All]],
    };
    let mut turns = Vec::new();
    for &kick_after_us in kicks {
        for delays_us in delays(latency_us) {
            for waiting in patterns {
                for reacting in patterns {
                    turns.push(Turn {
                        kick_after_us,
                        delays_us,
                        waiting: waiting.to_vec(),
                        reacting: reacting.to_vec(),
                    });
                }
            }
        }
    }
    turns
}

#[derive(Debug, Default)]
struct Found {
    states: usize,
    sequences: usize,
    depth: usize,
    /// No new state came up at the end.
    complete: bool,
    /// The series of turns that made a ring full.
    full: Option<Vec<Turn>>,
}

/// Searches all series of `turns` up to `depth`, by breadth; a state is gone on from once.
fn search(setup: &Setup, turns: &[Turn], depth: usize) -> Found {
    let mut found = Found::default();
    let mut known = HashSet::new();
    let mut frontier: Vec<Vec<usize>> = vec![Vec::new()];
    while found.depth < depth && !frontier.is_empty() {
        found.depth += 1;
        let mut next = Vec::new();
        for path in &frontier {
            for last in 0..turns.len() {
                found.sequences += 1;
                let mut drive = Drive::<64>::new(setup);
                path.iter().for_each(|&at| drive.turn(&turns[at]));
                drive.turn(&turns[last]);
                let path = || path.iter().copied().chain([last]);
                if drive.full().is_some() {
                    found.full = Some(path().map(|at| turns[at].clone()).collect());
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
fn assert_never_full(setup: &Setup, turns: &[Turn], depth: usize, what: &str) -> Found {
    let found = search(setup, turns, depth);
    println!(
        "{what}: depth {}, {} series, {} states, complete: {}",
        found.depth, found.sequences, found.states, found.complete
    );
    assert_eq!(found.full, None, "{what}");
    found
}

/// Rates at which a microsecond is one page, several, or a part of one.
const RATES_PER_S: [u64; 6] = [
    500_000, 1_000_000, 2_000_000, 4_000_000, 5_000_000, 7_000_000,
];

#[test]
fn within_its_bounds_no_series_of_wakes_makes_a_ring_full() {
    for rate_per_s in RATES_PER_S {
        let longest_us = longest_latency_us(rate_per_s, SMALL).unwrap();
        for latency_us in [longest_us, longest_us / 2, 0] {
            let setup = setup(NO_FRESHNESS_US, rate_per_s, latency_us, 1);
            let turns = turns(latency_us, 1, &[None]);
            let what = format!("{rate_per_s}/s, {latency_us} us");
            let found = assert_never_full(&setup, &turns, 12, &what);
            assert!(found.complete && found.states > 3, "{what}");
        }
    }
}

#[test]
fn kicks_at_any_time_make_no_ring_full() {
    for rate_per_s in [1_000_000, 5_000_000] {
        let latency_us = longest_latency_us(rate_per_s, SMALL).unwrap();
        let setup = setup(NO_FRESHNESS_US, rate_per_s, latency_us, 1);
        let turns = turns(latency_us, 1, &[None, Some(0), Some(1), Some(20)]);
        let what = format!("{rate_per_s}/s, {latency_us} us, kicked");
        let found = assert_never_full(&setup, &turns, 12, &what);
        assert!(found.complete, "{what}");
    }
}

#[test]
fn two_rings_that_are_out_of_step_are_never_full() {
    let latency_us = longest_latency_us(4_000_000, SMALL).unwrap();
    let setup = setup(NO_FRESHNESS_US, 4_000_000, latency_us, 2);
    let turns = some_turns(latency_us, 2, &[None]);
    let found = assert_never_full(&setup, &turns, 9, "two rings");
    assert!(found.complete);
}

/// With a latency beyond what was assured, the same search finds a full ring.
#[test]
fn control_a_latency_of_twice_the_bound_makes_a_ring_full() {
    for rate_per_s in RATES_PER_S {
        let latency_us = longest_latency_us(rate_per_s, SMALL).unwrap();
        let setup = setup(NO_FRESHNESS_US, rate_per_s, latency_us, 1);
        let found = search(&setup, &turns(2 * latency_us, 1, &[None]), 4);
        assert!(found.full.is_some(), "{rate_per_s}/s: {found:?}");
    }
}

/// With guests faster than was assured, the same search finds a full ring.
#[test]
fn control_a_rate_a_third_over_the_bound_makes_a_ring_full() {
    for rate_per_s in RATES_PER_S {
        let latency_us = longest_latency_us(rate_per_s, SMALL).unwrap() / 2;
        let mut setup = setup(NO_FRESHNESS_US, rate_per_s, latency_us, 1);
        setup.rate_per_s = rate_per_s * 13 / 10;
        let found = search(&setup, &turns(latency_us, 1, &[None]), 3);
        assert!(found.full.is_some(), "{rate_per_s}/s: {found:?}");
    }
}

/// One microsecond over the bound, and one turn is enough: the bound isn't a generous one.
#[test]
fn control_the_latency_that_is_assured_is_the_most_that_an_empty_ring_bears() {
    let latency_us = longest_latency_us(1_000_000, SMALL).unwrap();
    let setup = setup(NO_FRESHNESS_US, 1_000_000, latency_us, 1);
    let busy = |late_us| Turn {
        kick_after_us: None,
        delays_us: [late_us, 0, 0, 0],
        waiting: vec![Activity::All],
        reacting: vec![Activity::All],
    };
    let mut drive = Drive::<64>::new(&setup);
    (0..100).for_each(|_| drive.turn(&busy(latency_us)));
    assert_eq!(drive.full(), None);
    drive.turn(&busy(latency_us + 1));
    assert!(drive.full().is_some());
}

#[test]
fn no_page_waits_longer_than_the_freshness_limit_and_the_latency() {
    // The ring is full after 256 us: the limit comes before that, at it, and after it.
    for freshness_us in [90, 200, 256, 900] {
        for rings in [1, 2] {
            let setup = setup(freshness_us, 250_000, 20, rings);
            let kicks: &[_] = if rings == 1 {
                &[None, Some(50)]
            } else {
                &[None]
            };
            let turns = some_turns(20, rings, kicks);
            let depth = if rings == 1 { 3 } else { 2 };
            for_each_series(turns.len(), depth, |series| {
                let mut drive = Drive::<64>::new(&setup);
                let mut before_us = 0;
                // The tail, without any delay, lets the oldest page become as old as it may.
                for &at in series {
                    drive.turn(&turns[at]);
                    let now_us = drive.now_us();
                    assert!(now_us > before_us, "no progress");
                    before_us = now_us;
                }
                (0..8).for_each(|_| drive.turn(&quiet(20)));
                let waited_us = drive.longest_wait_us();
                assert!(waited_us <= freshness_us + 20, "{waited_us}: {series:?}");
                assert_eq!(drive.full(), None);
            });
        }
    }
}

fn quiet(late_us: u64) -> Turn {
    Turn {
        kick_after_us: None,
        delays_us: [0, 0, 0, late_us],
        waiting: vec![Activity::None],
        reacting: vec![Activity::None],
    }
}

/// A selection of the turns: on time, or late at either end.
fn some_turns(latency_us: u64, rings: usize, kicks: &[Option<u64>]) -> Vec<Turn> {
    let all = turns(latency_us, rings, kicks);
    let ends = [[0; 4], [latency_us, 0, 0, 0], [0, 0, 0, latency_us]];
    all.into_iter()
        .filter(|turn| ends.contains(&turn.delays_us))
        .filter(|turn| turn.reacting == turn.waiting || turn.delays_us == ends[2])
        .collect()
}

/// All series of `depth` numbers below `choices`.
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
    let setup = setup(40_000, 1000, 1000, RINGS);
    let mut drive = Drive::<64>::new(&setup);
    // Each ring becomes old at a time of its own.
    for busy in 0..RINGS {
        let mut turn = quiet(0);
        turn.kick_after_us = Some(4000);
        turn.waiting = vec![Activity::None; RINGS];
        turn.waiting[busy] = Activity::All;
        drive.turn(&turn);
    }
    let (begin_us, mut wakes) = (drive.now_us(), 0);
    while drive.now_us() < begin_us + 400_000 {
        drive.turn(&quiet(0));
        wakes += 1;
    }
    assert!((10..=12).contains(&wakes), "{wakes} in ten times the limit");
}
