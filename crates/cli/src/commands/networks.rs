//! `network`: make, list, remove, connect, disconnect.

use hoy_client::ClientError;
use serde_json::{Map, Value, json};

use super::list::{format_of, labels, short};
use super::{App, filters, prune, segment};
use crate::failure::{Failure, Result};
use crate::format::human;
use crate::format::natural;
use crate::format::rows::{Listing, render};
use crate::format::template::Headers;
use crate::ipam;
use crate::networking::{addresses, blank};
use crate::parse::Parsed;
use crate::{print, say};

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// The object's path for a name that a user typed.
fn network(name: &str) -> Result<String> {
    match name.trim() {
        "" => Err(Failure::new("invalid network name or ID: value is empty")),
        name => Ok(format!("/networks/{}", segment(name))),
    }
}

/// `key=value` pairs as a map, sorted; the last of one key counts.
fn pairs(list: &[String]) -> Map<String, Value> {
    let mut all = Map::new();
    for entry in list {
        let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
        all.insert(key.to_owned(), value.into());
    }
    all.sort_keys();
    all
}

pub fn create(app: &App<'_>) -> Result<u8> {
    let body = create_body(app.flags)?;
    let answer = app.client.post("/networks/create").json(&body).fetch()?;
    if !text(&answer, "Warning").is_empty() {
        say(&format!("WARNING: {}", text(&answer, "Warning")));
    }
    print(&format!("{}\n", text(&answer, "Id"))).map(|()| 0)
}

/// The body of `POST /networks/create`.
pub fn create_body(flags: &Parsed) -> Result<Value> {
    let config = ipam::config(
        flags.list("subnet"),
        flags.list("ip-range"),
        flags.list("gateway"),
        &pairs(flags.list("aux-address")),
    )
    .map_err(Failure::new)?;
    let mut body = Map::new();
    let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
    put("Driver", flags.text("driver").into());
    put("Scope", flags.text("scope").into());
    // Not said, they are the daemon's to decide.
    for (flag, key) in [("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")] {
        if flags.given(flag) {
            put(key, flags.switch(flag).into());
        }
    }
    put(
        "IPAM",
        json!({
            "Driver": flags.text("ipam-driver"),
            "Options": pairs(flags.list("ipam-opt")),
            "Config": config,
        }),
    );
    for (flag, key) in [
        ("internal", "Internal"),
        ("attachable", "Attachable"),
        ("ingress", "Ingress"),
        ("config-only", "ConfigOnly"),
    ] {
        put(key, flags.switch(flag).into());
    }
    put(
        "ConfigFrom",
        match flags.text("config-from") {
            "" => Value::Null,
            name => json!({ "Network": name }),
        },
    );
    put("Options", pairs(flags.list("opt")).into());
    put("Labels", pairs(flags.list("label")).into());
    put("Name", flags.args.first().map_or("", String::as_str).into());
    Ok(body.into())
}

pub fn connect(app: &App<'_>) -> Result<u8> {
    let (path, body) = connect_body(app.flags)?;
    app.client.post(path).json(&body).send()?;
    Ok(0)
}

/// The path and the body of a connection.
pub fn connect_body(flags: &Parsed) -> Result<(String, Value)> {
    let mut options = Map::new();
    for entry in flags.list("driver-opt") {
        let (key, value) = entry
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| Failure::new("invalid key/value pair format in driver options"))?;
        options.insert(key.to_owned(), value.into());
    }
    options.sort_keys();
    let mut endpoint = blank();
    let fixed = addresses(flags.text("ip"), flags.text("ip6"), flags.list("link-local-ip"));
    endpoint["IPAMConfig"] = fixed.unwrap_or_else(|| json!({}));
    if !flags.list("link").is_empty() {
        endpoint["Links"] = json!(flags.list("link"));
    }
    endpoint["Aliases"] = json!(flags.list("alias"));
    endpoint["DriverOpts"] = options.into();
    endpoint["GwPriority"] = flags.int("gw-priority").into();
    let (network, container) = both(flags)?;
    let body = json!({ "Container": container, "EndpointConfig": endpoint });
    Ok((format!("{network}/connect"), body))
}

pub fn disconnect(app: &App<'_>) -> Result<u8> {
    let (path, body) = disconnect_body(app.flags)?;
    app.client.post(path).json(&body).send()?;
    Ok(0)
}

/// The path and the body of a disconnection.
pub fn disconnect_body(flags: &Parsed) -> Result<(String, Value)> {
    let (network, container) = both(flags)?;
    let body = json!({ "Container": container, "Force": flags.switch("force") });
    Ok((format!("{network}/disconnect"), body))
}

/// The network's path and the container's name.
fn both(flags: &Parsed) -> Result<(String, &str)> {
    let argument = |index: usize| flags.args.get(index).map_or("", String::as_str);
    let network = network(argument(0))?;
    match argument(1).trim() {
        "" => Err(Failure::new("invalid container name or ID: value is empty")),
        name => Ok((network, name)),
    }
}

pub fn remove(app: &App<'_>) -> Result<u8> {
    let force = app.flags.switch("force");
    let mut failed = false;
    for name in app.args() {
        match remove_one(app, name, force) {
            Ok(Removal::Done) => print(&format!("{name}\n"))?,
            Ok(Removal::Left) => {}
            Err(failure) => {
                failed = true;
                say(&failure.message);
            }
        }
    }
    if failed { Err(Failure::silent(1)) } else { Ok(0) }
}

enum Removal {
    Done,
    /// Not there, or not to be removed after all: nothing to say.
    Left,
}

fn remove_one(app: &App<'_>, name: &str, force: bool) -> Result<Removal> {
    let path = network(name)?;
    let about = app.client.get(path.as_str()).fetch();
    let warning = "Before removing the routing-mesh network, make sure all the nodes in your \
                   swarm run the same docker engine version. Otherwise, removal may not be \
                   effective and functionality of newly create ingress networks will be impaired.";
    if about.is_ok_and(|about| about["Ingress"] == true) && !prune::warned(warning)? {
        return Ok(Removal::Left);
    }
    match app.client.delete(path).send() {
        Ok(_) => Ok(Removal::Done),
        Err(ClientError::Api(error)) if force && error.status == 404 => Ok(Removal::Left),
        Err(error) => Err(error.into()),
    }
}

const HEADERS: &Headers = &[
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];

pub fn list(app: &App<'_>) -> Result<u8> {
    let flags = app.flags;
    let format = format_of(app, "networksFormat")?;
    let request = app.client.get("/networks");
    let answer = request.given("filters", &filters(flags.list("filter"))).fetch()?;
    let mut all: Vec<&Value> = answer.as_array().into_iter().flatten().collect();
    all.sort_by(|one, other| natural::order(text(one, "Name"), text(other, "Name")));
    let full = flags.switch("no-trunc");
    let rows: Vec<Value> = all.into_iter().map(|network| row(network, full)).collect();
    let listing = Listing {
        format: &format,
        quiet: flags.switch("quiet"),
        columns: &["ID", "Name", "Driver", "Scope"],
        headers: HEADERS,
        key: "ID",
        raw: &[("network_id", "ID"), ("name", "Name"), ("driver", "Driver"), ("scope", "Scope")],
    };
    print(&render(&listing, &rows)?).map(|()| 0)
}

fn row(network: &Value, full: bool) -> Value {
    let id = text(network, "Id");
    json!({
        "CreatedAt": human::go_time(text(network, "Created")),
        "Driver": text(network, "Driver"),
        "ID": if full { id } else { short(id) },
        "IPv4": (network["EnableIPv4"] == true).to_string(),
        "IPv6": (network["EnableIPv6"] == true).to_string(),
        "Internal": (network["Internal"] == true).to_string(),
        "Labels": labels(&network["Labels"]),
        "Name": text(network, "Name"),
        "Scope": text(network, "Scope"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar::Command;

    /// What a command line sends, or the first line of what it says instead.
    fn sent(words: &[String]) -> std::result::Result<Value, String> {
        let depth = if words[0] == "network" { 2 } else { 1 };
        let command = Command::find(&words[..depth].join(" ")).unwrap();
        let flags =
            crate::parse::parse(command.flags(), &words[depth..], command.stops_at_argument());
        let flags = flags.map_err(|failure| failure.message)?;
        let body = match command.path {
            "network create" => create_body(&flags),
            "network connect" => connect_body(&flags).map(|(_, body)| body),
            "network disconnect" => disconnect_body(&flags).map(|(_, body)| body),
            _ => return crate::create::body(&flags, &flags.args[0], &flags.args[1..], false),
        };
        body.map_err(|failure| failure.message)
    }

    /// What is sent of networks and ports, without what is nothing.
    fn part(body: &Value) -> Value {
        let nothing = |value: &Value| {
            matches!(value, Value::Null | Value::Bool(false))
                || value.as_array().is_some_and(Vec::is_empty)
                || value.as_object().is_some_and(Map::is_empty)
        };
        let mut out = Map::new();
        if let Some(ports) = body.get("ExposedPorts") {
            out.insert("ExposedPorts".to_owned(), ports.clone());
        }
        let keys = [
            "NetworkMode",
            "PortBindings",
            "Dns",
            "DnsOptions",
            "DnsSearch",
            "ExtraHosts",
            "Links",
            "PublishAllPorts",
        ];
        let host = &body["HostConfig"];
        let host: Map<String, Value> = keys
            .into_iter()
            .filter(|key| !nothing(&host[key]))
            .map(|key| (key.to_owned(), host[key].clone()))
            .collect();
        out.insert("HostConfig".to_owned(), host.into());
        out.insert("NetworkingConfig".to_owned(), body["NetworkingConfig"].clone());
        out.into()
    }

    /// Requests of docker 28.2 as they were recorded, to the order of their keys; and its refusals.
    #[test]
    fn sends_what_docker_sends() {
        for line in include_str!("../../golden/networks.tsv").lines() {
            let (words, wanted) = line.split_once('\t').unwrap();
            let words: Vec<String> = serde_json::from_str(words).unwrap();
            let wanted: Value = serde_json::from_str(wanted).unwrap();
            let got = match sent(&words) {
                Ok(body) if words[0] == "create" => part(&body),
                Ok(body) => body,
                Err(message) => message.into(),
            };
            assert_eq!(got.to_string(), wanted.to_string(), "{words:?}");
        }
    }
}
