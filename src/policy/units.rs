//! Sizes and durations as people write them, units included.
//!
//! A bare number is refused: `max_wait: 1000` is a second to one reader and a
//! quarter of an hour to another.

use std::time::Duration;

/// The units of sizes, in bytes.
pub(super) const SIZES: [(&str, u64); 7] = [
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
];

/// The units of durations, in nanoseconds.
pub(super) const SPANS: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3_600 * 1_000_000_000),
];

/// Bytes from text such as `64MiB`; `None` where it is no size.
pub(super) fn size(text: &str) -> Option<u64> {
    whole(text, &SIZES)
}

/// A duration from text such as `2ms`; `None` where it is none.
pub(super) fn duration(text: &str) -> Option<Duration> {
    whole(text, &SPANS).map(Duration::from_nanos)
}

/// `bytes` in the largest binary unit that leaves a whole number.
pub(super) fn show_size(bytes: u64) -> String {
    let binary = ["GiB", "MiB", "KiB", "B"];
    show(
        bytes,
        SIZES.iter().rev().filter(|(unit, _)| binary.contains(unit)),
    )
}

/// `span` in the largest unit that leaves a whole number.
pub(super) fn show_duration(span: Duration) -> String {
    match span.is_zero() {
        true => "0s".into(),
        false => show(
            u64::try_from(span.as_nanos()).unwrap_or(u64::MAX),
            SPANS.iter().rev(),
        ),
    }
}

fn show<'a>(value: u64, units: impl Iterator<Item = &'a (&'a str, u64)>) -> String {
    let mut smallest = "";
    for (unit, scale) in units {
        if value >= *scale && value.is_multiple_of(*scale) {
            return format!("{}{unit}", value / scale);
        }
        smallest = unit;
    }
    format!("{value}{smallest}")
}

fn whole(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_have_units() {
        assert_eq!(size("1MiB"), Some(1 << 20));
        assert_eq!(size("64 KiB"), Some(64 << 10));
        assert_eq!(size("0B"), Some(0));
        assert_eq!(duration("2ms"), Some(Duration::from_millis(2)));
        assert_eq!(duration("10m"), Some(Duration::from_secs(600)));
        for wrong in [
            "",
            "1",
            "MiB",
            "1mib",
            "-1MiB",
            "1.5MiB",
            "1MiBs",
            "99999999999GiB",
            "9x",
        ] {
            assert_eq!(size(wrong), None, "{wrong}");
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_reads_back_as_the_same() {
        for bytes in [0, 1, 1_000, 1 << 10, 1_536, 4 << 20, 1 << 40] {
            assert_eq!(size(&show_size(bytes)), Some(bytes));
        }
        for nanos in [0, 1, 50_000, 1_500_000, 60_000_000_000, 3_600_000_000_000] {
            let span = Duration::from_nanos(nanos);
            assert_eq!(duration(&show_duration(span)), Some(span));
        }
        assert_eq!(show_size(4 << 20), "4MiB");
        assert_eq!(show_duration(Duration::from_millis(2)), "2ms");
    }
}
