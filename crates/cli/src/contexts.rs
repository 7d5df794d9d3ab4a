//! Docker's store of contexts: `contexts/meta/<digest of the name>/meta.json` and
//! `contexts/tls/<digest>/docker/*.pem` below the client's settings. It must not know commands.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::Digest as _;

use crate::failure::{Failure, Result};
use crate::format::natural;
use crate::zip;

/// The context that is no file: what the environment says.
pub const DEFAULT: &str = "default";
/// What it says of itself, and what a context made of it begins with.
pub const DEFAULT_ABOUT: &str = "Current DOCKER_HOST based configuration";
/// Names of the files that a connection by TLS needs.
pub const PEMS: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];
/// The largest file of a context.
const MAX: u64 = 10 << 20;

/// Where contexts lie.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// One context.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    pub name: String,
    /// As the file has it; keys that nobody here knows stay.
    pub metadata: Map<String, Value>,
    pub endpoints: Map<String, Value>,
}

impl Context {
    pub fn host(&self) -> &str {
        self.endpoint("Host").as_str().unwrap_or_default()
    }

    pub fn skips_verification(&self) -> bool {
        *self.endpoint("SkipTLSVerify") == true
    }

    fn endpoint(&self, key: &str) -> &Value {
        self.endpoints.get("docker").map_or(&Value::Null, |docker| &docker[key])
    }

    pub fn description(&self) -> &str {
        self.metadata.get("Description").and_then(Value::as_str).unwrap_or_default()
    }

    pub fn document(&self) -> Value {
        json!({"Name": self.name, "Metadata": self.metadata, "Endpoints": self.endpoints})
    }

    fn parse(text: &[u8]) -> serde_json::Result<Self> {
        let value: Value = serde_json::from_slice(text)?;
        let map = |key: &str| value[key].as_object().cloned().unwrap_or_default();
        let mut endpoints = map("Endpoints");
        endpoints.entry("docker").or_insert(Value::Null);
        let name = value["Name"].as_str().unwrap_or_default().to_owned();
        Ok(Self { name, metadata: map("Metadata"), endpoints })
    }
}

/// Files of TLS by their names.
pub type Pems = Vec<(String, Vec<u8>)>;

/// Docker's rule for names.
pub fn check_name(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Failure::new("context name cannot be empty"));
    }
    if name == DEFAULT {
        return Err(Failure::new("\"default\" is a reserved context name"));
    }
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte);
    if !first || name.len() < 2 || !bytes.all(rest) {
        return Err(Failure::new(format!(
            "context name \"{name}\" is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\""
        )));
    }
    Ok(())
}

fn digest(name: &str) -> String {
    sha2::Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Store {
    /// Below the client's settings.
    pub fn of(settings: &Path) -> Self {
        Self { root: settings.join("contexts") }
    }

    pub fn meta(&self, name: &str) -> PathBuf {
        self.root.join("meta").join(digest(name))
    }

    pub fn tls(&self, name: &str) -> PathBuf {
        self.root.join("tls").join(digest(name))
    }

    pub fn has(&self, name: &str) -> bool {
        self.meta(name).join("meta.json").exists()
    }

    pub fn load(&self, name: &str) -> Result<Context> {
        let path = self.meta(name).join("meta.json");
        let text = fs::read(&path).map_err(|error| {
            let why = io_words(&error);
            Failure::new(format!(
                "context \"{name}\": context not found: open {}: {why}",
                path.display()
            ))
        })?;
        Context::parse(&text).map_err(|error| {
            Failure::new(format!("context \"{name}\": parsing {}: {error}", path.display()))
        })
    }

    /// All there are, by name.
    pub fn list(&self) -> Vec<Context> {
        let entries = fs::read_dir(self.root.join("meta")).into_iter().flatten().flatten();
        let mut all: Vec<Context> = entries
            .filter_map(|entry| {
                Context::parse(&fs::read(entry.path().join("meta.json")).ok()?).ok()
            })
            .collect();
        all.sort_by(|a, b| natural::order(&a.name, &b.name));
        all
    }

    /// Names of the files for TLS by endpoint; of ours there is one endpoint.
    pub fn material(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.tls(name).join("docker")).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    pub fn pems(&self, name: &str) -> Pems {
        let directory = self.tls(name).join("docker");
        let read = |file: String| Some((file.clone(), fs::read(directory.join(&file)).ok()?));
        self.material(name).into_iter().filter_map(read).collect()
    }

    /// Writes a context; `pems` replaces what it has of TLS.
    pub fn save(&self, context: &Context, pems: Option<&Pems>) -> Result<()> {
        let meta = self.meta(&context.name);
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&meta)?;
        replace(&meta.join("meta.json"), context.document().to_string().as_bytes(), 0o644)?;
        let Some(pems) = pems else { return Ok(()) };
        let tls = self.tls(&context.name);
        remove(&tls)?;
        if pems.is_empty() {
            return Ok(());
        }
        let directory = tls.join("docker");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        for (name, text) in pems {
            replace(&directory.join(name), text, 0o600)?;
        }
        Ok(())
    }

    pub fn remove(&self, name: &str) -> Result<()> {
        remove(&self.meta(name))?;
        remove(&self.tls(name))?;
        Ok(())
    }

    /// As an archive.
    pub fn export(&self, context: &Context, out: &mut dyn Write) -> io::Result<()> {
        let mut tar = tar::Builder::new(out);
        let mut add = |name: &str, text: &[u8], directory: bool, mode: u32| {
            let mut header = tar::Header::new_ustar();
            header.set_mode(mode);
            header.set_size(text.len() as u64);
            header.set_entry_type(if directory {
                tar::EntryType::Directory
            } else {
                tar::EntryType::Regular
            });
            tar.append_data(&mut header, name, text)
        };
        add("meta.json", context.document().to_string().as_bytes(), false, 0o644)?;
        let pems = if context.name == DEFAULT { Pems::new() } else { self.pems(&context.name) };
        add("tls", b"", true, 0o700)?;
        if !pems.is_empty() {
            add("tls/docker", b"", true, 0o700)?;
        }
        for (name, text) in pems {
            add(&format!("tls/docker/{name}"), &text, false, 0o600)?;
        }
        tar.into_inner()?.flush()
    }

    /// Takes a context out of an archive, under a name of its own.
    pub fn import(&self, name: &str, archive: impl Read) -> Result<()> {
        let bad = || Failure::new("archive/tar: invalid tar header");
        let mut imported = Imported::default();
        // Docker's export leaves the padding behind the last file out.
        let archive = archive.take(MAX).chain(io::repeat(0).take(2 * 512));
        let mut tar = tar::Archive::new(archive);
        for entry in tar.entries().map_err(|_| bad())? {
            let mut entry = entry.map_err(|_| bad())?;
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let kind = entry.header().entry_type();
            if kind.is_dir() {
                continue;
            }
            let mut text = Vec::new();
            entry.read_to_end(&mut text)?;
            imported.take(path, kind.is_file(), text)?;
        }
        self.save_imported(name, imported)
    }

    /// The same from a zip file, as which other programs make them.
    pub fn import_zip(&self, name: &str, archive: impl Read) -> Result<()> {
        let mut whole = Vec::new();
        archive.take(MAX + 1).read_to_end(&mut whole)?;
        if whole.len() as u64 > MAX {
            return Err(Failure::new("read exceeds the defined limit"));
        }
        let mut imported = Imported::default();
        for (path, text) in zip::files(&whole, MAX as usize).map_err(Failure::new)? {
            imported.take(path, true, text)?;
        }
        self.save_imported(name, imported)
    }

    fn save_imported(&self, name: &str, imported: Imported) -> Result<()> {
        let context = imported.context;
        let context = context.ok_or_else(|| Failure::new("invalid context: no metadata found"))?;
        self.save(&Context { name: name.to_owned(), ..context }, Some(&imported.pems))
    }
}

/// What an archive has brought.
#[derive(Default)]
struct Imported {
    context: Option<Context>,
    pems: Pems,
}

impl Imported {
    fn take(&mut self, path: String, is_file: bool, text: Vec<u8>) -> Result<()> {
        if path == "meta.json" {
            let parsed = Context::parse(&text).map_err(|error| {
                Failure::new(match error.is_eof() {
                    true => "unexpected end of JSON input".to_owned(),
                    false => error.to_string(),
                })
            })?;
            self.context = Some(parsed);
            return Ok(());
        }
        match path.strip_prefix("tls/docker/") {
            // A name in an archive is a stranger's word.
            Some(file) if is_file && PEMS.contains(&file) => {
                self.pems.push((file.to_owned(), text));
            }
            _ if path.starts_with("tls/") => {}
            _ => return Err(Failure::new(format!("{path}: unexpected context file"))),
        }
        Ok(())
    }
}

/// As Go words it.
pub fn io_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::AlreadyExists => "file exists".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ => error.to_string(),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The whole new text or the old one.
fn replace(path: &Path, text: &[u8], mode: u32) -> io::Result<()> {
    let beside = path.with_extension(format!("tmp{}", std::process::id()));
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
    file.write_all(text)?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["ab", "a.b+c-d_e", "0x"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "default", "-ab", "a/b", "a b"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn there_and_back() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::of(directory.path());
        let mut context = Context { name: "xx".to_owned(), ..Context::default() };
        context.metadata.insert("Other".to_owned(), 7.into());
        context
            .endpoints
            .insert("docker".to_owned(), json!({"Host": "tcp://h:1", "SkipTLSVerify": true}));
        let pems = vec![("ca.pem".to_owned(), b"A".to_vec())];
        store.save(&context, Some(&pems)).unwrap();
        // The place is Docker's.
        assert!(store.meta("xx").ends_with(
            "contexts/meta/5dde896887f6754c9b15bfe3a441ae4806df2fde94001311e08bf110622e0bbe"
        ));
        assert_eq!(store.load("xx").unwrap(), context);
        let mut archive = Vec::new();
        store.export(&context, &mut archive).unwrap();
        store.import("yy", archive.as_slice()).unwrap();
        assert_eq!(store.load("yy").unwrap().host(), "tcp://h:1");
        assert_eq!(store.pems("yy"), pems);
        assert_eq!(store.list().len(), 2);
        store.remove("xx").unwrap();
        assert!(store.load("xx").unwrap_err().message.contains("context not found"));
        assert!(store.import("zz", &b"no archive at all"[..]).is_err());
    }
}
