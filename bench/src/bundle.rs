//! A runtime alone, with bundles made from the configuration that dockerd really writes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::output;

/// A runtime and what its containers are made of.
#[derive(Clone)]
pub struct Bare {
    runtime: &'static str,
    directory: PathBuf,
    rootfs: PathBuf,
    /// Whose child every container's cgroup is.
    cgroup: String,
    pattern: Value,
}

impl Bare {
    /// Without a pattern: what the runtime itself proposes.
    pub fn new(
        runtime: &'static str,
        directory: PathBuf,
        rootfs: &Path,
        cgroup: &str,
        pattern: Option<Value>,
    ) -> Result<Self> {
        std::fs::create_dir_all(&directory)?;
        let pattern = if let Some(pattern) = pattern {
            pattern
        } else {
            output(Command::new(runtime).arg("spec").current_dir(&directory))?;
            serde_json::from_slice(&std::fs::read(directory.join("config.json"))?)?
        };
        let cgroup = format!("{cgroup}/containers");
        Ok(Self { runtime, directory, rootfs: rootfs.to_owned(), cgroup, pattern })
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.runtime);
        command.arg("--root").arg(self.directory.join("state")).args(args).stdin(Stdio::null());
        command
    }

    /// `VERB -b BUNDLE ID`, the bundle written.
    pub fn with_bundle(
        &self,
        verb: &str,
        flags: &[&str],
        id: &str,
        args: &[&str],
        first: Option<&Path>,
    ) -> Result<Command> {
        let bundle = self.directory.join(id);
        std::fs::create_dir_all(&bundle)?;
        let cgroup = format!("{}/{id}", self.cgroup);
        let config = configure(self.pattern.clone(), &self.rootfs, &cgroup, args, first);
        std::fs::write(bundle.join("config.json"), config.to_string())
            .context("write config.json")?;
        let mut command = self.command(&[verb]);
        command.args(flags).arg("-b").arg(bundle).arg(id);
        Ok(command)
    }
}

/// One container's configuration: without the engine's hooks and files, in namespaces of its own.
fn configure(
    mut config: Value,
    rootfs: &Path,
    cgroup: &str,
    args: &[&str],
    first: Option<&Path>,
) -> Value {
    if let Some(map) = config.as_object_mut() {
        map.remove("hooks");
    }
    if let Some(mounts) = config["mounts"].as_array_mut() {
        mounts.retain(|mount| mount["type"] != "bind");
        mounts.extend(first.map(|source| {
            json!({ "destination": "/first", "type": "bind", "source": source,
                    "options": ["rbind", "rw"] })
        }));
    }
    let namespaces = config["linux"]["namespaces"].as_array().cloned().unwrap_or_default();
    config["linux"]["namespaces"] =
        namespaces.iter().map(|namespace| json!({ "type": namespace["type"] })).collect();
    config["linux"]["cgroupsPath"] = cgroup.into();
    config["root"] = json!({ "path": rootfs });
    config["process"]["args"] = json!(args);
    config["process"]["terminal"] = false.into();
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_engine_is_taken_out() {
        let pattern = json!({
            "hooks": { "prestart": [] },
            "mounts": [{ "type": "proc" }, { "type": "bind", "source": "/var/lib/docker/x" }],
            "linux": { "namespaces": [{ "type": "network", "path": "/run/x" }], "seccomp": {} },
            "process": { "args": ["sleep"], "terminal": true },
        });
        let made = configure(pattern, Path::new("/r"), "/c/1", &["true"], Some(Path::new("/d")));
        assert!(made.get("hooks").is_none());
        assert_eq!(made["mounts"][0], json!({ "type": "proc" }));
        assert_eq!(made["mounts"][1]["source"], "/d");
        assert_eq!(made["mounts"].as_array().map(Vec::len), Some(2));
        assert_eq!(made["linux"]["namespaces"], json!([{ "type": "network" }]));
        assert_eq!(made["linux"]["cgroupsPath"], "/c/1");
        assert!(made["linux"].get("seccomp").is_some(), "the filter is what costs");
        assert_eq!(made["process"], json!({ "args": ["true"], "terminal": false }));
    }
}
