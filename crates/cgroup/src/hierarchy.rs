//! The hierarchies of this machine, read from mountinfo.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::limits::Version;
use crate::{CgroupError, read_file, remove_directory, write_file};

/// The v1 hierarchy that systemd makes for itself.
pub(crate) const SYSTEMD: &str = "name=systemd";

/// What hoy sets limits with, or needs for its own work.
const WANTED: &[&str] =
    &["memory", "cpu", "cpuacct", "cpuset", "pids", "devices", "freezer", "blkio", "io"];

/// How long processes may come up in a root that is being left.
const VACATE: Duration = Duration::from_secs(2);

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    pub(crate) root: PathBuf,
    /// v2.
    pub(crate) unified: bool,
    /// The name of its directory below /sys/fs/cgroup: `cpu,cpuacct`, `systemd`, `unified`.
    pub(crate) name: String,
    /// Which of its cgroups is mounted here, as our cgroup namespace names it.
    pub(crate) inside: String,
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
        all.retain(Hierarchy::is_there);
        for hierarchy in all.iter_mut().filter(|hierarchy| hierarchy.unified) {
            let file = hierarchy.root.join("cgroup.controllers");
            let text = std::fs::read_to_string(file).unwrap_or_default();
            hierarchy.controllers = text.split_whitespace().map(str::to_owned).collect();
        }
        Ok(Self(all))
    }

    /// Those with a controller that hoy uses, and those of an init system: named ones and v2, with
    /// controllers or without. One that runs in a container needs its own part of them: what it
    /// finds at the root is the machine's.
    pub fn used(&self) -> impl Iterator<Item = &Hierarchy> {
        self.0.iter().filter(move |hierarchy| {
            let wanted =
                |name: &String| WANTED.contains(&name.as_str()) || name.starts_with("name=");
            hierarchy.unified || hierarchy.controllers.iter().any(wanted)
        })
    }

    /// Those that hoy has no use for, too.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Hierarchy> {
        self.0.iter()
    }

    /// Whether v2 is all there is.
    pub fn unified(&self) -> bool {
        self.used().all(|hierarchy| hierarchy.unified)
    }

    /// The v2 hierarchy, with controllers or without.
    pub(crate) fn v2(&self) -> Option<&Hierarchy> {
        self.0.iter().find(|hierarchy| hierarchy.unified)
    }

    /// The one in which an init system keeps its tree: v1's named one, else v2.
    pub(crate) fn of_init(&self) -> Option<&Hierarchy> {
        let named = |h: &&Hierarchy| h.controllers.iter().any(|name| name == SYSTEMD);
        self.0.iter().find(named).or_else(|| self.v2())
    }

    /// By which interface a controller is served, or would be.
    pub(crate) fn version(&self, controller: &str) -> Version {
        match self.used().find(|hierarchy| hierarchy.has(controller)) {
            Some(found) if !found.unified => Version::V1,
            None if !self.unified() => Version::V1,
            _ => Version::V2,
        }
    }

    /// Whether some hierarchy has this controller.
    pub fn has(&self, controller: &str) -> bool {
        self.used().any(|hierarchy| hierarchy.has(controller))
    }
}

impl Hierarchy {
    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the mount can be seen: another may lie over it.
    fn is_there(&self) -> bool {
        let magic = if self.unified { 0x6367_7270 } else { 0x0027_e0eb };
        rustix::fs::statfs(&self.root).is_ok_and(|found| found.f_type == magic)
    }

    /// A cgroup, named from the root of our namespace as /proc/PID/cgroup does, by its path below
    /// the mount.
    pub(crate) fn below(&self, path: &str) -> Option<String> {
        let inside = self.inside.trim_end_matches('/');
        let rest = path.strip_prefix(inside)?;
        (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_matches('/').to_owned())
    }

    /// The cgroup of this hierarchy that a process is in, from its /proc/PID/cgroup.
    pub(crate) fn of_process<'t>(&self, text: &'t str) -> Option<&'t str> {
        text.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let mut listed = controllers.split(',').filter(|name| !name.is_empty());
            let ours = match self.unified {
                true => controllers.is_empty(),
                false => listed.any(|name| self.has(name)),
            };
            ours.then_some(path)
        })
    }

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

    /// v2 hands controllers down only where no process is. In the root of a container's namespace
    /// there are some, a daemon that runs in it among them: all go to a leaf, and the controllers
    /// are handed down. Where it is not so, nothing is done.
    pub(crate) fn vacate(&self, leaf: &str) -> Result<(), CgroupError> {
        let Some(root) = self.open("")? else { return Ok(()) };
        let processes = || {
            let text = read_file(root.as_fd(), "cgroup.procs").unwrap_or_default();
            text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<u32>>()
        };
        // The root of the machine has no type, and no such rule.
        if read_file(root.as_fd(), "cgroup.type").is_err()
            || !processes().contains(&std::process::id())
        {
            return Ok(());
        }
        match rustix::fs::mkdirat(&root, leaf, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(self.failed("make", leaf, errno)),
        }
        let leaf = self.open(leaf)?.ok_or_else(|| self.failed("open", leaf, Errno::NOENT))?;
        let started = Instant::now();
        loop {
            // 0 are those of other namespaces, which are not ours to move.
            for pid in processes().into_iter().filter(|pid| *pid != 0) {
                // One that ends meanwhile is out of the way as well.
                let _ = write_file(leaf.as_fd(), "cgroup.procs", &pid.to_string());
            }
            self.delegate(&root);
            let given = read_file(root.as_fd(), "cgroup.subtree_control").unwrap_or_default();
            let given = |name: &String| given.split_whitespace().any(|given| given == name);
            if self.controllers.iter().all(given) {
                return Ok(());
            }
            if started.elapsed() > VACATE {
                return Err(self.failed("hand all controllers down from", "", Errno::BUSY));
            }
            std::thread::sleep(Duration::from_millis(5));
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

    /// Whether systemd makes and removes its scopes' directories here.
    fn is_systemds(&self) -> bool {
        const ITS: &[&str] = &["cpu", "cpuacct", "memory", "devices", "pids", "blkio", SYSTEMD];
        self.unified || ITS.iter().any(|name| self.has(name))
    }

    /// Waits until systemd has removed what it has made.
    pub(crate) fn await_systemd(&self, path: &str) {
        crate::systemd::await_end(&self.root.join(path));
    }

    /// Where systemd does not keep its slices, they are ours: those that are empty go.
    pub(crate) fn remove_slices(&self, path: &str) {
        let mut slices = path.rsplit_once('/');
        while let Some((slice, _)) = slices.filter(|_| !self.is_systemds()) {
            if std::fs::remove_dir(self.root.join(slice)).is_err() {
                break;
            }
            slices = slice.rsplit_once('/');
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
    for (name, below) in children(directory.as_fd()) {
        remove_below(&below);
        drop(below);
        remove_directory(directory.as_fd(), &name);
    }
}

/// The processes of a directory and of all below it.
pub(crate) fn processes(directory: BorrowedFd<'_>, out: &mut Vec<i32>) {
    let text = read_file(directory, "cgroup.procs").unwrap_or_default();
    out.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for (_, below) in children(directory) {
        processes(below.as_fd(), out);
    }
}

/// The directories in a directory, as far as they are still there.
fn children(directory: BorrowedFd<'_>) -> impl Iterator<Item = (String, OwnedFd)> {
    let entries = rustix::fs::Dir::read_from(directory).into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let name = entry.file_name();
        let is_directory = entry.file_type() == rustix::fs::FileType::Directory;
        if !is_directory || name == c"." || name == c".." {
            return None;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let below = rustix::fs::openat(directory, name, flags, Mode::empty()).ok()?;
        Some((name.to_string_lossy().into_owned(), below))
    })
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

/// The cgroup mounts of a mountinfo. A hierarchy that is mounted twice counts once: where it is
/// expected, else where it was mounted first.
fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    let mut out: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let mut words = after.split(' ');
        let kind = words.next().unwrap_or("");
        let options = words.nth(1).unwrap_or("");
        let mut fields = before.split(' ').skip(3);
        let (Some(inside), Some(mount)) = (fields.next(), fields.next()) else { continue };
        let inside = inside.to_owned();
        let root = PathBuf::from(mount);
        let name = root.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let hierarchy = match kind {
            "cgroup2" => Hierarchy { root, unified: true, name, inside, controllers: Vec::new() },
            "cgroup" => {
                let known = |word: &&str| {
                    WANTED.contains(word)
                        || word.starts_with("name=")
                        || matches!(*word, "net_cls" | "net_prio" | "perf_event" | "rdma" | "misc")
                };
                let controllers = options.split(',').filter(known).map(str::to_owned).collect();
                Hierarchy { root, unified: false, name, inside, controllers }
            }
            _ => continue,
        };
        let same = |known: &Hierarchy| {
            known.unified == hierarchy.unified
                && (known.unified || known.controllers == hierarchy.controllers)
        };
        let usual = |hierarchy: &Hierarchy| hierarchy.root.starts_with("/sys/fs/cgroup");
        match out.iter_mut().find(|known| same(known)) {
            Some(known) if usual(&hierarchy) && !usual(known) => *known = hierarchy,
            Some(_) => {}
            None => out.push(hierarchy),
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
        assert!(!all.unified(), "v2 without controllers limits nothing");
        assert!(all.used().any(|hierarchy| hierarchy.unified), "but it is an init system's");
        assert_eq!(all.of_init().unwrap().name, "systemd");
        let alone = Hierarchies(parse("1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"));
        assert!(alone.unified());
    }

    #[test]
    fn from_a_directory_of_the_hierarchy() {
        let text = "\
30 25 0:28 /docker/c1 /mnt rw - cgroup cgroup rw,memory
31 25 0:28 /docker/c1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
        let all = Hierarchies(parse(text));
        let memory = &all.0[0];
        assert_eq!(memory.root, PathBuf::from("/sys/fs/cgroup/memory"));
        let of_process = "4:memory:/docker/c1/init.scope\n0::/user.slice\n";
        assert_eq!(memory.of_process(of_process), Some("/docker/c1/init.scope"));
        assert_eq!(memory.below("/docker/c1/init.scope").as_deref(), Some("init.scope"));
        assert_eq!(memory.below("/docker/c1").as_deref(), Some(""));
        assert_eq!(memory.below("/docker/c12"), None);
        let v2 = all.v2().unwrap();
        assert_eq!(v2.of_process(of_process), Some("/user.slice"));
        assert_eq!(v2.below("/user.slice").as_deref(), Some("user.slice"));
    }
}
