use super::*;

const SOFT_LIMIT: u32 = 4032;

fn fresh() -> Growth {
    Growth::starting_at(Instant(0), 0)
}

#[test]
fn the_rate_is_a_maximum_that_halves_with_each_look_that_finds_less() {
    let mut growth = fresh();
    growth.look(Instant(1_000), 100, 100, SOFT_LIMIT);
    assert_eq!((growth.rate_per_s(), growth.grown()), (100_000, 100));
    growth.look(Instant(2_000), 100, 100, SOFT_LIMIT);
    assert_eq!((growth.rate_per_s(), growth.grown()), (50_000, 0));
    growth.look(Instant(3_000), 140, 140, SOFT_LIMIT);
    assert_eq!(growth.rate_per_s(), 40_000);
}

#[test]
fn a_ring_full_is_remembered() {
    let mut growth = fresh();
    assert_eq!(growth.full_at(), None);
    growth.ring_full(Instant(4_000));
    assert_eq!(growth.full_at(), Some(Instant(4_000)));
}

#[test]
fn the_oldest_entry_has_waited_since_the_ring_was_seen_empty_or_taken() {
    let mut growth = fresh();
    growth.look(Instant(1_000), 0, 0, SOFT_LIMIT);
    growth.look(Instant(2_000), 5, 5, SOFT_LIMIT);
    assert_eq!(growth.oldest_since(), Instant(1_000));
    growth.taken(Instant(3_000));
    assert_eq!(growth.oldest_since(), Instant(3_000));
}

#[test]
fn the_peak_is_measured_over_a_part_of_the_ring_and_fades_only_when_measured() {
    let mut growth = fresh();
    growth.look(Instant(1_000), 503, 503, SOFT_LIMIT);
    assert_eq!(growth.peak_per_s(), 0);
    growth.look(Instant(1_500), 1_007, 1_007, SOFT_LIMIT);
    assert_eq!(growth.peak_per_s(), 1_008_000);
    let mut growth = fresh();
    growth.look(Instant(1_000), 1_000, 1_000, SOFT_LIMIT);
    assert_eq!(growth.peak_per_s(), 0, "it may have stood still before");
    let mut growth = fresh();
    growth.look(Instant(1_000), 503, 503, SOFT_LIMIT);
    growth.look(Instant(2_000), 503 + 504, 1_007, SOFT_LIMIT);
    assert_eq!(growth.peak_per_s(), 504_000);
    growth.look(Instant(3_000), 1_008, 1_008, SOFT_LIMIT);
    assert_eq!(growth.peak_per_s(), 504_000);
    growth.look(Instant(13_000), 2_008, 2_008, SOFT_LIMIT);
    assert_eq!(growth.peak_per_s(), 504_000 - 504_000 / 64);
}

#[test]
fn kvms_index_may_wrap_around_and_harvests_in_between_make_no_difference() {
    let mut growth = Growth::starting_at(Instant(0), u32::MAX - 99);
    growth.look(Instant(1_000), 400, 3, SOFT_LIMIT);
    assert_eq!(growth.meter().max_per_s(), 500_000);
}

#[test]
fn a_look_within_the_same_microsecond_joins_the_next() {
    let mut growth = fresh();
    growth.look(Instant(0), 700, 700, SOFT_LIMIT);
    growth.look(Instant(1_000), 1_000, 1_000, SOFT_LIMIT);
    assert_eq!(growth.rate_per_s(), 1_000_000);
}

#[test]
fn a_saved_state_goes_on_elsewhere() {
    let mut growth = fresh();
    growth.look(Instant(2_000), 1_000, 1_000, SOFT_LIMIT);
    growth.look(Instant(9_000), 1_000, 1_000, SOFT_LIMIT);
    growth.ring_full(Instant(9_500));
    let state = growth.state(Instant(10_000));
    let mut other = Growth::starting_at(Instant(1_000_000), 1_000);
    other.restore(&state, Instant(1_000_000));
    assert_eq!(other.state(Instant(1_000_000)), state);
}

#[test]
fn the_peak_is_measured_over_several_looks_and_not_over_a_pause() {
    let mut growth = fresh();
    // 12 entries a millisecond: 1/32 of the ring takes eleven looks.
    let mut published = 0;
    for ms in 1..=12 {
        assert_eq!(growth.peak_per_s(), 0, "{ms}");
        published += 12;
        growth.look(Instant(ms * 1_000), published, published, SOFT_LIMIT);
    }
    assert_eq!(growth.peak_per_s(), 12_000);
    growth.look(Instant(1_000_000), published, published, SOFT_LIMIT);
    growth.look(
        Instant(1_001_000),
        published + 400,
        published + 400,
        SOFT_LIMIT,
    );
    growth.look(
        Instant(1_003_000),
        published + 1_200,
        published + 1_200,
        SOFT_LIMIT,
    );
    assert_eq!(growth.peak_per_s(), 400_000);
}
