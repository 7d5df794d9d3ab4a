//! What a new container is asked to have mounted: `-v`, `--mount`, `--tmpfs`, `--storage-opt`. Pure
//! but for the working directory that relative sources are of; it judges form only.

use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::csv;
use crate::parse::{Parsed, boolean};

type Result<T> = std::result::Result<T, String>;

/// The two places for `-v`: `Binds` where there is a source, `Volumes` where there is none.
pub fn volumes(flags: &Parsed) -> Result<(Vec<String>, Map<String, Value>)> {
    let mut binds: Vec<String> = Vec::new();
    let mut anonymous = Map::new();
    for spec in flags.list("volume") {
        match source(spec)? {
            None => {
                anonymous.insert(spec.clone(), json!({}));
            }
            Some(source) => {
                let bind = match spec.split_once(':') {
                    // Relative to where the client is, which the engine cannot know.
                    Some((path, rest)) if source.starts_with('.') && path.starts_with('.') => {
                        format!("{}:{rest}", absolute(path)?)
                    }
                    _ => spec.clone(),
                };
                if !binds.contains(&bind) {
                    binds.push(bind);
                }
            }
        }
    }
    anonymous.sort_keys();
    Ok((binds, anonymous))
}

/// The source within `[source:]target[:options]`, by the rules of Docker's reader: a lone letter
/// before a colon is a drive, part of what follows.
fn source(spec: &str) -> Result<Option<String>> {
    match spec.len() {
        0 => return Err("invalid empty volume spec".to_owned()),
        1 | 2 => return Ok(None),
        _ => {}
    }
    let wrong = |reason: &str| format!("invalid spec: {spec}: {reason}");
    let mut sections: Vec<String> = Vec::new();
    let mut section = String::new();
    for letter in spec.chars().map(Some).chain([None]) {
        match letter {
            Some(':') if is_drive(&section) => section.push(':'),
            Some(':') | None if section.is_empty() => {
                return Err(wrong("empty section between colons"));
            }
            Some(':') if sections.len() == 2 => return Err(wrong("too many colons")),
            Some(':') | None => sections.push(std::mem::take(&mut section)),
            Some(other) => section.push(other),
        }
    }
    // One section alone is a target.
    Ok((sections.len() > 1).then(|| sections.swap_remove(0)))
}

fn is_drive(section: &str) -> bool {
    let mut letters = section.chars();
    letters.next().is_some_and(char::is_alphabetic) && letters.next().is_none()
}

/// A path without `.` and `..`, as text: the daemon looks at it, not we.
fn absolute(path: &str) -> Result<String> {
    let path = std::path::absolute(path).map_err(|error| format!("{path}: {error}"))?;
    Ok(normal(&path))
}

fn normal(path: &Path) -> String {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean.display().to_string()
}

/// Every `--mount`.
pub fn mounts(flags: &Parsed) -> Result<Vec<Value>> {
    flags.list("mount").iter().map(|text| mount(text)).collect()
}

/// What one `--mount` says; options of a kind are there once any of them was said.
#[derive(Default)]
struct Mount {
    kind: String,
    source: String,
    target: String,
    read_only: bool,
    consistency: String,
    bind: Option<Bind>,
    volume: Option<Volume>,
    image: Option<String>,
    tmpfs: Option<Tmpfs>,
}

#[derive(Default)]
struct Bind {
    propagation: String,
    non_recursive: bool,
    read_only_non_recursive: bool,
    read_only_force_recursive: bool,
}

#[derive(Default)]
struct Volume {
    no_copy: bool,
    labels: Map<String, Value>,
    subpath: String,
    driver: String,
    options: Map<String, Value>,
}

#[derive(Default)]
struct Tmpfs {
    size: i64,
    mode: u32,
}

/// One `--mount`: comma-separated `key=value`.
pub fn mount(text: &str) -> Result<Value> {
    if text.is_empty() {
        return Err("EOF".to_owned());
    }
    let mut made = Mount { kind: "volume".to_owned(), ..Mount::default() };
    for field in csv::record(text)? {
        made.take(&field)?;
    }
    made.check()?;
    Ok(made.document())
}

impl Mount {
    fn take(&mut self, field: &str) -> Result<()> {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        let key = key.to_lowercase();
        if !field.contains('=') {
            match key.as_str() {
                "readonly" | "ro" => self.read_only = true,
                "volume-nocopy" => self.volume().no_copy = true,
                "bind-nonrecursive" => self.bind().non_recursive = true,
                _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
            }
            return Ok(());
        }
        let wrong = || format!("invalid value for {key}: {value}");
        let flag = || boolean(value).ok_or_else(wrong);
        match key.as_str() {
            "type" => self.kind = value.to_lowercase(),
            "source" | "src" => {
                self.source = match value.strip_prefix('.') {
                    Some(_) => absolute(value)?,
                    None => value.to_owned(),
                }
            }
            "target" | "dst" | "destination" => self.target = value.to_owned(),
            "readonly" | "ro" => self.read_only = flag()?,
            "consistency" => self.consistency = value.to_lowercase(),
            "bind-propagation" => self.bind().propagation = value.to_lowercase(),
            "bind-nonrecursive" => self.bind().non_recursive = flag()?,
            "bind-recursive" => match value {
                // What the engine does by itself.
                "enabled" => {}
                "disabled" => self.bind().non_recursive = true,
                "writable" => self.bind().read_only_non_recursive = true,
                "readonly" => self.bind().read_only_force_recursive = true,
                _ => {
                    let words = "\"enabled\", \"disabled\", \"writable\", or \"readonly\"";
                    return Err(format!("{} (must be {words})", wrong()));
                }
            },
            "volume-subpath" => self.volume().subpath = value.to_owned(),
            "volume-nocopy" => self.volume().no_copy = flag()?,
            "volume-label" => put(&mut self.volume().labels, value),
            "volume-driver" => self.volume().driver = value.to_owned(),
            "volume-opt" => put(&mut self.volume().options, value),
            "image-subpath" => self.image = Some(value.to_owned()),
            "tmpfs-size" => {
                let size = hoy_types::parse_bytes(value).map_err(|_| wrong())?;
                self.tmpfs().size = size;
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8).ok().filter(|_| !value.starts_with('+'));
                self.tmpfs().mode = mode.ok_or_else(wrong)?;
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
        Ok(())
    }

    fn bind(&mut self) -> &mut Bind {
        self.bind.get_or_insert_default()
    }

    fn volume(&mut self) -> &mut Volume {
        self.volume.get_or_insert_default()
    }

    fn tmpfs(&mut self) -> &mut Tmpfs {
        self.tmpfs.get_or_insert_default()
    }

    fn check(&self) -> Result<()> {
        for (value, name) in [(&self.kind, "type"), (&self.target, "target")] {
            if value.is_empty() {
                return Err(format!("{name} is required"));
            }
        }
        let said = [
            ("volume", self.volume.is_some()),
            ("image", self.image.is_some()),
            ("bind", self.bind.is_some()),
            ("tmpfs", self.tmpfs.is_some()),
        ];
        if let Some((other, _)) = said.iter().find(|(of, said)| *said && *of != self.kind) {
            return Err(format!("cannot mix '{other}-*' options with mount type '{}'", self.kind));
        }
        let Some(bind) = &self.bind else { return Ok(()) };
        let with = |option: &str, other: &str| {
            Err(format!(
                "option 'bind-recursive={option}' requires '{other}' to be specified in conjunction"
            ))
        };
        if bind.read_only_non_recursive && !self.read_only {
            return with("writable", "readonly");
        }
        if bind.read_only_force_recursive && !self.read_only {
            return with("readonly", "readonly");
        }
        if bind.read_only_force_recursive && bind.propagation != "rprivate" {
            return with("readonly", "bind-propagation=rprivate");
        }
        Ok(())
    }

    /// What is nothing is not sent.
    fn document(self) -> Value {
        let mut out = Map::new();
        text(&mut out, "Type", self.kind);
        text(&mut out, "Source", self.source);
        text(&mut out, "Target", self.target);
        yes(&mut out, "ReadOnly", self.read_only);
        text(&mut out, "Consistency", self.consistency);
        if let Some(bind) = self.bind {
            let mut options = Map::new();
            text(&mut options, "Propagation", bind.propagation);
            yes(&mut options, "NonRecursive", bind.non_recursive);
            yes(&mut options, "ReadOnlyNonRecursive", bind.read_only_non_recursive);
            yes(&mut options, "ReadOnlyForceRecursive", bind.read_only_force_recursive);
            out.insert("BindOptions".to_owned(), options.into());
        }
        if let Some(volume) = self.volume {
            let mut options = Map::new();
            yes(&mut options, "NoCopy", volume.no_copy);
            map(&mut options, "Labels", volume.labels);
            text(&mut options, "Subpath", volume.subpath);
            let mut driver = Map::new();
            text(&mut driver, "Name", volume.driver);
            map(&mut driver, "Options", volume.options);
            options.insert("DriverConfig".to_owned(), driver.into());
            out.insert("VolumeOptions".to_owned(), options.into());
        }
        if let Some(subpath) = self.image {
            let mut options = Map::new();
            text(&mut options, "Subpath", subpath);
            out.insert("ImageOptions".to_owned(), options.into());
        }
        if let Some(tmpfs) = self.tmpfs {
            let mut options = Map::new();
            if tmpfs.size != 0 {
                options.insert("SizeBytes".to_owned(), tmpfs.size.into());
            }
            if tmpfs.mode != 0 {
                options.insert("Mode".to_owned(), tmpfs.mode.into());
            }
            out.insert("TmpfsOptions".to_owned(), options.into());
        }
        out.into()
    }
}

/// `key=value`; one without a key is nothing.
fn put(into: &mut Map<String, Value>, pair: &str) {
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    if !key.is_empty() {
        into.insert(key.to_owned(), value.into());
    }
}

fn text(into: &mut Map<String, Value>, key: &str, value: String) {
    if !value.is_empty() {
        into.insert(key.to_owned(), value.into());
    }
}

fn yes(into: &mut Map<String, Value>, key: &str, value: bool) {
    if value {
        into.insert(key.to_owned(), true.into());
    }
}

fn map(into: &mut Map<String, Value>, key: &str, mut value: Map<String, Value>) {
    if !value.is_empty() {
        value.sort_keys();
        into.insert(key.to_owned(), value.into());
    }
}

/// Every `--tmpfs`, by its path.
pub fn tmpfs(flags: &Parsed) -> Map<String, Value> {
    let mut all: Map<String, Value> = flags
        .list("tmpfs")
        .iter()
        .map(|entry| entry.split_once(':').unwrap_or((entry, "")))
        .map(|(path, options)| (path.to_owned(), options.into()))
        .collect();
    all.sort_keys();
    all
}

/// `--storage-opt`, and `--disk`, which is its size.
pub fn storage(flags: &Parsed) -> Result<Map<String, Value>> {
    let mut all = Map::new();
    for entry in flags.list("storage-opt") {
        let (key, value) = entry.split_once('=').ok_or("invalid storage option")?;
        all.insert(key.to_owned(), value.into());
    }
    disk(flags, &mut all, "--storage-opt")?;
    all.sort_keys();
    Ok(all)
}

/// What `--disk` says.
pub fn size(flags: &Parsed) -> Result<Option<&str>> {
    if !flags.given("disk") {
        return Ok(None);
    }
    let size = flags.text("disk");
    if !hoy_types::parse_bytes(size).is_ok_and(|bytes| bytes > 0) {
        return Err(format!("invalid size of --disk: {size:?} is not more than nothing"));
    }
    Ok(Some(size))
}

/// Adds what `--disk` says, which may not be said twice.
pub fn disk(flags: &Parsed, options: &mut Map<String, Value>, other: &str) -> Result<()> {
    let Some(size) = size(flags)? else { return Ok(()) };
    if options.insert("size".to_owned(), size.into()).is_some() {
        return Err(format!("conflicting options: cannot specify both --disk and {other} size"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar::Command;

    /// What a command line asks to be mounted, or the first line of what it says instead.
    fn sent(words: &[String]) -> Result<Value> {
        let command = Command::find(&words[0]).unwrap();
        let flags = crate::parse::parse(command.flags(), &words[1..], true);
        let flags = flags.map_err(|failure| failure.message)?;
        let body = crate::create::body(&flags, &flags.args[0], &flags.args[1..], false)?;
        let mut out = Map::new();
        map(&mut out, "Volumes", body["Volumes"].as_object().unwrap().clone());
        let host = &body["HostConfig"];
        for key in ["Binds", "VolumeDriver", "VolumesFrom", "Mounts", "StorageOpt", "Tmpfs"] {
            if !matches!(&host[key], Value::Null) && host[key] != "" {
                out.insert(key.to_owned(), host[key].clone());
            }
        }
        Ok(out.into())
    }

    /// Requests of docker 28.2 as they were recorded, to the order of their keys; and its refusals.
    #[test]
    fn sends_what_docker_sends() {
        let here = std::env::current_dir().unwrap();
        let up = here.parent().unwrap().display().to_string();
        for line in include_str!("../golden/mounts.tsv").lines() {
            let (words, wanted) = line.split_once('\t').unwrap();
            let words: Vec<String> = serde_json::from_str(words).unwrap();
            let wanted = wanted.replace("@HERE@", &here.display().to_string());
            let wanted: Value = serde_json::from_str(&wanted.replace("@UP@", &up)).unwrap();
            let got = sent(&words).unwrap_or_else(Value::from);
            assert_eq!(got.to_string(), wanted.to_string(), "{words:?}");
        }
    }

    #[test]
    fn our_own_disk() {
        let of = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            sent(&words).map(|sent| sent["StorageOpt"].to_string())
        };
        assert_eq!(of("run --disk 1g x").unwrap(), r#"{"size":"1g"}"#);
        assert_eq!(
            of("create --disk 10M --storage-opt a=b x").unwrap(),
            r#"{"a":"b","size":"10M"}"#
        );
        assert!(of("run --disk 1g --storage-opt size=2g x").unwrap_err().contains("conflicting"));
        assert!(of("run --disk x x").unwrap_err().starts_with("invalid argument \"x\""));
        assert!(of("run --disk 0 x").unwrap_err().contains("not more than nothing"));
    }
}
