//! What is made ready before there is a process: cgroups, the overlay, the sources of mounts.
//!
//! Everything is a descriptor of a detached mount: nothing appears in the host's mount table, and
//! what fails here is undone by dropping it.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use hoy_cgroup::Cgroup;
use hoy_rootfd::RootFd;
use hoy_sys::mount as attributes;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, open_tree,
};

use crate::error::StartError;
use crate::plan::{
    ContainerPlan, DeviceNodePlan, DevicePlan, MountSource, NamespaceMode, NetMode, Propagation,
    RootPlan,
};
use crate::users::{self, Credentials};

/// Descriptors that come with a plan.
#[derive(Debug, Default)]
pub struct GivenFds {
    pub netns: Option<OwnedFd>,
}

/// A container that only lacks its process.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) plan: ContainerPlan,
    pub(crate) netns: Option<OwnedFd>,
    pub(crate) cgroup: Cgroup,
    pub(crate) root: RootFd,
    pub(crate) credentials: Credentials,
    /// For each mount of the plan: the source, and whether it is a directory.
    pub(crate) sources: Vec<Source>,
    /// For each hierarchy: its name below /sys/fs/cgroup and a mount of the container's own part.
    pub(crate) cgroup_views: Vec<(String, bool, OwnedFd)>,
    /// /dev/shm of the host, where the IPC namespace is the host's.
    pub(crate) host_ipc: Vec<(&'static str, OwnedFd)>,
    pub(crate) devices: Vec<DeviceNode>,
    /// `--init`.
    pub(crate) init: Option<OwnedFd>,
}

#[derive(Debug)]
pub(crate) enum Source {
    Bind { mount: OwnedFd, directory: bool },
    Tmpfs,
}

/// A node to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceNode {
    /// Absolute, in the container.
    pub path: String,
    pub mode: u32,
    pub device: u64,
    pub uid: u32,
    pub gid: u32,
}

/// Makes everything that needs no process. On failure nothing remains.
pub fn prepare(plan: ContainerPlan, given: GivenFds) -> Result<Prepared, StartError> {
    if plan.process.args.is_empty() {
        return Err(StartError::invalid("no command specified"));
    }
    if (plan.namespaces.net == NetMode::Given) != given.netns.is_some() {
        return Err(StartError::invalid("the plan and its network namespace do not match"));
    }
    let root = RootFd::new(overlay(&plan.root)?);
    let credentials = users::resolve(&root, &plan.process.user, &plan.process.additional_groups)?;
    let sources =
        plan.mounts.iter().map(|mount| source(&mount.source, mount.readonly, mount.propagation));
    let sources = sources.collect::<Result<Vec<_>, _>>()?;
    let init = plan.init.as_deref().map(|path| clone_tree(path, false)).transpose()?;
    let mut devices = default_devices();
    // First: where two want one name, it is what was asked for by name.
    devices.extend(plan.extra_devices.iter().map(extra_device));
    if plan.devices == DevicePlan::All {
        host_devices(Path::new("/dev"), "", &mut devices, 0);
    }
    let mut host_ipc = Vec::new();
    if plan.namespaces.ipc == NamespaceMode::Host {
        if let Ok(mount) = clone_tree(Path::new("/dev/shm"), true) {
            host_ipc.push(("shm", mount));
        }
    }
    // Last, since it is the one thing here that does not go away by itself.
    let cgroup = Cgroup::create(&plan.cgroup)
        .map_err(|error| StartError::new(crate::FailureReason::System, error.to_string()))?;
    let views = cgroup.views().map(|(name, unified, directory)| {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        open_tree(directory, "", flags).map(|mount| (name.to_owned(), unified, mount))
    });
    let cgroup_views = match views.collect::<Result<Vec<_>, _>>() {
        Ok(views) => views,
        Err(errno) => {
            cgroup.remove();
            return Err(StartError::system("clone the cgroup's mount", errno));
        }
    };
    Ok(Prepared {
        plan,
        netns: given.netns,
        cgroup,
        root,
        credentials,
        sources,
        cgroup_views,
        host_ipc,
        devices,
        init,
    })
}

/// The directories that a root file system is laid over, held by descriptors.
struct Layers {
    lower: Vec<OwnedFd>,
    upper: OwnedFd,
    work: OwnedFd,
}

/// The root file system as a detached mount.
fn overlay(plan: &RootPlan) -> Result<OwnedFd, StartError> {
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map_err(|errno| StartError::system(&format!("open {}", path.display()), errno))
    };
    let layers = Layers {
        lower: plan.lower.iter().map(|path| open(path)).collect::<Result<_, _>>()?,
        upper: open(&plan.upper)?,
        work: open(&plan.work)?,
    };
    // Linux 6.13 takes descriptors, 6.7 one name after the other, what is older all names at once.
    let failed = |errno: Errno| StartError::system("mount the root file system", errno);
    let others: &[Way] = match mounted(by_descriptors, &layers, plan.volatile) {
        Err(Errno::INVAL) => &[by_names, at_once],
        // What takes no descriptors for anything is older still.
        Err(Errno::OPNOTSUPP) => &[at_once],
        result => return result.map_err(failed),
    };
    // Names are numbers in this directory: short enough for an option of 256 bytes, and they mean
    // what was opened, whatever happens to paths.
    rustix::process::chdir("/proc/self/fd").map_err(failed)?;
    let mut result = Err(Errno::INVAL);
    for way in others {
        result = mounted(*way, &layers, plan.volatile);
        if !matches!(result, Err(Errno::INVAL)) {
            break;
        }
    }
    rustix::process::chdir("/").map_err(failed)?;
    result.map_err(failed)
}

/// A way to tell the kernel about layers.
type Way = fn(&OwnedFd, &Layers) -> Result<(), Errno>;

fn mounted(say: Way, layers: &Layers, volatile: bool) -> Result<OwnedFd, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    if volatile {
        fsconfig_set_flag(&context, "volatile")?;
    }
    say(&context, layers)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

fn by_descriptors(context: &OwnedFd, layers: &Layers) -> Result<(), Errno> {
    for layer in &layers.lower {
        fsconfig_set_fd(context, "lowerdir+", layer)?;
    }
    fsconfig_set_fd(context, "upperdir", &layers.upper)?;
    fsconfig_set_fd(context, "workdir", &layers.work)
}

fn name(directory: &OwnedFd) -> String {
    directory.as_raw_fd().to_string()
}

fn by_names(context: &OwnedFd, layers: &Layers) -> Result<(), Errno> {
    for layer in &layers.lower {
        fsconfig_set_string(context, "lowerdir+", name(layer))?;
    }
    fsconfig_set_string(context, "upperdir", name(&layers.upper))?;
    fsconfig_set_string(context, "workdir", name(&layers.work))
}

fn at_once(context: &OwnedFd, layers: &Layers) -> Result<(), Errno> {
    let lower: Vec<String> = layers.lower.iter().map(name).collect();
    fsconfig_set_string(context, "lowerdir", lower.join(":"))?;
    fsconfig_set_string(context, "upperdir", name(&layers.upper))?;
    fsconfig_set_string(context, "workdir", name(&layers.work))
}

fn source(
    source: &MountSource,
    readonly: bool,
    propagation: Propagation,
) -> Result<Source, StartError> {
    let MountSource::Bind { path, recursive } = source else { return Ok(Source::Tmpfs) };
    let mount = clone_tree(path, *recursive)?;
    let failed = |error: std::io::Error| {
        StartError::system(&format!("bind mount of {}", path.display()), error)
    };
    let propagation = match propagation {
        Propagation::Private => attributes::PROPAGATION_PRIVATE,
        Propagation::Slave => attributes::PROPAGATION_SLAVE,
        Propagation::Shared => attributes::PROPAGATION_SHARED,
    };
    attributes::set_attributes(mount.as_fd(), 0, propagation, true).map_err(failed)?;
    if readonly {
        attributes::set_attributes(mount.as_fd(), attributes::RDONLY, 0, true).map_err(failed)?;
    }
    let stat = rustix::fs::fstat(&mount).map_err(|errno| failed(errno.into()))?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Ok(Source::Bind { mount, directory })
}

/// A detached clone of something in the host's tree.
fn clone_tree(path: &Path, recursive: bool) -> Result<OwnedFd, StartError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, path, flags).map_err(|errno| match errno {
        Errno::NOENT => StartError::invalid(format!(
            "invalid mount config for type \"bind\": bind source path does not exist: {}",
            path.display()
        )),
        errno => StartError::system(&format!("clone the mount {}", path.display()), errno),
    })
}

fn default_devices() -> Vec<DeviceNode> {
    [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ]
    .into_iter()
    .map(|(name, major, minor)| DeviceNode {
        path: format!("/dev/{name}"),
        mode: FileType::CharacterDevice.as_raw_mode() | 0o666,
        device: rustix::fs::makedev(major, minor),
        uid: 0,
        gid: 0,
    })
    .collect()
}

fn extra_device(node: &DeviceNodePlan) -> DeviceNode {
    DeviceNode {
        path: node.path.clone(),
        mode: node.mode,
        device: rustix::fs::makedev(node.major, node.minor),
        uid: node.uid,
        gid: node.gid,
    }
}

/// Every device of the host, for privileged containers.
fn host_devices(directory: &Path, prefix: &str, out: &mut Vec<DeviceNode>, depth: u32) {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let below = format!("{prefix}{name}");
        let path = format!("/dev/{below}");
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            let skipped = matches!(name.as_str(), "pts" | "shm" | "fd" | "mqueue" | "hugepages");
            if !skipped && depth < 4 {
                host_devices(&entry.path(), &format!("{below}/"), out, depth + 1);
            }
            continue;
        }
        let device = kind.is_char_device() || kind.is_block_device();
        let known =
            matches!(below.as_str(), "console" | "ptmx") || out.iter().any(|d| d.path == path);
        if let (true, false, Ok(stat)) = (device, known, entry.metadata()) {
            out.push(DeviceNode {
                path,
                mode: stat.mode(),
                device: stat.rdev(),
                uid: stat.uid(),
                gid: stat.gid(),
            });
        }
    }
}
