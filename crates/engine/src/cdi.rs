//! Devices by name (Container Device Interface): what the host's documents say that they need.
//!
//! Documents are JSON and YAML files of the directories that the daemon's settings name; later directories
//! win. What they ask for is a node, a mount, a variable or a group: a hook is a program of theirs,
//! which nobody here runs, and is refused by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hoy_config::Settings;
use hoy_types::{UserRef, UserSpec};
use hoy_wire::{DeviceMapping, DeviceRequest, HostConfig};
use serde::Deserialize;

use crate::devices::{self, Devices};
use crate::error::{Error, Result};
use crate::record::{MountKind, MountRecord};

/// Larger documents are none.
const MAX_SPEC: u64 = 4 << 20;
/// More files in a directory are not looked at.
const MAX_SPECS: usize = 256;
/// Where documents lie unless the settings say otherwise.
const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Who makes what `--gpus` asks for, the first that is there.
const GPUS: [&str; 2] = ["nvidia.com/gpu", "amd.com/gpu"];

/// What devices change of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Edits {
    pub devices: Devices,
    pub mounts: Vec<MountRecord>,
    /// `NAME=value`.
    pub environment: Vec<String>,
    pub groups: Vec<UserRef>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    kind: String,
    devices: Vec<Named>,
    container_edits: Change,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Named {
    name: String,
    container_edits: Change,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Change {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Mount>,
    hooks: Vec<Hook>,
    additional_gids: Vec<u32>,
    intel_rdt: Option<serde_json::Value>,
    net_devices: Vec<serde_json::Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Node {
    path: String,
    host_path: String,
    permissions: String,
    file_mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mount {
    host_path: String,
    container_path: String,
    r#type: String,
    options: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Hook {
    hook_name: String,
    path: String,
}

/// What is known of the host: each device by its full name, with what its kind needs first.
type Known = BTreeMap<String, [Change; 2]>;

/// What the requests of a container come to on this host now.
pub(crate) fn edits(host: &HostConfig, settings: &Settings) -> Result<Edits> {
    let mut out = Edits::default();
    let requests = host.device_requests.as_deref().unwrap_or_default();
    if requests.is_empty() {
        return Ok(out);
    }
    let known = read(&directories(settings));
    let mut kinds: Vec<String> = Vec::new();
    for request in requests {
        for name in names(request, &known, is_on(settings))? {
            let unknown = || injection(format!("unresolvable CDI devices {name}"));
            let [of_kind, own] = known.get(&name).ok_or_else(unknown)?;
            let kind = name.split('=').next().unwrap_or_default().to_owned();
            // What belongs to the kind is done once.
            if !kinds.contains(&kind) {
                apply(of_kind, &name, &mut out)?;
                kinds.push(kind);
            }
            apply(own, &name, &mut out)?;
        }
    }
    Ok(out)
}

/// Unless the daemon's features say otherwise.
fn is_on(settings: &Settings) -> bool {
    settings.features.get("cdi").copied().unwrap_or(true)
}

/// Where documents are looked for.
pub(crate) fn directories(settings: &Settings) -> Vec<PathBuf> {
    if !is_on(settings) {
        return Vec::new();
    }
    if settings.cdi_spec_dirs.is_empty() {
        return DIRECTORIES.iter().map(PathBuf::from).collect();
    }
    settings.cdi_spec_dirs.iter().filter(|d| !d.is_empty()).map(PathBuf::from).collect()
}

fn injection(text: String) -> Error {
    Error::system(format!("CDI device injection failed: {text}"))
}

/// The devices that a request means.
fn names(request: &DeviceRequest, known: &Known, on: bool) -> Result<Vec<String>> {
    let ids = request.device_ids.clone().unwrap_or_default();
    let capabilities = request.capabilities.as_deref().unwrap_or_default();
    if request.driver == "cdi" && on {
        if request.count != 0 {
            return Err(Error::invalid("unexpected count in CDI device request"));
        }
        if request.options.as_ref().is_some_and(|options| !options.is_empty()) {
            return Err(Error::invalid("unexpected options in CDI device request"));
        }
        return Ok(ids);
    }
    let gpu = capabilities.iter().any(|all| all.iter().any(|one| one == "gpu"));
    let of = |kind: &str| known.keys().any(|name| name.starts_with(&format!("{kind}=")));
    let kind = GPUS.into_iter().find(|kind| gpu && request.driver.is_empty() && of(kind));
    let Some(kind) = kind else {
        let sets: Vec<String> =
            capabilities.iter().map(|all| format!("[{}]", all.join(" "))).collect();
        return Err(Error::system(format!(
            "could not select device driver {:?} with capabilities: [{}]",
            request.driver,
            sets.join(" ")
        )));
    };
    if !ids.is_empty() {
        return Ok(ids.iter().map(|id| format!("{kind}={id}")).collect());
    }
    match usize::try_from(request.count) {
        Ok(count) => Ok((0..count).map(|number| format!("{kind}={number}")).collect()),
        Err(_) => Ok(vec![format!("{kind}=all")]),
    }
}

fn apply(change: &Change, name: &str, out: &mut Edits) -> Result<()> {
    let refused = |what: String| injection(format!("{name}: {what} is not available yet"));
    if let Some(hook) = change.hooks.first() {
        return Err(refused(format!("the {} hook {}", hook.hook_name, hook.path)));
    }
    if change.intel_rdt.is_some() || !change.net_devices.is_empty() {
        return Err(refused("intelRdt or netDevices".to_owned()));
    }
    for entry in &change.env {
        if !entry.contains('=') || entry.starts_with('=') || entry.contains('\0') {
            return Err(injection(format!("{name}: invalid environment variable {entry:?}")));
        }
        out.environment.push(entry.clone());
    }
    for node in &change.device_nodes {
        let source = if node.host_path.is_empty() { &node.path } else { &node.host_path };
        let mapping = DeviceMapping {
            path_on_host: source.clone(),
            path_in_container: node.path.clone(),
            cgroup_permissions: node.permissions.clone(),
        };
        let first = out.devices.nodes.len();
        devices::map(&mapping, &mut out.devices)
            .map_err(|reason| injection(format!("{name}: device {source}: {reason}")))?;
        for made in &mut out.devices.nodes[first..] {
            if let Some(mode) = node.file_mode {
                made.mode = (made.mode & !0o7777) | (mode & 0o7777);
            }
            made.uid = node.uid.unwrap_or(made.uid);
            made.gid = node.gid.unwrap_or(made.gid);
        }
    }
    for mount in &change.mounts {
        out.mounts.push(bind(mount).map_err(|reason| injection(format!("{name}: {reason}")))?);
    }
    for gid in change.additional_gids.iter().filter(|gid| **gid != 0) {
        if let Ok(UserSpec { user: Some(group), .. }) = gid.to_string().parse() {
            out.groups.push(group);
        }
    }
    Ok(())
}

fn bind(mount: &Mount) -> std::result::Result<MountRecord, String> {
    let absolute = |path: &str| path.starts_with('/') && !path.split('/').any(|part| part == "..");
    if !absolute(&mount.host_path) || !absolute(&mount.container_path) {
        let Mount { host_path, container_path, .. } = mount;
        return Err(format!("mount of {host_path:?} at {container_path:?}: no absolute paths"));
    }
    if !matches!(mount.r#type.as_str(), "" | "bind" | "none") {
        return Err(format!("mount of type {:?} is not available yet", mount.r#type));
    }
    let has = |option: &str| mount.options.iter().any(|one| one == option);
    let propagation =
        ["shared", "rshared", "slave", "rslave"].into_iter().find(|option| has(option));
    Ok(MountRecord {
        target: mount.container_path.clone(),
        kind: MountKind::Bind {
            source: mount.host_path.clone(),
            recursive: has("rbind"),
            create: false,
            readonly_top_only: false,
        },
        readonly: has("ro"),
        mode: String::new(),
        propagation: propagation.unwrap_or("rprivate").to_owned(),
    })
}

/// All devices of the directories' documents.
fn read(directories: &[PathBuf]) -> Known {
    let mut known = Known::new();
    for directory in directories {
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        let mut files: Vec<PathBuf> =
            entries.flatten().map(|entry| entry.path()).take(MAX_SPECS).collect();
        files.sort();
        for path in files {
            // As the specification has it: no other endings.
            let ending = path.extension().and_then(|extension| extension.to_str());
            let Some(ending @ ("json" | "yaml")) = ending else { continue };
            match parse(&path, ending == "yaml") {
                Ok(spec) => learn(spec, &mut known),
                Err(reason) => tracing::warn!(path = %path.display(), reason, "CDI document"),
            }
        }
    }
    known
}

fn parse(path: &Path, yaml: bool) -> std::result::Result<Spec, String> {
    let meta = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !meta.is_file() || meta.len() > MAX_SPEC {
        return Err("no file of a usual size".to_owned());
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let spec: Spec = match yaml {
        true => of_yaml(&bytes)?,
        false => serde_json::from_slice(&bytes).map_err(|error| error.to_string())?,
    };
    match spec.kind.split_once('/') {
        Some((vendor, class)) if !vendor.is_empty() && !class.is_empty() => Ok(spec),
        _ => Err(format!("invalid kind {:?}", spec.kind)),
    }
}

/// As Go's library reads it, which takes 0660 for a number of eight digits.
fn of_yaml(bytes: &[u8]) -> std::result::Result<Spec, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    let spec = serde_saphyr::from_str_with_options(text, options);
    // Its messages show the lines around an error: the first one says what it is.
    spec.map_err(|error| error.to_string().lines().next().unwrap_or_default().to_owned())
}

fn learn(spec: Spec, known: &mut Known) {
    for device in spec.devices {
        let name = format!("{}={}", spec.kind, device.name);
        known.insert(name, [spec.container_edits.clone(), device.container_edits]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(driver: &str, count: i64, ids: &[&str], capability: &str) -> DeviceRequest {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        DeviceRequest {
            driver: driver.into(),
            count,
            device_ids: Some(texts(ids)),
            capabilities: (!capability.is_empty()).then(|| vec![vec![capability.to_owned()]]),
            options: None,
        }
    }

    #[test]
    fn documents_and_requests() {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            std::fs::write(directory.path().join(name), text).unwrap();
        };
        put(
            "a.json",
            r#"{"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu",
                "containerEdits": {"env": ["ALL=1"]},
                "devices": [
                  {"name": "0", "containerEdits": {
                    "env": ["ONE=1"],
                    "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/null", "uid": 7}],
                    "mounts": [{"hostPath": "/usr", "containerPath": "/x", "options": ["ro"]}],
                    "additionalGids": [44]}},
                  {"name": "all", "containerEdits": {"hooks": [
                    {"hookName": "createContainer", "path": "/bin/evil"}]}}]}"#,
        );
        put("broken.json", "{");
        put("broken.yaml", "kind: [");
        put("other.yml", "kind: c.d/e\ndevices: [{name: x}]");
        put(
            "b.yaml",
            "cdiVersion: 0.6.0\nkind: a.b/c\ndevices:\n- name: \"1\"\n  containerEdits:\n    \
             env: [\"TWO=2\"]\n    deviceNodes:\n    - path: /dev/two\n      hostPath: /dev/zero\n      \
             fileMode: 0600\n      permissions: r\n",
        );
        let settings = Settings {
            cdi_spec_dirs: vec![directory.path().display().to_string()],
            ..Settings::default()
        };
        let of = |request: DeviceRequest| {
            let requests = Some(vec![request]);
            edits(&HostConfig { device_requests: requests, ..HostConfig::default() }, &settings)
        };
        for request in [asked("cdi", 0, &["nvidia.com/gpu=0"], ""), asked("", 1, &[], "gpu")] {
            let found = of(request).unwrap();
            assert_eq!(found.environment, ["ALL=1", "ONE=1"]);
            let node = &found.devices.nodes[0];
            assert_eq!((node.path.as_str(), node.major, node.uid), ("/dev/gpu0", 1, 7));
            assert_eq!(found.devices.rules[0].access, "rwm");
            assert!(found.mounts[0].readonly && found.mounts[0].target == "/x");
            assert_eq!(found.groups.len(), 1);
        }
        let found = of(asked("cdi", 0, &["a.b/c=1"], "")).unwrap();
        assert_eq!(found.environment, ["TWO=2"]);
        let (node, rule) = (&found.devices.nodes[0], &found.devices.rules[0]);
        assert_eq!((node.mode & 0o7777, rule.access.as_str()), (0o600, "r"));
        for (request, says) in [
            (asked("cdi", 0, &["c.d/e=x"], ""), "unresolvable CDI devices c.d/e=x"),
            (asked("cdi", 0, &["a.b/c=d"], ""), "unresolvable CDI devices a.b/c=d"),
            (asked("cdi", 1, &["nvidia.com/gpu=0"], ""), "unexpected count"),
            (asked("", -1, &[], "gpu"), "createContainer hook /bin/evil is not available"),
            (
                asked("", -1, &[], "tpu"),
                "could not select device driver \"\" with capabilities: [[tpu]]",
            ),
            (asked("x", -1, &[], "gpu"), "could not select device driver \"x\""),
        ] {
            let error = of(request).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let off = Settings { features: [("cdi".to_owned(), false)].into(), ..settings.clone() };
        assert!(directories(&off).is_empty());
        let host = HostConfig {
            device_requests: Some(vec![asked("cdi", 0, &["a.b/c=1"], "")]),
            ..HostConfig::default()
        };
        let text = edits(&host, &off).unwrap_err().to_string();
        assert!(text.contains("could not select device driver \"cdi\""), "{text}");
        let none = Settings { cdi_spec_dirs: vec![String::new()], ..Settings::default() };
        let host = HostConfig {
            device_requests: Some(vec![asked("", -1, &[], "gpu")]),
            ..HostConfig::default()
        };
        assert!(edits(&host, &none).is_err());
    }
}
