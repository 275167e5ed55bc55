//! Prints text and numbers without `core::fmt`, whose machinery is larger than the core.

use dirty_ring_core::controller::{Decision, Reasons};

/// Where the lines go.
pub trait Console {
    /// Writes one byte.
    fn byte(&mut self, byte: u8);
}

/// Writes text and numbers to a console.
pub(crate) struct Printer<'c, C> {
    console: &'c mut C,
}

/// Digits of the largest number.
const DIGITS: usize = 20;

impl<'c, C: Console> Printer<'c, C> {
    pub(crate) fn new(console: &'c mut C) -> Self {
        Self { console }
    }

    /// Writes `text`.
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        text.bytes().for_each(|byte| self.console.byte(byte));
        self
    }

    /// Writes a number.
    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        self.padded(number, 1)
    }

    /// Writes a number, with spaces before it where it has less than `width` digits.
    pub(crate) fn padded(&mut self, number: u64, width: usize) -> &mut Self {
        let mut digits = [b' '; DIGITS];
        let mut left = number;
        for (place, digit) in digits.iter_mut().rev().enumerate() {
            if left != 0 || place == 0 {
                // The remainder is below 10.
                *digit = b'0' | (left % 10) as u8;
                left /= 10;
            }
        }
        let is_blank =
            |(place, digit): (usize, &u8)| *digit == b' ' && DIGITS.saturating_sub(place) > width;
        for (place, digit) in digits.iter().enumerate() {
            if !is_blank((place, digit)) {
                self.console.byte(*digit);
            }
        }
        self
    }

    /// Writes a decision, as `dirty-ring replay` does after the number of the step.
    pub(crate) fn decision(&mut self, decision: &Decision) -> &mut Self {
        self.text("  level ");
        match decision.level {
            Some(level) => self.number(level.number().into()),
            None => self.text("-"),
        };
        self.text("  wait ").padded(decision.wait.0, 8).text(" us ");
        self.reasons(decision.reasons)
    }

    fn reasons(&mut self, reasons: Reasons) -> &mut Self {
        for (name, _) in reasons.iter_names() {
            self.text(" ");
            name.bytes()
                .for_each(|byte| self.console.byte(byte.to_ascii_lowercase()));
        }
        self
    }

    /// Ends the line.
    pub(crate) fn end(&mut self) {
        self.text("\n");
    }
}
