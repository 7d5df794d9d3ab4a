//! What is made ready before there is a process: cgroups, the overlay, the sources of mounts.
//!
//! Everything is a descriptor of a detached mount: nothing appears in the host's mount table, and
//! what fails here is undone by dropping it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use hoy_cgroup::Cgroup;
use hoy_rootfd::{Links, RootFd};
use hoy_sys::mount as attributes;
use hoy_types::IdMaps;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::error::StartError;
use crate::lsm;
use crate::plan::{
    ContainerPlan, DeviceNodePlan, DevicePlan, MountPlan, MountSource, NamespaceMode, NetMode,
    Propagation,
};
use crate::rootfs;
use crate::shared;
use crate::users::{self, Credentials};

/// Descriptors that come with a plan.
#[derive(Debug, Default)]
pub struct GivenFds {
    pub netns: Option<OwnedFd>,
    pub userns: Option<OwnedFd>,
    /// Processes (pidfd) of the containers whose process numbers and whose IPC are shared.
    pub pid_of: Option<OwnedFd>,
    pub ipc_of: Option<OwnedFd>,
}

/// A container that only lacks its process.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) plan: ContainerPlan,
    pub(crate) netns: Option<OwnedFd>,
    pub(crate) userns: Option<OwnedFd>,
    pub(crate) pid_of: Option<OwnedFd>,
    pub(crate) ipc_of: Option<OwnedFd>,
    pub(crate) cgroup: Cgroup,
    pub(crate) root: RootFd,
    pub(crate) credentials: Credentials,
    /// For each mount of the plan: the source, and whether it is a directory.
    pub(crate) sources: Vec<Source>,
    /// For each hierarchy: its name below /sys/fs/cgroup and a mount of the container's own part.
    pub(crate) cgroup_views: Vec<(String, bool, OwnedFd)>,
    /// /dev/shm of the host or of another container, where the IPC namespace is theirs.
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
    if plan.userns.is_some() != given.userns.is_some() {
        return Err(StartError::invalid("the plan and its user namespace do not match"));
    }
    shared::check(&plan.namespaces, &given)?;
    let userns = given.userns.as_ref();
    let root = RootFd::new(rootfs::mount(
        &plan.root,
        &plan.mount_label,
        userns.zip(plan.userns.as_ref()),
    )?);
    let credentials = users::resolve(&root, &plan.process.user, &plan.process.additional_groups)?;
    users::check_mapped(&credentials, plan.userns.as_ref())?;
    let user = userns.zip(plan.userns.as_ref());
    let sources = plan.mounts.iter().map(|mount| source(mount, &plan.mount_label, user));
    let sources = sources.collect::<Result<Vec<_>, _>>()?;
    let init = plan.init.as_deref().map(|path| clone_tree(path, false)).transpose()?;
    let mut devices = default_devices();
    // First: where two want one name, it is what was asked for by name.
    devices.extend(plan.extra_devices.iter().map(extra_device));
    if plan.devices == DevicePlan::All {
        host_devices(Path::new("/dev"), "", &mut devices, 0);
    }
    let mut host_ipc = Vec::new();
    if plan.namespaces.ipc == NamespaceMode::Host
        && let Ok(mount) = clone_tree(Path::new("/dev/shm"), true)
    {
        host_ipc.push(("shm", mount));
    }
    if let Some(other) = &given.ipc_of {
        host_ipc.push(("shm", shared::memory_of(other)?));
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
        userns: given.userns,
        pid_of: given.pid_of,
        ipc_of: given.ipc_of,
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

pub(crate) fn source(
    plan: &MountPlan,
    label: &str,
    user: Option<(&OwnedFd, &IdMaps)>,
) -> Result<Source, StartError> {
    let MountPlan { readonly, propagation, .. } = *plan;
    let (mount, path) = match &plan.source {
        MountSource::Tmpfs { .. } => return Ok(Source::Tmpfs),
        MountSource::Bind { path, recursive } => (clone_tree(path, *recursive)?, path.as_path()),
        MountSource::Volume { path, subpath } => {
            let mount = volume(path, subpath, user.is_none())?;
            if let Some((userns, _)) = user {
                rootfs::map(&mount, path, userns)?;
            }
            (mount, path.as_path())
        }
        MountSource::Image { lower, subpath } => {
            return with_kind(rootfs::mount_image(lower, subpath, label, user)?);
        }
    };
    let mapped = user.is_some();
    if let Some(label) = &plan.relabel {
        lsm::relabel(path, label)?;
    }
    let failed = |error: std::io::Error| {
        StartError::system(&format!("bind mount of {}", path.display()), error)
    };
    if mapped && propagation == Propagation::Shared {
        // As the kernel's own rule is: what a user namespace mounts there stays there.
        attributes::set_attributes(mount.as_fd(), 0, attributes::PROPAGATION_SLAVE, true)
            .map_err(failed)?;
    }
    let propagation = match propagation {
        Propagation::Private => attributes::PROPAGATION_PRIVATE,
        Propagation::Slave => attributes::PROPAGATION_SLAVE,
        Propagation::Shared => attributes::PROPAGATION_SHARED,
    };
    attributes::set_attributes(mount.as_fd(), 0, propagation, true).map_err(failed)?;
    if readonly {
        let deep = !plan.readonly_top_only;
        attributes::set_attributes(mount.as_fd(), attributes::RDONLY, 0, deep).map_err(failed)?;
    }
    with_kind(mount)
}

fn with_kind(mount: OwnedFd) -> Result<Source, StartError> {
    let stat = rustix::fs::fstat(&mount)
        .map_err(|errno| StartError::system("look at a mount's source", errno))?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Ok(Source::Bind { mount, directory })
}

/// A volume's directory, or what lies in it: whoever writes to the volume may change what its
/// paths mean, so that the kernel resolves them below it, once.
fn volume(path: &Path, subpath: &str, recursive: bool) -> Result<OwnedFd, StartError> {
    if subpath.is_empty() {
        return clone_tree(path, recursive);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| StartError::system(&format!("open {}", path.display()), errno))?;
    let found = RootFd::new(root).handle(subpath, Links::Inside).map_err(|error| {
        StartError::invalid(format!("cannot access path {subpath} of the volume: {error}"))
    })?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(found, "", flags)
        .map_err(|errno| StartError::system(&format!("clone {subpath} of the volume"), errno))
}

/// A detached clone of something in the host's tree.
pub(crate) fn clone_tree(path: &Path, recursive: bool) -> Result<OwnedFd, StartError> {
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

pub(crate) fn default_devices() -> Vec<DeviceNode> {
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

pub(crate) fn extra_device(node: &DeviceNodePlan) -> DeviceNode {
    DeviceNode {
        path: node.path.clone(),
        mode: node.mode,
        device: rustix::fs::makedev(node.major, node.minor),
        uid: node.uid,
        gid: node.gid,
    }
}

/// Every device of the host, for privileged containers.
pub(crate) fn host_devices(directory: &Path, prefix: &str, out: &mut Vec<DeviceNode>, depth: u32) {
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
