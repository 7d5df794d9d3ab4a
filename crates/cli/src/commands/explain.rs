//! `explain`: why a container does not run, is not well, or cannot start.

use std::fmt::Write as _;

use hoy_client::ClientError;
use hoy_wire::{Cause, Explanation};
use serde_json::Value;

use super::{App, segment};
use crate::failure::{Failure, Result};
use crate::format::human;
use crate::format::template::{self, Missing};
use crate::print;

/// What a failed start says to people.
pub fn hint(name: &str) -> String {
    format!("`hoy explain {name}` says why")
}

pub fn explain(app: &App<'_>) -> Result<u8> {
    let format = app.flags.text("format");
    let format = if format == "json" { "{{json .}}" } else { format };
    if !format.is_empty() {
        template::check(format)?;
    }
    let name = app.arg(0);
    let answer = app.client.get(format!("/hoy/containers/{}/explain", segment(name))).fetch();
    let answer: Value = answer.map_err(|error| match &error {
        ClientError::Api(api) if api.status == 404 && api.message.contains("page not found") => {
            Failure::new(format!(
                "explain is not available with this engine: {} is not hoyd",
                app.client.endpoint()
            ))
        }
        _ => error.into(),
    })?;
    match format {
        "" => {
            let found = serde_json::from_value(answer).map_err(ClientError::from)?;
            print(&shown(&found))?;
        }
        format => print(&(template::one(format, &answer, Missing::Mistake)? + "\n"))?,
    }
    Ok(0)
}

/// What somebody else chose must not move the cursor.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn state(found: &Explanation) -> String {
    let refused = !found.error.is_empty() && found.error != "supervisor lost";
    match found.status.as_str() {
        "created" | "exited" if refused => "could not be started".to_owned(),
        "created" => "was never started".to_owned(),
        "exited" if !found.signal.is_empty() => {
            format!("has ended with {} (by {})", found.exit_code, found.signal)
        }
        "exited" => format!("has ended with {}", found.exit_code),
        "running" => "is running".to_owned(),
        other => format!("is {other}"),
    }
}

fn shown(found: &Explanation) -> String {
    let mut out = format!("{} {}.\n", plain(&found.name), state(found));
    for cause in &found.causes {
        add(&mut out, cause);
    }
    let tasks = &found.tasks;
    if !tasks.is_empty() {
        out.push_str("\nIts processes when memory was short:\n");
        for task in tasks {
            let killed = if task.killed { "  ended by the kernel" } else { "" };
            let size = human::fine_size(i64::try_from(task.rss).unwrap_or(i64::MAX));
            let _ = writeln!(out, "  {:>8} {size:>10}  {}{killed}", task.pid, plain(&task.name));
        }
    }
    if !found.probes.is_empty() {
        out.push_str("\nIts last probes:\n");
        for probe in &found.probes {
            let said = plain(probe.output.trim());
            let _ = writeln!(out, "  {} {:>4}  {said}", probe.start, probe.exit_code);
        }
    }
    if !found.log.is_empty() {
        out.push_str("\nIts last lines:\n");
        for line in &found.log {
            let _ = writeln!(out, "  | {}", plain(line));
        }
    }
    out
}

fn add(out: &mut String, cause: &Cause) {
    let sure = match cause.confidence.as_str() {
        "certain" => String::new(),
        other => format!("{}: ", other.to_uppercase()),
    };
    let _ = writeln!(out, "\n{sure}{}", plain(&cause.what));
    for evidence in &cause.evidence {
        let _ = writeln!(out, "  - {}", plain(evidence));
    }
    if !cause.hint.is_empty() {
        let _ = writeln!(out, "  Next: {}", plain(&cause.hint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown() {
        let found = Explanation {
            name: "web".into(),
            status: "exited".into(),
            exit_code: 137,
            signal: "SIGKILL".into(),
            causes: vec![Cause {
                confidence: "likely".into(),
                what: "Too\tmuch.".into(),
                evidence: vec!["a".into()],
                hint: "less".into(),
                ..Cause::default()
            }],
            log: vec!["one\u{1b}[2J".into()],
            ..Explanation::default()
        };
        assert_eq!(
            shown(&found),
            "web has ended with 137 (by SIGKILL).\n\nLIKELY: Too?much.\n  - a\n  Next: less\n\n\
             Its last lines:\n  | one?[2J\n"
        );
    }
}
