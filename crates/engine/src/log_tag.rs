//! `--log-opt tag=…`: Docker's template over what it tells a log driver of a container. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use gotmpl::{MissingKey, Template, TemplateError, Value};
use hoy_template::{functions, shape};
use hoy_types::Timestamp;

use crate::record::Record;

/// What Go calls the template.
const NAME: &str = "log-tag";
/// A tag is in every line of a log.
const MAX: usize = 16 << 10;
/// The field that is a method with an argument, and what templates say of it.
const EXTRA: &str = ".ExtraAttributes";
/// In its place while it is looked whether the argument is ever missing.
const CALLED: &str = "\u{1}";
const CREATED: &str = ".ContainerCreated.";

/// What the template says of this container. `extra`: the labels and variables that are told, too.
pub(crate) fn tag(
    record: &Record,
    template: &str,
    extra: &BTreeMap<String, String>,
) -> Result<String, String> {
    run(template, fields(record, extra))
}

fn text(text: impl AsRef<str>) -> Value {
    Value::String(text.as_ref().into())
}

fn map<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Value {
    let pairs = pairs.map(|(key, value)| (Arc::from(key), text(value)));
    Value::Map(Arc::new(pairs.collect()))
}

fn list<'a>(texts: impl Iterator<Item = &'a String>) -> Value {
    Value::List(texts.map(text).collect())
}

/// As Go shows a time: `2026-11-21 21:55:30.211 +0000 UTC`.
fn go_time(at: Timestamp) -> String {
    let text = at.fixed();
    let text = text.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.');
    format!("{} +0000 UTC", text.replacen('T', " ", 1))
}

fn fields(record: &Record, extra: &BTreeMap<String, String>) -> Value {
    let image = record.image.to_string();
    let (path, args) = match record.command.split_first() {
        Some((path, args)) => (path.as_str(), args),
        None => ("", &[][..]),
    };
    let host = rustix::system::uname();
    let options = record.host.log_config.config.iter().flatten();
    let (created, seconds) = (record.created, record.created.seconds());
    let both = |(key, value): (&'_ String, &'_ String)| (key.clone(), value.clone());
    let labels: BTreeMap<String, String> = record.labels().map(both).collect();
    let pairs = |all: &BTreeMap<String, String>| {
        map(all.iter().map(|(key, value)| (key.as_str(), value.as_str())))
    };
    let all = [
        ("ID", text(record.id.short())),
        ("FullID", text(record.id.as_str())),
        ("ContainerID", text(record.id.as_str())),
        ("Name", text(&record.name)),
        ("ContainerName", text(format!("/{}", record.name))),
        // Docker cuts the text as it is.
        ("ImageID", text(image.get(..12).unwrap_or(&image))),
        ("ImageFullID", text(&image)),
        ("ContainerImageID", text(&image)),
        ("ImageName", text(&record.config.image)),
        ("ContainerImageName", text(&record.config.image)),
        ("DaemonName", text("docker")),
        ("Hostname", text(host.nodename().to_string_lossy())),
        ("Command", text(record.command.join(" "))),
        ("ContainerEntrypoint", text(path)),
        ("ContainerArgs", list(args.iter())),
        ("ContainerEnv", list(record.config.env.iter().flatten())),
        ("ContainerLabels", pairs(&labels)),
        ("ContainerCreated", text(go_time(created))),
        ("ContainerCreatedUnix", Value::Int(seconds)),
        ("ContainerCreatedUnixNano", Value::Int(created.nanos())),
        ("Config", map(options.map(|(key, value)| (key.as_str(), value.as_str())))),
        // Known to the driver only.
        ("LogPath", text("")),
        ("ExtraAttributes", pairs(extra)),
    ];
    Value::Map(Arc::new(all.into_iter().map(|(key, value)| (Arc::from(key), value)).collect()))
}

/// The words of a place, with the template's name.
fn named(place: &str) -> String {
    let place = place.replacen("template: :", &format!("template: {NAME}:"), 1);
    place.replacen("executing \"\"", &format!("executing \"{NAME}\""), 1)
}

/// Methods of Go's that templates have no other way to ask.
fn without_methods(template: &str) -> Result<String, String> {
    let wrong = |what: &str| format!("template: {NAME}: {what} is not available yet");
    let mut out = template.replace(&format!("{EXTRA} nil"), CALLED);
    if out.contains(EXTRA) {
        let place = shape::field(template, &EXTRA[1..]).unwrap_or_default();
        let why = "wrong number of args for ExtraAttributes: want 1 got 0";
        return Err(named(&format!("{place}: {why}")));
    }
    out = out.replace(CALLED, EXTRA);
    for method in ["UnixNano", "Unix"] {
        let called = format!("{CREATED}{method}");
        out = out.replace(&called, &format!(".ContainerCreated{method}"));
    }
    match out.find(CREATED) {
        Some(at) => {
            let method = out[at + 1..].split(|c: char| !c.is_alphanumeric() && c != '.').next();
            Err(wrong(method.unwrap_or_default()))
        }
        None => Ok(out),
    }
}

fn run(template: &str, fields: Value) -> Result<String, String> {
    let plain = |error: TemplateError| match &error {
        TemplateError::Parse { line, message, .. } | TemplateError::Lex { line, message, .. } => {
            format!("template: {NAME}:{line}: {}", shape::parse_words(message))
        }
        TemplateError::UndefinedFunction(name) => {
            format!("template: {NAME}:1: function \"{name}\" not defined")
        }
        TemplateError::MissingKey { key } => {
            let place = shape::field(template, key).unwrap_or_default();
            named(&format!("{place}: can't evaluate field {key} in type *logger.Info"))
        }
        other => format!("template: {NAME}: {other}"),
    };
    shape::check(template).map_err(|why| format!("template: {NAME}:1: {why}"))?;
    let known = without_methods(template)?;
    let json = |value: &Value| json(value);
    let made = functions::of_values(Template::new(NAME), Arc::new(json));
    let made = made.missing_key(MissingKey::Error).parse(&known).map_err(plain)?;
    let out = made.execute_to_string(&fields).map_err(plain)?;
    if out.len() > MAX {
        return Err(format!("template: {NAME}: the tag is longer than {MAX} bytes"));
    }
    Ok(out)
}

/// A value as JSON, with sorted keys as Go's maps have them.
fn json(value: &Value) -> String {
    fn document(value: &Value) -> serde_json::Value {
        match value {
            Value::Nil | Value::Function(_) => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::Uint(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::String(text) => text.as_ref().into(),
            Value::List(values) => values.iter().map(document).collect(),
            Value::Map(map) => {
                let pairs = map.iter().map(|(key, value)| (key.to_string(), document(value)));
                serde_json::Value::Object(pairs.collect())
            }
        }
    }
    document(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Value {
        let texts = |list: &[&str]| Value::List(list.iter().map(text).collect());
        let all = [
            ("Name", text("web")),
            ("FullID", text("0123456789")),
            ("ContainerArgs", texts(&["-c", "x"])),
            ("ContainerLabels", map([("a", "b")].into_iter())),
            ("ContainerCreated", text("2026-11-21 21:55:30.2 +0000 UTC")),
            ("ContainerCreatedUnix", Value::Int(7)),
            ("ExtraAttributes", map([("X", "y")].into_iter())),
        ];
        Value::Map(Arc::new(all.into_iter().map(|(k, v)| (Arc::from(k), v)).collect()))
    }

    #[test]
    fn as_docker_says_it() {
        for (template, says) in [
            ("plain", "plain"),
            ("{{.Name}}/{{upper .Name}}", "web/WEB"),
            ("{{truncate .Name 2}}|{{if eq .Name \"web\"}}y{{end}}", "we|y"),
            ("{{slice .FullID 0 3}}{{.Name | upper | printf \"%q\"}}", "012\"WEB\""),
            ("{{json .ContainerArgs}}{{.ContainerArgs}}", "[\"-c\",\"x\"][-c x]"),
            ("{{.ExtraAttributes nil}}{{.ContainerLabels}}", "map[X:y]map[a:b]"),
            ("{{index .ContainerLabels \"a\"}}{{.ContainerCreated.Unix}}", "b7"),
            (
                "{{join .ContainerArgs \"-\"}}{{.ContainerCreated}}",
                "-c-x2026-11-21 21:55:30.2 +0000 UTC",
            ),
        ] {
            assert_eq!(run(template, some()).as_deref(), Ok(says), "{template}");
        }
    }

    #[test]
    fn mistakes() {
        for (template, says) in [
            ("{{.ID", "template: log-tag:1: unclosed action"),
            ("{{bogus .Name}}", "template: log-tag:1: function \"bogus\" not defined"),
            (
                "{{.Bogus}}",
                "template: log-tag:1:2: executing \"log-tag\" at <.Bogus>: can't evaluate field Bogus in type *logger.Info",
            ),
            (
                "{{.ExtraAttributes}}",
                "template: log-tag:1:2: executing \"log-tag\" at <.ExtraAttributes>: wrong number of args for ExtraAttributes: want 1 got 0",
            ),
            (
                "{{.ContainerCreated.Year}}",
                "template: log-tag: ContainerCreated.Year is not available yet",
            ),
        ] {
            assert_eq!(run(template, some()).unwrap_err(), says, "{template}");
        }
    }

    #[test]
    fn times_as_go_shows_them() {
        assert_eq!(
            go_time(Timestamp::from_parts(1, 500_000_000)),
            "1970-01-01 00:00:01.5 +0000 UTC"
        );
        assert_eq!(go_time(Timestamp::from_parts(10, 0)), "1970-01-01 00:00:10 +0000 UTC");
    }
}
