//! `diff`, `export` and `commit`.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};

use serde_json::Value;

use super::{App, segment};
use crate::failure::{Failure, Result};
use crate::print;

pub fn diff(app: &App<'_>) -> Result<u8> {
    if app.arg(0).is_empty() {
        return Err(Failure::new("invalid container name or ID: value is empty"));
    }
    let answer = app.client.get(format!("/containers/{}/changes", segment(app.arg(0)))).fetch()?;
    let mut text = String::new();
    for change in answer.as_array().into_iter().flatten() {
        let letter = match change["Kind"].as_u64() {
            Some(1) => 'A',
            Some(2) => 'D',
            _ => 'C',
        };
        text.push(letter);
        text.push(' ');
        text.push_str(change["Path"].as_str().unwrap_or_default());
        text.push('\n');
    }
    print(&text).map(|()| 0)
}

pub fn export(app: &App<'_>) -> Result<u8> {
    let path = app.flags.text("output");
    if path.is_empty() && io::stdout().is_terminal() {
        return Err(Failure::new(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect",
        ));
    }
    let about = |error: &io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            let above = crate::go_path::dir(&crate::go_path::clean(path));
            format!(
                "failed to export container: invalid output path: stat {above}: no such file or \
                 directory"
            )
        }
        _ => format!("failed to export container: {error}"),
    };
    // Beside the target, then renamed: an interrupted export leaves no half archive.
    let partial = format!("{path}.partial-{}", std::process::id());
    let file = match path {
        "" => None,
        _ => Some(File::create_new(&partial).map_err(|error| Failure::new(about(&error)))?),
    };
    let request = app.client.get(format!("/containers/{}/export", segment(app.arg(0))));
    let written = request.send().map_err(Failure::from).and_then(|mut answer| match file {
        Some(mut file) => {
            io::copy(&mut answer, &mut file)?;
            Ok(std::fs::rename(&partial, path)?)
        }
        None => {
            let mut stdout = io::stdout().lock();
            io::copy(&mut answer, &mut stdout)?;
            Ok(stdout.flush()?)
        }
    });
    if written.is_err() && !path.is_empty() {
        let _ = std::fs::remove_file(&partial);
    }
    written.map(|()| 0)
}

pub fn commit(app: &App<'_>) -> Result<u8> {
    let flags = app.flags;
    let pause = flags.switch("pause") && !flags.switch("no-pause");
    let mut request = app.client.post("/commit").given("author", flags.text("author"));
    for change in flags.list("change") {
        request = request.query("changes", change);
    }
    request = request.given("comment", flags.text("message")).query("container", app.arg(0));
    if !pause {
        request = request.query("pause", "0");
    }
    let name = app.arg(1);
    if !name.is_empty() {
        let name: hoy_types::Reference = name
            .parse()
            .map_err(|error: hoy_types::ReferenceError| Failure::new(error.to_string()))?;
        if name.digest().is_some() {
            return Err(Failure::new("refusing to create a tag with a digest reference"));
        }
        let name = name.with_default_tag();
        request = request.query("repo", name.name()).given("tag", name.tag().unwrap_or_default());
    }
    let answer: Value = request.fetch()?;
    print(&format!("{}\n", answer["Id"].as_str().unwrap_or_default())).map(|()| 0)
}
