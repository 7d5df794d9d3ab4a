//! Commands on images.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write as _};

use serde_json::{Value, json};

use super::list::{format_of, short};
use super::{App, filters, segment};
use crate::failure::{Failure, Result};
use crate::format::human;
use crate::format::rows::{Listing, render};
use crate::format::template::Headers;
use crate::{print, progress, say};

const IMAGE: &Headers = &[
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn strings<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    value[key].as_array().into_iter().flatten().filter_map(Value::as_str)
}

pub fn list(app: &App<'_>) -> Result<u8> {
    let flags = app.flags;
    if flags.switch("tree") {
        return Err(Failure::new("--tree is not available yet"));
    }
    let format = format_of(app, "imagesFormat")?;
    let mut wanted = flags.list("filter").to_vec();
    if let Some(name) = app.args().first() {
        wanted.push(format!("reference={name}"));
    }
    let request = app.client.get("/images/json").switch("all", flags.switch("all"));
    let answer = request.given("filters", &filters(&wanted)).fetch()?;
    let mut all: Vec<&Value> = answer.as_array().into_iter().flatten().collect();
    all.sort_by_key(|image| std::cmp::Reverse(image["Created"].as_i64()));
    let digests = flags.switch("digests");
    let full = flags.switch("no-trunc");
    let by_digest = digests || format.contains(".Digest");
    let rows: Vec<Value> = all.into_iter().flat_map(|image| rows(image, full, by_digest)).collect();
    let columns: &[&'static str] = if digests {
        &["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"]
    } else {
        &["Repository", "Tag", "ID", "CreatedSince", "Size"]
    };
    let listing = Listing {
        format: &format,
        quiet: flags.switch("quiet"),
        columns,
        headers: IMAGE,
        key: "ID",
        raw: &[],
    };
    print(&render(&listing, &rows)?).map(|()| 0)
}

/// One row per name.
fn rows(image: &Value, full: bool, digests: bool) -> Vec<Value> {
    let split = |name: &str| -> (String, String) {
        let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "<none>"));
        (repository.to_owned(), tag.to_owned())
    };
    let digest_of = |repository: &str| {
        strings(image, "RepoDigests")
            .find_map(|name| {
                let (known, digest) = name.split_once('@')?;
                (known == repository).then_some(digest)
            })
            .unwrap_or("<none>")
    };
    let mut names: Vec<(String, String, String)> = strings(image, "RepoTags")
        .filter(|name| *name != "<none>:<none>")
        .map(split)
        .map(|(repository, tag)| {
            let digest = digest_of(&repository).to_owned();
            (repository, tag, digest)
        })
        .collect();
    // An image known by a digest alone is listed by its repository.
    for name in strings(image, "RepoDigests").filter(|name| *name != "<none>@<none>") {
        if let Some((repository, digest)) = name.split_once('@')
            && !names.iter().any(|(known, ..)| known == repository)
        {
            names.push((repository.to_owned(), "<none>".to_owned(), digest.to_owned()));
        }
    }
    if names.is_empty() {
        names.push(("<none>".to_owned(), "<none>".to_owned(), "<none>".to_owned()));
    }
    let created = image["Created"].as_i64().unwrap_or(0);
    let size = human::size(image["Size"].as_i64().unwrap_or(0));
    let count = |key: &str| match image[key].as_i64() {
        Some(number) if number >= 0 => Some(number),
        _ => None,
    };
    let id = text(image, "Id");
    names
        .into_iter()
        .map(|(repository, tag, digest)| {
            json!({
                "Containers": count("Containers").map_or("N/A".to_owned(), |n| n.to_string()),
                "CreatedAt": human::date(created),
                "CreatedSince": since(created),
                "Digest": if digests { &digest } else { "<none>" },
                "ID": if full { id } else { short(id) },
                "Repository": repository,
                "SharedSize": count("SharedSize").map_or("N/A".to_owned(), human::size),
                "Size": size,
                "Tag": tag,
                "UniqueSize": "N/A",
                "VirtualSize": human::fine_size(image["Size"].as_i64().unwrap_or(0)),
            })
        })
        .collect()
}

/// An age; images made reproducibly often say nothing.
fn since(created: i64) -> String {
    if created <= 0 { "N/A".to_owned() } else { human::ago(created) }
}

pub fn tag(app: &App<'_>) -> Result<u8> {
    let target: hoy_types::Reference = app.arg(1).parse().map_err(|error| {
        Failure::new(format!(
            "Error parsing reference: \"{}\" is not a valid repository/tag: {error}",
            app.arg(1)
        ))
    })?;
    if target.digest().is_some() {
        return Err(Failure::new("refusing to create a tag with a digest reference"));
    }
    let target = target.with_default_tag();
    app.client
        .post(format!("/images/{}/tag", segment(app.arg(0))))
        .query("repo", target.name())
        .given("tag", target.tag().unwrap_or_default())
        .send()?;
    Ok(0)
}

pub fn remove(app: &App<'_>) -> Result<u8> {
    let flags = app.flags;
    let mut failed = false;
    let mut missing = 0;
    for name in app.args() {
        let request = app.client.delete(format!("/images/{}", segment(name)));
        let request = request
            .switch("force", flags.switch("force"))
            .switch("noprune", flags.switch("no-prune"));
        match request.fetch() {
            Ok(done) => {
                for step in done.as_array().into_iter().flatten() {
                    let line = match step["Deleted"].as_str() {
                        Some(id) => format!("Deleted: {id}\n"),
                        None => format!("Untagged: {}\n", text(step, "Untagged")),
                    };
                    print(&line)?;
                }
            }
            Err(error) => {
                missing += u32::from(error.status() == Some(404));
                failed = true;
                say(&error.to_string());
            }
        }
    }
    // With --force an image that is not there is what was wanted.
    if failed && !(flags.switch("force") && missing as usize == app.args().len()) {
        return Err(Failure::silent(1));
    }
    Ok(0)
}

pub fn load(app: &App<'_>) -> Result<u8> {
    let path = app.flags.text("input");
    let mut input: Box<dyn Read> = match path {
        "" if io::stdin().is_terminal() => {
            return Err(Failure::new("requested load from stdin, but stdin is empty"));
        }
        "" => Box::new(io::stdin().lock()),
        path => Box::new(open(path)?),
    };
    let quiet = app.flags.switch("quiet") || !io::stdout().is_terminal();
    let answer = app
        .client
        .post("/images/load")
        .given("platform", &platform(app.flags.text("platform")))
        .query("quiet", if quiet { "1" } else { "0" })
        .stream("application/x-tar", &mut input)
        .send()?;
    progress::show(answer, false)?;
    Ok(0)
}

fn open(path: &str) -> Result<File> {
    File::open(path).map_err(|error| {
        let reason = match error.kind() {
            io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => error.to_string(),
        };
        Failure::new(format!("open {path}: {reason}"))
    })
}

/// `os/arch[/variant]` as the engine takes it.
fn platform(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    let mut parts = text.split('/');
    let (os, arch) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let mut value = json!({ "architecture": arch, "os": os });
    if let Some(variant) = parts.next() {
        value["variant"] = variant.into();
    }
    value.to_string()
}

pub fn import(app: &App<'_>) -> Result<u8> {
    let flags = app.flags;
    let source = app.arg(0);
    let mut request = app.client.post("/images/create");
    for change in flags.list("change") {
        request = request.query("changes", change);
    }
    request = request
        .query("fromSrc", if is_url(source) { source } else { "-" })
        .given("message", flags.text("message"))
        .given("platform", flags.text("platform"))
        .given("repo", app.arg(1));
    let mut input: Box<dyn Read> = match source {
        "-" => Box::new(io::stdin().lock()),
        url if is_url(url) => {
            return progress::show(request.send()?, false).map(|()| 0);
        }
        path => Box::new(open(path)?),
    };
    progress::show(request.stream("text/plain", &mut input).send()?, false)?;
    Ok(0)
}

fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

pub fn save(app: &App<'_>) -> Result<u8> {
    let path = app.flags.text("output");
    if path.is_empty() && io::stdout().is_terminal() {
        return Err(Failure::new(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect",
        ));
    }
    let mut request = app.client.get("/images/get");
    for name in app.args() {
        request = request.query("names", name);
    }
    let platform = platform(app.flags.text("platform"));
    let mut answer = request.given("platform", &platform).send()?;
    if path.is_empty() {
        let mut stdout = io::stdout().lock();
        io::copy(&mut answer, &mut stdout)?;
        stdout.flush()?;
        return Ok(0);
    }
    // Beside the target, then renamed: an interrupted save leaves no half archive.
    let partial = format!("{path}.partial-{}", std::process::id());
    let written = File::create_new(&partial)
        .and_then(|mut file| io::copy(&mut answer, &mut file))
        .and_then(|_| std::fs::rename(&partial, path));
    if let Err(error) = written {
        let _ = std::fs::remove_file(&partial);
        return Err(Failure::new(format!("save to {path}: {error}")));
    }
    Ok(0)
}

const HISTORY: &Headers = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

pub fn history(app: &App<'_>) -> Result<u8> {
    let flags = app.flags;
    let format = format_of(app, "historyFormat")?;
    let people = flags.switch("human");
    let full = flags.switch("no-trunc");
    let request = app.client.get(format!("/images/{}/history", segment(app.arg(0))));
    let answer = request.given("platform", &platform(flags.text("platform"))).fetch()?;
    let rows: Vec<Value> = answer
        .as_array()
        .into_iter()
        .flatten()
        .map(|step| {
            let created = step["Created"].as_i64().unwrap_or(0);
            let by = text(step, "CreatedBy").replace('\t', " ");
            let size = step["Size"].as_i64().unwrap_or(0);
            let id = text(step, "Id");
            json!({
                "Comment": text(step, "Comment"),
                "CreatedAt": human::rfc3339(created),
                "CreatedBy": if full { by } else { human::ellipsis(&by, 45) },
                "CreatedSince": if people { since(created) } else { human::rfc3339(created) },
                "ID": if full { id } else { short(id) },
                "Size": if people { human::size(size) } else { size.to_string() },
            })
        })
        .collect();
    let listing = Listing {
        format: &format,
        quiet: flags.switch("quiet"),
        columns: &["ID", "CreatedSince", "CreatedBy", "Size", "Comment"],
        headers: HISTORY,
        key: "ID",
        raw: &[],
    };
    print(&render(&listing, &rows)?).map(|()| 0)
}
