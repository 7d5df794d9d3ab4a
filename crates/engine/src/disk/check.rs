//! What nobody owns, and where the disk's bytes are.
//!
//! Nothing that may be somebody's data is deleted: a volume's directory that is not known is taken
//! up as a volume. What is in the making is known by its id or by a lease before it is on the disk.

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hoy_store::{Measure, blocks, blocks_at};
use hoy_wire::{CheckReport, DiskParts, Finding};
use rustix::mount::UnmountFlags;

use super::sizes::{is_log, measure_parts};
use crate::engine::{Engine, Inner};
use crate::error::{Result, failed, lost};
use crate::plan;

/// What an operation makes may be unfinished for so long.
const IN_THE_MAKING: Duration = Duration::from_secs(24 * 3600);

impl Engine {
    /// Looks for what nobody owns, and takes it away if that is asked for.
    pub async fn check(&self, repair: bool) -> Result<CheckReport> {
        let inner = Arc::clone(&self.inner);
        let done = tokio::task::spawn_blocking(move || {
            let findings = inner.find_orphans(repair)?;
            let disk = inner.totals().map_err(failed("count the data root"))?;
            Ok(CheckReport { findings, disk })
        });
        done.await.map_err(lost)?
    }
}

/// Names in a directory; none where there is no directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn tree_size(path: &Path) -> u64 {
    let below = if path.is_dir() { Measure::new(&|| true).below(path).unwrap_or(0) } else { 0 };
    below + blocks_at(path)
}

fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

impl Inner {
    fn find_orphans(&self, repair: bool) -> Result<Vec<Finding>> {
        let mut out = Vec::new();
        let mut add = |kind: &str, what: String, bytes, act: &dyn Fn() -> bool| {
            let kind = kind.to_owned();
            out.push(Finding { kind, what, bytes, repaired: repair && act() });
        };
        let root = self.store.root();
        // Mounts first: what they are on can only be removed without them.
        for at in self.orphan_mounts() {
            let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
            add("orphan-mount", at.display().to_string(), 0, &|| {
                rustix::mount::unmount(&at, flags).is_ok()
            });
        }
        let discard = |path: &Path| self.store.discard(path).is_ok();
        for name in names(&root.join("containers")) {
            let path = root.join("containers").join(&name);
            if !self.registry.knows(&name) {
                add("orphan-container", path.display().to_string(), tree_size(&path), &|| {
                    // It may have come to be meanwhile.
                    !self.registry.knows(&name) && discard(&path)
                });
            }
        }
        let garbage = self.images.garbage(&self.used_layers(), &[]);
        let garbage = garbage.map_err(failed("look for layers"))?;
        // All at once, by the same rule that found them: leases are looked at again.
        let collected = repair && self.images.collect(&self.used_layers()).is_ok();
        for (path, bytes) in self.sizes_at(&garbage) {
            let layer = path.parent().is_some_and(|parent| parent.ends_with("layers"));
            let kind = if layer { "orphan-layer" } else { "orphan-blob" };
            add(kind, path.display().to_string(), bytes, &|| collected && !path.exists());
        }
        for name in names(&root.join("volumes")) {
            let path = root.join("volumes").join(&name);
            if self.volumes.get(&name).is_err() && path.is_dir() {
                add("unknown-volume", path.display().to_string(), tree_size(&path), &|| {
                    self.volumes.adopt(&name).is_ok()
                });
            }
        }
        for name in names(&root.join("ingest")) {
            let path = root.join("ingest").join(&name);
            let touched = std::fs::symlink_metadata(&path).and_then(|meta| meta.modified());
            let age = touched.ok().and_then(|touched| touched.elapsed().ok());
            if age.is_some_and(|age| age > IN_THE_MAKING) {
                let bytes = tree_size(&path);
                add("unfinished", path.display().to_string(), bytes, &|| discard(&path));
            }
        }
        let files = self.settings.exec_root.join("files");
        for name in names(&files) {
            if !self.registry.knows(&name) {
                let path = files.join(&name);
                add("orphan-files", path.display().to_string(), tree_size(&path), &|| {
                    !self.registry.knows(&name) && std::fs::remove_dir_all(&path).is_ok()
                });
            }
        }
        for name in self.orphan_cgroups() {
            let parent = self.settings.cgroup_parent.clone();
            let what = format!("{parent}/{name}");
            // One with processes in it stays, and is told.
            add("orphan-cgroup", what, 0, &|| {
                let driver = plan::driver(&self.settings);
                let plan = hoy_cgroup::CgroupPlan {
                    parent: parent.clone(),
                    name: name.clone(),
                    driver,
                    ..hoy_cgroup::CgroupPlan::default()
                };
                hoy_cgroup::remove_everywhere(&plan).is_ok()
                    && !self.orphan_cgroups().contains(&name)
            });
        }
        Ok(out)
    }

    /// Containers mount nothing here where the host sees it; volumes do, on what is theirs.
    fn orphan_mounts(&self) -> Vec<PathBuf> {
        let root = self.store.root();
        let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mut out: Vec<PathBuf> = Vec::new();
        for line in table.lines() {
            let Some(at) = line.split(' ').nth(4).map(unescaped) else { continue };
            let Ok(below) = Path::new(&at).strip_prefix(&root) else { continue };
            let mut parts = below.iter().map(|part| part.to_string_lossy().into_owned());
            let owned = match (parts.next().as_deref(), parts.next()) {
                (Some("containers"), Some(id)) => self.registry.knows(&id),
                (Some("volumes"), Some(name)) => self.volumes.get(&name).is_ok(),
                (Some("layers" | "blobs" | "trash" | "db"), _) => false,
                // The data root itself, and what is in the making.
                _ => true,
            };
            if !owned {
                out.push(at.into());
            }
        }
        // The last one lies on top.
        out.reverse();
        out
    }

    fn orphan_cgroups(&self) -> Vec<String> {
        if plan::driver(&self.settings) != hoy_cgroup::Driver::Cgroupfs {
            return Vec::new();
        }
        let Ok(hierarchies) = hoy_cgroup::Hierarchies::of_this_machine() else { return Vec::new() };
        let parent = self.settings.cgroup_parent.trim_start_matches('/');
        let mut out = HashSet::new();
        for hierarchy in hierarchies.used() {
            let found = names(&hierarchy.root().join(parent));
            out.extend(found.into_iter().filter(|name| is_id(name) && !self.registry.knows(name)));
        }
        out.into_iter().collect()
    }

    fn totals(&self) -> std::io::Result<DiskParts> {
        let root = self.store.root();
        let go_on = || true;
        let mut measure = Measure::new(&go_on);
        let mut out = DiskParts::default();
        let top = std::fs::File::open(root)?;
        out.total = blocks(&top)?;
        for entry in std::fs::read_dir(root)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let bytes = if entry.file_type()?.is_dir() {
                measure.inside(top.as_fd(), &name)?
            } else {
                blocks_at(&entry.path())
            };
            out.total += bytes;
            match name.as_str() {
                "layers" | "blobs" => out.images += bytes,
                "trash" => out.trash += bytes,
                "db" => out.database += bytes,
                _ => {}
            }
        }
        for id in names(&root.join("containers")) {
            let path = root.join("containers").join(&id);
            let mut measure = Measure::new(&go_on);
            let written = measure_parts(&mut measure, &path, crate::room::is_layer);
            out.containers += written.unwrap_or(0);
            let logs = names(&path).into_iter().filter(|name| is_log(name));
            out.logs += logs.map(|name| blocks_at(&path.join(name))).sum::<u64>();
        }
        for name in names(&root.join("volumes")) {
            let path = root.join("volumes").join(&name);
            let mut measure = Measure::new(&go_on);
            out.volumes += measure_parts(&mut measure, &path, |name| name == "_data").unwrap_or(0);
        }
        let told = out.images + out.containers + out.volumes + out.logs + out.trash + out.database;
        out.other = out.total.saturating_sub(told);
        Ok(out)
    }
}

/// As mountinfo writes spaces and the like.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}
