//! A bundle for the bare runtimes: the configuration that dockerd really writes, without hooks.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::output;

/// Makes the bundle of one runtime; what kind of configuration it has.
pub fn make(
    directory: &Path,
    rootfs: &Path,
    docker: Option<&Path>,
    cgroup: &str,
) -> Result<&'static str> {
    std::fs::create_dir_all(directory)?;
    let found = docker.and_then(find);
    let kind = if found.is_some() { "Docker's configuration" } else { "the default configuration" };
    let mut config: Value = match found {
        Some(path) => serde_json::from_slice(&std::fs::read(path)?)?,
        None => {
            output(Command::new("runc").arg("spec").current_dir(directory))?;
            serde_json::from_slice(&std::fs::read(directory.join("config.json"))?)?
        }
    };
    if let Some(map) = config.as_object_mut() {
        map.remove("hooks");
    }
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["type"] != "bind");
    }
    let namespaces = config["linux"]["namespaces"].as_array().cloned().unwrap_or_default();
    config["linux"]["namespaces"] =
        namespaces.iter().map(|namespace| json!({ "type": namespace["type"] })).collect();
    config["linux"]["cgroupsPath"] = cgroup.into();
    config["root"] = json!({ "path": rootfs });
    config["process"]["args"] = json!(["true"]);
    config["process"]["terminal"] = false.into();
    std::fs::write(directory.join("config.json"), config.to_string())
        .context("write config.json")?;
    Ok(kind)
}

/// The configuration of whatever container runs below dockerd's exec root.
fn find(exec_root: &Path) -> Option<PathBuf> {
    let mut stack = vec![exec_root.to_owned()];
    while let Some(directory) = stack.pop() {
        for entry in std::fs::read_dir(directory).ok()?.flatten() {
            let path = entry.path();
            if entry.file_name() == "config.json" {
                return Some(path);
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != "rootfs" {
                stack.push(path);
            }
        }
    }
    None
}
