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

/// Rates, in pages per second, and rings that bear them for the shortest wait: with several
/// microseconds to a page, and several pages to a microsecond.
const BORNE: [(u64, RingSize); 7] = [
    (40_000, SMALL),
    (50_000, SMALL),
    (100_000, SMALL),
    (125_000, SMALL),
    (500_000, ring(512)),
    (1_000_000, ring(512)),
    (2_000_000, ring(1024)),
];

fn setup((rate_per_s, size): (u64, RingSize), latency: Micros, rings: usize) -> Setup {
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

/// Ways to be `latency` late in all, or not at all.
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

/// All that the adversary may do in one round. Two rings are filled alike or by turns.
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

/// Searches all series of `rounds` up to `depth`, by breadth; a state is gone on from once.
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

#[test]
fn within_its_bounds_no_series_of_wakes_makes_a_ring_full() {
    for borne @ (rate_per_s, size) in BORNE {
        let longest = longest_latency(rate_per_s, size).unwrap();
        for latency in [longest, longest / 2, Micros::ZERO] {
            let setup = setup(borne, latency, 1);
            let what = format!("{rate_per_s}/s, {latency}, {} entries", size.entries());
            let found = assert_never_full(&setup, &rounds(latency, 1, &[None]), 12, &what);
            assert!(found.complete && found.states > 3, "{what}");
        }
    }
}
