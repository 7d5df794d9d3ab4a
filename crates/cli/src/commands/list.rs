//! `ps`, and what lists share.

use serde_json::{Value, json};

use super::{App, filters};
use crate::failure::Result;
use crate::format::human;
use crate::format::rows::{Listing, render};
use crate::format::template::{self, Headers};
use crate::print;

const CONTAINER: &Headers = &[
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("RunningFor", "CREATED"),
    ("Status", "STATUS"),
    ("Ports", "PORTS"),
    ("Names", "NAMES"),
    ("Size", "SIZE"),
    ("CreatedAt", "CREATED AT"),
    ("State", "STATE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
];

/// Lines of `--format raw`; the last one is shown with sizes.
const RAW: &[(&str, &str)] = &[
    ("container_id", "ID"),
    ("image", "Image"),
    ("command", "Command"),
    ("created_at", "CreatedAt"),
    ("state", "State"),
    ("status", "Status"),
    ("names", "Names"),
    ("labels", "Labels"),
    ("ports", "Ports"),
    ("size", "Size"),
];

/// What a template means, before any request is made for it.
pub fn format_of(app: &App<'_>, setting: &str) -> Result<String> {
    let mut format = app.flags.text("format").to_owned();
    if format.is_empty() {
        format = app.config()[setting].as_str().unwrap_or_default().to_owned();
    }
    let text = format.strip_prefix("table ").unwrap_or(&format);
    if !matches!(text, "" | "table" | "json" | "raw") {
        // A wrong format of a list is a failure like any other; of a document it is wrong use.
        template::check_of_list(text)?;
    }
    Ok(format)
}

/// Whether a template writes down everything, sizes too.
fn whole_row(format: &str) -> bool {
    let ends = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_alphanumeric());
    format.split("json .").skip(1).any(ends)
}

pub fn containers(app: &App<'_>) -> Result<u8> {
    let flags = app.flags;
    let mut format = format_of(app, "psFormat")?;
    if flags.switch("quiet") {
        if !flags.text("format").is_empty() {
            crate::say(
                "WARNING: Ignoring custom format, because both --format and --quiet are set.",
            );
        }
        if format != "raw" {
            format.clear();
        }
    }
    let last = if flags.switch("latest") { 1 } else { flags.int("last") };
    if !matches!(format.as_str(), "" | "table" | "json" | "raw") {
        // A field that is not there is seen before anything is asked.
        let text = format.strip_prefix("table ").unwrap_or(&format);
        template::one(text, &row(&Value::Null, false, 0), template::Missing::Mistake)?;
    }
    let size = flags.switch("size") || format.contains(".Size") || whole_row(&format);
    let request = app.client.get("/containers/json").switch("all", flags.switch("all"));
    let request = request
        .given("filters", &filters(flags.list("filter")))
        .given("limit", &if last > 0 { last.to_string() } else { String::new() })
        .switch("size", size);
    let answer = request.fetch()?;
    let full = flags.switch("no-trunc");
    let now = human::now().seconds();
    let rows: Vec<Value> =
        answer.as_array().into_iter().flatten().map(|c| row(c, full, now)).collect();
    let mut columns = vec!["ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"];
    if size {
        columns.push("Size");
    }
    let listing = Listing {
        format: &format,
        quiet: flags.switch("quiet"),
        columns: &columns,
        headers: CONTAINER,
        key: "ID",
        raw: if size { RAW } else { &RAW[..RAW.len() - 1] },
    };
    print(&render(&listing, &rows)?).map(|()| 0)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Hexadecimal digits enough to tell objects apart.
pub fn short(id: &str) -> &str {
    let id = id.strip_prefix("sha256:").unwrap_or(id);
    id.get(..12).unwrap_or(id)
}

pub fn row(about: &Value, full: bool, now: i64) -> Value {
    let id = text(about, "Id");
    let names: Vec<&str> = about["Names"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str()?.strip_prefix('/'))
        .filter(|name| full || !name.contains('/'))
        .collect();
    let created = about["Created"].as_i64().unwrap_or(0);
    let command = text(about, "Command");
    let command = if full { command.to_owned() } else { human::ellipsis(command, 20) };
    let mounts: Vec<String> = about["Mounts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|mount| match text(mount, "Name") {
            "" => text(mount, "Source"),
            name => name,
        })
        .map(|name| if full { name.to_owned() } else { human::ellipsis(name, 15) })
        .collect();
    let local = about["Mounts"].as_array().into_iter().flatten();
    let local = local.filter(|mount| text(mount, "Driver") == "local").count();
    let networks = about["NetworkSettings"]["Networks"].as_object();
    let mut networks: Vec<&str> =
        networks.into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    networks.sort_unstable();
    json!({
        "Command": json!(command).to_string(),
        "CreatedAt": human::date(created),
        "ID": if full { id } else { short(id) },
        "Image": image(about, full),
        "Labels": labels(&about["Labels"]),
        "LocalVolumes": local.to_string(),
        "Mounts": mounts.join(","),
        "Names": names.join(","),
        "Networks": networks.join(","),
        "Platform": null,
        "Ports": ports(&about["Ports"]),
        "RunningFor": format!("{} ago", human::duration(now.saturating_sub(created))),
        "Size": size(about),
        "State": text(about, "State"),
        "Status": text(about, "Status"),
    })
}

fn image(about: &Value, full: bool) -> String {
    let (image, id) = (text(about, "Image"), text(about, "ImageID"));
    if image.is_empty() {
        return "<no image>".to_owned();
    }
    if full {
        return image.to_owned();
    }
    if short(image) == short(id) && !id.is_empty() {
        return short(id).to_owned();
    }
    // A digest that was given beside a tag is too long for a table.
    match image.parse::<hoy_types::Reference>() {
        Ok(reference) if reference.digest().is_some() && reference.tag().is_some() => {
            image.split('@').next().unwrap_or(image).to_owned()
        }
        _ => image.to_owned(),
    }
}

/// `a=b,c=d`, sorted.
pub fn labels(labels: &Value) -> String {
    let all = labels.as_object().into_iter().flatten();
    let mut all: Vec<String> =
        all.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    all.sort_unstable();
    all.join(",")
}

fn size(about: &Value) -> String {
    let written = human::size(about["SizeRw"].as_i64().unwrap_or(0));
    match about["SizeRootFs"].as_i64() {
        Some(whole) if whole > 0 => format!("{written} (virtual {})", human::size(whole)),
        _ => written,
    }
}

/// Ports as one text, adjacent ones as ranges.
fn ports(ports: &Value) -> String {
    let number = |port: &Value, key: &str| port[key].as_u64().unwrap_or(0);
    let mut all: Vec<&Value> = ports.as_array().into_iter().flatten().collect();
    all.sort_by_key(|port| {
        let (private, public) = (number(port, "PrivatePort"), number(port, "PublicPort"));
        (private, text(port, "IP"), public, text(port, "Type"))
    });
    // Ranges by address and protocol, in the order of their first appearance.
    let mut groups: Vec<((&str, &str), u64, u64)> = Vec::new();
    let mut out = Vec::new();
    let mut moved = Vec::new();
    let shown = |(ip, kind): (&str, &str), first: u64, last: u64| {
        let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
        match ip {
            "" => format!("{range}/{kind}"),
            ip => format!("{}->{range}/{kind}", super::containers::join(ip, &range)),
        }
    };
    for port in all {
        let (private, public) = (number(port, "PrivatePort"), number(port, "PublicPort"));
        let key = (text(port, "IP"), text(port, "Type"));
        if !key.0.is_empty() && public != private {
            let host = super::containers::join(key.0, &public.to_string());
            moved.push(format!("{host}->{private}/{}", key.1));
            continue;
        }
        match groups.iter_mut().find(|(known, ..)| *known == key) {
            None => groups.push((key, private, private)),
            Some((_, _, last)) if *last + 1 == private => *last = private,
            Some((_, first, last)) => {
                out.push(shown(key, *first, *last));
                (*first, *last) = (private, private);
            }
        }
    }
    out.extend(groups.into_iter().map(|(key, first, last)| shown(key, first, last)));
    out.extend(moved);
    out.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_as_docker_shows_them() {
        let port = |ip: &str, private: u16, public: u16, kind: &str| json!({"IP": ip, "PrivatePort": private, "PublicPort": public, "Type": kind});
        let plain = json!({"PrivatePort": 53, "Type": "udp"});
        assert_eq!(
            ports(&json!([port("0.0.0.0", 80, 8080, "tcp"), port("::", 80, 8080, "tcp"), plain])),
            "53/udp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"
        );
        assert_eq!(
            ports(&json!([
                port("0.0.0.0", 80, 80, "tcp"),
                port("0.0.0.0", 81, 81, "tcp"),
                port("0.0.0.0", 83, 83, "tcp"),
            ])),
            "0.0.0.0:80-81->80-81/tcp, 0.0.0.0:83->83/tcp"
        );
    }
}
