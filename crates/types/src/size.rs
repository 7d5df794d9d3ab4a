//! Sizes of memory and disk, as people type and read them.

/// Why a text is not a size. The texts are Docker's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    #[error("invalid size: '{0}'")]
    Size(String),
    #[error("invalid suffix: '{0}'")]
    Suffix(String),
}

/// Parses `512`, `512m`, `1.5g`, `2GiB`: always in powers of 1024, as Docker's memory flags.
pub fn parse_bytes(text: &str) -> Result<i64, SizeError> {
    let bad = || SizeError::Size(text.to_owned());
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "ki" | "kib" => 10,
        "m" | "mb" | "mi" | "mib" => 20,
        "g" | "gb" | "gi" | "gib" => 30,
        "t" | "tb" | "ti" | "tib" => 40,
        "p" | "pb" | "pi" | "pib" => 50,
        _ if number.is_empty() => return Err(bad()),
        unit => return Err(SizeError::Suffix(unit.to_owned())),
    };
    let value = number.parse::<f64>().map_err(|_| bad())?;
    let bytes = value * (1_i64 << shift) as f64;
    if bytes.is_finite() && bytes >= 0.0 && bytes < i64::MAX as f64 {
        Ok(bytes as i64)
    } else {
        Err(bad())
    }
}

/// Four significant digits in powers of 1000: `4.43MB`, as in `docker images`.
pub fn human_size(bytes: f64, precision: usize) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"], precision)
}

/// Powers of 1024: `512MiB`.
pub fn human_size_binary(bytes: f64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"], 4)
}

fn scaled(mut value: f64, base: f64, units: &[&str], precision: usize) -> String {
    let mut index = 0;
    while value >= base && index + 1 < units.len() {
        value /= base;
        index += 1;
    }
    format!("{}{}", significant(value, precision), units[index])
}

/// Go's `%.Ng` for numbers that are neither tiny nor beyond the last unit.
fn significant(value: f64, digits: usize) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let magnitude = value.abs().log10().floor() as i64;
    let decimals = usize::try_from(digits as i64 - 1 - magnitude).unwrap_or(0);
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsed() {
        assert_eq!(parse_bytes("512m"), Ok(512 << 20));
        assert_eq!(parse_bytes("1.5g"), Ok(3 << 29));
        assert_eq!(parse_bytes("32"), Ok(32));
        for bad in ["", "m", "1x", "-1", "1e9", "1..2", "99999999999p"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn shown() {
        assert_eq!(human_size(4_429_000.0, 3), "4.43MB");
        assert_eq!(human_size(0.0, 3), "0B");
        assert_eq!(human_size(999.0, 4), "999B");
        assert_eq!(human_size(123_000_000.0, 3), "123MB");
        assert_eq!(human_size_binary(536_870_912.0), "512MiB");
    }
}
