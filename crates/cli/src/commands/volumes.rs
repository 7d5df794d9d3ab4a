//! `volume`: make, list, remove, and what swarms ask of them.

use serde_json::{Map, Value, json};

use super::list::{format_of, labels};
use super::{App, filters, segment};
use crate::failure::{Failure, Result};
use crate::format::human;
use crate::format::natural;
use crate::format::rows::{Listing, render};
use crate::format::template::Headers;
use crate::mounts;
use crate::parse::Parsed;
use crate::{print, say};

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// The object's path for a name that a user typed.
fn volume(name: &str) -> Result<String> {
    match name.trim() {
        "" => Err(Failure::new("invalid volume name or ID: value is empty")),
        name => Ok(format!("/volumes/{}", segment(name))),
    }
}

/// `key=value` pairs as a map, sorted; the last of one key counts.
fn pairs<'a>(list: impl IntoIterator<Item = &'a str>) -> Map<String, Value> {
    let mut all: Map<String, Value> = list
        .into_iter()
        .map(|entry| entry.split_once('=').unwrap_or((entry, "")))
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    all.sort_keys();
    all
}

pub fn create(app: &App<'_>) -> Result<u8> {
    let body = create_body(app.flags).map_err(Failure::new)?;
    let answer = app.client.post("/volumes/create").json(&body).fetch()?;
    print(&format!("{}\n", text(&answer, "Name"))).map(|()| 0)
}

/// The body of `POST /volumes/create`; what is nothing is not sent.
pub fn create_body(flags: &Parsed) -> std::result::Result<Value, String> {
    let argument = flags.args.first().map_or("", String::as_str);
    if flags.given("name") && !flags.args.is_empty() {
        return Err("conflicting options: cannot specify a volume-name through both --name and \
                    as a positional arg"
            .to_owned());
    }
    let name = if flags.args.is_empty() { flags.text("name") } else { argument };
    let mut options = pairs(flags.list("opt").iter().map(String::as_str));
    mounts::disk(flags, &mut options, "--opt")?;
    options.sort_keys();
    let mut body = Map::new();
    if let Some(cluster) = cluster(flags) {
        body.insert("ClusterVolumeSpec".to_owned(), cluster);
    }
    if !flags.text("driver").is_empty() {
        body.insert("Driver".to_owned(), flags.text("driver").into());
    }
    let labels = pairs(flags.list("label").iter().map(String::as_str));
    for (key, map) in [("DriverOpts", options), ("Labels", labels)] {
        if !map.is_empty() {
            body.insert(key.to_owned(), map.into());
        }
    }
    if !name.is_empty() {
        body.insert("Name".to_owned(), name.into());
    }
    Ok(body.into())
}

/// What is asked of a volume of a swarm, which the engine may refuse.
fn cluster(flags: &Parsed) -> Option<Value> {
    let marks =
        ["group", "scope", "sharing", "type", "availability", "required-bytes", "limit-bytes"];
    if !marks.iter().any(|mark| flags.given(mark)) {
        return None;
    }
    let mut spec = Map::new();
    if !flags.text("group").is_empty() {
        spec.insert("Group".to_owned(), flags.text("group").into());
    }
    let mut access = json!({ "Scope": flags.text("scope"), "Sharing": flags.text("sharing") });
    match flags.text("type") {
        "mount" => access["MountVolume"] = json!({}),
        "block" => access["BlockVolume"] = json!({}),
        _ => {}
    }
    spec.insert("AccessMode".to_owned(), access);
    let mut places = Map::new();
    for (flag, key) in [("topology-required", "Requisite"), ("topology-preferred", "Preferred")] {
        let all: Vec<Value> = flags
            .list(flag)
            .iter()
            .map(|text| json!({ "Segments": pairs(text.split(',')) }))
            .collect();
        if !all.is_empty() {
            places.insert(key.to_owned(), all.into());
        }
    }
    spec.insert("AccessibilityRequirements".to_owned(), places.into());
    spec.insert(
        "CapacityRange".to_owned(),
        json!({
            "RequiredBytes": flags.bytes("required-bytes"),
            "LimitBytes": flags.bytes("limit-bytes"),
        }),
    );
    let secrets: Vec<Value> = pairs(flags.list("secret").iter().map(String::as_str))
        .into_iter()
        .map(|(key, secret)| json!({ "Key": key, "Secret": secret }))
        .collect();
    if !secrets.is_empty() {
        spec.insert("Secrets".to_owned(), secrets.into());
    }
    if !flags.text("availability").is_empty() {
        spec.insert("Availability".to_owned(), flags.text("availability").into());
    }
    Some(spec.into())
}

pub fn remove(app: &App<'_>) -> Result<u8> {
    let force = app.flags.switch("force");
    app.each(|name| {
        app.client.delete(volume(name)?).switch("force", force).send().map(drop)?;
        Ok(())
    })
}

/// `update`: of a swarm's volumes, and our own `--disk`.
pub fn update(app: &App<'_>) -> Result<u8> {
    if let Some(size) = mounts::size(app.flags).map_err(Failure::new)? {
        let path = format!("/hoy{}/disk", volume(app.arg(0))?);
        app.client.post(path).query("size", size).send()?;
        if app.flags.count() == 1 {
            return Ok(0);
        }
    }
    let about = app.client.get(volume(app.arg(0))?).fetch()?;
    let cluster = &about["ClusterVolume"];
    if !cluster.is_object() {
        return Err(Failure::new("can only update cluster volumes"));
    }
    let mut spec = cluster["Spec"].clone();
    if app.flags.given("availability") {
        spec["Availability"] = app.flags.text("availability").into();
    }
    let path = format!("/volumes/{}", segment(text(cluster, "ID")));
    let version = cluster["Version"]["Index"].as_u64().unwrap_or(0).to_string();
    let request = app.client.request("PUT", path).query("version", version);
    request.json(&json!({ "Spec": spec })).send()?;
    Ok(0)
}

pub const HEADERS: &Headers = &[
    ("Name", "VOLUME NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
    ("Group", "GROUP"),
    ("Availability", "AVAILABILITY"),
    ("Status", "STATUS"),
];

pub fn list(app: &App<'_>) -> Result<u8> {
    let flags = app.flags;
    let cluster = flags.switch("cluster");
    let format = format_of(app, "volumesFormat")?;
    let request = app.client.get("/volumes");
    let answer = request.given("filters", &filters(flags.list("filter"))).fetch()?;
    let mut all: Vec<&Value> = answer["Volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|volume| !cluster || volume["ClusterVolume"].is_object())
        .collect();
    all.sort_by(|one, other| natural::order(text(one, "Name"), text(other, "Name")));
    let rows: Vec<Value> = all.into_iter().map(row).collect();
    let columns: &[&'static str] = match cluster {
        true => &["Name", "Group", "Driver", "Availability", "Status"],
        false => &["Driver", "Name"],
    };
    let listing = Listing {
        // Volumes of swarms have their own columns, whatever was asked for.
        format: if cluster && !flags.switch("quiet") { "" } else { &format },
        quiet: flags.switch("quiet"),
        columns,
        headers: HEADERS,
        key: "Name",
        raw: &[("name", "Name"), ("driver", "Driver")],
    };
    print(&render(&listing, &rows)?)?;
    for warning in answer["Warnings"].as_array().into_iter().flatten() {
        // Docker's client says nothing of drivers that did not answer.
        if let Some(warning) = warning.as_str().filter(|_| app.global.switch("debug")) {
            say(&format!("WARNING: {warning}"));
        }
    }
    Ok(0)
}

/// What a list shows of a volume; every field a text.
pub fn row(volume: &Value) -> Value {
    let usage = &volume["UsageData"];
    let known = |text: String| if usage.is_object() { text } else { "N/A".to_owned() };
    let cluster = &volume["ClusterVolume"];
    let of_cluster = |text: &str| match cluster.is_object() {
        true => text.to_owned(),
        false => "N/A".to_owned(),
    };
    json!({
        "Availability": of_cluster(text(&cluster["Spec"], "Availability")),
        "Driver": text(volume, "Driver"),
        "Group": of_cluster(text(&cluster["Spec"], "Group")),
        "Labels": labels(&volume["Labels"]),
        "Links": known(usage["RefCount"].as_i64().unwrap_or(0).to_string()),
        "Mountpoint": text(volume, "Mountpoint"),
        "Name": text(volume, "Name"),
        "Scope": text(volume, "Scope"),
        "Size": known(human::fine_size(usage["Size"].as_i64().unwrap_or(0))),
        "Status": status(cluster),
    })
}

/// Where a swarm's volume has got to.
fn status(cluster: &Value) -> String {
    if !cluster.is_object() {
        return "N/A".to_owned();
    }
    if text(&cluster["Info"], "VolumeID").is_empty() {
        return "pending creation".to_owned();
    }
    let nodes: Vec<&Value> = cluster["PublishStatus"].as_array().into_iter().flatten().collect();
    if nodes.is_empty() {
        return "created".to_owned();
    }
    let used = nodes.iter().filter(|node| node["State"] == "published").count();
    match used {
        0 => "created".to_owned(),
        1 => "in use (1 node)".to_owned(),
        nodes => format!("in use ({nodes} nodes)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar::Command;

    /// Requests of docker 28.2 as they were recorded, to the order of their keys; and its refusals.
    #[test]
    fn sends_what_docker_sends() {
        for line in include_str!("../../golden/volumes.tsv").lines() {
            let (words, wanted) = line.split_once('\t').unwrap();
            let words: Vec<String> = serde_json::from_str(words).unwrap();
            let wanted: Value = serde_json::from_str(wanted).unwrap();
            let command = Command::find("volume create").unwrap();
            let flags = crate::parse::parse(command.flags(), &words[2..], false);
            let body = flags.map_err(|failure| failure.message).and_then(|f| create_body(&f));
            let got = body.unwrap_or_else(Value::from);
            assert_eq!(got.to_string(), wanted.to_string(), "{words:?}");
        }
    }

    #[test]
    fn our_own_disk() {
        let command = Command::find("volume create").unwrap();
        let of = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let flags = crate::parse::parse(command.flags(), &words, false).unwrap();
            create_body(&flags).map(|body| body["DriverOpts"].to_string())
        };
        assert_eq!(of("--disk 1g -o o=noatime v").unwrap(), r#"{"o":"noatime","size":"1g"}"#);
        assert!(of("--disk 1g -o size=2g v").unwrap_err().contains("--disk and --opt size"));
    }
}
