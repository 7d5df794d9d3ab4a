//! The hierarchies of this machine, read from mountinfo.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::{CgroupError, read_file, remove_directory, write_file};

/// What hoy sets limits with, or needs for its own work.
const WANTED: &[&str] =
    &["memory", "cpu", "cpuacct", "cpuset", "pids", "devices", "freezer", "blkio", "io"];

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    pub(crate) root: PathBuf,
    /// v2.
    pub(crate) unified: bool,
    /// The name of its directory below /sys/fs/cgroup: `cpu,cpuacct`, `systemd`.
    pub(crate) name: String,
    pub(crate) controllers: Vec<String>,
}

/// All of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchies(Vec<Hierarchy>);

impl Hierarchies {
    pub fn of_this_machine() -> Result<Self, CgroupError> {
        let path = "/proc/self/mountinfo";
        let failed = |source| CgroupError::Io { operation: "read", path: path.into(), source };
        let text = std::fs::read_to_string(path).map_err(failed)?;
        let mut all = parse(&text);
        for hierarchy in all.iter_mut().filter(|hierarchy| hierarchy.unified) {
            let file = hierarchy.root.join("cgroup.controllers");
            let text = std::fs::read_to_string(file).unwrap_or_default();
            hierarchy.controllers = text.split_whitespace().map(str::to_owned).collect();
        }
        Ok(Self(all))
    }

    /// Those with a controller that hoy uses, and named ones, which are an init system's: one that
    /// runs in a container needs its own part. A v2 hierarchy beside v1 ones that has no controller
    /// is left alone.
    pub fn used(&self) -> impl Iterator<Item = &Hierarchy> {
        let alone = self.0.iter().all(|hierarchy| hierarchy.unified);
        self.0.iter().filter(move |hierarchy| {
            let wanted =
                |name: &String| WANTED.contains(&name.as_str()) || name.starts_with("name=");
            alone || hierarchy.controllers.iter().any(wanted)
        })
    }

    /// Those that hoy has no use for, too.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Hierarchy> {
        self.0.iter()
    }

    /// Whether v2 serves the limits.
    pub fn unified(&self) -> bool {
        self.used().any(|hierarchy| hierarchy.unified)
    }

    /// Whether some hierarchy has this controller.
    pub fn has(&self, controller: &str) -> bool {
        self.used().any(|hierarchy| hierarchy.has(controller))
    }
}

impl Hierarchy {
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }

    fn failed(&self, operation: &'static str, path: &str, errno: Errno) -> CgroupError {
        let path = format!("{}/{path}", self.root.display());
        CgroupError::Io { operation, path, source: errno.into() }
    }

    /// Makes a directory and its parents, ready to hold processes.
    pub(crate) fn make(&self, path: &str) -> Result<OwnedFd, CgroupError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut current = rustix::fs::openat(CWD, &self.root, flags, Mode::empty())
            .map_err(|errno| self.failed("open", "", errno))?;
        for part in path.split('/') {
            if self.unified {
                self.delegate(&current);
            }
            match rustix::fs::mkdirat(&current, part, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.failed("make", path, errno)),
            }
            let next = rustix::fs::openat(&current, part, flags, Mode::empty())
                .map_err(|errno| self.failed("open", path, errno))?;
            if self.has("cpuset") && !self.unified {
                inherit_cpuset(&current, &next);
            }
            current = next;
        }
        Ok(current)
    }

    /// Hands all controllers down, one by one: one that refuses must not keep the others back.
    fn delegate(&self, directory: &OwnedFd) {
        let have = read_file(directory.as_fd(), "cgroup.subtree_control").unwrap_or_default();
        for controller in &self.controllers {
            if !have.split_whitespace().any(|name| name == controller) {
                let _ = write_file(
                    directory.as_fd(),
                    "cgroup.subtree_control",
                    &format!("+{controller}"),
                );
            }
        }
    }

    pub(crate) fn open(&self, path: &str) -> Result<Option<OwnedFd>, CgroupError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::openat(CWD, self.root.join(path), flags, Mode::empty()) {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.failed("open", path, errno)),
        }
    }

    pub(crate) fn remove(&self, path: &str) {
        let Ok(Some(directory)) = self.open(path) else { return };
        remove_below(&directory);
        drop(directory);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if let Ok(root) = rustix::fs::openat(CWD, &self.root, flags, Mode::empty()) {
            remove_directory(root.as_fd(), path);
        }
    }
}

/// Cgroups that a container made in its own go with it.
fn remove_below(directory: &OwnedFd) {
    let Ok(entries) = rustix::fs::Dir::read_from(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_directory = entry.file_type() == rustix::fs::FileType::Directory;
        if !is_directory || name == c"." || name == c".." {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if let Ok(below) = rustix::fs::openat(directory, name, flags, Mode::empty()) {
            remove_below(&below);
        }
        remove_directory(directory.as_fd(), &name.to_string_lossy());
    }
}

/// A new v1 cpuset is empty and refuses processes until it says which CPUs it has.
fn inherit_cpuset(parent: &OwnedFd, child: &OwnedFd) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = read_file(child.as_fd(), file).unwrap_or_default();
        if own.trim().is_empty()
            && let Ok(value) = read_file(parent.as_fd(), file)
        {
            let _ = write_file(child.as_fd(), file, value.trim());
        }
    }
}

/// The cgroup mounts of a mountinfo. A hierarchy that is mounted twice counts once.
fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    let mut out: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let mut words = after.split(' ');
        let kind = words.next().unwrap_or("");
        let options = words.nth(1).unwrap_or("");
        let mut fields = before.split(' ').skip(3);
        let (Some(_inside), Some(mount)) = (fields.next(), fields.next()) else { continue };
        let root = PathBuf::from(mount);
        let name = root.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let hierarchy = match kind {
            "cgroup2" => {
                Hierarchy { root, unified: true, name: String::new(), controllers: Vec::new() }
            }
            "cgroup" => {
                let known = |word: &&str| {
                    WANTED.contains(word)
                        || word.starts_with("name=")
                        || matches!(*word, "net_cls" | "net_prio" | "perf_event" | "rdma" | "misc")
                };
                let controllers = options.split(',').filter(known).map(str::to_owned).collect();
                Hierarchy { root, unified: false, name, controllers }
            }
            _ => continue,
        };
        let same = |known: &Hierarchy| {
            known.unified == hierarchy.unified
                && (known.unified || known.controllers == hierarchy.controllers)
        };
        if !out.iter().any(same) {
            out.push(hierarchy);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 25 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
35 30 0:28 / /mnt/memory rw,relatime - cgroup cgroup rw,memory
";

    #[test]
    fn per_controller() {
        let all = Hierarchies(parse(HYBRID));
        assert_eq!(all.0.len(), 4);
        assert!(all.has("memory") && all.has("cpuacct") && !all.has("pids"));
        assert!(!all.unified(), "an empty v2 beside v1 is not used");
        let alone = Hierarchies(parse("1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"));
        assert!(alone.unified());
    }
}
