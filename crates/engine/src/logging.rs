//! What `--log-driver` and `--log-opt` mean: Docker's rules and messages. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hoy_logs::Format;
use hoy_shim::message::LogPlan;
use hoy_wire::HostConfig;
use regex::Regex;

use crate::error::{Error, Result};
use crate::record::Record;

/// A file's size and how many there are, unless said otherwise.
const MAX_SIZE: u64 = 20 << 20;
const MAX_FILES: u32 = 5;
/// What waits for a log that nobody waits for.
const MAX_BUFFER: u64 = 1 << 20;
/// Docker's words for what is wrong with a driver's options: it finds out at the start.
const INITIALIZE: &str = "failed to initialize logging driver";

const JSON_FILE: &[&str] =
    &["max-size", "max-file", "compress", "labels", "labels-regex", "env", "env-regex", "tag"];
const LOCAL: &[&str] = &["max-size", "max-file", "compress"];

type Options = BTreeMap<String, String>;

fn options(host: &HostConfig) -> Options {
    host.log_config.config.clone().unwrap_or_default()
}

/// What is wrong with a request, known when the container is made.
pub(crate) fn check(host: &HostConfig) -> Result<()> {
    let options = options(host);
    let driver = host.log_config.kind.as_str();
    let (known, of) = match driver {
        "" | "json-file" => (JSON_FILE, "json-file log driver".to_owned()),
        "local" => (LOCAL, "log driver local".to_owned()),
        "none" if options.is_empty() => return Ok(()),
        "none" => (&[][..], "none log driver".to_owned()),
        "syslog" | "journald" | "gelf" | "fluentd" | "awslogs" | "splunk" | "gcplogs" => {
            return Err(Error::unavailable(format!(
                "the log driver {driver}: hoy has json-file, local and none; it"
            )));
        }
        driver => {
            return Err(Error::invalid(format!(
                "error looking up logging plugin {driver}: plugin {driver:?} not found"
            )));
        }
    };
    buffer(&options)?;
    for name in options.keys() {
        let general = matches!(name.as_str(), "mode" | "max-buffer-size");
        if !general && !known.contains(&name.as_str()) {
            return Err(Error::invalid(format!("unknown log opt '{name}' for {of}")));
        }
    }
    Ok(())
}

/// `mode` and `max-buffer-size`.
fn buffer(options: &Options) -> Result<Option<u64>> {
    let size = options.get("max-buffer-size");
    match options.get("mode").map(String::as_str) {
        None | Some("" | "blocking") if size.is_some() => Err(Error::invalid(
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        )),
        None | Some("" | "blocking") => Ok(None),
        Some("non-blocking") => match size {
            None => Ok(Some(MAX_BUFFER)),
            Some(text) => {
                let bytes = self::size(text).map_err(|reason| {
                    Error::invalid(format!("error parsing option max-buffer-size: {reason}"))
                })?;
                Ok(Some(bytes))
            }
        },
        Some(mode) => Err(Error::invalid(format!("logger: logging mode not supported: {mode}"))),
    }
}

fn size(text: &str) -> std::result::Result<u64, String> {
    let bytes = hoy_types::parse_bytes(text).ok().and_then(|bytes| u64::try_from(bytes).ok());
    bytes.ok_or_else(|| format!("invalid size: '{text}'"))
}

/// As Go reads truth.
fn boolean(text: &str) -> std::result::Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

fn count(text: &str) -> std::result::Result<u32, String> {
    let number = text.parse::<i64>();
    let number = number.map_err(|_| format!("strconv.Atoi: parsing {text:?}: invalid syntax"))?;
    Ok(u32::try_from(number).unwrap_or(u32::from(number > 0) * u32::MAX))
}

/// How a container's log is written down.
pub(crate) fn format(host: &HostConfig) -> Format {
    match host.log_config.kind.as_str() {
        "local" => Format::Local,
        _ => Format::Json,
    }
}

/// What the supervisor is to do with the output of a container that is about to start.
pub(crate) fn plan(record: &Record, path: PathBuf) -> Result<LogPlan> {
    let failed = |reason: String| Error::system(format!("{INITIALIZE}: {reason}"));
    let options = options(&record.host);
    let get = |name: &str| options.get(name).map(String::as_str);
    let nonblocking = buffer(&options)?;
    match record.host.log_config.kind.as_str() {
        "none" => Ok(LogPlan::None),
        "local" => {
            let max_size = get("max-size").map_or(Ok(MAX_SIZE), |text| {
                size(text).map_err(|reason| format!("invalid value for max-size: {text}: {reason}"))
            });
            let max_size = max_size.map_err(failed)?;
            let max_files = get("max-file").map_or(Ok(MAX_FILES), |text| {
                count(text)
                    .map_err(|reason| format!("invalid value for max-file: {text}: {reason}"))
            });
            let max_files = max_files.map_err(failed)?.max(1);
            let compress = get("compress").map_or(Ok(true), |text| {
                boolean(text)
                    .map_err(|reason| format!("error reading compress log option: {reason}"))
            });
            let compress = compress.map_err(failed)?;
            if compress && max_files == 1 {
                let text = "compression cannot be enabled when max file count is 1";
                return Err(failed(text.to_owned()));
            }
            Ok(LogPlan::Local { path, max_size, max_files, compress, nonblocking })
        }
        _ => {
            let max_size = match get("max-size") {
                None => Some(MAX_SIZE),
                Some("-1") => None,
                Some(text) => Some(size(text).map_err(failed)?).filter(|bytes| *bytes > 0),
            };
            let max_files = get("max-file").map_or(Ok(MAX_FILES), count).map_err(failed)?;
            if max_files == 0 {
                return Err(failed("max-file cannot be less than 1".to_owned()));
            }
            let compress = get("compress").map_or(Ok(false), boolean).map_err(failed)?;
            if compress && (max_files == 1 || get("max-size").is_none()) {
                let text =
                    "compress cannot be true when max-file is less than 2 or max-size is not set";
                return Err(failed(text.to_owned()));
            }
            let attributes = attributes(record, &options).map_err(failed)?;
            Ok(LogPlan::JsonFile { path, max_size, max_files, compress, attributes, nonblocking })
        }
    }
}

/// What is said with every record: labels and variables that the options name, and the tag.
fn attributes(
    record: &Record,
    options: &Options,
) -> std::result::Result<Vec<(String, String)>, String> {
    let mut out = BTreeMap::new();
    let labels: BTreeMap<&str, &str> =
        record.labels().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let variables: BTreeMap<&str, &str> =
        record.config.env.iter().flatten().filter_map(|entry| entry.split_once('=')).collect();
    for (all, name) in [(&labels, "labels"), (&variables, "env")] {
        for wanted in options.get(name).into_iter().flat_map(|list| list.split(',')) {
            if let Some(value) = all.get(wanted) {
                out.insert(wanted.to_owned(), (*value).to_owned());
            }
        }
        let pattern = options.get(&format!("{name}-regex")).filter(|pattern| !pattern.is_empty());
        if let Some(pattern) = pattern {
            let pattern = Regex::new(pattern)
                .map_err(|_| format!("error parsing regexp: invalid pattern: `{pattern}`"))?;
            for (found, value) in all.iter().filter(|(found, _)| pattern.is_match(found)) {
                out.insert((*found).to_owned(), (*value).to_owned());
            }
        }
    }
    if let Some(template) = options.get("tag").filter(|template| !template.is_empty()) {
        let tag = crate::log_tag::tag(record, template, &out)?;
        out.insert("tag".to_owned(), tag);
    }
    Ok(out.into_iter().collect())
}

/// One record's attributes in front of its text, as `logs --details` shows them.
pub(crate) fn details(attributes: &[(String, String)]) -> String {
    let shown: Vec<String> = attributes
        .iter()
        .map(|(name, value)| format!("{}={}", escape(name), escape(value)))
        .collect();
    format!("{} ", shown.join(","))
}

/// As Go escapes a part of a query.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(driver: &str, options: &[(&str, &str)]) -> HostConfig {
        let mut host = HostConfig::default();
        host.log_config.kind = driver.into();
        let texts = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        host.log_config.config = Some(texts.collect());
        host
    }

    #[test]
    fn refused_when_it_is_made() {
        for (driver, name, value, says) in [
            (
                "bogus",
                "a",
                "b",
                "error looking up logging plugin bogus: plugin \"bogus\" not found",
            ),
            ("json-file", "bogus", "1", "unknown log opt 'bogus' for json-file log driver"),
            ("local", "tag", "1", "unknown log opt 'tag' for log driver local"),
            ("", "mode", "x", "logger: logging mode not supported: x"),
            (
                "local",
                "max-buffer-size",
                "1m",
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ),
        ] {
            let error = check(&host(driver, &[(name, value)])).unwrap_err();
            assert_eq!(error.to_string(), says);
        }
        let error = check(&host("local", &[("mode", "non-blocking"), ("max-buffer-size", "x")]))
            .unwrap_err();
        assert_eq!(error.to_string(), "error parsing option max-buffer-size: invalid size: 'x'");
        check(&host("json-file", &[("tag", "x"), ("mode", "non-blocking")])).unwrap();
        check(&host("none", &[])).unwrap();
    }

    #[test]
    fn shown_details() {
        let texts = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        assert_eq!(details(&texts(&[("Q", "1"), ("a b", "c/d")])), "Q=1,a+b=c%2Fd ");
        assert_eq!(details(&[]), " ");
    }
}
