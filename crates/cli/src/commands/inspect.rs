//! `inspect`: documents of objects as the engine has them.

use hoy_client::ClientError;
use serde::Serialize as _;
use serde_json::Value;

use super::{App, segment};
use crate::failure::{Failure, Result};
use crate::format::template::{self, Missing};
use crate::{print, say};

/// What can be inspected here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Container,
    Image,
    Network,
    Volume,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Image => "image",
            Self::Network => "network",
            Self::Volume => "volume",
        }
    }

    fn path(self, name: &str) -> String {
        let name = segment(name);
        match self {
            Self::Container => format!("/containers/{name}/json"),
            Self::Image => format!("/images/{name}/json"),
            Self::Network => format!("/networks/{name}"),
            Self::Volume => format!("/volumes/{name}"),
        }
    }
}

const ALL: &[Kind] = &[Kind::Container, Kind::Image, Kind::Network, Kind::Volume];

/// `inspect`: of whatever kind the name is.
pub fn any(app: &App<'_>) -> Result<u8> {
    match app.flags.text("type") {
        "" => inspect(app, ALL),
        "container" => inspect(app, &[Kind::Container]),
        "image" => inspect(app, &[Kind::Image]),
        "network" => inspect(app, &[Kind::Network]),
        "volume" => inspect(app, &[Kind::Volume]),
        other @ ("config" | "node" | "plugin" | "secret" | "service" | "task") => {
            Err(Failure::new(format!("inspecting a {other} is not available yet")))
        }
        other => Err(Failure::new(format!(
            "unknown type: \"{other}\": must be one of \"config\", \"container\", \"image\", \"network\", \"node\", \"plugin\", \"secret\", \"service\", \"task\", \"volume\""
        ))),
    }
}

/// Documents of the arguments, which are of one of these kinds.
pub fn inspect(app: &App<'_>, kinds: &[Kind]) -> Result<u8> {
    let format = app.flags.text("format");
    // The word alone is not `{{json .}}` but the plain answer, in one line.
    let in_one_line = format == "json";
    let text = if in_one_line { "" } else { format };
    if !text.is_empty() {
        template::check(text)?;
    }
    let mut documents = Vec::new();
    let mut failures = Vec::new();
    for name in app.args() {
        match find(app, name, kinds)? {
            Ok(document) => documents.push(document),
            Err(message) => failures.push(message),
        }
    }
    if in_one_line {
        print(&format!("{}\n", Value::Array(documents)))?;
    } else if text.is_empty() {
        print(&pretty(&documents)?)?;
    } else {
        let lines = template::lines(text, &documents, Missing::Document);
        // Docker ends the line of what could not be said.
        let lines = lines.or_else(|failure| match failure.code {
            // Docker knows of this before it asks.
            64 => Err(failure),
            _ => print("\n").and(Err(failure)),
        })?;
        let lines: String = lines.into_iter().map(|line| line + "\n").collect();
        print(if lines.is_empty() { "\n" } else { &lines })?;
    }
    if failures.is_empty() {
        return Ok(0);
    }
    failures.iter().for_each(|message| say(message));
    Err(Failure::silent(1))
}

/// Tries one kind after the other; the inner error is for this name only.
fn find(app: &App<'_>, name: &str, kinds: &[Kind]) -> Result<std::result::Result<Value, String>> {
    let name = name.trim();
    for kind in kinds {
        if name.is_empty() && *kind == Kind::Image {
            return Ok(Err("Error: No such image: ".to_owned()));
        }
        if name.is_empty() {
            return Ok(Err(format!("invalid {} name or ID: value is empty", kind.name())));
        }
        let request = app.client.get(kind.path(name));
        let request = request.switch("size", *kind == Kind::Container && app.flags.switch("size"));
        let verbose = *kind == Kind::Network && app.flags.switch("verbose");
        let request = request.given("verbose", if verbose { "true" } else { "" });
        match request.fetch() {
            Ok(document) => {
                if *kind != Kind::Container && app.flags.switch("size") {
                    say(&format!("WARNING: --size ignored for {}", kind.name()));
                }
                return Ok(Ok(document));
            }
            Err(ClientError::Api(error)) if kinds.len() > 1 && error.status == 404 => {}
            Err(error @ ClientError::Api(_)) => return Ok(Err(error.to_string())),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Err(format!("Error: No such object: {name}")))
}

/// Four spaces per level, as Docker's.
pub fn pretty(documents: &[Value]) -> Result<String> {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    documents.serialize(&mut serializer).map_err(|error| Failure::new(error.to_string()))?;
    out.push(b'\n');
    String::from_utf8(out).map_err(|error| Failure::new(error.to_string()))
}
