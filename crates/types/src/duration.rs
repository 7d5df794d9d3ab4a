//! Go's durations, and moments that are said by them.

use crate::Timestamp;

/// A Go duration in nanoseconds: `1h2m3.5s`, `300ms`, `0`.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let bad = || format!("time: invalid duration \"{text}\"");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().map_err(|_| bad())?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "" => return Err(format!("time: missing unit in duration \"{text}\"")),
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            unit => return Err(format!("time: unknown unit \"{unit}\" in duration \"{text}\"")),
        };
        total += number * unit;
        rest = &rest[end..];
    }
    #[expect(clippy::cast_possible_truncation, reason = "durations beyond 292 years saturate")]
    let nanos = total as i64;
    Ok(if negative { -nanos } else { nanos })
}

impl Timestamp {
    /// What a filter means by a moment: a duration back from `now`, a Unix time, or a date in
    /// RFC 3339, also shortened.
    pub fn said(text: &str, now: Self) -> Option<Self> {
        if let Ok(nanos) = parse_duration(text) {
            return now.nanos().checked_sub(nanos).map(Self::from_nanos);
        }
        let digits = |text: &str| text.bytes().all(|c| c.is_ascii_digit());
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
        if !seconds.is_empty() && digits(seconds) && digits(fraction) {
            let nanos = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
            return Some(Self::from_parts(seconds.parse().ok()?, nanos));
        }
        let whole = match text.len() {
            10 => format!("{text}T00:00:00Z"),
            13 => format!("{text}:00:00Z"),
            16 => format!("{text}:00Z"),
            19 => format!("{text}Z"),
            _ => text.to_owned(),
        };
        whole.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("1m30s"), Ok(90_000_000_000));
        assert_eq!(parse_duration("1.5s"), Ok(1_500_000_000));
        for bad in ["5", "x", "1d", ""] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn moments() {
        let now = Timestamp::from_parts(1_700_000_000, 0);
        let is = |text: &str, shown: &str| {
            let time = Timestamp::said(text, now).map(|time| time.to_string());
            assert_eq!(time.as_deref(), Some(shown), "{text}");
        };
        is("1h", "2023-11-14T21:13:20Z");
        is("1700000000.5", "2023-11-14T22:13:20.5Z");
        is("2023-11-14", "2023-11-14T00:00:00Z");
        is("2023-11-14T10", "2023-11-14T10:00:00Z");
        is("2023-11-14T10:11:12+01:00", "2023-11-14T09:11:12Z");
        for bad in ["bogus", "", "2023-11", "5x"] {
            assert_eq!(Timestamp::said(bad, now), None, "{bad}");
        }
    }
}
