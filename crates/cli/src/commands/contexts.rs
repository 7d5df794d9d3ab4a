//! `context …`: which engines there are, and which one is in use.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use serde_json::{Map, Value, json};

use crate::connect::{self, Said};
use crate::contexts::{Context, DEFAULT, DEFAULT_ABOUT, Pems, Store, check_name, io_words};
use crate::failure::{Failure, Result};
use crate::format::human;
use crate::format::rows::{Listing, render};
use crate::format::template::{self, Headers, Missing};
use crate::grammar::Command;
use crate::parse::{self, Parsed};
use crate::{print, say, settings, terminal};

const HEADERS: &Headers = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("DockerEndpoint", "DOCKER ENDPOINT"),
    ("Error", "ERROR"),
    ("Current", ""),
];
const TABLE: &str =
    "table {{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}";

/// A command about contexts: none of them asks an engine.
pub fn run(command: &Command, flags: &Parsed, global: &Parsed) -> Result<u8> {
    let said = Said::of(global);
    let of = Of { store: Store::of(&said.config), said, flags };
    match command.canonical {
        "context create" => of.create(),
        "context update" => of.update(),
        "context ls" => of.list(),
        "context inspect" => of.inspect(),
        "context show" => print(&format!("{}\n", of.said.context())).map(|()| 0),
        "context use" => of.choose(),
        "context rm" => of.remove(),
        "context export" => of.export(),
        _ => of.import(),
    }
}

/// Names of contexts, for completion.
pub fn names() -> Vec<String> {
    let store = Store::of(&settings::default_directory());
    let all = store.list().into_iter().map(|context| context.name);
    std::iter::once(DEFAULT.to_owned()).chain(all).collect()
}

struct Of<'a> {
    said: Said,
    store: Store,
    flags: &'a Parsed,
}

impl Of<'_> {
    fn arg(&self, index: usize) -> &str {
        self.flags.args.get(index).map_or("", String::as_str)
    }

    /// The context of no file, as the environment makes it.
    fn default(&self) -> Result<(Context, Pems)> {
        let environment = Said {
            hosts: self.said.hosts.clone(),
            hoy_host: self.said.hoy_host.clone(),
            docker_host: self.said.docker_host.clone(),
            tls: self.said.tls.clone(),
            ..Said::default()
        };
        let choice = connect::choose(&environment)?;
        let skip = choice.tls.as_ref().is_some_and(|tls| tls.skip_verify);
        let mut context = Context { name: DEFAULT.to_owned(), ..Context::default() };
        context
            .endpoints
            .insert("docker".to_owned(), json!({"Host": choice.host, "SkipTLSVerify": skip}));
        let tls = choice.tls.unwrap_or_default();
        let files = [("ca.pem", tls.ca), ("cert.pem", tls.cert), ("key.pem", tls.key)];
        let read = |(name, path): (&str, Option<std::path::PathBuf>)| {
            Some((name.to_owned(), std::fs::read(path?).ok()?))
        };
        Ok((context, files.into_iter().filter_map(read).collect()))
    }

    fn load(&self, name: &str) -> Result<(Context, Pems)> {
        if name == DEFAULT {
            return self.default();
        }
        Ok((self.store.load(name)?, self.store.pems(name)))
    }

    fn create(&self) -> Result<u8> {
        let name = self.arg(0);
        let settings = endpoint_settings(self.flags);
        let from = self.flags.text("from");
        check_name(name)?;
        if self.store.has(name) {
            return Err(Failure::new(format!("context \"{name}\" already exists")));
        }
        if !from.is_empty() && !settings.is_empty() {
            return Err(Failure::new("cannot use --docker flag when --from is set"));
        }
        let description = self.flags.text("description");
        let (mut context, pems) = if settings.is_empty() {
            // Of the one in use where nothing is said.
            let from = if from.is_empty() { self.said.context() } else { from };
            let (mut context, pems) = self.load(from)?;
            if from == DEFAULT {
                context.metadata.insert("Description".to_owned(), DEFAULT_ABOUT.into());
            }
            (context, pems)
        } else {
            let (endpoint, pems) = self.endpoint(&settings)?;
            let endpoints = Map::from_iter([("docker".to_owned(), endpoint)]);
            (Context { endpoints, ..Context::default() }, pems)
        };
        context.name = name.to_owned();
        if !description.is_empty() {
            context.metadata.insert("Description".to_owned(), description.into());
        }
        self.store.save(&context, Some(&pems))?;
        self.done(name, "created")
    }

    fn update(&self) -> Result<u8> {
        let name = self.arg(0);
        let settings = endpoint_settings(self.flags);
        check_name(name)?;
        let mut context = self.store.load(name)?;
        let description = self.flags.text("description");
        if !description.is_empty() {
            context.metadata.insert("Description".to_owned(), description.into());
        }
        let mut new = None;
        if !settings.is_empty() {
            let (endpoint, pems) = self.endpoint(&settings)?;
            context.endpoints.insert("docker".to_owned(), endpoint);
            new = Some(pems);
        }
        self.store.save(&context, new.as_ref())?;
        self.done(name, "updated")
    }

    fn done(&self, name: &str, what: &str) -> Result<u8> {
        print(&format!("{name}\n"))?;
        say(&format!("Successfully {what} context \"{name}\""));
        Ok(0)
    }

    /// An endpoint and its files, of `host=…,ca=…`.
    fn endpoint(&self, settings: &[(String, String)]) -> Result<(Value, Pems)> {
        let wrong =
            |text: String| Failure::new(format!("unable to create docker endpoint config: {text}"));
        let known = ["from", "host", "ca", "cert", "key", "skip-tls-verify"];
        let mut unknown: Vec<&str> = settings
            .iter()
            .map(|(key, _)| key.as_str())
            .filter(|key| !known.contains(key))
            .collect();
        unknown.sort_unstable();
        if !unknown.is_empty() {
            return Err(wrong(format!("unrecognized config key: {}", unknown.join(", "))));
        }
        let value = |key: &str| {
            settings.iter().rev().find(|(known, _)| known == key).map(|(_, v)| v.as_str())
        };
        if let Some(from) = value("from") {
            let (context, pems) = self.load(from).map_err(|failure| wrong(failure.message))?;
            return Ok((context.endpoints.get("docker").cloned().unwrap_or_default(), pems));
        }
        let mut pems = Pems::new();
        for (key, file) in [("ca", "ca.pem"), ("cert", "cert.pem"), ("key", "key.pem")] {
            let Some(path) = value(key).filter(|path| !path.is_empty()) else { continue };
            let text = std::fs::read(path)
                .map_err(|error| wrong(format!("open {path}: {}", io_words(&error))))?;
            pems.push((file.to_owned(), text));
        }
        let skip = value("skip-tls-verify").unwrap_or_default();
        let skip = match skip {
            "" => false,
            text => parse::boolean(text).ok_or_else(|| {
                wrong(format!("skip-tls-verify: parsing \"{text}\": invalid syntax"))
            })?,
        };
        let mut endpoint = Map::new();
        if let Some(host) = value("host").filter(|host| !host.is_empty()) {
            if host.starts_with("ssh://") {
                hoy_client::Ssh::parse(host).map_err(|error| {
                    wrong(format!(
                        "invalid docker endpoint options: ssh host connection is not valid: {error}"
                    ))
                })?;
            }
            endpoint.insert("Host".to_owned(), host.into());
        }
        endpoint.insert("SkipTLSVerify".to_owned(), skip.into());
        Ok((endpoint.into(), pems))
    }

    fn list(&self) -> Result<u8> {
        let current = self.said.context();
        let row = |context: &Context, about: &str, error: &str| {
            json!({
                "Current": context.name == current, "Description": about,
                "DockerEndpoint": context.host(), "Error": error, "Name": context.name,
            })
        };
        let mut rows = vec![row(&self.default()?.0, DEFAULT_ABOUT, "")];
        let all = self.store.list();
        if current != DEFAULT && !all.iter().any(|context| context.name == current) {
            let gone = Context { name: current.to_owned(), ..Context::default() };
            let error = self.store.load(current).err().map(|failure| failure.message);
            rows.push(row(&gone, "", &human::ellipsis(&error.unwrap_or_default(), 45)));
        }
        rows.extend(all.iter().map(|context| row(context, context.description(), "")));
        rows[1..].sort_by(|a, b| {
            let name = |row: &Value| row["Name"].as_str().unwrap_or_default().to_owned();
            crate::format::natural::order(&name(a), &name(b))
        });
        let format = self.flags.text("format");
        let listing = Listing {
            format: if matches!(format, "" | "table") { TABLE } else { format },
            quiet: false,
            columns: &[],
            headers: HEADERS,
            key: "Name",
            raw: &[],
        };
        if self.flags.switch("quiet") {
            let name = |row: &Value| format!("{}\n", row["Name"].as_str().unwrap_or_default());
            return print(&rows.iter().map(name).collect::<String>()).map(|()| 0);
        }
        template::check(listing.format.trim_start_matches("table "))
            .map_err(|failure| failure.with_code(1))?;
        print(&render(&listing, &rows)?)?;
        let variable = if self.said.hoy_host.is_some() { "HOY_HOST" } else { "DOCKER_HOST" };
        if self.said.environment().is_some()
            && self.said.hosts.is_empty()
            && self.said.context_flag.is_none()
        {
            say(&format!(
                "Warning: {variable} environment variable overrides the active context. To use a context, either set the global --context flag, or unset {variable} environment variable."
            ));
        }
        Ok(0)
    }

    fn inspect(&self) -> Result<u8> {
        let format = self.flags.text("format");
        let one_line = format == "json";
        let text = if one_line { "" } else { format };
        if !text.is_empty() {
            template::check(text)?;
        }
        let current = [self.said.context().to_owned()];
        let names = if self.flags.args.is_empty() { &current[..] } else { &self.flags.args };
        let (mut documents, mut failures) = (Vec::new(), Vec::new());
        for name in names {
            match self.load(name) {
                Ok((context, _)) => documents.push(self.document(&context)),
                Err(failure) => failures.push(failure.message),
            }
        }
        if one_line {
            print(&format!("{}\n", Value::Array(documents)))?;
        } else if text.is_empty() {
            // Docker's encoder makes this safe for HTML, unlike what engines answer.
            let text = super::inspect::pretty(&documents)?;
            print(&text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026"))?;
        } else {
            let lines = template::lines(text, &documents, Missing::Document)?;
            print(&lines.into_iter().map(|line| line + "\n").collect::<String>())?;
            if documents.is_empty() {
                print("\n")?;
            }
        }
        if failures.is_empty() {
            return Ok(0);
        }
        failures.iter().for_each(|message| say(message));
        Err(Failure::silent(1))
    }

    fn document(&self, context: &Context) -> Value {
        let mut document = context.document();
        let name = &context.name;
        let memory = name == DEFAULT;
        let place = |path: std::path::PathBuf| match memory {
            true => "<IN MEMORY>".to_owned(),
            false => path.display().to_string(),
        };
        let material = if memory {
            self.default()
                .map(|(_, pems)| pems.into_iter().map(|(name, _)| name).collect())
                .unwrap_or_default()
        } else {
            self.store.material(name)
        };
        document["TLSMaterial"] =
            if material.is_empty() { json!({}) } else { json!({"docker": material}) };
        document["Storage"] = json!({
            "MetadataPath": place(self.store.meta(name)),
            "TLSPath": place(self.store.tls(name)),
        });
        document
    }

    fn choose(&self) -> Result<u8> {
        let name = self.arg(0);
        if name != DEFAULT {
            check_name(name)?;
            self.store.load(name)?;
        }
        settings::change(&self.said.config, |map| {
            if name == DEFAULT {
                map.shift_remove("currentContext");
            } else {
                map.insert("currentContext".to_owned(), name.into());
            }
        })?;
        print(&format!("{name}\n"))?;
        say(&format!("Current context is now \"{name}\""));
        if name != DEFAULT && self.said.environment().is_some() {
            let variable = if self.said.hoy_host.is_some() { "HOY_HOST" } else { "DOCKER_HOST" };
            say(&format!(
                "Warning: {variable} environment variable overrides the active context. To use \"{name}\", either set the global --context flag, or unset {variable} environment variable."
            ));
        }
        Ok(0)
    }

    fn remove(&self) -> Result<u8> {
        let force = self.flags.switch("force");
        let current = self.said.context().to_owned();
        let mut failed = false;
        for name in &self.flags.args {
            let result = if name == DEFAULT {
                Err(Failure::new("context \"default\" cannot be removed"))
            } else if !self.store.has(name) && !force {
                Err(Failure::new(format!("context \"{name}\" does not exist")))
            } else if *name == current && !force {
                Err(Failure::new(format!(
                    "context \"{name}\" is in use, set -f flag to force remove"
                )))
            } else {
                self.forget(name, *name == current)
            };
            match result {
                Ok(()) => print(&format!("{name}\n"))?,
                Err(failure) => {
                    failed = true;
                    say(&failure.message);
                }
            }
        }
        if failed { Err(Failure::silent(1)) } else { Ok(0) }
    }

    fn forget(&self, name: &str, current: bool) -> Result<()> {
        if current && self.said.current.as_deref() == Some(name) {
            settings::change(&self.said.config, |map| drop(map.shift_remove("currentContext")))?;
        }
        self.store.remove(name)
    }

    fn export(&self) -> Result<u8> {
        let name = self.arg(0);
        if name != DEFAULT {
            check_name(name)?;
        }
        let own = format!("{name}.dockercontext");
        let to = if self.flags.args.len() > 1 { self.arg(1) } else { &own };
        let (context, _) = self.load(name)?;
        if to == "-" {
            if terminal::stdout_is_terminal() {
                return Err(Failure::new(
                    "cowardly refusing to export to a terminal, specify a file path",
                ));
            }
            let mut out = io::stdout().lock();
            self.store.export(&context, &mut out)?;
            out.flush()?;
            return Ok(0);
        }
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(to)
            .map_err(|error| Failure::new(format!("open {to}: {}", io_words(&error))))?;
        self.store.export(&context, &mut file)?;
        say(&format!("Written file \"{to}\""));
        Ok(0)
    }

    fn import(&self) -> Result<u8> {
        let (name, from) = (self.arg(0), self.arg(1));
        check_name(name)?;
        if self.store.has(name) {
            return Err(Failure::new(format!("context \"{name}\" already exists")));
        }
        let mut source: Box<dyn Read> = match from {
            "-" => Box::new(io::stdin()),
            path => Box::new(
                File::open(path)
                    .map_err(|error| Failure::new(format!("open {path}: {}", io_words(&error))))?,
            ),
        };
        let mut head = [0; 4];
        let read = source.read(&mut head)?;
        if head[..read] == *b"PK\x03\x04" {
            self.store.import_zip(name, head[..read].chain(source))?;
        } else {
            self.store.import(name, head[..read].chain(source))?;
        }
        self.done(name, "imported")
    }
}

/// `--docker host=…,ca=…`, with all its repetitions; the form was looked at with the flags.
fn endpoint_settings(flags: &Parsed) -> Vec<(String, String)> {
    let pairs = flags.list("docker").iter().filter_map(|field| field.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}
