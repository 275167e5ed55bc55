//! All that `Seed` can do, as text.

use std::format;
use std::string::String;

use super::*;
use crate::testing::ring_size;

/// A cell is what happened, then the level and the count of lows after it:
/// `+` faster, `-` slower, `.` filtered, `=` keep, `^` as fast as it can already.
/// Counts of 1 to 4 act as 0 does.
const EXPECTED: &str = "\
level lows | ring-full <0.1    <0.2    <0.3    <0.4    <0.5    >=0.5
NORM     0 | +FST1/0   =NORM/0 +FST1/0 +FST1/0 +FST1/0 +FST1/0 +FST1/0
NORM     4 | +FST1/4   =NORM/4 +FST1/0 +FST1/0 +FST1/0 +FST1/0 +FST1/0
NORM     5 | +FST1/5   =NORM/5 +FST1/0 +FST1/0 +FST1/0 +FST1/0 +FST1/0
NORM     6 | +FST1/6   =NORM/6 +FST1/0 +FST1/0 +FST1/0 +FST1/0 +FST1/0
FST1     0 | +FST2/0   .FST1/1 =FST1/0 +FST2/0 +FST2/0 +FST2/0 +FST2/0
FST1     4 | +FST2/4   .FST1/5 =FST1/4 +FST2/0 +FST2/0 +FST2/0 +FST2/0
FST1     5 | +FST2/5   -NORM/6 =FST1/5 +FST2/0 +FST2/0 +FST2/0 +FST2/0
FST1     6 | +FST2/6   -NORM/7 =FST1/6 +FST2/0 +FST2/0 +FST2/0 +FST2/0
FST2     0 | +FST3/0   .FST2/1 .FST2/1 =FST2/0 +FST3/0 +FST3/0 +FST3/0
FST2     4 | +FST3/4   .FST2/5 .FST2/5 =FST2/4 +FST3/0 +FST3/0 +FST3/0
FST2     5 | +FST3/5   -FST1/6 -FST1/6 =FST2/5 +FST3/0 +FST3/0 +FST3/0
FST2     6 | +FST3/6   -FST1/7 -FST1/7 =FST2/6 +FST3/0 +FST3/0 +FST3/0
FST3     0 | +FST4/0   .FST3/1 .FST3/1 .FST3/1 =FST3/0 +FST4/0 +FST4/0
FST3     4 | +FST4/4   .FST3/5 .FST3/5 .FST3/5 =FST3/4 +FST4/0 +FST4/0
FST3     5 | +FST4/5   -FST2/6 -FST2/6 -FST2/6 =FST3/5 +FST4/0 +FST4/0
FST3     6 | +FST4/6   -FST2/7 -FST2/7 -FST2/7 =FST3/6 +FST4/0 +FST4/0
FST4     0 | +MAXS/0   .FST4/1 .FST4/1 .FST4/1 .FST4/1 =FST4/0 +MAXS/0
FST4     4 | +MAXS/4   .FST4/5 .FST4/5 .FST4/5 .FST4/5 =FST4/4 +MAXS/0
FST4     5 | +MAXS/5   -FST3/6 -FST3/6 -FST3/6 -FST3/6 =FST4/5 +MAXS/0
FST4     6 | +MAXS/6   -FST3/7 -FST3/7 -FST3/7 -FST3/7 =FST4/6 +MAXS/0
MAXS     0 | ^MAXS/0   .MAXS/1 .MAXS/1 .MAXS/1 .MAXS/1 .MAXS/1 =MAXS/0
MAXS     4 | ^MAXS/4   .MAXS/5 .MAXS/5 .MAXS/5 .MAXS/5 .MAXS/5 =MAXS/4
MAXS     5 | ^MAXS/5   -FST4/6 -FST4/6 -FST4/6 -FST4/6 -FST4/6 =MAXS/5
MAXS     6 | ^MAXS/6   -FST4/7 -FST4/7 -FST4/7 -FST4/7 -FST4/7 =MAXS/6
";

const NAMES: [&str; LEVELS] = ["NORM", "FST1", "FST2", "FST3", "FST4", "MAXS"];

fn row(level: RunLevel, lows: u32) -> String {
    let ring_full = Measurement {
        harvested: 4096,
        ring_fulls: 100,
        ..Measurement::default()
    };
    // The least and the most pages of a ring of 4096 that fall into each bucket.
    let buckets = [
        (0, 409),
        (410, 819),
        (820, 1228),
        (1229, 1638),
        (1639, 2047),
        (2048, u64::MAX),
    ];
    let cell = |found: &Measurement| {
        let mut seed = Seed::new(LevelTable::PATCH, ring_size(4096));
        seed.restore(&LevelState { level, lows }).unwrap();
        let decision = seed.on_reaped(found);
        let sign = match decision.reasons.difference(Reasons::RING_FULL) {
            Reasons::FASTER => '+',
            Reasons::SLOWER => '-',
            Reasons::FILTERED => '.',
            Reasons::KEEP => '=',
            Reasons::AT_FASTEST => '^',
            other => panic!("{other:?}"),
        };
        let full = decision.reasons.contains(Reasons::RING_FULL);
        assert_eq!(full, found.ring_fulls != 0);
        let LevelState { level, lows } = seed.state();
        assert_eq!(decision.level, Some(level));
        format!("{sign}{}/{lows}", NAMES[usize::from(level.number())])
    };
    let name = NAMES[usize::from(level.number())];
    let mut row = format!("{name}     {lows} | {}  ", cell(&ring_full));
    for (least, most) in buckets {
        let [least, most] = [least, most].map(|harvested| {
            cell(&Measurement {
                harvested,
                ..Measurement::default()
            })
        });
        assert_eq!(least, most, "one bucket, one answer");
        row += &format!(" {least}");
    }
    row + "\n"
}

#[test]
fn the_transitions_of_the_seed_are_those_of_the_patch_as_meant() {
    let mut matrix = String::from(EXPECTED.lines().next().unwrap()) + "\n";
    for level in RunLevel::ALL {
        for lows in [0, 4, 5, 6] {
            matrix += &row(level, lows);
        }
    }
    assert!(matrix == EXPECTED, "the matrix is now\n{matrix}");
}

#[test]
fn the_waits_of_the_seed_are_those_of_the_patch() {
    let waits = RunLevel::ALL.map(|level| {
        let mut seed = Seed::new(LevelTable::PATCH, ring_size(4096));
        seed.restore(&LevelState { level, lows: 0 }).unwrap();
        seed.current().wait
    });
    assert_eq!(
        waits,
        [1000, 500, 250, 125, 100, 80].map(Micros::from_millis)
    );
}
