//! Settings that are read again while the daemon runs (SIGHUP), and the socket that stands in for
//! Docker's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use hoy_config::Settings;

use crate::engine::{Engine, Inner, host_name};
use crate::mounts;

/// The settings as they are now.
pub(crate) struct Reloaded(RwLock<Arc<Settings>>);

impl Reloaded {
    pub fn of(settings: &Settings) -> Self {
        Self(RwLock::new(Arc::new(settings.clone())))
    }
}

/// The old settings with what may change of the new ones, and whether anything else differs, which
/// needs another start.
fn merge(old: &Settings, new: &Settings) -> (Settings, bool) {
    let mut merged = old.clone();
    merged.debug = new.debug;
    merged.labels.clone_from(&new.labels);
    merged.runtimes.clone_from(&new.runtimes);
    merged.default_runtime.clone_from(&new.default_runtime);
    merged.default_shm_size = new.default_shm_size;
    merged.default_ipc_mode.clone_from(&new.default_ipc_mode);
    merged.default_cgroupns_mode.clone_from(&new.default_cgroupns_mode);
    let mut same = new.clone();
    // What the start has settled is not in the file.
    same.cgroup_driver = old.cgroup_driver;
    same.cgroup_parent.clone_from(&old.cgroup_parent);
    let needs_start = merged != same;
    (merged, needs_start)
}

/// What the event tells: Docker's keys, those that hoy has no such part for as Docker has them.
fn told(settings: &Settings) -> BTreeMap<String, String> {
    let list = |values: &[String]| serde_json::to_string(values).unwrap_or_default();
    let names = ["io.containerd.runc.v2", "runc"].map(|name| format!("{name}:hoy"));
    let others = settings
        .runtimes
        .iter()
        .map(|(name, runtime)| format!("{name}:{}", runtime.path.display()));
    let runtimes = names.into_iter().chain(others).collect::<Vec<_>>().join(" ");
    let mut all: BTreeMap<String, String> = [
        ("authorization-plugins", "[]"),
        ("insecure-registries", "[]"),
        ("live-restore", "true"),
        ("max-concurrent-downloads", "3"),
        ("max-concurrent-uploads", "5"),
        ("max-download-attempts", "5"),
        ("network-diagnostic-port", "0"),
        ("registry-mirrors", "[]"),
        ("shutdown-timeout", "15"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    all.insert("debug".to_owned(), settings.debug.to_string());
    all.insert("default-cgroupns-mode".to_owned(), settings.default_cgroupns_mode.clone());
    all.insert("default-runtime".to_owned(), settings.default_runtime.clone());
    all.insert("default-ipc-mode".to_owned(), settings.default_ipc_mode.clone());
    all.insert("default-shm-size".to_owned(), settings.default_shm_size.to_string());
    let features = serde_json::to_string(&settings.features).unwrap_or_default();
    all.insert("features".to_owned(), features);
    all.insert("labels".to_owned(), list(&settings.labels));
    all.insert("name".to_owned(), host_name());
    all.insert("runtimes".to_owned(), runtimes);
    all
}

impl Inner {
    /// The settings with what has been read since the start.
    pub fn current(&self) -> Arc<Settings> {
        Arc::clone(&self.reloaded.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where Docker's socket is asked for and is not there: this daemon's own.
    pub fn socket_for(&self, source: &str) -> Option<PathBuf> {
        if !mounts::is_docker_socket(source) || std::fs::symlink_metadata(source).is_ok() {
            return None;
        }
        let own = self.settings.hosts.iter().find_map(|host| host.strip_prefix("unix://"));
        // A service manager's socket is where the unit says: at the usual place.
        let fallback = || {
            let path = hoy_config::DEFAULT_HOST.strip_prefix("unix://")?;
            let given = self.settings.hosts.iter().any(|host| host.starts_with("fd://"));
            (given && std::path::Path::new(path).exists()).then_some(path)
        };
        own.or_else(fallback).map(PathBuf::from)
    }
}

impl Engine {
    /// Takes what may change while the daemon runs; true if something else is other than before.
    pub fn reload(&self, new: &Settings) -> bool {
        let (merged, needs_start) = merge(&self.inner.settings, new);
        let attributes = told(&merged);
        *self.inner.reloaded.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(merged);
        self.inner.event("daemon", "reload", &self.inner.id, attributes);
        needs_start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_and_what_does_not() {
        let old = Settings::default();
        let new = Settings { labels: vec!["a=b".to_owned()], debug: true, ..Settings::default() };
        let (merged, other) = merge(&old, &new);
        assert!(merged == new && !other);
        assert_eq!(told(&merged)["labels"], r#"["a=b"]"#);
        let (merged, other) = merge(&old, &Settings { mtu: 9000, ..new });
        assert!(other && merged.mtu == old.mtu && merged.debug);
    }
}
