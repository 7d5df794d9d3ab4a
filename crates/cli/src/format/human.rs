//! Ages and sizes as people read them, in Docker's words.

use hoy_types::Timestamp;

/// The time now.
pub fn now() -> Timestamp {
    Timestamp::from_system(std::time::SystemTime::now())
}

/// A length of time: "About a minute", "3 hours".
pub fn duration(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// How long ago a Unix time was.
pub fn ago(seconds: i64) -> String {
    format!("{} ago", duration(now().seconds() - seconds))
}

/// Decimal units with three digits, as lists show sizes.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn size(bytes: i64) -> String {
    hoy_types::human_size(bytes as f64, 3)
}

/// As [`size`], with four digits.
#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
pub fn fine_size(bytes: i64) -> String {
    hoy_types::human_size(bytes as f64, 4)
}

/// A Unix time as Go prints one in local time: `2026-11-21 04:52:00 +0000 UTC`.
pub fn date(seconds: i64) -> String {
    let Ok(time) = jiff::Timestamp::from_second(seconds) else { return String::new() };
    time.to_zoned(zone()).strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// A time of RFC 3339 as Go prints one that it has read: in the zone in which it was written.
pub fn go_time(text: &str) -> String {
    let parts = (|| {
        let (day, rest) = text.split_once('T')?;
        let end = rest.find(['Z', '+', '-'])?;
        let (clock, zone) = rest.split_at(end);
        let clock = match clock.split_once('.') {
            Some((whole, fraction)) => match fraction.trim_end_matches('0') {
                "" => whole.to_owned(),
                fraction => format!("{whole}.{fraction}"),
            },
            None => clock.to_owned(),
        };
        let zone = zone.replace(':', "");
        let zone = match zone.as_str() {
            "Z" | "+0000" => "+0000 UTC".to_owned(),
            zone => format!("{zone} {zone}"),
        };
        Some(format!("{day} {clock} {zone}"))
    })();
    parts.unwrap_or_else(|| "0001-01-01 00:00:00 +0000 UTC".to_owned())
}

/// The moment that a local time of day means, in nanoseconds.
pub fn local(time: jiff::civil::DateTime) -> Option<i64> {
    let zoned = time.to_zoned(zone()).ok()?;
    i64::try_from(zoned.timestamp().as_nanosecond()).ok()
}

/// A Unix time in RFC 3339, in local time.
pub fn rfc3339(seconds: i64) -> String {
    let Ok(time) = jiff::Timestamp::from_second(seconds) else { return String::new() };
    let text = time.to_zoned(zone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    match text.strip_suffix("+00:00") {
        Some(head) => format!("{head}Z"),
        None => text,
    }
}

/// RFC 3339 with nanoseconds, in local time.
pub fn rfc3339_nano(nanos: i64) -> String {
    let Ok(time) = jiff::Timestamp::from_nanosecond(i128::from(nanos)) else {
        return String::new();
    };
    time.to_zoned(zone()).strftime("%Y-%m-%dT%H:%M:%S.%9f%:z").to_string().replace("+00:00", "Z")
}

/// The machine's zone; UTC where none is set.
fn zone() -> jiff::tz::TimeZone {
    let by_name = |name: &str| {
        let path = std::path::Path::new("/usr/share/zoneinfo").join(name.trim_start_matches(':'));
        jiff::tz::TimeZone::tzif(name, &std::fs::read(path).ok()?).ok()
    };
    match std::env::var("TZ") {
        Ok(name) if !name.is_empty() => by_name(&name).unwrap_or(jiff::tz::TimeZone::UTC),
        _ => std::fs::read("/etc/localtime")
            .ok()
            .and_then(|bytes| jiff::tz::TimeZone::tzif("Local", &bytes).ok())
            .unwrap_or(jiff::tz::TimeZone::UTC),
    }
}

/// At most `width` characters, the last an ellipsis where something is missing.
pub fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_in_dockers_words() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (125, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (3 * 86400, "3 days"),
            (15 * 86400, "2 weeks"),
            (70 * 86400, "2 months"),
            (3 * 366 * 86400, "3 years"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn times_that_go_has_read() {
        for (text, shown) in [
            ("2024-01-02T03:04:05.678901234Z", "2024-01-02 03:04:05.678901234 +0000 UTC"),
            ("2024-01-02T03:04:05+02:00", "2024-01-02 03:04:05 +0200 +0200"),
            ("2024-01-02T03:04:05.500Z", "2024-01-02 03:04:05.5 +0000 UTC"),
            ("", "0001-01-01 00:00:00 +0000 UTC"),
        ] {
            assert_eq!(go_time(text), shown);
        }
    }

    #[test]
    fn cuts() {
        assert_eq!(ellipsis("abcdef", 6), "abcdef");
        assert_eq!(ellipsis("abcdefg", 6), "abcde…");
        assert_eq!(size(4_450_000), "4.45MB");
    }
}
