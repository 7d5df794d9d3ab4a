//! Devices that are asked for by what they are or by their names: `--gpus`, and `--device` with a
//! name of the Container Device Interface. Docker's rules and messages.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::csv;
use crate::parse::Parsed;

/// The document of all requests; `null` for none.
pub fn requests(flags: &Parsed, named: &[String]) -> Result<Value, String> {
    let mut all = Vec::new();
    let text = flags.text("gpus");
    if !text.is_empty() {
        let request = gpus(text)
            .map_err(|reason| format!("invalid argument {text:?} for \"--gpus\" flag: {reason}"))?;
        all.push(request);
    }
    if !named.is_empty() {
        all.push(json!({
            "Driver": "cdi", "Count": 0, "DeviceIDs": named, "Capabilities": null, "Options": null
        }));
    }
    Ok(if all.is_empty() { Value::Null } else { all.into() })
}

/// Whether a device is `vendor/class=name` and no path.
pub fn is_name(text: &str) -> bool {
    let word = |text: &str, more: &[u8]| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric();
        let (Some(first), Some(last)) = (text.bytes().next(), text.bytes().last()) else {
            return false;
        };
        plain(first) && plain(last) && text.bytes().all(|byte| plain(byte) || more.contains(&byte))
    };
    let Some((kind, name)) = text.split_once('=') else { return false };
    let Some((vendor, class)) = kind.split_once('/') else { return false };
    word(vendor, b"-_.") && word(class, b"-_") && word(name, b"-_.:")
}

fn gpus(text: &str) -> Result<Value, String> {
    let mut seen: Vec<String> = Vec::new();
    let (mut driver, mut number, mut ids) = (String::new(), 0, None);
    let mut capabilities = vec!["gpu".to_owned()];
    let mut options = BTreeMap::new();
    for field in csv::record(text)? {
        let (key, value) = field.split_once('=').unwrap_or(("count", field.as_str()));
        if seen.iter().any(|known| known == key) {
            return Err(format!("gpu request key '{key}' can be specified only once"));
        }
        seen.push(key.to_owned());
        let list = || value.split(',').map(str::to_owned);
        match key {
            "driver" => value.clone_into(&mut driver),
            "count" => number = count(value)?,
            "device" => ids = Some(list().collect::<Vec<_>>()),
            "capabilities" => capabilities = list().chain(["gpu".to_owned()]).collect(),
            "options" => {
                for pair in csv::record(value)? {
                    let (name, value) = pair.split_once('=').unwrap_or((pair.as_str(), ""));
                    options.insert(name.to_owned(), value.to_owned());
                }
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if ids.is_none() && !seen.iter().any(|key| key == "count") {
        number = 1;
    }
    Ok(json!({
        "Driver": driver,
        "Count": number,
        "DeviceIDs": ids,
        "Capabilities": [capabilities],
        "Options": options,
    }))
}

fn count(text: &str) -> Result<i64, String> {
    if text == "all" {
        return Ok(-1);
    }
    text.parse().map_err(|_| {
        format!(
            "invalid count ({text}): value must be either \"all\" or an integer: invalid syntax"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpu_requests() {
        let of = |text: &str| gpus(text).unwrap();
        assert_eq!(of("all")["Count"], -1);
        assert_eq!(of("2")["Count"], 2);
        assert_eq!(of("\"device=0,1\"")["DeviceIDs"], json!(["0", "1"]));
        assert_eq!(of("\"device=0,1\"")["Count"], 0);
        assert_eq!(of("driver=nvidia")["Count"], 1);
        assert_eq!(of("\"capabilities=compute,utility\"")["Capabilities"][0][2], "gpu");
        for (text, says) in [
            ("foo=bar", "unexpected key 'foo' in 'foo=bar'"),
            ("1,2", "gpu request key 'count' can be specified only once"),
            ("some", "invalid count (some): value must be either \"all\" or an integer"),
        ] {
            assert!(gpus(text).unwrap_err().contains(says), "{text}");
        }
    }

    #[test]
    fn names_and_paths() {
        for name in ["nvidia.com/gpu=0", "a/b=c:d", "vendor.com/class_x=all"] {
            assert!(is_name(name), "{name}");
        }
        for path in ["/dev/null", "/dev/a=b", "a/b", "a=b", "a/b=", "/b=c"] {
            assert!(!is_name(path), "{path}");
        }
    }
}
