//! `import --change`: a few of Dockerfile's instructions, applied to a configuration. Pure.

use serde_json::{Map, Value, json};

use crate::{ImageError, Result};

/// Applies instructions in order to an image's `config` object.
pub(crate) fn apply(config: &mut Map<String, Value>, changes: &[String]) -> Result<()> {
    changes.iter().filter(|line| !line.trim().is_empty()).try_for_each(|line| one(config, line))
}

fn one(config: &mut Map<String, Value>, line: &str) -> Result<()> {
    let invalid = |why: &str| ImageError::Invalid(format!("invalid change {line:?}: {why}"));
    let trimmed = line.trim();
    let (word, rest) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, ""));
    let rest = rest.trim();
    let keyword = word.to_ascii_uppercase();
    if rest.is_empty() && !matches!(keyword.as_str(), "CMD" | "ENTRYPOINT") {
        let one = matches!(keyword.as_str(), "USER" | "WORKDIR" | "STOPSIGNAL");
        let need = if one { "exactly one argument" } else { "at least one argument" };
        return Err(ImageError::Invalid(format!("{keyword} requires {need}")));
    }
    match keyword.as_str() {
        "CMD" => drop(config.insert("Cmd".into(), command(rest))),
        "ENTRYPOINT" => drop(config.insert("Entrypoint".into(), command(rest))),
        "USER" => drop(config.insert("User".into(), json!(rest))),
        "STOPSIGNAL" => {
            rest.parse::<hoy_types::Signal>().map_err(|error| invalid(&error.to_string()))?;
            config.insert("StopSignal".into(), json!(rest));
        }
        "WORKDIR" => {
            let before = config.get("WorkingDir").and_then(Value::as_str).unwrap_or("/");
            let path = if rest.starts_with('/') {
                rest.to_owned()
            } else {
                format!("{}/{rest}", before.trim_end_matches('/'))
            };
            config.insert("WorkingDir".into(), json!(path));
        }
        "ENV" => {
            let list = config.entry("Env").or_insert_with(|| json!([]));
            for (key, value) in pairs(rest).ok_or_else(|| invalid("want KEY=value"))? {
                if let Some(list) = list.as_array_mut() {
                    let prefix = format!("{key}=");
                    list.retain(|entry| !entry.as_str().is_some_and(|e| e.starts_with(&prefix)));
                    list.push(json!(format!("{key}={value}")));
                }
            }
        }
        "LABEL" => {
            let labels = config.entry("Labels").or_insert_with(|| json!({}));
            for (key, value) in pairs(rest).ok_or_else(|| invalid("want key=value"))? {
                if let Some(labels) = labels.as_object_mut() {
                    labels.insert(key, json!(value));
                }
            }
        }
        "EXPOSE" => {
            let ports = config.entry("ExposedPorts").or_insert_with(|| json!({}));
            for word in rest.split_whitespace() {
                let all = hoy_types::parse_port_spec(word).map_err(|e| invalid(&e.to_string()))?;
                for port in all {
                    if let Some(ports) = ports.as_object_mut() {
                        ports.insert(port.container.to_string(), json!({}));
                    }
                }
            }
        }
        "VOLUME" => {
            let volumes = config.entry("Volumes").or_insert_with(|| json!({}));
            let list: Vec<String> = serde_json::from_str(rest)
                .unwrap_or_else(|_| rest.split_whitespace().map(str::to_owned).collect());
            for path in list {
                if let Some(volumes) = volumes.as_object_mut() {
                    volumes.insert(path, json!({}));
                }
            }
        }
        "ONBUILD" => {
            let list = config.entry("OnBuild").or_insert_with(|| json!([]));
            if let Some(list) = list.as_array_mut() {
                list.push(json!(rest));
            }
        }
        "HEALTHCHECK" => {
            let check = health(rest).map_err(|why| invalid(&why))?;
            config.insert("Healthcheck".into(), check);
        }
        _ => {
            let text = format!("{word} is not a valid change command");
            return Err(ImageError::Invalid(text));
        }
    }
    Ok(())
}

/// `NONE`, or options and a command.
fn health(text: &str) -> std::result::Result<Value, String> {
    let mut check = Map::new();
    let mut rest = text;
    loop {
        let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        rest = after.trim_start();
        if let Some(option) = word.strip_prefix("--") {
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let key = match name {
                "interval" => "Interval",
                "timeout" => "Timeout",
                "start-period" => "StartPeriod",
                "start-interval" => "StartInterval",
                "retries" => "Retries",
                _ => return Err(format!("unknown flag: {name}")),
            };
            let number = match key {
                "Retries" => value.parse::<i64>().map_err(|error| error.to_string())?,
                _ => hoy_types::parse_duration(value)?,
            };
            if number < 0 {
                return Err(format!("--{name} cannot be negative"));
            }
            check.insert(key.into(), json!(number));
            continue;
        }
        let words = match word.to_ascii_uppercase().as_str() {
            "NONE" if rest.is_empty() => vec!["NONE".to_owned()],
            "NONE" => return Err("HEALTHCHECK NONE takes no arguments".into()),
            "CMD" if rest.is_empty() => return Err("missing command after HEALTHCHECK CMD".into()),
            "CMD" => match serde_json::from_str::<Vec<String>>(rest) {
                Ok(list) => std::iter::once("CMD".to_owned()).chain(list).collect(),
                Err(_) => vec!["CMD-SHELL".to_owned(), rest.to_owned()],
            },
            other => return Err(format!("unknown type {other:?} in HEALTHCHECK (try CMD)")),
        };
        check.insert("Test".into(), json!(words));
        return Ok(Value::Object(check));
    }
}

/// `["a", "b"]`, or a line for the shell.
fn command(text: &str) -> Value {
    match serde_json::from_str::<Vec<String>>(text) {
        Ok(list) => json!(list),
        Err(_) if text.is_empty() => json!([]),
        Err(_) => json!(["/bin/sh", "-c", text]),
    }
}

/// `A=1 B="two words"`, or the old `A one value`.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let words = words(text)?;
    if !words.first()?.contains('=') {
        let (key, value) = text.split_once(char::is_whitespace)?;
        return Some(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    words
        .into_iter()
        .map(|word| {
            let (key, value) = word.split_once('=')?;
            (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// Words by blanks, with quotes and backslashes.
fn words(text: &str) -> Option<Vec<String>> {
    let mut out = Vec::new();
    let mut word = String::new();
    let mut started = false;
    let mut quote = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (Some(q), l) if l == q => quote = None,
            (None, '"' | '\'') => {
                quote = Some(letter);
                started = true;
            }
            (None | Some('"'), '\\') => {
                word.push(letters.next()?);
                started = true;
            }
            (None, l) if l.is_whitespace() => {
                if started {
                    out.push(std::mem::take(&mut word));
                    started = false;
                }
            }
            (_, l) => {
                word.push(l);
                started = true;
            }
        }
    }
    if quote.is_some() {
        return None;
    }
    if started {
        out.push(word);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions() {
        let mut config = Map::new();
        let changes = [
            "CMD [\"sh\"]",
            "ENTRYPOINT run it",
            "ENV A=1 B=\"two words\"",
            "ENV A 3",
            "expose 80 53/udp",
            "LABEL a=b",
            "WORKDIR /x",
            "WORKDIR y",
            "USER web",
            "VOLUME /data",
            "HEALTHCHECK --interval=5s --retries=2 CMD test -e /x",
        ];
        apply(&mut config, &changes.map(str::to_owned)).unwrap();
        assert_eq!(config["Cmd"], json!(["sh"]));
        assert_eq!(config["Entrypoint"], json!(["/bin/sh", "-c", "run it"]));
        assert_eq!(config["Env"], json!(["B=two words", "A=3"]));
        assert_eq!(config["ExposedPorts"], json!({"80/tcp": {}, "53/udp": {}}));
        assert_eq!(config["WorkingDir"], json!("/x/y"));
        let check = json!({
            "Interval": 5_000_000_000_i64, "Retries": 2, "Test": ["CMD-SHELL", "test -e /x"]
        });
        assert_eq!(config["Healthcheck"], check);
        for (line, test) in [
            ("HEALTHCHECK NONE", json!(["NONE"])),
            ("healthcheck cmd [\"a\", \"b\"]", json!(["CMD", "a", "b"])),
        ] {
            apply(&mut config, &[line.to_owned()]).unwrap();
            assert_eq!(config["Healthcheck"], json!({ "Test": test }));
        }
        for bad in ["HEALTHCHECK RUN x", "HEALTHCHECK CMD", "HEALTHCHECK --often=1s CMD x"] {
            assert!(apply(&mut Map::new(), &[bad.to_owned()]).is_err(), "{bad}");
        }
        for bad in ["RUN x", "ENV", "EXPOSE x", "STOPSIGNAL nope", "ENV A=\"x"] {
            assert!(apply(&mut Map::new(), &[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
