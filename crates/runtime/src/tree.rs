//! The container's mount tree, built inside its own mount namespace from what we made.
//!
//! Nothing that lies in the image is a source, and every target is resolved by the kernel below
//! the root's descriptor (threats R1, R6). /proc, /sys and /dev must be real directories.

use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hoy_rootfd::{Links, RootError, RootFd};
use hoy_sys::mount as attributes;
use hoy_weak::{Protection, without};
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::error::StartError;
use crate::plan::MountSource;
use crate::prepare::{DeviceNode, Prepared, Source};

const USUAL: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// What the rest of the set-up needs of the tree.
pub(crate) struct Tree {
    /// Our own proc mount: the only way by which files of proc are written (R7).
    pub proc: OwnedFd,
    /// The container's own instance of devpts.
    pub pts: OwnedFd,
    pub dev: OwnedFd,
}

/// A file system of the kernel, detached, whose files all have one label unless that is empty.
fn make(
    kind: &str,
    options: &[(&str, &str)],
    flags: MountAttrFlags,
    label: &str,
) -> Result<OwnedFd, StartError> {
    make_as(kind, kind, options, flags, label)
}

fn make_as(
    kind: &str,
    source: &str,
    options: &[(&str, &str)],
    flags: MountAttrFlags,
    label: &str,
) -> Result<OwnedFd, StartError> {
    let failed = |errno: Errno| StartError::system(&format!("mount {kind}"), errno);
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    // What mount tables show first: Docker's runtime tells the kind again.
    fsconfig_set_string(&context, "source", source).map_err(failed)?;
    if !label.is_empty() {
        fsconfig_set_string(&context, "context", label).map_err(failed)?;
    }
    for (key, value) in options {
        if value.is_empty() {
            fsconfig_set_flag(&context, *key).map_err(failed)?;
        } else {
            fsconfig_set_string(&context, *key, *value).map_err(failed)?;
        }
    }
    fsconfig_create(&context).map_err(failed)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).map_err(failed)
}

/// Puts a detached mount onto a directory or file.
fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>, what: &str) -> Result<(), StartError> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
        .map_err(|errno| StartError::system(&format!("mount on {what}"), errno))
}

fn clone(of: BorrowedFd<'_>, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(of, "", flags)
}

fn below(error: RootError) -> StartError {
    StartError::invalid(error.to_string())
}

/// One of the directories that must not be a link: what is mounted there must be where it seems.
fn real_directory(root: &RootFd, name: &str) -> Result<OwnedFd, StartError> {
    let links = if without(Protection::RealDirectories) { Links::Inside } else { Links::None };
    match root.handle(name, links) {
        Ok(found) => {
            let stat = rustix::fs::fstat(&found).map_err(|e| StartError::system("stat", e))?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                return Err(StartError::invalid(format!("/{name} of the image is no directory")));
            }
            Ok(found)
        }
        Err(error) if error.is_missing() => {
            // With `Inside` a dangling link would be followed; this fails on one instead.
            root.make_directories(name, 0o755).map_err(below)?;
            root.handle(name, Links::None).map_err(below)
        }
        Err(error)
            if error.io().and_then(std::io::Error::raw_os_error)
                == Some(Errno::LOOP.raw_os_error()) =>
        {
            Err(StartError::invalid(format!(
                "/{name} of the image is a symbolic link: it must be a directory"
            )))
        }
        Err(error) => Err(below(error)),
    }
}

fn subdirectory(of: &OwnedFd, name: &str, mode: u32) -> Result<OwnedFd, StartError> {
    let failed = |errno: Errno| StartError::system(&format!("make /dev/{name}"), errno);
    match rustix::fs::mkdirat(of, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(errno)),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(of, name, flags, Mode::empty()).map_err(failed)
}

/// Builds everything below the root, which is attached already.
pub(crate) fn build(prepared: &Prepared, dev: OwnedFd) -> Result<Tree, StartError> {
    let root = &prepared.root;
    let proc = make("proc", &[], USUAL, "")?;
    attach(proc.as_fd(), real_directory(root, "proc")?.as_fd(), "/proc")?;
    let pts = devices(prepared, &dev)?;
    system(prepared)?;
    let init_target = prepared.init.as_ref().map(|init| (init, "/sbin/docker-init"));
    if let Some((init, target)) = init_target {
        let file = root.make_file(target).map_err(below)?;
        attributes::set_attributes(init.as_fd(), attributes::RDONLY, 0, false)
            .map_err(|error| StartError::system("init", error))?;
        attach(init.as_fd(), file.as_fd(), target)?;
    }
    for (mount, source) in prepared.plan.mounts.iter().zip(&prepared.sources) {
        user_mount(prepared, mount, source)?;
    }
    if rustix::fs::accessat(&proc, "kcore", Access::EXISTS, AtFlags::empty()).is_ok() {
        rustix::fs::symlinkat("/proc/kcore", &dev, "core")
            .map_err(|errno| StartError::system("link /dev/core", errno))?;
    }
    signs(root)?;
    sysctls(prepared, &proc)?;
    hide(prepared, &dev)?;
    Ok(Tree { proc, pts, dev })
}

/// /dev with its nodes, detached: made by the machine's root, since a user namespace's cannot make
/// any.
pub(crate) fn device_files(prepared: &Prepared) -> Result<OwnedFd, StartError> {
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_STRICTATIME);
    if without(Protection::OwnDevices) {
        return prepared.root.open("/dev", OFlags::RDONLY, Links::Inside).map_err(below);
    }
    let dev =
        make("tmpfs", &[("mode", "755"), ("size", "65536k")], flags, &prepared.plan.mount_label)?;
    for node in prepared.devices.iter().filter(|node| in_dev(node)) {
        make_node(prepared, &dev, node)?;
    }
    Ok(dev)
}

/// The nodes that are wanted elsewhere.
pub(crate) fn other_device_files(prepared: &Prepared, dev: &OwnedFd) -> Result<(), StartError> {
    let mut others = prepared.devices.iter().filter(|node| !in_dev(node));
    others.try_for_each(|node| make_node(prepared, dev, node))
}

fn in_dev(node: &DeviceNode) -> bool {
    node.path.strip_prefix("/dev").is_some_and(|below| below.is_empty() || below.starts_with('/'))
}

fn devices(prepared: &Prepared, dev: &OwnedFd) -> Result<OwnedFd, StartError> {
    if !without(Protection::OwnDevices) {
        attach(dev.as_fd(), real_directory(&prepared.root, "dev")?.as_fd(), "/dev")?;
    }
    let label = &prepared.plan.mount_label;
    let mut options = vec![("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")];
    // The group tty, where the container can have it.
    if prepared.plan.userns.as_ref().is_none_or(|maps| maps.gid(5).is_some()) {
        options.push(("gid", "5"));
    }
    let pts_flags = MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);
    let pts = make("devpts", &options, pts_flags, label)?;
    attach(pts.as_fd(), subdirectory(dev, "pts", 0o755)?.as_fd(), "/dev/pts")?;
    if prepared.host_ipc.is_empty()
        && let Some(size) = prepared.plan.shm_size
    {
        let size = size.to_string();
        let options = [("mode", "1777"), ("size", size.as_str())];
        let shm = make_as("tmpfs", "shm", &options, USUAL, label)?;
        attach(shm.as_fd(), subdirectory(dev, "shm", 0o1777)?.as_fd(), "/dev/shm")?;
    }
    // Shows the queues of the namespace it is made in, the host's too.
    let of_queues = if prepared.host_ipc.is_empty() { label } else { "" };
    let queues = subdirectory(dev, "mqueue", 0o755)?;
    if let Ok(queue) = make("mqueue", &[], USUAL, of_queues) {
        attach(queue.as_fd(), queues.as_fd(), "/dev/mqueue")?;
    }
    for (name, mount) in &prepared.host_ipc {
        attach(mount.as_fd(), subdirectory(dev, name, 0o755)?.as_fd(), name)?;
    }
    if prepared.userns.is_none() {
        other_device_files(prepared, dev)?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        rustix::fs::symlinkat(target, dev, name)
            .map_err(|errno| StartError::system(&format!("link /dev/{name}"), errno))?;
    }
    Ok(pts)
}

/// Below our own /dev, or somewhere else in the root. What is there already stays.
fn make_node(prepared: &Prepared, dev: &OwnedFd, node: &DeviceNode) -> Result<(), StartError> {
    let failed = |errno: Errno| StartError::system(&format!("make {}", node.path), errno);
    let (directory, name) = node.path.rsplit_once('/').unwrap_or(("", &node.path));
    if matches!(name, "" | "." | "..") {
        return Err(StartError::invalid(format!("{:?} is no place for a device", node.path)));
    }
    let directory = match directory.strip_prefix("/dev") {
        Some(below) if below.is_empty() || below.starts_with('/') => {
            let mut current = clone_handle(dev)?;
            for part in below.split('/').filter(|part| !matches!(*part, "" | ".")) {
                current = subdirectory(&current, part, 0o755)?;
            }
            current
        }
        _ => {
            let directory = prepared.root.make_directories(directory, 0o755).map_err(below)?;
            refuse_inside_proc(directory.as_fd(), &node.path)?;
            directory
        }
    };
    let kind = FileType::from_raw_mode(node.mode);
    let mode = Mode::from_raw_mode(node.mode & 0o7777);
    match rustix::fs::mknodat(&directory, name, kind, mode, node.device) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(errno) => return Err(failed(errno)),
    }
    if (node.uid, node.gid) == (0, 0) {
        return Ok(());
    }
    // Who has no id in the container's user namespace leaves it to the root there.
    let maps = prepared.plan.userns.as_ref();
    let uid = maps.map_or(Some(node.uid), |maps| maps.uid(node.uid).or(maps.uid(0)));
    let gid = maps.map_or(Some(node.gid), |maps| maps.gid(node.gid).or(maps.gid(0)));
    let (uid, gid) = (uid.map(rustix::fs::Uid::from_raw), gid.map(rustix::fs::Gid::from_raw));
    rustix::fs::chownat(&directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)
}

fn clone_handle(of: &OwnedFd) -> Result<OwnedFd, StartError> {
    of.try_clone().map_err(|error| StartError::system("duplicate a descriptor", error))
}

/// /sys and /sys/fs/cgroup.
fn system(prepared: &Prepared) -> Result<(), StartError> {
    let writable = prepared.plan.writable_sys;
    let readonly = |flags: MountAttrFlags| {
        if writable { flags } else { flags.union(MountAttrFlags::MOUNT_ATTR_RDONLY) }
    };
    // Made here, after the network namespace was entered: sysfs shows that one's interfaces.
    let options: &[(&str, &str)] = if writable { &[] } else { &[("ro", "")] };
    let sys = make("sysfs", options, readonly(USUAL), "")?;
    attach(sys.as_fd(), real_directory(&prepared.root, "sys")?.as_fd(), "/sys")?;
    let Ok(target) = prepared.root.handle("/sys/fs/cgroup", Links::None) else { return Ok(()) };
    let writable = writable || without(Protection::ReadonlyCgroups);
    let set = if writable { 0 } else { attributes::RDONLY }
        | attributes::NOSUID
        | attributes::NODEV
        | attributes::NOEXEC;
    let failed = |error| StartError::system("mount the cgroups", error);
    if let [(_, true, view)] = prepared.cgroup_views.as_slice() {
        attributes::set_attributes(view.as_fd(), set, 0, true).map_err(failed)?;
        return attach(view.as_fd(), target.as_fd(), "/sys/fs/cgroup");
    }
    let top = make("tmpfs", &[("mode", "755")], USUAL, &prepared.plan.mount_label)?;
    attach(top.as_fd(), target.as_fd(), "/sys/fs/cgroup")?;
    for (name, _, view) in &prepared.cgroup_views {
        attach(view.as_fd(), subdirectory(&top, name, 0o755)?.as_fd(), name)?;
        if name.contains(',') {
            for alias in name.split(',') {
                rustix::fs::symlinkat(name.as_str(), &top, alias).map_err(|e| failed(e.into()))?;
            }
        }
    }
    attributes::set_attributes(top.as_fd(), set, 0, true).map_err(failed)
}

fn user_mount(
    prepared: &Prepared,
    mount: &crate::plan::MountPlan,
    source: &Source,
) -> Result<(), StartError> {
    let root = &prepared.root;
    match (source, &mount.source) {
        (Source::Bind { mount: tree, directory }, _) => {
            let target = if *directory {
                root.make_directories(&mount.target, 0o755)
            } else {
                root.make_file(&mount.target)
            };
            let target = target.map_err(|error| target_error(&mount.target, &error))?;
            refuse_inside_proc(target.as_fd(), &mount.target)?;
            let stat = rustix::fs::fstat(&target)
                .map_err(|errno| StartError::system("look at a mount's target", errno))?;
            if (FileType::from_raw_mode(stat.st_mode) == FileType::Directory) != *directory {
                return Err(target_kind(&mount.target));
            }
            attach(tree.as_fd(), target.as_fd(), &mount.target)
        }
        (Source::Tmpfs, MountSource::Tmpfs { size, mode, options }) => {
            let mut strings = vec![("mode", format!("{:o}", mode.unwrap_or(0o1777)))];
            if let Some(size) = size {
                strings.push(("size", size.to_string()));
            }
            let strings: Vec<(&str, &str)> =
                strings.iter().map(|(k, v)| (*k, v.as_str())).collect();
            let mut flags = MountAttrFlags::empty();
            flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, options.noexec);
            flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, options.nosuid);
            flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, options.nodev);
            flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, mount.readonly);
            let tree = make("tmpfs", &strings, flags, &prepared.plan.mount_label)?;
            let target = root
                .make_directories(&mount.target, 0o755)
                .map_err(|error| target_error(&mount.target, &error))?;
            refuse_inside_proc(target.as_fd(), &mount.target)?;
            attach(tree.as_fd(), target.as_fd(), &mount.target)
        }
        (Source::Tmpfs, _) => Err(StartError::invalid("a mount and its source do not match")),
    }
}

/// Files below /proc that may be covered: they only tell, and file systems of limits stand in for
/// them.
const COVERABLE: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// What the target really is decides, whatever links its path goes through: a mount over /proc
/// would fake what labels and limits are written to.
fn refuse_inside_proc(target: BorrowedFd<'_>, path: &str) -> Result<(), StartError> {
    let found = rustix::fs::fstatfs(target)
        .map_err(|errno| StartError::system("look at a mount's target", errno))?;
    let proc = found.f_type == rustix::fs::PROC_SUPER_MAGIC;
    if proc && !without(Protection::UncoveredProc) && !COVERABLE.contains(&path) {
        return Err(StartError::invalid(format!(
            "error mounting to rootfs at \"{path}\": it cannot be mounted because it is inside /proc"
        )));
    }
    Ok(())
}

fn target_error(target: &str, error: &RootError) -> StartError {
    match error {
        RootError::Kind { .. } => target_kind(target),
        error => StartError::invalid(format!("mount on {target}: {error}")),
    }
}

fn target_kind(target: &str) -> StartError {
    StartError::invalid(format!(
        "error mounting to rootfs at \"{target}\": not a directory: Are you trying to mount a \
         directory onto a file (or vice-versa)? Check if the specified host path exists and is \
         the expected type"
    ))
}

/// What programs look for to know that they are in a container of Docker's kind, and the table of
/// mounts where it once was.
fn signs(root: &RootFd) -> Result<(), StartError> {
    root.make_file("/.dockerenv").map_err(below)?;
    match root.link("/etc/mtab", "/proc/mounts") {
        Ok(()) => Ok(()),
        // An image whose /etc is no directory lives without.
        Err(error) if error.is_missing() || matches!(error, RootError::Kind { .. }) => Ok(()),
        Err(error) => Err(below(error)),
    }
}

/// Kernel settings of the container's own namespaces.
fn sysctls(prepared: &Prepared, proc: &OwnedFd) -> Result<(), StartError> {
    let mut all: Vec<(&str, &str)> = Vec::new();
    if prepared.netns.is_some() {
        // Not all of these groups are in a user namespace.
        if prepared.userns.is_none() {
            all.push(("net.ipv4.ping_group_range", "0 2147483647"));
        }
        all.push(("net.ipv4.ip_unprivileged_port_start", "0"));
    }
    all.extend(prepared.plan.sysctls.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    for (index, (name, value)) in all.iter().enumerate() {
        let asked = index + prepared.plan.sysctls.len() >= all.len();
        let path = format!("sys/{}", name.replace('.', "/"));
        let written = if without(Protection::OwnProc) {
            prepared
                .root
                .open(&format!("/proc/{path}"), OFlags::WRONLY, Links::Inside)
                .map_err(std::io::Error::other)
                .and_then(|fd| std::fs::File::from(fd).write_all(value.as_bytes()))
        } else {
            write_proc(proc, &path, value)
        };
        if let (Err(error), true) = (written, asked) {
            return Err(StartError::invalid(format!(
                "sysctl {name}: {}",
                crate::error::text(&error)
            )));
        }
    }
    Ok(())
}

/// Writes a file of our own proc mount: no links, no other file system (R7).
pub(crate) fn write_proc(proc: &OwnedFd, path: &str, value: &str) -> std::io::Result<()> {
    use rustix::fs::ResolveFlags;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_XDEV
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat2(proc, path, flags, Mode::empty(), resolve)?;
    std::fs::File::from(fd).write_all(value.as_bytes())
}

/// Masks and read-only paths: what covers them is ours.
fn hide(prepared: &Prepared, dev: &OwnedFd) -> Result<(), StartError> {
    let plan = &prepared.plan;
    if !plan.masked_paths.is_empty() && !without(Protection::Masks) {
        let empty = empty_directory(&plan.mount_label)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let null = if without(Protection::OwnMasks) {
            prepared.root.handle("/dev/null", Links::Inside).map_err(below)?
        } else {
            rustix::fs::openat(dev, "null", flags, Mode::empty())
                .map_err(|errno| StartError::system("open our /dev/null", errno))?
        };
        for path in &plan.masked_paths {
            let Some(target) = existing(&prepared.root, path)? else { continue };
            let stat = rustix::fs::fstat(&target).map_err(|e| StartError::system("stat", e))?;
            let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let cover = if directory {
                another(&empty, &plan.mount_label)?
            } else {
                clone(null.as_fd(), false)
                    .map_err(|errno| StartError::system(&format!("mask {path}"), errno))?
            };
            attach(cover.as_fd(), target.as_fd(), path)?;
        }
        mask_throttling(prepared, &empty)?;
    }
    for path in &plan.readonly_paths {
        let Some(target) = existing(&prepared.root, path)? else { continue };
        let failed = |error| StartError::system(&format!("make {path} read-only"), error);
        let cover = clone(target.as_fd(), true).map_err(|errno| failed(errno.into()))?;
        attributes::set_attributes(cover.as_fd(), attributes::RDONLY, 0, true).map_err(failed)?;
        attach(cover.as_fd(), target.as_fd(), path)?;
    }
    Ok(())
}

fn empty_directory(label: &str) -> Result<OwnedFd, StartError> {
    let flags = USUAL.union(MountAttrFlags::MOUNT_ATTR_RDONLY);
    make("tmpfs", &[("nr_inodes", "1"), ("size", "4096")], flags, label)
}

/// The same empty directory once more. Before Linux 6.15 a mount that is in no tree cannot be
/// cloned: then it is another one.
fn another(empty: &OwnedFd, label: &str) -> Result<OwnedFd, StartError> {
    match clone(empty.as_fd(), false) {
        Ok(cover) => Ok(cover),
        Err(Errno::INVAL) => empty_directory(label),
        Err(errno) => Err(StartError::system("clone an empty directory", errno)),
    }
}

/// /sys/devices/system/cpu/cpuN/thermal_throttle tells of other tenants' load.
fn mask_throttling(prepared: &Prepared, empty: &OwnedFd) -> Result<(), StartError> {
    for cpu in 0..4096 {
        let Some(_) = existing(&prepared.root, &format!("/sys/devices/system/cpu/cpu{cpu}"))?
        else {
            break;
        };
        let path = format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle");
        if let Some(target) = existing(&prepared.root, &path)? {
            attach(another(empty, &prepared.plan.mount_label)?.as_fd(), target.as_fd(), &path)?;
        }
    }
    Ok(())
}

fn existing(root: &RootFd, path: &str) -> Result<Option<OwnedFd>, StartError> {
    let links = if without(Protection::RealDirectories) { Links::Inside } else { Links::None };
    match root.handle(path, links) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(below(error)),
    }
}

/// A terminal of the container's own devpts: master and slave, /dev/console bound to the slave.
pub(crate) fn terminal(
    tree: &Tree,
    root: &RootFd,
    console: bool,
) -> Result<(OwnedFd, OwnedFd), StartError> {
    let failed = |errno: Errno| StartError::system("open a terminal", errno);
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::openat(&tree.pts, "ptmx", flags, Mode::empty()).map_err(failed)?;
    rustix::pty::unlockpt(&master).map_err(failed)?;
    let peer = rustix::pty::OpenptFlags::RDWR
        | rustix::pty::OpenptFlags::NOCTTY
        | rustix::pty::OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, peer).map_err(failed)?;
    if console {
        let create = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        drop(
            rustix::fs::openat(&tree.dev, "console", create, Mode::from_raw_mode(0o600))
                .map_err(failed)?,
        );
        let path = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target =
            rustix::fs::openat(&tree.dev, "console", path, Mode::empty()).map_err(failed)?;
        let cover = if without(Protection::OwnConsole) {
            let by_name = root.handle("/dev/pts/0", Links::Inside).map_err(below)?;
            clone(by_name.as_fd(), false).map_err(failed)?
        } else {
            clone(slave.as_fd(), false).map_err(failed)?
        };
        attach(cover.as_fd(), target.as_fd(), "/dev/console")?;
    }
    Ok((master, slave))
}
