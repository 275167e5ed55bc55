use super::*;

const SOFT_LIMIT: u32 = 4032;

fn fresh() -> Growth {
    Growth::starting_at(Instant(0), 0)
}

#[test]
fn a_ring_that_stands_still_has_a_plateau_and_growth_up_to_it_is_no_news() {
    let mut growth = fresh();
    growth.look(Instant(5_000), 2_000, 2_000, SOFT_LIMIT);
    assert_eq!((growth.plateau(), growth.rate_per_s()), (0, 400_000));
    growth.look(Instant(6_000), 2_000, 2_000, SOFT_LIMIT);
    assert_eq!(growth.plateau(), 2_000);
    growth.taken(Instant(6_000), true);
    // The same 2000 pages come again.
    (1..=40).for_each(|ms| growth.look(Instant(6_000 + ms * 1_000), 2_000, 0, SOFT_LIMIT));
    let calm = growth.calm_since();
    growth.look(Instant(50_000), 4_000, 2_000, SOFT_LIMIT);
    assert_eq!((growth.calm_since(), growth.rate_per_s()), (calm, 0));
    growth.look(Instant(51_000), 4_400, 2_400, SOFT_LIMIT);
    assert_eq!((growth.calm_since(), growth.rate_per_s()), (Instant(51_000), 400_000));
}

#[test]
fn a_plateau_ends_where_a_pass_takes_the_ring_for_its_own_reasons_or_it_was_full() {
    for full in [false, true] {
        let mut growth = fresh();
        growth.look(Instant(1_000), 100, 100, SOFT_LIMIT);
        growth.look(Instant(3_000), 100, 100, SOFT_LIMIT);
        assert_eq!(growth.plateau(), 100);
        if full {
            growth.ring_full(Instant(4_000));
            assert_eq!(growth.full_at(), Some(Instant(4_000)));
            assert_eq!(growth.calm_since(), Instant(4_000));
        } else {
            growth.taken(Instant(4_000), false);
        }
        assert_eq!(growth.plateau(), 0);
    }
}

#[test]
fn the_peak_is_measured_over_an_eighth_of_the_ring_and_fades_only_when_measured() {
    let mut growth = fresh();
    growth.look(Instant(1_000), 503, 503, SOFT_LIMIT);
    assert_eq!(growth.peak_per_s(), 0);
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
    growth.look(Instant(12_000), 1_500, 1_500, SOFT_LIMIT);
    other.look(Instant(1_002_000), 1_500, 1_500, SOFT_LIMIT);
    // But for the look itself: nobody watched between save and restore.
    assert_eq!(other.state(Instant(1_003_000)).plateau, growth.state(Instant(13_000)).plateau);
}
