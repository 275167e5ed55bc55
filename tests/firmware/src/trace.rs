//! The recorded trace, read when the program is compiled.
//!
//! `trace.csv` is what this command wrote:
//!
//! ```text
//! dirty-ring run --backend mock --policy ladder --vcpus 2 --ring-entries 1024 --duration 5s --workload \
//!   'pages=4000,spin=300000,ms=300/pages=4000,spin=0,ms=25/pages=4000,spin=100000,ms=200/pages=10,spin=3000,ms=4000|pages=4000,spin=3000000' \
//!   --trace trace.csv
//! ```

use dirty_ring_core::controller::Measurement;
use dirty_ring_core::doorbell::Wakes;
use dirty_ring_core::time::Micros;

const TEXT: &[u8] = include_bytes!("../trace.csv");

/// The first columns of a trace, up to the last that a replay reads.
const HEADER: &[u8] = b"step,now_us,elapsed_us,reaped,harvested,ring_full_harvested,fullest,\
    ring_fulls,ring_capacity,late_us,took_us,";

/// How many those are.
const COLUMNS: usize = 11;

/// A row of the trace.
#[derive(Clone, Copy)]
pub(crate) struct Row {
    pub(crate) step: u64,
    pub(crate) measurement: Measurement,
}

/// The passes, in order.
pub(crate) static TRACE: [Row; rows(TEXT)] = parse(TEXT);

/// Counts the rows after the header.
const fn rows(text: &[u8]) -> usize {
    let (mut at, mut lines) = (0, 0);
    while at < text.len() {
        lines += (text[at] == b'\n') as usize;
        at += 1;
    }
    lines - 1
}

/// Reads `N` rows. A trace that can't be read fails the build.
const fn parse<const N: usize>(text: &[u8]) -> [Row; N] {
    let mut at = 0;
    while at < HEADER.len() {
        assert!(
            text[at] == HEADER[at],
            "the columns are others than expected"
        );
        at += 1;
    }
    at = after_line(text, at);
    let mut rows = [row(&[0; COLUMNS]); N];
    let mut next = 0;
    while next < N {
        let mut fields = [0; COLUMNS];
        let mut column = 0;
        while column < COLUMNS {
            while text[at] != b',' {
                assert!(text[at].is_ascii_digit(), "a field isn't a number");
                fields[column] = fields[column] * 10 + (text[at] - b'0') as u64;
                at += 1;
            }
            column += 1;
            at += 1;
        }
        assert!(
            fields[3] == 1,
            "a pass only peeked: record a policy that doesn't"
        );
        rows[next] = row(&fields);
        next += 1;
        at = after_line(text, at);
    }
    rows
}

const fn after_line(text: &[u8], mut at: usize) -> usize {
    while text[at] != b'\n' {
        at += 1;
    }
    at + 1
}

const fn row(fields: &[u64; COLUMNS]) -> Row {
    let [
        step,
        _,
        elapsed,
        _,
        harvested,
        by_vcpus,
        fullest,
        fulls,
        _,
        late,
        took,
    ] = *fields;
    Row {
        step,
        measurement: Measurement {
            elapsed: Micros(elapsed),
            harvested,
            ring_full_harvested: by_vcpus,
            fullest: fullest as u32,
            ring_fulls: fulls as u32,
            wakes: Wakes::TIMER,
            late: Micros(late),
            took: Micros(took),
        },
    }
}
