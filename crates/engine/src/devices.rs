//! Devices of the host that a container may use: their numbers are looked up when it starts.

use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use hoy_cgroup::DeviceRule;
use hoy_runtime::DeviceNodePlan;
use hoy_wire::{DeviceMapping, HostConfig};

use crate::error::{Error, Result};

/// A directory of devices that is deeper or fuller than this is a mistake.
const MAX_DEPTH: u32 = 8;
const MAX_NODES: usize = 4096;

/// What the device cgroup allows, and the nodes to make.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Devices {
    pub rules: Vec<DeviceRule>,
    pub nodes: Vec<DeviceNodePlan>,
}

/// Docker's defaults, `--device` and `--device-cgroup-rule`.
pub(crate) fn gather(host: &HostConfig) -> Result<Devices> {
    let mut out = Devices { rules: default_rules(), nodes: Vec::new() };
    for mapping in host.devices.iter().flatten() {
        map(mapping, &mut out).map_err(|reason| {
            Error::system(format!(
                "error gathering device information while adding custom device {:?}: {reason}",
                mapping.path_on_host
            ))
        })?;
    }
    for text in host.device_cgroup_rules.iter().flatten() {
        out.rules.push(rule(text)?);
    }
    Ok(out)
}

/// Docker's device list and what runc adds to it.
fn default_rules() -> Vec<DeviceRule> {
    let rule = |kind, major: Option<u32>, minor: Option<u32>, access: &str| DeviceRule {
        kind,
        major,
        minor,
        access: access.to_owned(),
    };
    let mut out = vec![rule('c', None, None, "m"), rule('b', None, None, "m")];
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        out.push(rule('c', Some(major), Some(minor), "rwm"));
    }
    out.push(rule('c', Some(136), None, "rwm"));
    out
}

/// One mapping's nodes and what the device cgroup allows for it.
pub(crate) fn map(mapping: &DeviceMapping, out: &mut Devices) -> std::result::Result<(), String> {
    let access = match mapping.cgroup_permissions.as_str() {
        "" => "rwm",
        access if access.bytes().all(|c| matches!(c, b'r' | b'w' | b'm')) => access,
        access => return Err(format!("invalid device permissions: {access}")),
    };
    let target = match mapping.path_in_container.as_str() {
        "" => &mapping.path_on_host,
        target => target,
    };
    if !target.starts_with('/') || target.split('/').any(|part| part == "..") {
        return Err(format!("{target} is no absolute path in the container"));
    }
    let plain = |error: std::io::Error| hoy_runtime::plain_error(&error);
    let source = std::fs::canonicalize(&mapping.path_on_host).map_err(plain)?;
    let found = std::fs::metadata(&source).map_err(plain)?;
    if let Some(node) = node(&found, target) {
        add(node, access, out);
        return Ok(());
    }
    let before = out.nodes.len();
    if found.is_dir() {
        walk(&source, Path::new(target), access, out, 0).map_err(plain)?;
    }
    if out.nodes.len() == before { Err("not a device node".to_owned()) } else { Ok(()) }
}

/// All devices below a directory.
fn walk(
    source: &Path,
    target: &Path,
    access: &str,
    out: &mut Devices,
    depth: u32,
) -> std::io::Result<()> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(source)?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for path in entries {
        let Some(name) = path.file_name() else { continue };
        let skipped = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
        // Links are left out, as Docker leaves them out.
        let Ok(found) = std::fs::symlink_metadata(&path) else { continue };
        let target = target.join(name);
        if found.is_dir() && depth < MAX_DEPTH && !skipped.iter().any(|skip| name == *skip) {
            walk(&path, &target, access, out, depth + 1)?;
        } else if let Some(node) = node(&found, &target.to_string_lossy())
            && name != "console"
            && out.nodes.len() < MAX_NODES
        {
            add(node, access, out);
        }
    }
    Ok(())
}

fn node(found: &Metadata, target: &str) -> Option<DeviceNodePlan> {
    let kind = found.file_type();
    (kind.is_block_device() || kind.is_char_device()).then(|| DeviceNodePlan {
        path: target.to_owned(),
        mode: found.mode(),
        major: rustix::fs::major(found.rdev()),
        minor: rustix::fs::minor(found.rdev()),
        uid: found.uid(),
        gid: found.gid(),
    })
}

fn add(node: DeviceNodePlan, access: &str, out: &mut Devices) {
    let block = rustix::fs::FileType::from_raw_mode(node.mode) == rustix::fs::FileType::BlockDevice;
    out.rules.push(DeviceRule {
        kind: if block { 'b' } else { 'c' },
        major: Some(node.major),
        minor: Some(node.minor),
        access: access.to_owned(),
    });
    out.nodes.push(node);
}

/// `c 1:3 rwm`, `b 8:* r`, `a *:* rwm`.
pub(crate) fn rule(text: &str) -> Result<DeviceRule> {
    let parsed = || -> Option<DeviceRule> {
        let (kind, rest) = text.split_once(' ')?;
        let (numbers, access) = rest.split_once(' ')?;
        let (major, minor) = numbers.split_once(':')?;
        let kind = kind.chars().next().filter(|c| kind.len() == 1 && "acb".contains(*c))?;
        let number = |text: &str| match text {
            "*" => Some(None),
            digits if digits.bytes().all(|c| c.is_ascii_digit()) => digits.parse().ok().map(Some),
            _ => None,
        };
        let good = (1..=3).contains(&access.len()) && access.bytes().all(|c| b"rwm".contains(&c));
        good.then_some(())?;
        Some(DeviceRule {
            kind,
            major: number(major)?,
            minor: number(minor)?,
            access: access.to_owned(),
        })
    };
    parsed().ok_or_else(|| Error::invalid(format!("invalid device cgroup rule format: '{text}'")))
}

/// The numbers of a block device, for limits on it.
pub(crate) fn block(path: &str) -> Result<(u32, u32)> {
    let found = std::fs::metadata(path).map_err(|error| {
        Error::system(format!("stat {path}: {}", hoy_runtime::plain_error(&error)))
    })?;
    if !found.file_type().is_block_device() {
        return Err(Error::invalid(format!("{path} is not a block device")));
    }
    Ok((rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let parsed = rule("c 1:* rw").unwrap();
        assert_eq!((parsed.kind, parsed.major, parsed.minor), ('c', Some(1), None));
        for bad in ["", "c", "c 1:3", "x 1:3 r", "c 1:3 rwx", "c -1:3 r", "c 1:3 rwmr", "cc 1:3 r"]
        {
            assert!(rule(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn devices_directories_and_other_things() {
        let map = |source: &str, target: &str| {
            let devices = Some(vec![DeviceMapping {
                path_on_host: source.into(),
                path_in_container: target.into(),
                cgroup_permissions: "r".into(),
            }]);
            gather(&HostConfig { devices, ..HostConfig::default() })
        };
        let one = map("/dev/null", "/dev/nothing").unwrap();
        let node = &one.nodes[0];
        assert_eq!((node.path.as_str(), node.major, node.minor), ("/dev/nothing", 1, 3));
        assert_eq!(one.rules.last().unwrap().access, "r");
        assert_eq!(
            map("/dev/nope", "/dev/x").unwrap_err().to_string(),
            "error gathering device information while adding custom device \"/dev/nope\": no such \
             file or directory"
        );
        assert!(
            map("/etc/passwd", "/dev/x").unwrap_err().to_string().contains("not a device node")
        );
        assert!(map("/dev/null", "/dev/../x").is_err());
    }
}
