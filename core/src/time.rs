//! Time: whole microseconds, on whatever monotonic clock the driver has.

use core::fmt;
use core::ops::{Add, Div, Mul, Sub};
use core::str::FromStr;
use core::time::Duration;

/// A length of time in whole microseconds. Arithmetic saturates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub u64);

/// A point on the driver's monotonic clock, in microseconds since some start. Arithmetic saturates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Micros {
    /// No time.
    pub const ZERO: Self = Self(0);
    /// Longer than any clock runs: "until something rings".
    pub const MAX: Self = Self(u64::MAX);
    /// One second.
    pub const SECOND: Self = Self(1_000_000);

    /// Creates a length of `ms` milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000))
    }

    /// Creates a length of `s` seconds.
    pub const fn from_secs(s: u64) -> Self {
        Self(s.saturating_mul(1_000_000))
    }

    /// Returns whether this is no time at all.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Returns the time in which `entries` come at `per_s`, rounded down; [`MAX`](Self::MAX) at 0.
    pub const fn of_entries(entries: u64, per_s: u64) -> Self {
        match entries.saturating_mul(Self::SECOND.0).checked_div(per_s) {
            Some(us) => Self(us),
            None => Self::MAX,
        }
    }

    /// Returns the entries that come in this time at `per_s`, rounded up.
    pub const fn entries_at(self, per_s: u64) -> u64 {
        let entries = (self.0 as u128)
            .saturating_mul(per_s as u128)
            .div_ceil(Self::SECOND.0 as u128);
        if entries > u64::MAX as u128 {
            u64::MAX
        } else {
            entries as u64
        }
    }

    /// Returns `entries` in this time as a rate per second, rounded up; 0 where no time has passed.
    pub const fn rate_of(self, entries: u64) -> u64 {
        if self.0 == 0 {
            return 0;
        }
        let rate = (entries as u128)
            .saturating_mul(Self::SECOND.0 as u128)
            .div_ceil(self.0 as u128);
        if rate > u64::MAX as u128 {
            u64::MAX
        } else {
            rate as u64
        }
    }
}

impl Instant {
    /// The latest point there is; a deadline that never comes.
    pub const MAX: Self = Self(u64::MAX);
}

impl Add for Micros {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sub for Micros {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Mul<u64> for Micros {
    type Output = Self;
    fn mul(self, times: u64) -> Self {
        Self(self.0.saturating_mul(times))
    }
}

impl Div<u64> for Micros {
    type Output = Self;
    /// Returns one of `parts` equal parts; [`Micros::MAX`] for 0 parts.
    fn div(self, parts: u64) -> Self {
        self.0.checked_div(parts).map_or(Self::MAX, Self)
    }
}

impl Add<Micros> for Instant {
    type Output = Self;
    fn add(self, length: Micros) -> Self {
        Self(self.0.saturating_add(length.0))
    }
}

impl Sub<Micros> for Instant {
    type Output = Self;
    fn sub(self, length: Micros) -> Self {
        Self(self.0.saturating_sub(length.0))
    }
}

impl Sub for Instant {
    type Output = Micros;
    /// Returns the time from `other` to `self`; no time where `other` is later.
    fn sub(self, other: Self) -> Micros {
        Micros(self.0.saturating_sub(other.0))
    }
}

impl From<Duration> for Micros {
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
    }
}

impl From<Micros> for Duration {
    fn from(length: Micros) -> Self {
        Self::from_micros(length.0)
    }
}

/// Units by name, longest first, in microseconds.
const UNITS: [(&str, u64); 5] = [
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

impl fmt::Display for Micros {
    /// Writes the length as it is parsed, as in `1s500ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0us");
        }
        let mut left = self.0;
        for (name, us) in UNITS {
            let count = left.checked_div(us).unwrap_or(0);
            if count != 0 {
                write!(f, "{count}{name}")?;
                left = left.checked_rem(us).unwrap_or(0);
            }
        }
        Ok(())
    }
}

/// A length of time that can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseMicrosError;

impl fmt::Display for ParseMicrosError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not a length of time: give a whole number and its unit, as in 1s, 10ms or 250us",
        )
    }
}

impl core::error::Error for ParseMicrosError {}

impl FromStr for Micros {
    type Err = ParseMicrosError;

    /// Reads a number and its unit (`h`, `m`, `s`, `ms`, `us`), or several, as in `1s500ms`.
    fn from_str(text: &str) -> Result<Self, ParseMicrosError> {
        let mut total = 0u64;
        let mut rest = text;
        if rest.is_empty() {
            return Err(ParseMicrosError);
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit());
            let digits = digits.ok_or(ParseMicrosError)?;
            let (number, tail) = rest.split_at_checked(digits).ok_or(ParseMicrosError)?;
            let unit_end = tail.find(|c: char| c.is_ascii_digit());
            let unit_end = unit_end.unwrap_or(tail.len());
            let (unit, tail) = tail.split_at_checked(unit_end).ok_or(ParseMicrosError)?;
            let number: u64 = number.parse().map_err(|_| ParseMicrosError)?;
            let unit = UNITS.into_iter().find(|(name, _)| *name == unit);
            let (_, us) = unit.ok_or(ParseMicrosError)?;
            total = number
                .checked_mul(us)
                .and_then(|us| total.checked_add(us))
                .ok_or(ParseMicrosError)?;
            rest = tail;
        }
        Ok(Self(total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_length_is_printed_as_it_is_parsed() {
        for text in ["1s", "10ms", "1s500ms", "2h3m", "0us", "250us", "1m1us"] {
            assert_eq!(text.parse::<Micros>().unwrap().to_string(), text);
        }
        assert_eq!("90s".parse(), Ok(Micros::from_secs(90)));
        for wrong in [
            "",
            "1",
            "s",
            "1.5s",
            "-1s",
            "1 s",
            "1x",
            "18446744073709551615s",
        ] {
            assert_eq!(wrong.parse::<Micros>(), Err(ParseMicrosError), "{wrong}");
        }
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Micros(1) - Micros(2), Micros::ZERO);
        assert_eq!(Micros::MAX + Micros(1), Micros::MAX);
        assert_eq!(Micros(7) / 0, Micros::MAX);
        assert_eq!(Instant(3) - Instant(5), Micros::ZERO);
        assert_eq!(Instant(3) + Micros::MAX, Instant::MAX);
        assert_eq!(Instant(3) - Micros(5), Instant(0));
    }

    #[test]
    fn rates_and_times_round_to_the_safe_side() {
        assert_eq!(Micros(3).entries_at(400_000), 2);
        assert_eq!(Micros(3).rate_of(1), 333_334);
        assert_eq!(Micros::of_entries(1, 333_334), Micros(2));
        assert_eq!(Micros::of_entries(1, 0), Micros::MAX);
        assert_eq!(Micros::ZERO.rate_of(5), 0);
        assert_eq!(Micros(1).rate_of(u64::MAX), u64::MAX);
        assert_eq!(Micros::MAX.entries_at(u64::MAX), u64::MAX);
    }
}
