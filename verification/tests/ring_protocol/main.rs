//! The ring protocol and the collector on a simulated kernel, under any operations in any order. No
//! entry is lost, doubled or reordered, none is published before its reset, and the deficit is what
//! was harvested and not reset.

mod world;

use dirty_ring_core::collector::{RingFullMode, Scope};
use dirty_ring_core::size::RingSize;
use proptest::collection::vec;
use proptest::prelude::*;

use world::{Op, RINGS, World};

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let mode = prop_oneof![
        (0u32..100).prop_map(RingFullMode::Chunk),
        Just(RingFullMode::Whole),
    ];
    let scope = prop_oneof![Just(Scope::Planned), Just(Scope::All)];
    let op = prop_oneof![
        6 => (0..RINGS, 0u32..200).prop_map(|(ring, pages)| Op::Push { ring, pages }),
        1 => (0..RINGS).prop_map(|ring| Op::PushGarbage { ring }),
        1 => vec(0u32..40, 1..12).prop_map(Op::ShortenResets),
        2 => (scope, any::<[bool; RINGS]>())
            .prop_map(|(scope, left_alone)| Op::BeginPass { scope, left_alone }),
        2 => Just(Op::Harvest),
        3 => Just(Op::Reap),
        2 => Just(Op::EndPass),
        2 => Just(Op::Settle),
        3 => (0..RINGS, mode).prop_map(|(ring, mode)| Op::RingFull { ring, mode }),
        1 => Just(Op::Drain),
        2 => Just(Op::DrainBatch),
    ];
    vec(op, 0..120)
}

fn run<const BATCH: usize>(ops: &[Op]) {
    let small = RingSize::new(128, 16, 0).unwrap();
    let large = RingSize::new(256, 16, 0).unwrap();
    let mut world = World::<BATCH>::new(&[small, large, small]);
    for op in ops {
        world.apply(op);
        world.check();
    }
    world.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_with_a_batch_of_one(ops in ops()) {
        run::<1>(&ops);
    }

    #[test]
    fn nothing_is_lost_with_a_small_batch(ops in ops()) {
        run::<7>(&ops);
    }

    #[test]
    fn nothing_is_lost_with_a_batch_of_a_ring(ops in ops()) {
        run::<64>(&ops);
    }

    #[test]
    fn nothing_is_lost_with_a_batch_for_all_rings(ops in ops()) {
        run::<512>(&ops);
    }
}

#[test]
fn many_rounds_through_the_ring_lose_nothing() {
    let mut world = World::<16>::new(&[RingSize::new(128, 16, 0).unwrap()]);
    for round in 0..500 {
        world.apply(&Op::Push {
            ring: 0,
            pages: 64 - round % 7,
        });
        if round % 5 == 0 {
            world.apply(&Op::ShortenResets(vec![0, 3, 0]));
        }
        let op = match round % 3 {
            0 => Op::Drain,
            1 => Op::RingFull {
                ring: 0,
                mode: RingFullMode::Whole,
            },
            _ => Op::RingFull {
                ring: 0,
                mode: RingFullMode::Chunk(9),
            },
        };
        world.apply(&op);
        world.check();
    }
    world.finish();
    assert!(world.kernel[0].taken() > 100 * 128, "a hundred rounds");
}
