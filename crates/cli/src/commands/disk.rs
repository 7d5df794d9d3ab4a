//! `system df`: what there is, what is in use, and what could be had back.

use std::cmp::Ordering;

use serde_json::{Value, json};

use super::App;
use super::list::{format_of, row as container_row, short};
use super::volumes::row as volume_row;
use crate::failure::Result;
use crate::format::human;
use crate::format::rows::{Listing, escapes, render};
use crate::format::template::{self, Headers, Missing};
use crate::print;

const SUMMARY: &Headers = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];
const SUMMARY_COLUMNS: &[&str] = &["Type", "TotalCount", "Active", "Size", "Reclaimable"];
const SUMMARY_RAW: &[(&str, &str)] = &[
    ("type", "Type"),
    ("total", "TotalCount"),
    ("active", "Active"),
    ("size", "Size"),
    ("reclaimable", "Reclaimable"),
];

/// One of the tables with `-v`: its words above, its columns, and its fields in the raw format.
struct Part {
    key: &'static str,
    kind: &'static str,
    title: &'static str,
    headers: &'static Headers,
    columns: &'static [&'static str],
    raw: &'static [(&'static str, &'static str)],
}

const PARTS: [Part; 4] = [
    Part {
        key: "Images",
        kind: "Image",
        title: "Images space usage:",
        headers: &[
            ("Repository", "REPOSITORY"),
            ("Tag", "TAG"),
            ("ID", "IMAGE ID"),
            ("CreatedSince", "CREATED"),
            ("Size", "SIZE"),
            ("SharedSize", "SHARED SIZE"),
            ("UniqueSize", "UNIQUE SIZE"),
            ("Containers", "CONTAINERS"),
        ],
        columns: &[
            "Repository",
            "Tag",
            "ID",
            "CreatedSince",
            "Size",
            "SharedSize",
            "UniqueSize",
            "Containers",
        ],
        raw: &[
            ("repository: ", "Repository"),
            ("tag: ", "Tag"),
            ("digest: ", "Digest"),
            ("image_id: ", "ID"),
            ("created_at: ", "CreatedAt"),
            ("virtual_size: ", "Size"),
        ],
    },
    Part {
        key: "Containers",
        kind: "Container",
        title: "Containers space usage:",
        headers: &[
            ("ID", "CONTAINER ID"),
            ("Image", "IMAGE"),
            ("Command", "COMMAND"),
            ("LocalVolumes", "LOCAL VOLUMES"),
            ("Size", "SIZE"),
            ("RunningFor", "CREATED"),
            ("Status", "STATUS"),
            ("Names", "NAMES"),
        ],
        columns: &[
            "ID",
            "Image",
            "Command",
            "LocalVolumes",
            "Size",
            "RunningFor",
            "Status",
            "Names",
        ],
        raw: &[
            ("container_id: ", "ID"),
            ("image: ", "Image"),
            ("command: ", "Command"),
            ("created_at: ", "CreatedAt"),
            ("state: ", "State"),
            ("status: ", "Status"),
            ("names: ", "Names"),
            ("labels:", "Labels"),
            ("ports:", "Ports"),
            ("size: ", "Size"),
        ],
    },
    Part {
        key: "Volumes",
        kind: "Volume",
        title: "Local Volumes space usage:",
        headers: &[("Name", "VOLUME NAME"), ("Links", "LINKS"), ("Size", "SIZE")],
        columns: &["Name", "Links", "Size"],
        raw: &[("name: ", "Name"), ("driver: ", "Driver")],
    },
    Part {
        key: "BuildCache",
        kind: "Build Cache",
        title: "Build cache usage: ",
        headers: &[
            ("ID", "CACHE ID"),
            ("CacheType", "CACHE TYPE"),
            ("Size", "SIZE"),
            ("CreatedSince", "CREATED"),
            ("LastUsedSince", "LAST USED"),
            ("UsageCount", "USAGE"),
            ("Shared", "SHARED"),
        ],
        columns: &[
            "ID",
            "CacheType",
            "Size",
            "CreatedSince",
            "LastUsedSince",
            "UsageCount",
            "Shared",
        ],
        raw: &[
            ("build_cache_id: ", "ID"),
            ("parent_id: ", "Parent"),
            ("build_cache_type: ", "CacheType"),
            ("description: ", "Description"),
            ("created_at: ", "CreatedAt"),
            ("created_since: ", "CreatedSince"),
            ("last_used_at: ", "LastUsedAt"),
            ("last_used_since: ", "LastUsedSince"),
            ("usage_count: ", "UsageCount"),
            ("in_use: ", "InUse"),
            ("shared: ", "Shared"),
        ],
    },
];

pub fn usage(app: &App<'_>) -> Result<u8> {
    let format = format_of(app, "")?;
    let answer = app.client.get("/system/df").fetch()?;
    let now = human::now().seconds();
    let text = match app.flags.switch("verbose") {
        true => verbose(&answer, &format, now)?,
        false => {
            let listing = Listing {
                format: &format,
                quiet: false,
                columns: SUMMARY_COLUMNS,
                headers: SUMMARY,
                key: "Type",
                raw: SUMMARY_RAW,
            };
            render(&listing, &summary(&answer))?
        }
    };
    print(&text).map(|()| 0)
}

fn all<'a>(answer: &'a Value, key: &str) -> &'a [Value] {
    answer[key].as_array().map_or(&[], Vec::as_slice)
}

fn int(value: &Value, key: &str) -> i64 {
    value[key].as_i64().unwrap_or(0)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// The four rows. Sums may come from an engine that is wrong; they do not end the program.
fn summary(answer: &Value) -> Vec<Value> {
    let sum = |numbers: &mut dyn Iterator<Item = i64>| numbers.fold(0_i64, i64::saturating_add);
    let row = |kind: &str, total: usize, active: usize, size: i64, back: String| {
        json!({
            "Active": active.to_string(),
            "Reclaimable": back,
            "Size": human::fine_size(size),
            "TotalCount": total.to_string(),
            "Type": kind,
        })
    };
    let images = all(answer, "Images");
    let layers = int(answer, "LayersSize");
    // What only images in use have cannot be had back.
    let used = sum(&mut images
        .iter()
        .filter(|image| int(image, "Containers") != 0)
        .filter(|image| int(image, "Size") != -1 && int(image, "SharedSize") != -1)
        .map(|image| int(image, "Size").saturating_sub(int(image, "SharedSize"))));
    let containers = all(answer, "Containers");
    let runs = |about: &Value| {
        ["running", "paused", "restarting"].iter().any(|word| text(about, "State").contains(word))
    };
    let written = sum(&mut containers.iter().map(|c| int(c, "SizeRw")));
    let stopped = sum(&mut containers.iter().filter(|c| !runs(c)).map(|c| int(c, "SizeRw")));
    let volumes = all(answer, "Volumes");
    let known = || volumes.iter().map(|v| &v["UsageData"]).filter(|use_of| int(use_of, "Size") > 0);
    let held = sum(&mut known().map(|use_of| int(use_of, "Size")));
    let unused = |use_of: &&Value| int(use_of, "RefCount") == 0;
    let idle = sum(&mut known().filter(unused).map(|use_of| int(use_of, "Size")));
    let cache = all(answer, "BuildCache");
    let cached = cache_size(cache);
    let busy = sum(&mut cache
        .iter()
        .filter(|record| record["InUse"] == true && record["Shared"] != true)
        .map(|record| int(record, "Size")));
    vec![
        row(
            "Images",
            images.len(),
            images.iter().filter(|image| int(image, "Containers") > 0).count(),
            layers,
            part(layers.saturating_sub(used), layers),
        ),
        row(
            "Containers",
            containers.len(),
            containers.iter().filter(|about| runs(about)).count(),
            written,
            part(stopped, written),
        ),
        row(
            "Local Volumes",
            volumes.len(),
            volumes.iter().filter(|v| int(&v["UsageData"], "RefCount") > 0).count(),
            held,
            part(idle, held),
        ),
        row(
            "Build Cache",
            cache.len(),
            cache.iter().filter(|record| record["InUse"] == true).count(),
            cached,
            human::fine_size(cached.saturating_sub(busy)),
        ),
    ]
}

/// A size, and how much it is of the whole.
fn part(of: i64, whole: i64) -> String {
    let shown = human::fine_size(of);
    if whole <= 0 {
        return shown;
    }
    let hundredths = i128::from(of) * 100 / i128::from(whole);
    format!("{shown} ({hundredths}%)")
}

/// What is shared is counted with the images.
fn cache_size(cache: &[Value]) -> i64 {
    let own = cache.iter().filter(|record| record["Shared"] != true);
    own.map(|record| int(record, "Size")).fold(0, i64::saturating_add)
}

fn verbose(answer: &Value, format: &str, now: i64) -> Result<String> {
    let table = matches!(format, "" | "table");
    let mut rows = all_rows(answer, !table, now);
    if table {
        return tables(&rows, cache_size(all(answer, "BuildCache")));
    }
    if format == "raw" {
        return Ok(PARTS.iter().zip(&rows).map(|(part, rows)| raw(part, rows)).collect());
    }
    let mut document = serde_json::Map::new();
    for (part, rows) in PARTS.iter().zip(rows.drain(..)) {
        document.insert(part.key.to_owned(), rows.into());
    }
    let format = match format {
        "json" => "{{json .}}".to_owned(),
        other => escapes(other.strip_prefix("table ").unwrap_or(other)),
    };
    template::one(&format, &document.into(), Missing::Mistake)
}

/// The rows of the four parts, with identifiers in full or as tables have them.
fn all_rows(answer: &Value, full: bool, now: i64) -> Vec<Vec<Value>> {
    let images = all(answer, "Images").iter().filter_map(|image| image_row(image, full, now));
    let containers = all(answer, "Containers").iter().map(|about| {
        let mut about = about.clone();
        // What the image has is not the container's.
        about["SizeRootFs"] = Value::Null;
        container_row(&about, full, now)
    });
    let volumes = all(answer, "Volumes").iter().map(volume_row);
    let mut cache: Vec<&Value> = all(answer, "BuildCache").iter().collect();
    cache.sort_by(|one, other| by_use(one, other));
    let cache = cache.into_iter().map(|record| cache_row(record, full, now));
    vec![images.collect(), containers.collect(), volumes.collect(), cache.collect()]
}

fn tables(rows: &[Vec<Value>], cached: i64) -> Result<String> {
    let mut out = String::new();
    for (index, (part, rows)) in PARTS.iter().zip(rows).enumerate() {
        if index > 0 {
            out.push('\n');
        }
        out.push_str(part.title);
        if part.key == "BuildCache" {
            out.push_str(&human::fine_size(cached));
        }
        out.push_str("\n\n");
        let listing = Listing {
            format: "",
            quiet: false,
            columns: part.columns,
            headers: part.headers,
            key: "",
            raw: &[],
        };
        out.push_str(&render(&listing, rows)?);
    }
    Ok(out)
}

/// Names and values, one per line.
fn raw(part: &Part, rows: &[Value]) -> String {
    let mut out = String::new();
    for row in rows {
        out.push_str(&format!("type: {}\n", part.kind));
        for (name, key) in part.raw {
            let value = text(row, key);
            let space = if name.ends_with(' ') || value.is_empty() { "" } else { " " };
            out.push_str(&format!("{name}{space}{value}\n"));
        }
        out.push('\n');
    }
    out
}

/// An image by its first name; `None` for one whose name is none.
fn image_row(image: &Value, full: bool, now: i64) -> Option<Value> {
    let first = |key: &str| image[key].as_array().and_then(|all| all.first()?.as_str());
    let mut named = ("<none>".to_owned(), "<none>".to_owned());
    let dangling = first("RepoTags") == Some("<none>:<none>")
        && first("RepoDigests").is_none_or(|digest| digest == "<none>@<none>");
    if let Some(name) = first("RepoTags").filter(|_| !dangling) {
        let reference: hoy_types::Reference = name.parse().ok()?;
        if let Some(tag) = reference.tag() {
            named = (reference.familiar_name(), tag.to_owned());
        }
    }
    let (size, shared) = (int(image, "Size"), int(image, "SharedSize"));
    let known = |known: bool, bytes: i64| match known {
        true => human::fine_size(bytes),
        false => "N/A".to_owned(),
    };
    let created = int(image, "Created");
    let id = text(image, "Id");
    Some(json!({
        "Containers": match int(image, "Containers") {
            -1 => "N/A".to_owned(),
            count => count.to_string(),
        },
        "CreatedAt": human::date(created),
        "CreatedSince": format!("{} ago", human::duration(now.saturating_sub(created))),
        "Digest": "",
        "ID": if full { id } else { short(id) },
        "Repository": named.0,
        "SharedSize": known(shared != -1, shared),
        "Size": human::size(size),
        "Tag": named.1,
        "UniqueSize": known(size != -1 && shared != -1, size.saturating_sub(shared)),
        "VirtualSize": human::fine_size(size),
    }))
}

/// Seconds of a time of RFC 3339.
fn seconds(time: &str) -> Option<i64> {
    time.parse::<jiff::Timestamp>().ok().map(|time| time.as_second())
}

/// What was never used comes first, then what was used longest ago.
fn by_use(one: &Value, other: &Value) -> Ordering {
    let used = |record: &Value| {
        record["LastUsedAt"].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok())
    };
    used(one).cmp(&used(other)).then_with(|| text(one, "ID").cmp(text(other, "ID")))
}

fn cache_row(record: &Value, full: bool, now: i64) -> Value {
    let id = |key: &str| {
        let id = text(record, key);
        if full { id } else { id.get(..12).unwrap_or(id) }.to_owned()
    };
    let mut name = id("ID");
    if record["InUse"] == true {
        name.push('*');
    }
    let since = |key: &str| match seconds(text(record, key)) {
        Some(then) => format!("{} ago", human::duration(now.saturating_sub(then))),
        None => String::new(),
    };
    let used = text(record, "LastUsedAt");
    json!({
        "CacheType": text(record, "Type"),
        "CreatedAt": human::go_time(text(record, "CreatedAt")),
        "CreatedSince": since("CreatedAt"),
        "Description": text(record, "Description"),
        "ID": name,
        "InUse": (record["InUse"] == true).to_string(),
        "LastUsedAt": if used.is_empty() { String::new() } else { human::go_time(used) },
        "LastUsedSince": since("LastUsedAt"),
        "Parent": id("Parent"),
        "Shared": (record["Shared"] == true).to_string(),
        "Size": human::fine_size(int(record, "Size")),
        "UsageCount": int(record, "UsageCount").to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Value {
        let image = |size: i64, shared: i64, containers: i64| {
            json!({
                "Id": "sha256:aaaaaaaaaaaaaaaaaaaa", "RepoTags": ["docker.io/library/a:1"],
                "Size": size, "SharedSize": shared, "Containers": containers, "Created": 0,
            })
        };
        json!({
            "LayersSize": 1000,
            "Images": [image(500, 100, 2), image(300, -1, 1), image(200, 0, 0)],
            "Containers": [
                {"State": "running", "SizeRw": 70, "SizeRootFs": 5},
                {"State": "exited", "SizeRw": 30},
            ],
            "Volumes": [
                {"Name": "v", "UsageData": {"RefCount": 1, "Size": 10}},
                {"Name": "w", "UsageData": {"RefCount": 0, "Size": -1}},
                {"Name": "x", "UsageData": {"RefCount": 0, "Size": 30}},
                {"Name": "y"},
            ],
            "BuildCache": [
                {"ID": "b", "Size": 5, "InUse": true, "LastUsedAt": "2024-01-02T03:04:05Z"},
                {"ID": "a", "Size": 7, "Shared": true},
                {"ID": "c", "Size": 3, "LastUsedAt": "2024-01-01T03:04:05Z"},
            ],
        })
    }

    #[test]
    fn sums() {
        let rows = summary(&answer());
        let line = |row: &Value| {
            let cells: Vec<&str> = SUMMARY_COLUMNS.iter().map(|column| text(row, column)).collect();
            cells.join(" | ")
        };
        assert_eq!(line(&rows[0]), "Images | 3 | 2 | 1kB | 600B (60%)");
        assert_eq!(line(&rows[1]), "Containers | 2 | 1 | 100B | 30B (30%)");
        assert_eq!(line(&rows[2]), "Local Volumes | 4 | 1 | 40B | 30B (75%)");
        assert_eq!(line(&rows[3]), "Build Cache | 3 | 1 | 8B | 3B");
    }

    #[test]
    fn tables_in_full() {
        let text = verbose(&answer(), "", 10).unwrap();
        assert!(
            text.starts_with("Images space usage:\n\nREPOSITORY   TAG       IMAGE ID"),
            "{text}"
        );
        assert!(
            text.contains("\na            1         aaaaaaaaaaaa   10 seconds ago   500B"),
            "{text}"
        );
        assert!(text.contains("\nBuild cache usage: 8B\n\nCACHE ID"), "{text}");
        let ids = verbose(&answer(), "{{range .BuildCache}}{{.ID}} {{end}}", 10).unwrap();
        assert_eq!(ids, "a c b* ");
        assert!(verbose(&answer(), "{{.Nope}}", 10).is_err());
    }
}
