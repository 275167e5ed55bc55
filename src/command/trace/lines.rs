//! Counts lines as a parser reads them, and refuses one that doesn't end.

use std::io::{self, BufRead, Read};

/// The most bytes of one record: a row of a trace has about 80, and a file without line ends (a
/// disk image, `/dev/zero`) must not fill the memory.
pub(crate) const MAX_RECORD_BYTES: usize = 64 * 1024;

/// Returns at most one line from each read, so that the line read last is the one that the parser
/// is at. (The `csv` crate's own positions are those of the end of the record before: one line
/// early after `\r\n`, and more after blank lines.)
pub(crate) struct Lines<R> {
    input: R,
    /// The line read last, from 1; 0 before the first.
    line: u64,
    /// The next byte begins a line.
    at_start: bool,
    record_bytes: usize,
}

impl<R: BufRead> Lines<R> {
    /// Reads from `input`, which is at its first line.
    pub(crate) fn new(input: R) -> Self {
        Self {
            input,
            line: 0,
            at_start: true,
            record_bytes: 0,
        }
    }

    /// Returns the line read last, from 1; 0 before the first.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }

    /// Begins a record: its bytes are counted from here.
    pub(crate) fn begin_record(&mut self) {
        self.record_bytes = 0;
    }
}

impl<R: BufRead> Read for Lines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let input = self.input.fill_buf()?;
        let end = input.iter().take(buffer.len()).position(|&b| b == b'\n');
        let count = end.map_or(input.len().min(buffer.len()), |at| at + 1);
        if count == 0 {
            return Ok(0);
        }
        buffer[..count].copy_from_slice(&input[..count]);
        self.input.consume(count);
        self.line += u64::from(self.at_start);
        self.at_start = end.is_some();
        // A blank line belongs to no record.
        let is_blank = matches!(&buffer[..count], b"\n" | b"\r\n");
        self.record_bytes += if is_blank { 0 } else { count };
        if self.record_bytes > MAX_RECORD_BYTES {
            return Err(io::Error::other(format!(
                "the line has more than {MAX_RECORD_BYTES} bytes: is this a trace?"
            )));
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_one_at_a_time_and_counted() {
        let mut lines = Lines::new(&b"one\ntwo\r\n\nfour"[..]);
        let mut read = |bytes: usize| {
            let mut buffer = vec![0; bytes];
            let count = lines.read(&mut buffer).unwrap();
            (lines.line(), buffer[..count].to_vec())
        };
        assert_eq!(read(100), (1, b"one\n".to_vec()));
        assert_eq!(read(3), (2, b"two".to_vec()));
        assert_eq!(read(100), (2, b"\r\n".to_vec()));
        assert_eq!(read(100), (3, b"\n".to_vec()));
        assert_eq!(read(100), (4, b"four".to_vec()));
        assert_eq!(read(100), (4, vec![]));
    }

    #[test]
    fn an_endless_record_is_an_error_and_many_short_ones_are_not() {
        let endless = io::BufReader::new(io::repeat(b'1'));
        let error = io::copy(&mut Lines::new(endless), &mut io::sink()).unwrap_err();
        assert!(error.to_string().contains("65536 bytes"), "{error}");

        let mut lines = Lines::new(io::BufReader::new(io::repeat(b'\n')));
        for _ in 0..=MAX_RECORD_BYTES {
            assert_eq!(lines.read(&mut [0; 8]).unwrap(), 1);
        }
        lines.begin_record();
        assert_eq!(lines.record_bytes, 0);
    }
}
