//! `--publish` and `--expose`: which ports a new container declares, and where they are to be
//! reached. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::parse::Parsed;

type Ports = Map<String, Value>;

/// Exposed ports, and published ones with the host's side.
pub fn ports(flags: &Parsed) -> Result<(Ports, Ports), String> {
    let mut exposed = BTreeSet::new();
    let mut published: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for said in flags.list("publish") {
        let spec = short_form(said)?;
        // The address travels as it was written.
        let address = hoy_types::written_address(&spec).map_err(|error| error.to_string())?;
        for binding in hoy_types::parse_port_spec(&spec).map_err(|error| error.to_string())? {
            let port = binding.container.to_string();
            let host_port = match binding.host_ports {
                None => String::new(),
                Some((first, last)) if first == last => first.to_string(),
                Some((first, last)) => format!("{first}-{last}"),
            };
            exposed.insert(port.clone());
            let all = published.entry(port).or_default();
            all.push(json!({ "HostIp": address, "HostPort": host_port }));
        }
    }
    for text in flags.list("expose") {
        if text.contains(':') {
            return Err(format!("invalid port format for --expose: {text}"));
        }
        let (range, protocol) = hoy_types::split_protocol(text);
        let (first, last) = hoy_types::parse_port_range(range).map_err(|error| {
            format!("invalid range format for --expose: {text}, error: {error}")
        })?;
        exposed.extend((first..=last).map(|port| format!("{port}/{protocol}")));
    }
    let exposed = exposed.into_iter().map(|port| (port, json!({}))).collect();
    let published = published.into_iter().map(|(port, all)| (port, Value::Array(all))).collect();
    Ok((exposed, published))
}

/// `target=80,published=8080,protocol=udp` as `8080:80/udp`.
fn short_form(text: &str) -> Result<String, String> {
    if !text.contains('=') {
        return Ok(text.to_owned());
    }
    let (mut published, mut target, mut protocol) = ("", "", "tcp");
    for field in text.split(',') {
        let (key, value) =
            field.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
                format!("invalid publish opts format (should be name=value but got '{field}')")
            })?;
        match key {
            "published" => published = value,
            "target" => target = value,
            "protocol" => protocol = value,
            // Said to swarms, and without meaning for one container.
            _ => {}
        }
    }
    Ok(format!("{published}:{target}/{protocol}"))
}
