//! Finds plugins by name: `NAME.sock` and `NAME/NAME.sock`, then `.spec` (an address) and `.json`
//! (an address and what TLS needs), in that order, as Docker does.

use std::collections::BTreeSet;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::LookupError;
use super::address::{Address, TlsFiles};
use super::settings::PluginSettings;

/// The longest file that says where a plugin is.
const LONGEST_SPEC: u64 = 1 << 20;

/// The names of all plugins, each once.
pub(crate) fn scan(settings: &PluginSettings) -> Vec<String> {
    let mut names = BTreeSet::new();
    let sockets = settings.sockets.iter().map(|directory| (directory, &["sock"][..]));
    let specs = settings.specs.iter().map(|directory| (directory, &["spec", "json"][..]));
    for (directory, endings) in sockets.chain(specs) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let Some(name) = path.file_stem().and_then(|name| name.to_str()) else { continue };
            let ending = path.extension().and_then(|ending| ending.to_str());
            let there = match ending {
                Some(ending) if endings.contains(&ending) => is_one(&path, ending),
                // One level deeper it has its directory's name.
                _ => match path.file_name().and_then(|name| name.to_str()) {
                    Some(name) => endings
                        .iter()
                        .any(|ending| is_one(&path.join(format!("{name}.{ending}")), ending)),
                    None => false,
                },
            };
            if there {
                let whole = path.file_name().and_then(|name| name.to_str());
                let own = ending.is_some_and(|ending| endings.contains(&ending));
                names.insert(if own { name.to_owned() } else { whole.unwrap_or(name).to_owned() });
            }
        }
    }
    names.into_iter().filter(|name| is_name(name)).collect()
}

fn is_one(path: &Path, ending: &str) -> bool {
    let Ok(meta) = std::fs::metadata(path) else { return false };
    if ending == "sock" { meta.file_type().is_socket() } else { meta.is_file() }
}

/// A name never leads out of the directories.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\0'])
}

/// Where a plugin is.
pub(crate) fn find(settings: &PluginSettings, name: &str) -> Result<Address, LookupError> {
    let lost = || LookupError::NotFound(name.to_owned());
    if !is_name(name) {
        return Err(lost());
    }
    let sockets = settings.sockets.iter().flat_map(|directory| places(directory, name, "sock"));
    for path in sockets {
        if is_one(&path, "sock") {
            return Ok(Address::Unix(path));
        }
    }
    for directory in &settings.specs {
        for ending in ["spec", "json"] {
            for path in places(directory, name, ending) {
                if is_one(&path, ending) {
                    return read(&path, ending).map_err(LookupError::Unusable);
                }
            }
        }
    }
    Err(lost())
}

fn places(directory: &Path, name: &str, ending: &str) -> [PathBuf; 2] {
    let file = format!("{name}.{ending}");
    [directory.join(&file), directory.join(name).join(&file)]
}

/// Docker's json file.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Json {
    addr: String,
    #[serde(rename = "TLSConfig")]
    tls: Option<JsonTls>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct JsonTls {
    #[serde(rename = "InsecureSkipVerify")]
    insecure: bool,
    #[serde(rename = "CAFile")]
    ca: Option<PathBuf>,
    #[serde(rename = "CertFile")]
    cert: Option<PathBuf>,
    #[serde(rename = "KeyFile")]
    key: Option<PathBuf>,
}

fn read(path: &Path, ending: &str) -> Result<Address, String> {
    let shown = path.display();
    let size = std::fs::metadata(path).map_err(|error| format!("read {shown}: {error}"))?.len();
    if size > LONGEST_SPEC {
        return Err(format!("read {shown}: the file is too large"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("read {shown}: {error}"))?;
    let parsed = if ending == "json" { parse_json(&text) } else { parse_spec(&text) };
    parsed.map_err(|error| format!("{shown}: {error}"))
}

pub(super) fn parse_spec(text: &str) -> Result<Address, String> {
    Address::parse(text.trim(), &TlsFiles::default())
}

pub(super) fn parse_json(text: &str) -> Result<Address, String> {
    let json: Json = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let said = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
    let tls = json.tls.unwrap_or_default();
    let files = TlsFiles {
        insecure: tls.insecure,
        ca: said(tls.ca),
        cert: said(tls.cert),
        key: said(tls.key),
    };
    Address::parse(json.addr.trim(), &files)
}
