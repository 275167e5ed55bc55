//! Numbers with units, as given on the command line.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

/// The longest duration allowed; a longer one is probably a mistake.
pub(crate) const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// The shortest run that measures anything.
const SHORTEST_RUN: Duration = Duration::from_millis(10);

/// Parses a duration such as `4s`, `250ms`, `1m 30s`: from a microsecond to a day.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text.trim()).map_err(|error| {
        format!(
            "'{text}' is not a duration ({error}): give a number and its unit, as in 4s or 250ms"
        )
    })?;
    if duration < Duration::from_micros(1) {
        return Err(format!("'{text}' is too short: give 1us or more"));
    }
    if duration > LONGEST {
        return Err(format!("'{text}' is too long: give 24h or less"));
    }
    Ok(duration)
}

/// Parses how long a run lasts.
pub(crate) fn run_duration(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration < SHORTEST_RUN {
        return Err(format!(
            "'{text}' is too short to measure anything: give 10ms or more"
        ));
    }
    Ok(duration)
}

/// Parses a whole number from `least` to `most`.
pub(crate) fn whole<N>(text: &str, least: N, most: N) -> Result<N, String>
where
    N: Copy + Display + FromStr + PartialOrd,
{
    match text.trim().parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("give a whole number from {least} to {most}")),
    }
}

/// Parses a size in bytes such as `64M`, `1G`, `4096`.
pub(crate) fn size_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let wrong = || {
        format!(
            "'{text}' is not a size: give a whole number of bytes, or of K, M, G or T as in 64M"
        )
    };
    let (digits, shift) = match text.char_indices().next_back() {
        Some((at, unit)) if unit.is_ascii_alphabetic() => {
            let shift = match unit.to_ascii_uppercase() {
                'K' => 10,
                'M' => 20,
                'G' => 30,
                'T' => 40,
                _ => return Err(wrong()),
            };
            (&text[..at], shift)
        }
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    match number.checked_mul(1 << shift) {
        Some(bytes) if bytes > 0 => Ok(bytes),
        Some(_) => Err("a size of 0 is no memory: give a whole number above 0, as in 64M".into()),
        None => Err(format!(
            "'{text}' is more than a 64-bit machine can address: give a smaller size"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit_and_have_bounds() {
        assert_eq!(duration("4s"), Ok(Duration::from_secs(4)));
        assert_eq!(duration("10ms"), Ok(Duration::from_millis(10)));
        for wrong in [
            "",
            "4",
            "-4s",
            "0s",
            "1ns",
            "25h",
            "99999999999y",
            "s",
            "4 parsecs",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(run_duration("9ms").is_err());
    }

    #[test]
    fn whole_numbers_have_bounds() {
        assert_eq!(whole("7", 1, 9_u16), Ok(7));
        for wrong in ["", "0", "10", "-1", "1e3", "1.5", "99999999999", "0x1"] {
            assert!(whole(wrong, 1, 9_u16).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_have_binary_units_and_are_above_0() {
        assert_eq!(size_bytes("64M"), Ok(64 << 20));
        assert_eq!(size_bytes("4096"), Ok(4096));
        for wrong in ["", "M", "0", "0G", "-1M", "1.5G", "1X", "99999999T", "é"] {
            assert!(size_bytes(wrong).is_err(), "{wrong}");
        }
    }
}
