//! A container's files while it does not run: as it would see them, in a tree of mounts that ends
//! with the calling process.

use std::os::fd::{AsFd, OwnedFd};

use hoy_rootfd::{Links, RootFd};
use hoy_sys::mount as attributes;
use hoy_sys::process;
use hoy_types::UserSpec;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount,
    open_tree, unmount,
};

use crate::error::StartError;
use crate::plan::{MountPlan, MountSource, RootPlan};
use crate::prepare::{self, Source};
use crate::rootfs;

const ROOT: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What lies below /proc, /sys and /dev of a running container is nobody's to copy.
const NOT_FILES: [&str; 3] = ["/dev", "/sys", "/proc"];

/// Changes the calling process: it has a tree of mounts of its own from here on, in which the
/// container's file system is at `/`, with its mounts. Sources that are not there are left out.
/// Devices cannot be opened in it.
pub fn show_resting(
    root: &RootPlan,
    label: &str,
    mounts: &[MountPlan],
) -> Result<RootFd, StartError> {
    process::unshare(process::NEWNS)
        .map_err(|error| StartError::system("make a tree of mounts", error))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private)
        .map_err(|errno| StartError::system("make a tree of mounts", errno))?;
    // What it writes now must be there after a power cut, whatever becomes of the container.
    let plan = RootPlan { volatile: false, ..root.clone() };
    let mount = rootfs::mount(&plan, label, None)?;
    // All sources before the machine's own files are out of sight.
    let mut sources = Vec::new();
    for plan in mounts {
        match prepare::source(plan, label, None) {
            Ok(Source::Bind { mount, directory }) => sources.push((plan, mount, directory)),
            Ok(Source::Tmpfs) => {}
            Err(error) => match &plan.source {
                MountSource::Bind { path, .. } if !path.exists() => {}
                _ => return Err(error),
            },
        }
    }
    move_mount(&mount, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| StartError::system("show the root file system", errno))?;
    be_root(&mount).map_err(|errno| StartError::system("show the root file system", errno))?;
    let found = RootFd::new(mount);
    for (plan, tree, directory) in sources {
        let target = match directory {
            true => found.make_directories(&plan.target, 0o755),
            false => found.make_file(&plan.target),
        };
        let target = target.map_err(|error| StartError::invalid(error.to_string()))?;
        let flags =
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&tree, "", target, "", flags)
            .map_err(|errno| StartError::system(&format!("mount on {}", plan.target), errno))?;
    }
    let failed = |error| StartError::system("show the root file system", error);
    let own = found.as_fd();
    attributes::set_attributes(own, attributes::NODEV, 0, true).map_err(failed)?;
    if root.readonly {
        attributes::set_attributes(own, attributes::RDONLY, 0, false).map_err(failed)?;
    }
    Ok(found)
}

/// Changes the calling process: it sees what a running container sees, in a copy of its tree of
/// mounts in which no device can be opened. `userns` says whether it has ids of its own. With
/// `alone` there is the root file system without all that is mounted in it.
pub fn show_running(pidfd: &OwnedFd, userns: bool, alone: bool) -> Result<RootFd, StartError> {
    let failed = |error: std::io::Error| StartError::system("enter the container", error);
    if userns {
        process::setns(pidfd.as_fd(), process::NEWUSER).map_err(failed)?;
        crate::child::become_root()?;
    }
    process::setns(pidfd.as_fd(), process::NEWNS).map_err(failed)?;
    process::unshare(process::NEWNS).map_err(failed)?;
    let system = |errno: Errno| StartError::system("look at the container's mounts", errno);
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(system)?;
    if alone {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let mount = open_tree(CWD, "/", flags).map_err(system)?;
        be_root(&mount).map_err(system)?;
        attributes::set_attributes(mount.as_fd(), attributes::NODEV, 0, false).map_err(failed)?;
        return Ok(RootFd::new(mount));
    }
    for name in NOT_FILES {
        match unmount(name, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // Nothing is mounted there, or there is no such directory.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return Err(system(errno)),
        }
    }
    let root = rustix::fs::open("/", ROOT, Mode::empty()).map_err(system)?;
    attributes::set_attributes(root.as_fd(), attributes::NODEV, 0, true).map_err(failed)?;
    be_root(&root).map_err(system)?;
    Ok(RootFd::new(root))
}

/// The files of an image and the directory of what a container has written above them.
#[derive(Debug)]
pub struct Written {
    pub upper: OwnedFd,
    /// Absent where the image has no layers.
    pub lower: Option<OwnedFd>,
}

/// For who compares them: nothing is changed.
pub fn show_written(root: &RootPlan) -> Result<Written, StartError> {
    let failed = |error: std::io::Error| StartError::system("look at the layers", error);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let upper = rustix::fs::open(&root.upper, flags, Mode::empty());
    let upper = upper.map_err(|errno| failed(errno.into()))?;
    if root.lower.is_empty() {
        return Ok(Written { upper, lower: None });
    }
    let mount = rootfs::image_root(&root.lower).map_err(failed)?;
    let lower = RootFd::new(mount).open("/", OFlags::RDONLY | OFlags::DIRECTORY, Links::None);
    let lower = lower.map_err(|error| StartError::invalid(error.to_string()))?;
    Ok(Written { upper, lower: Some(lower) })
}

/// The ids of a container's user, by its own files.
pub fn ids_of(root: &RootFd, user: &UserSpec) -> Result<(u32, u32), StartError> {
    let found = crate::users::resolve(root, user, &[])?;
    Ok((found.uid, found.gid))
}

/// From here on a directory is `/` for every path.
fn be_root(directory: &impl AsFd) -> Result<(), Errno> {
    rustix::process::fchdir(directory)?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")
}
