//! `prune` of every kind: the question, the request, what went and how much that was; and, with an
//! engine that can tell, what would go.

use std::io::{BufRead as _, Read as _};

use hoy_client::{ClientError, Request};
use hoy_wire::{AFTER_CONTAINERS, DRY_RUN};
use serde_json::Value;

use super::{App, filters};
use crate::failure::{Failure, Result};
use crate::format::human;
use crate::format::natural;
use crate::{print, say};

/// The longest answer to a question that is read.
const MAX_ANSWER: u64 = 1024;
/// The answer's status where an engine has no such thing to prune.
const NOT_BUILT: u16 = 501;

/// Asks; anything but a `y` is a no.
pub fn confirmed(question: &str) -> Result<bool> {
    print(&format!("{question} [y/N] "))?;
    let mut answer = String::new();
    let stdin = std::io::stdin().lock();
    stdin.take(MAX_ANSWER).read_line(&mut answer)?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

/// The usual question about something that cannot be taken back.
pub fn warned(warning: &str) -> Result<bool> {
    confirmed(&format!("WARNING! {warning}\nAre you sure you want to continue?"))
}

/// What there is to prune.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Containers,
    Networks,
    Volumes,
    Images,
    Cache,
}

impl What {
    fn path(self) -> &'static str {
        match self {
            Self::Containers => "/containers/prune",
            Self::Networks => "/networks/prune",
            Self::Volumes => "/volumes/prune",
            Self::Images => "/images/prune",
            Self::Cache => "/build/prune",
        }
    }

    /// As the answer is headed: what went, or what would.
    fn title(self) -> &'static str {
        match self {
            Self::Containers => "Containers",
            Self::Networks => "Networks",
            Self::Volumes => "Volumes",
            Self::Images => "Images",
            Self::Cache => "build cache objects",
        }
    }

    fn list(self) -> &'static str {
        match self {
            Self::Containers => "ContainersDeleted",
            Self::Networks => "NetworksDeleted",
            Self::Volumes => "VolumesDeleted",
            Self::Images => "ImagesDeleted",
            Self::Cache => "CachesDeleted",
        }
    }
}

/// What went, or would.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pruned {
    text: String,
    bytes: u64,
}

/// The text and the bytes of an answer.
fn pruned(what: What, answer: &Value, dry: bool) -> Pruned {
    let mut lines = Vec::new();
    for entry in answer[what.list()].as_array().into_iter().flatten() {
        if let Some(name) = entry.as_str() {
            lines.push(name.to_owned());
        }
        for (key, word) in [("Untagged", "untagged"), ("Deleted", "deleted")] {
            if let Some(name) = entry[key].as_str().filter(|name| !name.is_empty()) {
                lines.push(format!("{word}: {name}"));
            }
        }
    }
    // Bytes without anything that went are of the cache alone.
    let counts = !lines.is_empty() || what == What::Cache;
    let bytes = answer["SpaceReclaimed"].as_u64().filter(|_| counts).unwrap_or(0);
    if lines.is_empty() {
        return Pruned { text: String::new(), bytes };
    }
    let head = match dry {
        true => format!("{} that would be deleted", what.title()),
        false => format!("Deleted {}", what.title()),
    };
    Pruned { text: format!("{head}:\n{}\n\n", lines.join("\n")), bytes }
}

/// The line behind all that went.
fn total(bytes: u64, dry: bool) -> String {
    let shown = human::fine_size(i64::try_from(bytes).unwrap_or(i64::MAX));
    match dry {
        true => format!("Total that would be reclaimed: {shown} ({bytes} bytes)\n"),
        false => format!("Total reclaimed space: {shown}\n"),
    }
}

/// `--filter`, and `pruneFilters` of the client's settings: labels are added unless the opposite
/// was said, a time unless one was said.
fn wanted(app: &App<'_>) -> Vec<String> {
    let own = app.flags.list("filter");
    let mut all = own.to_vec();
    let settings = app.config();
    for more in settings["pruneFilters"].as_array().into_iter().flatten() {
        let Some((key, value)) = more.as_str().and_then(|text| text.split_once('=')) else {
            continue;
        };
        let said = |other: &str| own.iter().any(|own| own == other);
        let has = |key: &str| {
            own.iter().any(|own| own.split('=').next().is_some_and(|name| name.trim() == key))
        };
        let add = match key {
            "label" => !said(&format!("label!={value}")),
            "label!" => !said(&format!("label={value}")),
            "until" => !has("until"),
            _ => true,
        };
        if add {
            all.push(format!("{key}={value}"));
        }
    }
    all
}

/// Only an engine that knows the question answers it without doing it.
fn needs_hoy(app: &App<'_>) -> Result<()> {
    let about = app.client.get("/version").fetch()?;
    let mut parts = about["Components"].as_array().into_iter().flatten();
    if parts.any(|part| part["Name"] == "hoy") {
        return Ok(());
    }
    Err(Failure::new(format!(
        "--dry-run is not available with this engine: {} is not hoyd, and would delete",
        app.client.endpoint()
    )))
}

/// One request of the kind, with what of the flags concerns it.
fn request<'a>(app: &'a App<'_>, what: What, list: &[String], whole: bool) -> Request<'a> {
    let (flags, all) = (app.flags, app.flags.switch("all"));
    let mut list = list.to_vec();
    match what {
        What::Images => list.push(format!("dangling={}", !all)),
        What::Volumes if all && !whole => list.push("all=true".to_owned()),
        _ => {}
    }
    let dry = flags.switch("dry-run");
    if dry {
        // An engine that has never heard of it refuses a filter; a parameter it would not see.
        list.push(format!("{DRY_RUN}=true"));
    }
    let list = filters(&list);
    let request = app.client.post(what.path());
    if what != What::Cache {
        // The system's containers are gone, and hold nothing, before anything else is looked at.
        let after = dry && whole && what != What::Containers;
        return request
            .given("filters", &list)
            .switch(AFTER_CONTAINERS, after)
            .switch(DRY_RUN, dry);
    }
    let size = |name: &str| match flags.bytes(name) {
        0 => String::new(),
        bytes => bytes.to_string(),
    };
    request
        .switch("all", all)
        .query("filters", list)
        .switch(DRY_RUN, dry)
        .given("keep-storage", &size("keep-storage"))
        .given("max-used-space", &size("max-used-space"))
        .given("min-free-space", &size("min-free-space"))
        .given("reserved-space", &size("reserved-space"))
}

/// A prune of one kind.
pub fn one(app: &App<'_>, what: What) -> Result<u8> {
    let (flags, all) = (app.flags, app.flags.switch("all"));
    let list = wanted(app);
    let has_all = |entry: &String| entry.split('=').next().is_some_and(|key| key == "all");
    if what == What::Volumes && all && list.iter().any(has_all) {
        return Err(Failure::new(
            "conflicting options: cannot specify both --all and --filter all=1",
        ));
    }
    let dry = flags.switch("dry-run");
    if dry {
        needs_hoy(app)?;
    } else if !flags.switch("force") && !asked(what, all)? {
        return Ok(0);
    }
    let answer = request(app, what, &list, false).fetch()?;
    let pruned = pruned(what, &answer, dry);
    print(&pruned.text)?;
    if what == What::Networks {
        // They hold nothing.
        return match pruned.text.is_empty() && dry {
            true => print("No network would be deleted\n").map(|()| 0),
            false => Ok(0),
        };
    }
    print(&total(pruned.bytes, dry)).map(|()| 0)
}

fn asked(what: What, all: bool) -> Result<bool> {
    match (what, all) {
        (What::Containers, _) => warned("This will remove all stopped containers."),
        (What::Networks, _) => {
            warned("This will remove all custom networks not used by at least one container.")
        }
        (What::Volumes, false) => {
            warned("This will remove anonymous local volumes not used by at least one container.")
        }
        (What::Volumes, true) => {
            warned("This will remove all local volumes not used by at least one container.")
        }
        (What::Images, false) => warned("This will remove all dangling images."),
        (What::Images, true) => {
            warned("This will remove all images without at least one container associated to them.")
        }
        // In one line, as Docker asks it.
        (What::Cache, all) => {
            let of = if all { "all" } else { "all dangling" };
            confirmed(&format!(
                "WARNING! This will remove {of} build cache. Are you sure you want to continue?"
            ))
        }
    }
}

/// `system prune`: one kind after the other, so that what held something is gone before it.
pub fn system(app: &App<'_>) -> Result<u8> {
    let flags = app.flags;
    let (all, volumes, dry) =
        (flags.switch("all"), flags.switch("volumes"), flags.switch("dry-run"));
    if volumes && flags.list("filter").iter().any(|entry| entry.trim().starts_with("until=")) {
        return Err(Failure::new(
            "ERROR: The \"until\" filter is not supported with \"--volumes\"",
        ));
    }
    let list = wanted(app);
    if dry {
        needs_hoy(app)?;
    } else if !flags.switch("force") && !confirmed(&question(all, volumes, &list))? {
        return Ok(0);
    }
    let mut kinds = vec![What::Containers, What::Networks];
    kinds.extend(volumes.then_some(What::Volumes));
    kinds.extend([What::Images, What::Cache]);
    let (mut bytes, mut held, mut left_out) = (0_u64, false, false);
    for what in kinds {
        let answer = match request(app, what, &list, true).fetch() {
            Ok(answer) => answer,
            // Where nothing is built there is no cache, and the rest went.
            Err(ClientError::Api(error)) if what == What::Cache && error.status == NOT_BUILT => {
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let pruned = pruned(what, &answer, dry);
        bytes = bytes.saturating_add(pruned.bytes);
        match what {
            What::Containers => held = !pruned.text.is_empty(),
            What::Cache => {}
            _ => left_out |= held && answer["AfterContainers"] != true,
        }
        print(&pruned.text)?;
    }
    print(&total(bytes, dry))?;
    if dry && left_out {
        say("What only these containers use would go with them and is not told here.");
    }
    Ok(0)
}

fn question(all: bool, volumes: bool, list: &[String]) -> String {
    let mut what =
        vec!["all stopped containers", "all networks not used by at least one container"];
    if volumes {
        what.push("all anonymous volumes not used by at least one container");
    }
    what.extend(match all {
        true => ["all images without at least one container associated to them", "all build cache"],
        false => ["all dangling images", "unused build cache"],
    });
    let lines = |list: &[&str]| list.iter().map(|line| format!("  - {line}\n")).collect::<String>();
    let mut shown: Vec<&str> = list
        .iter()
        .map(String::as_str)
        .filter(|entry| matches!(entry.split('=').next(), Some("label" | "label!" | "until")))
        .collect();
    shown.sort_by(|one, other| natural::order(one, other));
    shown.dedup();
    let mut out = format!("WARNING! This will remove:\n{}", lines(&what));
    if !shown.is_empty() {
        out.push_str("\n  Items to be pruned will be filtered with:\n");
        out.push_str(&lines(&shown));
    }
    out.push_str("\nAre you sure you want to continue?");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_went_and_what_would() {
        let answer = json!({
            "ImagesDeleted": [{"Untagged": "a:b"}, {"Deleted": "sha256:1"}], "SpaceReclaimed": 10,
        });
        let of = |dry| pruned(What::Images, &answer, dry);
        assert_eq!(of(false).text, "Deleted Images:\nuntagged: a:b\ndeleted: sha256:1\n\n");
        assert!(of(true).text.starts_with("Images that would be deleted:\n"));
        assert_eq!(of(true).bytes, 10);
        let nothing = json!({"ContainersDeleted": null, "SpaceReclaimed": 5});
        assert_eq!(pruned(What::Containers, &nothing, false), Pruned::default());
        assert_eq!(total(1_234_567, false), "Total reclaimed space: 1.235MB\n");
        assert_eq!(
            total(1_234_567, true),
            "Total that would be reclaimed: 1.235MB (1234567 bytes)\n"
        );
    }

    #[test]
    fn the_question_names_what_goes() {
        let list = ["label!=b", "foo=x", "label=a"].map(str::to_owned);
        let text = question(true, true, &list);
        assert!(text.contains("  - all anonymous volumes not used"), "{text}");
        assert!(text.contains("  - all build cache\n\n  Items"), "{text}");
        assert!(text.contains("with:\n  - label!=b\n  - label=a\n\nAre"), "{text}");
        assert!(!question(false, false, &[]).contains("Items"));
    }
}
