//! The client's own settings: Docker's `config.json`, read as it is and written as Docker writes it.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize as _;
use serde_json::{Map, Value};

use crate::failure::{Failure, Result};
use crate::parse::Parsed;
use crate::{csv, say};

/// The largest file of settings that makes sense.
const MAX: u64 = 16 << 20;

/// `~/.docker`, as Docker's.
pub fn directory(global: &Parsed) -> PathBuf {
    if global.given("config") {
        return global.text("config").into();
    }
    default_directory()
}

/// Without any flag.
pub fn default_directory() -> PathBuf {
    match std::env::var_os("DOCKER_CONFIG") {
        Some(path) if !path.is_empty() => path.into(),
        _ => PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into()))
            .join(".docker"),
    }
}

fn file(directory: &Path) -> PathBuf {
    directory.join("config.json")
}

/// The settings as they are; a file that cannot be used is told of, and none.
pub fn load(directory: &Path) -> Value {
    let path = file(directory);
    match read(&path) {
        Ok(value) => value,
        Err(error) => {
            say(&format!("WARNING: Error loading config file: {}: {error}", path.display()));
            Value::Object(Map::new())
        }
    }
}

/// The same without a word about what is wrong with the file.
pub fn silently(directory: &Path) -> Option<Value> {
    read(&file(directory)).ok()
}

fn read(path: &Path) -> io::Result<Value> {
    let text = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Map::new().into()),
        Ok(about) if about.len() > MAX => return Err(io::Error::other("it is too large")),
        _ => fs::read(path)?,
    };
    if text.trim_ascii().is_empty() {
        return Ok(Map::new().into());
    }
    let value: Value = serde_json::from_slice(&text)?;
    if value.is_object() { Ok(value) } else { Err(io::Error::other("it is not a JSON object")) }
}

/// Changes the settings: by tabs, beside the old file and renamed, with its owner and mode.
pub fn change(directory: &Path, act: impl FnOnce(&mut Map<String, Value>)) -> Result<()> {
    let path = file(directory);
    let whole = |error: io::Error| Failure::new(format!("{}: {error}", path.display()));
    let mut value = read(&path).map_err(whole)?;
    let Some(map) = value.as_object_mut() else { return Ok(()) };
    act(map);
    map.entry("auths").or_insert_with(|| Map::new().into());
    // `auths` is first, as Docker writes it.
    let auths = map.shift_remove("auths").unwrap_or_default();
    map.shift_insert(0, "auths".to_owned(), auths);
    write(&path, &value).map_err(whole)
}

fn write(path: &Path, value: &Value) -> io::Result<()> {
    // A link is followed: the file it leads to is what changes.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let before = fs::metadata(&path).ok();
    let mut text = Vec::new();
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, tabs))?;
    let temporary = directory.join(format!(".config.json{}", std::process::id()));
    let result = (|| {
        let mut new =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        new.write_all(&text)?;
        if let Some(before) = before {
            new.set_permissions(fs::Permissions::from_mode(before.mode() & 0o7777))?;
            // Only root can give a file to another; whose it is is no reason to fail.
            let _ = std::os::unix::fs::fchown(&new, Some(before.uid()), Some(before.gid()));
        }
        new.sync_all()?;
        fs::rename(&temporary, &path)
    })();
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Texts of a list of settings.
pub fn texts<'a>(settings: &'a Value, key: &str) -> impl Iterator<Item = &'a str> {
    settings[key].as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// The headers that every request has: of the environment, else of the settings.
pub fn headers(settings: &Value, environment: Option<&str>) -> Result<Vec<(String, String)>> {
    let mut all: Vec<(String, String)> = Vec::new();
    if let Some(text) = environment.filter(|text| !text.trim().is_empty()) {
        let bad = |why: &str| {
            Failure::new(format!(
                "failed to parse custom headers from DOCKER_CUSTOM_HEADERS environment variable: {why}"
            ))
        };
        let fields = csv::record(text)
            .map_err(|_| bad("value must be formatted as comma-separated key=value pairs"))?;
        for field in fields {
            let (name, value) = field.split_once('=').unwrap_or((&field, ""));
            let name = name.trim();
            if name.is_empty() {
                return Err(bad(&format!(
                    "value contains a key=value pair with an empty key: '{field}'"
                )));
            }
            if !field.contains('=') {
                return Err(bad(&format!("missing \"=\" in key=value pair: '{field}'")));
            }
            all.push((name.to_owned(), value.to_owned()));
        }
    } else {
        for (name, value) in settings["HttpHeaders"].as_object().into_iter().flatten() {
            all.push((name.clone(), value.as_str().unwrap_or_default().to_owned()));
        }
    }
    // What the client is, it says itself; a line's end would begin another header.
    let plain = |text: &str| text.bytes().all(|byte| (0x20..0x7f).contains(&byte) || byte > 0x7f);
    let token = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    all.retain(|(name, _)| !name.eq_ignore_ascii_case("user-agent"));
    if let Some((name, _)) = all.iter().find(|(name, value)| !token(name) || !plain(value)) {
        return Err(Failure::new(format!("net/http: invalid header field name {name:?}")));
    }
    Ok(all)
}

/// Variables of the settings' proxies that a container on `host` gets: upper and lower case.
pub fn proxies(settings: &Value, host: &str) -> Vec<(String, String)> {
    let all = &settings["proxies"];
    let of = if all[host].is_object() { &all[host] } else { &all["default"] };
    let names = [
        ("httpProxy", "HTTP_PROXY"),
        ("httpsProxy", "HTTPS_PROXY"),
        ("noProxy", "NO_PROXY"),
        ("ftpProxy", "FTP_PROXY"),
        ("allProxy", "ALL_PROXY"),
    ];
    let given = names.into_iter().filter_map(|(key, name)| Some((name, of[key].as_str()?)));
    given
        .filter(|(_, value)| !value.is_empty())
        .flat_map(|(name, value)| {
            [(name.to_owned(), value.to_owned()), (name.to_ascii_lowercase(), value.to_owned())]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn written_as_docker_writes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep");
        change(&path, |map| drop(map.insert("currentContext".to_owned(), "x".into()))).unwrap();
        let text = fs::read_to_string(file(&path)).unwrap();
        assert_eq!(text, "{\n\t\"auths\": {},\n\t\"currentContext\": \"x\"\n}");
        fs::set_permissions(file(&path), fs::Permissions::from_mode(0o640)).unwrap();
        fs::rename(file(&path), directory.path().join("real")).unwrap();
        std::os::unix::fs::symlink("../real", file(&path)).unwrap();
        change(&path, |map| drop(map.shift_remove("currentContext"))).unwrap();
        assert_eq!(load(&path), json!({"auths": {}}));
        assert!(fs::symlink_metadata(file(&path)).unwrap().is_symlink());
        assert_eq!(fs::metadata(file(&path)).unwrap().mode() & 0o777, 0o640);
        fs::write(file(&path), "{").unwrap();
        assert!(change(&path, |_| ()).is_err(), "what cannot be read is not overwritten");
    }

    #[test]
    fn headers_and_proxies() {
        let settings = json!({
            "HttpHeaders": {"X-Meta": "a", "User-Agent": "no"},
            "proxies": {"default": {"httpProxy": "http://p"}, "tcp://h:1": {"noProxy": "n"}},
        });
        assert_eq!(headers(&settings, None).unwrap(), [("X-Meta".to_owned(), "a".to_owned())]);
        let own = headers(&settings, Some("a=b,\"c=d,e\"")).unwrap();
        assert_eq!(own[1], ("c".to_owned(), "d,e".to_owned()));
        assert!(headers(&settings, Some("a")).is_err());
        assert!(headers(&json!({"HttpHeaders": {"a": "b\r\nc: d"}}), None).is_err());
        let names =
            |host: &str| proxies(&settings, host).into_iter().map(|(n, _)| n).collect::<Vec<_>>();
        assert_eq!(names("unix:///x"), ["HTTP_PROXY", "http_proxy"]);
        assert_eq!(names("tcp://h:1"), ["NO_PROXY", "no_proxy"]);
    }
}
