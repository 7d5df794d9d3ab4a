//! Flags and arguments as Docker's command line takes them: short clusters, `--flag=value`, `--`.
//!
//! Decides only what was said; values are checked for their form, not for their sense.

use std::collections::BTreeMap;

use crate::csv;
use crate::failure::{Failure, Result};
use crate::grammar::{Flag, Kind};
use crate::networking;

pub use hoy_types::parse_duration as duration;

/// What was given.
#[derive(Debug, Default)]
pub struct Parsed {
    flags: Vec<Flag>,
    values: BTreeMap<&'static str, Vec<String>>,
    pub args: Vec<String>,
}

impl Parsed {
    /// Whether the flag was there at all.
    pub fn given(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Whether any flag was there.
    pub fn any(&self) -> bool {
        !self.values.is_empty()
    }

    /// How many different flags were there.
    pub fn count(&self) -> usize {
        self.values.len()
    }

    /// Every value of a flag that may be given again.
    pub fn list(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// The last value, else the default.
    pub fn text(&self, name: &str) -> &str {
        match self.values.get(name).and_then(|all| all.last()) {
            Some(value) => value,
            None => self.flags.iter().find(|flag| flag.long == name).map_or("", |f| f.default),
        }
    }

    pub fn switch(&self, name: &str) -> bool {
        boolean(self.text(name)).unwrap_or(false)
    }

    pub fn int(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or(0)
    }

    /// A size in bytes; -1 stays what it is.
    pub fn bytes(&self, name: &str) -> i64 {
        match self.text(name) {
            "-1" => -1,
            text => hoy_types::parse_bytes(text).unwrap_or(0),
        }
    }
}

/// Takes `words` apart by the flags there are. With `stop`, flags end at the first argument.
pub fn parse(flags: impl Iterator<Item = Flag>, words: &[String], stop: bool) -> Result<Parsed> {
    let mut parsed = Parsed { flags: flags.collect(), ..Parsed::default() };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            parsed.args.extend(words.cloned());
            break;
        }
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (long, None),
            };
            let flag = parsed
                .flags
                .iter()
                .find(|flag| flag.long == name)
                .copied()
                .ok_or_else(|| unknown_long(name))?;
            let value = match value {
                Some(value) => value.to_owned(),
                None if flag.kind() == Kind::Bool => "true".to_owned(),
                None => words
                    .next()
                    .cloned()
                    .ok_or_else(|| Failure::usage(format!("flag needs an argument: --{name}")))?,
            };
            parsed.put(flag, value)?;
        } else if word.len() > 1 && word.starts_with('-') {
            cluster(&mut parsed, word, &mut words)?;
        } else {
            parsed.args.push(word.clone());
            if stop {
                parsed.args.extend(words.cloned());
                break;
            }
        }
    }
    Ok(parsed)
}

fn unknown_long(name: &str) -> Failure {
    if name == "help" {
        return Failure { code: 0, message: HELP.to_owned(), hint: None };
    }
    Failure::usage(format!("unknown flag: --{name}"))
}

/// What the failure says when help was asked for: it ends parsing, but is none.
pub const HELP: &str = "help";

fn cluster(
    parsed: &mut Parsed,
    word: &str,
    words: &mut std::slice::Iter<'_, String>,
) -> Result<()> {
    let mut rest = &word[1..];
    while let Some(letter) = rest.chars().next() {
        rest = &rest[letter.len_utf8()..];
        let found = parsed.flags.iter().find(|flag| flag.short == Some(letter)).copied();
        let Some(flag) = found else {
            if letter == 'h' {
                return Err(unknown_long("help"));
            }
            return Err(Failure::usage(format!("unknown shorthand flag: '{letter}' in {word}")));
        };
        if flag.kind() == Kind::Bool {
            match rest.strip_prefix('=') {
                Some(value) => return parsed.put(flag, value.to_owned()),
                None => parsed.put(flag, "true".to_owned())?,
            }
            continue;
        }
        let value = match rest.strip_prefix('=').unwrap_or(rest) {
            "" if rest.is_empty() => words.next().cloned().ok_or_else(|| {
                Failure::usage(format!("flag needs an argument: '{letter}' in {word}"))
            })?,
            value => value.to_owned(),
        };
        return parsed.put(flag, value);
    }
    Ok(())
}

impl Parsed {
    fn put(&mut self, flag: Flag, value: String) -> Result<()> {
        let unlimited = flag.long == "memory-swap" && value == "-1";
        let checked = if unlimited { Ok(()) } else { check(flag.kind(), &value) };
        if let Err(reason) = checked.and_then(|()| check_name(flag, &value)) {
            let shown = match flag.short {
                Some(short) => format!("-{short}, --{}", flag.long),
                None => format!("--{}", flag.long),
            };
            return Err(Failure::usage(format!(
                "invalid argument {value:?} for \"{shown}\" flag: {reason}"
            )));
        }
        let all = self.values.entry(flag.means()).or_default();
        if !flag.shown.starts_with("stringSlice") {
            all.push(value);
        } else if !value.is_empty() {
            all.extend(csv::record(&value).unwrap_or_default());
        }
        Ok(())
    }
}

/// Go's `strconv.ParseBool`.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Forms that one flag alone asks for.
fn check_name(flag: Flag, value: &str) -> std::result::Result<(), String> {
    match flag.long {
        "env" if value.is_empty() || value.starts_with('=') => {
            Err(format!("invalid environment variable: {value}"))
        }
        "attach" if flag.kind() == Kind::List => match value.to_ascii_lowercase().as_str() {
            "stdin" | "stdout" | "stderr" => Ok(()),
            _ => Err("valid streams are STDIN, STDOUT and STDERR".to_owned()),
        },
        "ulimit" => hoy_types::parse_ulimit(value).map(drop),
        "blkio-weight-device" => crate::create::device_weight(value).map(drop),
        "device-read-bps" | "device-write-bps" => crate::create::device_rate(value, true).map(drop),
        "device-read-iops" | "device-write-iops" => {
            crate::create::device_rate(value, false).map(drop)
        }
        _ if flag.shown.starts_with("stringSlice")
            && flag.long != "docker"
            && !value.is_empty() =>
        {
            csv::record(value).map(drop)
        }
        "network" | "net" if flag.shown == "network" => networking::attachment(value).map(drop),
        "docker" => {
            let fields = csv::record(value)?;
            match fields.iter().find(|field| !field.contains('=')) {
                Some(field) => Err(format!("{field} must be formatted as key=value")),
                None => Ok(()),
            }
        }
        "dns" => networking::resolver(value).map(drop),
        "dns-search" => networking::search_domain(value).map(drop),
        "add-host" => networking::extra_host(value).map(drop),
        "link" if flag.kind() == Kind::List => networking::check_link(value),
        "label" if flag.kind() == Kind::List => networking::check_label(value),
        "mount" => crate::mounts::mount(value).map(drop),
        "sysctl" if !is_sysctl(value) => Err(format!("sysctl '{value}' is not allowed")),
        "device-cgroup-rule" if !crate::create::is_device_rule(value) => {
            Err(format!("invalid device cgroup format '{value}'"))
        }
        _ => Ok(()),
    }
}

/// `name=value` of what belongs to a namespace of a container's own.
fn is_sysctl(text: &str) -> bool {
    text.split_once('=').is_some_and(|(name, _)| hoy_types::SysctlScope::of(name).is_some())
}

fn check(kind: Kind, value: &str) -> std::result::Result<(), String> {
    match kind {
        Kind::Bool if boolean(value).is_none() => {
            Err(format!("strconv.ParseBool: parsing \"{value}\": invalid syntax"))
        }
        Kind::Int if value.parse::<i64>().is_err() => {
            Err(format!("strconv.ParseInt: parsing \"{value}\": invalid syntax"))
        }
        Kind::Unsigned if value.parse::<u64>().is_err() => {
            Err(format!("strconv.ParseUint: parsing \"{value}\": invalid syntax"))
        }
        Kind::Bytes => hoy_types::parse_bytes(value).map(drop).map_err(|error| error.to_string()),
        Kind::Decimal => decimal(value).map(drop),
        Kind::Duration => duration(value).map(drop),
        Kind::Filter if !value.contains('=') => {
            Err("bad format of filter (expected name=value)".to_owned())
        }
        _ => Ok(()),
    }
}

/// A decimal number in billionths, as `--cpus` takes it.
pub fn decimal(text: &str) -> std::result::Result<i64, String> {
    let bad = || format!("failed to parse {text} as a rational number");
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = |s: &str| s.bytes().all(|c| c.is_ascii_digit());
    if (whole.is_empty() && part.is_empty()) || !digits(whole) || !digits(part) {
        return Err(bad());
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
    if part.trim_end_matches('0').len() > 9 {
        return Err("value is too precise".to_owned());
    }
    let part: i64 = format!("{part:0<9}")[..9].parse().map_err(|_| bad())?;
    let value = whole.checked_mul(1_000_000_000).and_then(|n| n.checked_add(part));
    value.map(|value| if negative { -value } else { value }).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar::Command;

    fn run(line: &str) -> Result<Parsed> {
        let command = Command::find("run").unwrap();
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        parse(command.flags(), &words, command.stops_at_argument())
    }

    #[test]
    fn forms_of_flags() {
        let parsed = run("-itp8080:80 -p=1:2 --rm=false -e A=b --name x img -x --rm").unwrap();
        assert!(parsed.switch("interactive") && parsed.switch("tty") && !parsed.switch("rm"));
        assert_eq!(parsed.list("publish"), ["8080:80", "1:2"]);
        assert_eq!(parsed.text("name"), "x");
        assert_eq!(parsed.args, ["img", "-x", "--rm"]);
        assert_eq!(run("-- -x").unwrap().args, ["-x"]);
        assert!(parsed.switch("sig-proxy"), "a default");
    }

    #[test]
    fn errors_as_docker_words_them() {
        let says = |line: &str| run(line).unwrap_err().message;
        assert_eq!(says("--bad x"), "unknown flag: --bad");
        assert_eq!(says("-Z x"), "unknown shorthand flag: 'Z' in -Z");
        assert_eq!(says("--memory"), "flag needs an argument: --memory");
        assert_eq!(says("-m"), "flag needs an argument: 'm' in -m");
        assert_eq!(
            says("-m 3x busybox"),
            "invalid argument \"3x\" for \"-m, --memory\" flag: invalid suffix: 'x'"
        );
        assert_eq!(
            says("--cpus x busybox"),
            "invalid argument \"x\" for \"--cpus\" flag: failed to parse x as a rational number"
        );
        assert_eq!(
            says("--rm=maybe x"),
            "invalid argument \"maybe\" for \"--rm\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax"
        );
    }

    #[test]
    fn numbers() {
        assert_eq!(decimal("1.5"), Ok(1_500_000_000));
        assert_eq!(decimal(".5"), Ok(500_000_000));
        assert!(decimal("1.0000000001").is_err() && decimal("").is_err() && decimal("1-").is_err());
        assert_eq!(decimal("-1"), Ok(-1_000_000_000));
    }
}
