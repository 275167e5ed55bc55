//! What the core decides on the host, for comparison.
#![forbid(unsafe_code)]

use std::io::{BufWriter, Stdout, Write};

use dirty_ring_firmware::Console;

struct Output {
    to: BufWriter<Stdout>,
    result: std::io::Result<()>,
}

impl Console for Output {
    fn byte(&mut self, byte: u8) {
        if self.result.is_ok() {
            self.result = self.to.write_all(&[byte]);
        }
    }
}

fn main() -> std::io::Result<()> {
    let mut output = Output {
        to: BufWriter::new(std::io::stdout()),
        result: Ok(()),
    };
    dirty_ring_firmware::run(&mut output);
    output.result?;
    output.to.flush()
}
