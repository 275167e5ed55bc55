//! What prints itself: errors, names and times.

use core::fmt::{self, Write};

use dirty_ring_core::collector::CollectError;
use dirty_ring_core::conformance;
use dirty_ring_core::controller::{
    DeadlineError, FixedError, HalvingError, LadderTableError, LevelTableError, PolicyError,
    PolicyNames, PolicySpec, StateError, Violation, WaitsError,
};
use dirty_ring_core::size::RingSizeError;
use dirty_ring_core::slots::SlotError;
use dirty_ring_core::time::{Micros, ParseMicrosError};

use crate::keep;

/// Where the text goes.
pub(crate) struct Sink(fn(&str) -> fmt::Result);

impl Write for Sink {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        (self.0)(text)
    }
}

fn print<T: fmt::Display>(value: &T, sink: &mut Sink) -> fmt::Result {
    write!(sink, "{value}")
}

pub(crate) fn keep_all() {
    keep!(
        print::<CollectError<u8>>,
        print::<conformance::Violation>,
        print::<DeadlineError>,
        print::<FixedError>,
        print::<HalvingError>,
        print::<LadderTableError>,
        print::<LevelTableError>,
        print::<PolicyError>,
        print::<PolicyNames>,
        print::<PolicySpec>,
        print::<StateError>,
        print::<WaitsError>,
        print::<RingSizeError>,
        print::<SlotError>,
        print::<Micros>,
        print::<ParseMicrosError>,
        print::<Violation>,
    );
}
