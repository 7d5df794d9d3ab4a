//! Limits of a process, by the names of `ulimit`. The texts are Docker's.

/// Names and the kernel's numbers (RLIMIT_*).
const NAMES: &[(&str, u32)] = &[
    ("as", 9),
    ("core", 4),
    ("cpu", 0),
    ("data", 2),
    ("fsize", 1),
    ("locks", 10),
    ("memlock", 8),
    ("msgqueue", 12),
    ("nice", 13),
    ("nofile", 7),
    ("nproc", 6),
    ("rss", 5),
    ("rtprio", 14),
    ("rttime", 15),
    ("sigpending", 11),
    ("stack", 3),
];

/// The kernel's number of a limit.
pub fn ulimit_number(name: &str) -> Result<u32, String> {
    let found = NAMES.iter().find(|(known, _)| *known == name);
    found.map(|(_, number)| *number).ok_or_else(|| format!("invalid ulimit type: {name}"))
}

/// `name=soft[:hard]`; -1 is unlimited.
pub fn parse_ulimit(text: &str) -> Result<(String, i64, i64), String> {
    let bad = || format!("invalid ulimit argument: {text}");
    let (name, limits) = text.split_once('=').ok_or_else(bad)?;
    ulimit_number(name)?;
    let number = |text: &str| text.parse::<i64>().map_err(|_| bad());
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (number(soft)?, number(hard)?);
    check_ulimit(soft, hard)?;
    Ok((name.to_owned(), soft, hard))
}

/// Whether two limits go together.
pub fn check_ulimit(soft: i64, hard: i64) -> Result<(), String> {
    if soft < -1 || hard < -1 {
        return Err(format!("ulimit limits cannot be negative: {}", soft.min(hard)));
    }
    if hard != -1 && soft == -1 {
        return Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: {hard}"
        ));
    }
    if hard != -1 && soft > hard {
        return Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_and_bad() {
        assert_eq!(parse_ulimit("nofile=1:2").unwrap(), ("nofile".into(), 1, 2));
        assert_eq!(parse_ulimit("core=-1").unwrap(), ("core".into(), -1, -1));
        assert_eq!(parse_ulimit("x=1").unwrap_err(), "invalid ulimit type: x");
        for bad in ["nofile", "nofile=", "nofile=a", "nofile=2:1", "nofile=-1:5", "nofile=1:-2"] {
            assert!(parse_ulimit(bad).is_err(), "{bad}");
        }
    }
}
