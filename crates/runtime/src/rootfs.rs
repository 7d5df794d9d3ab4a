//! The root file system: an overlay over directories of the store, as a detached mount.
//!
//! For a container with a user namespace of its own, layers and writable directory are the same
//! ones with the same ids on the disk: the overlay lies over mounts of them that map the ids.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use hoy_rootfd::{Links, RootFd};
use hoy_sys::mount::map_ids;
use hoy_sys::process::{self, CloneArgs, set_file_ids};
use hoy_types::IdMaps;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, mount_change, move_mount, open_tree,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::error::StartError;
use crate::plan::RootPlan;
use crate::prepare::clone_tree;
use crate::starting::answer_of;

/// The directories that a root file system is laid over, held by descriptors.
struct Layers {
    lower: Vec<OwnedFd>,
    /// The writable directory and the one for work in progress, if anything is to be written.
    upper: Option<(OwnedFd, OwnedFd)>,
    /// The detached mount that `upper` and `work` are in, where ids are mapped. The layers are
    /// detached mounts of their own then.
    place: Option<OwnedFd>,
    /// What SELinux is to call all files.
    label: String,
}

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Layers {
    fn open(plan: &RootPlan, label: &str) -> Result<Self, StartError> {
        let open = |path: &Path| {
            rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())
                .map_err(|errno| StartError::system(&format!("open {}", path.display()), errno))
        };
        Ok(Self {
            lower: plan.lower.iter().map(|path| open(path)).collect::<Result<_, _>>()?,
            upper: Some((open(&plan.upper)?, open(&plan.work)?)),
            place: None,
            label: label.to_owned(),
        })
    }

    /// Only to be read.
    fn below(lower: &[PathBuf], label: &str, userns: Option<&OwnedFd>) -> Result<Self, StartError> {
        let open = |path: &PathBuf| match userns {
            Some(userns) => mapped(path, userns),
            None => rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty())
                .map_err(|errno| StartError::system(&format!("open {}", path.display()), errno)),
        };
        let lower = lower.iter().map(open).collect::<Result<_, _>>()?;
        Ok(Self { lower, upper: None, place: None, label: label.to_owned() })
    }

    fn mapped(plan: &RootPlan, label: &str, userns: &OwnedFd) -> Result<Self, StartError> {
        let mapped = |path: &Path| mapped(path, userns);
        let invalid = || StartError::invalid("the writable directories have no common parent");
        let parent = plan.upper.parent().ok_or_else(invalid)?;
        let (Some(upper), Some(work)) = (plan.upper.file_name(), plan.work.file_name()) else {
            return Err(invalid());
        };
        if plan.work.parent() != Some(parent) {
            return Err(invalid());
        }
        let place = mapped(parent)?;
        let open = |name: &std::ffi::OsStr| {
            rustix::fs::openat(&place, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
                .map_err(|errno| StartError::system("open the writable directories", errno))
        };
        Ok(Self {
            lower: plan.lower.iter().map(|path| mapped(path)).collect::<Result<_, _>>()?,
            upper: Some((open(upper)?, open(work)?)),
            place: Some(place),
            label: label.to_owned(),
        })
    }
}

/// A detached mount whose ids are those of a user namespace.
pub(crate) fn mapped(path: &Path, userns: &OwnedFd) -> Result<OwnedFd, StartError> {
    let mount = clone_tree(path, false)?;
    map(&mount, path, userns)?;
    Ok(mount)
}

pub(crate) fn map(mount: &OwnedFd, path: &Path, userns: &OwnedFd) -> Result<(), StartError> {
    map_ids(mount.as_fd(), userns.as_fd()).map_err(|error| {
        let doing = format!(
            "map the ids of {}, which its file system and the kernel must be able to do",
            path.display()
        );
        StartError::system(&doing, error)
    })
}

/// An image's files as a detached mount that nobody can write to.
pub(crate) fn mount_image(
    lower: &[PathBuf],
    subpath: &str,
    label: &str,
    userns: Option<(&OwnedFd, &IdMaps)>,
) -> Result<OwnedFd, StartError> {
    let mount = match lower {
        [] => return Err(StartError::invalid("an image without files cannot be mounted")),
        // The kernel lays nothing over one directory alone.
        [layer] => match userns {
            Some((userns, _)) => mapped(layer, userns)?,
            None => clone_tree(layer, false)?,
        },
        _ => {
            let layers = Layers::below(lower, label, userns.map(|(userns, _)| userns))?;
            let laid = || match lay(&layers, false) {
                Err(Errno::INVAL) if userns.is_some() => lay_elsewhere(&layers, false),
                other => other.map_err(|errno| StartError::system("mount the image", errno)),
            };
            match userns {
                Some((_, maps)) => as_root_of(maps, laid)?,
                None => laid()?,
            }
        }
    };
    let mount = if subpath.is_empty() { mount } else { part_of(&mount, subpath)? };
    let readonly = hoy_sys::mount::RDONLY;
    hoy_sys::mount::set_attributes(mount.as_fd(), readonly, 0, true)
        .map_err(|error| StartError::system("mount the image", error))?;
    Ok(mount)
}

/// An image's files for this process to read, in one with several threads: nothing of it is
/// changed. Topmost layer first.
pub fn image_root(lower: &[PathBuf]) -> std::io::Result<OwnedFd> {
    if let [layer] = lower {
        return Ok(rustix::fs::openat(CWD, layer, DIRECTORY, Mode::empty())?);
    }
    let layers = Layers::below(lower, "", None).map_err(std::io::Error::other)?;
    let mut result = mounted(by_descriptors, &layers, false);
    for way in [by_long_names as Way, at_once_by_long_names] {
        if matches!(result, Err(Errno::INVAL | Errno::OPNOTSUPP)) {
            result = mounted(way, &layers, false);
        }
    }
    Ok(result?)
}

/// The root file system as a detached mount, with the ids of a user namespace or as they are.
pub(crate) fn mount(
    plan: &RootPlan,
    label: &str,
    userns: Option<(&OwnedFd, &IdMaps)>,
) -> Result<OwnedFd, StartError> {
    if plan.volatile {
        forget_the_run_before(&plan.work);
    }
    let Some((userns, maps)) = userns else {
        let layers = Layers::open(plan, label)?;
        return lay(&layers, plan.volatile).map_err(|errno| refused(&layers, errno));
    };
    let layers = Layers::mapped(plan, label, userns)?;
    as_root_of(maps, || match lay(&layers, plan.volatile) {
        // Before Linux 6.15 an overlay lies over nothing that is in no tree.
        Err(Errno::INVAL) => lay_elsewhere(&layers, plan.volatile),
        other => other.map_err(|errno| refused(&layers, errno)),
    })
}

/// The kernel marks what was laid without being synced, and does not lay it again: after a crash
/// it may be half. Whoever is started again while the machine runs has lost nothing. No container
/// reaches the directory for work in progress.
fn forget_the_run_before(work: &Path) {
    let mark = work.join("work/incompat/volatile");
    let _ = rustix::fs::unlinkat(CWD, mark.join("dirty"), rustix::fs::AtFlags::empty());
    let _ = rustix::fs::unlinkat(CWD, &mark, rustix::fs::AtFlags::REMOVEDIR);
}

/// The kernel says no more than that something is wrong.
fn refused(layers: &Layers, errno: Errno) -> StartError {
    const OVERLAYFS: i64 = 0x794c_7630;
    let upper = layers.upper.as_ref().and_then(|(upper, _)| rustix::fs::fstatfs(upper).ok());
    if upper.is_some_and(|found| found.f_type == OVERLAYFS) {
        return StartError::invalid(
            "the data root lies on overlayfs, as all does in a container: the kernel puts no \
             writable overlay on another. Give the daemon a volume, a bind mount or a tmpfs for \
             its data root (-v SOMEWHERE:/var/lib/hoy)",
        );
    }
    StartError::system("mount the root file system", errno)
}

/// Does something with all that the machine's root may, but what it makes belongs to the root of a
/// user namespace: the machine's has no id in mounts with mapped ids. An overlay keeps this for
/// what it does itself in its directories.
pub(crate) fn as_root_of<T>(
    maps: &IdMaps,
    work: impl FnOnce() -> Result<T, StartError>,
) -> Result<T, StartError> {
    let (Some(uid), Some(gid)) = (maps.uid(0), maps.gid(0)) else {
        return Err(StartError::invalid("the container's user namespace has no root"));
    };
    let capabilities = || -> Result<(), StartError> {
        // To leave uid 0 gave up those about files.
        let failed = |errno: Errno| StartError::system("keep the capabilities", errno);
        let mut sets = rustix::thread::capabilities(None).map_err(failed)?;
        sets.effective = sets.permitted;
        rustix::thread::set_capabilities(None, sets).map_err(failed)
    };
    let act_as = |uid, gid| {
        set_file_ids(uid, gid).map_err(|error| StartError::system("change the file ids", error))
    };
    let result = act_as(uid, gid).and_then(|()| capabilities()).and_then(|()| work());
    act_as(0, 0)?;
    result
}

fn lay(layers: &Layers, volatile: bool) -> Result<OwnedFd, Errno> {
    // Linux 6.13 takes descriptors, 6.7 one name after the other, what is older all names at once.
    let others: &[Way] = match mounted(by_descriptors, layers, volatile) {
        Err(Errno::INVAL) => &[by_names, at_once],
        // What takes no descriptors for anything is older still.
        Err(Errno::OPNOTSUPP) => &[at_once],
        result => return result,
    };
    // Names are numbers in this directory: short enough for an option of 256 bytes, and they mean
    // what was opened, whatever happens to paths.
    rustix::process::chdir("/proc/self/fd")?;
    let mut result = Err(Errno::INVAL);
    for way in others {
        result = mounted(*way, layers, volatile);
        if !matches!(result, Err(Errno::INVAL)) {
            break;
        }
    }
    rustix::process::chdir("/")?;
    result
}

/// An overlay over layers that are in no tree of mounts.
fn lay_elsewhere(layers: &Layers, volatile: bool) -> Result<OwnedFd, StartError> {
    const DOING: &str =
        "mount the root file system with mapped ids, for which Linux 5.19 is needed";
    elsewhere(DOING, || {
        for mount in layers.lower.iter().chain(&layers.place) {
            // One over the other: they are found by their descriptors.
            move_mount(mount, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        }
        lay(layers, volatile)
    })
}

/// A detached mount of what lies at a path below one.
fn part_of(mount: &OwnedFd, path: &str) -> Result<OwnedFd, StartError> {
    elsewhere(&format!("mount {path} of the image"), || {
        move_mount(mount, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        let root = RootFd::new(rustix::io::dup(mount)?);
        let found = root.handle(path, Links::Inside).map_err(|error| {
            let code = error.io().and_then(std::io::Error::raw_os_error);
            code.map_or(Errno::NOENT, Errno::from_raw_os_error)
        })?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH;
        open_tree(found, "", flags)
    })
}

/// In a process with a tree of mounts of its own, where something is for as long as it takes.
fn elsewhere(
    doing: &str,
    work: impl FnOnce() -> Result<OwnedFd, Errno>,
) -> Result<OwnedFd, StartError> {
    let failed = |errno: Errno| StartError::system(doing, errno);
    let kind = SocketType::SEQPACKET;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).map_err(failed)?;
    let attach = || {
        // Nothing of this reaches the machine's tree.
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private)?;
        work()
    };
    let args = CloneArgs { namespaces: process::NEWNS, ..CloneArgs::default() };
    let (_, pidfd) = process::spawn(args, || {
        // Nobody to tell but by this: an end without a word is an error too.
        let told = match attach() {
            Ok(root) => hoy_sys::socket::send(theirs.as_fd(), &[0; 4], &[root.as_fd()]),
            Err(errno) => {
                hoy_sys::socket::send(theirs.as_fd(), &errno.raw_os_error().to_ne_bytes(), &[])
            }
        };
        told.map_or(1, |_| 0)
    })
    .map_err(|error| StartError::system(doing, error))?;
    drop(theirs);
    let mut buffer = [0; 4];
    let received = answer_of(&ours, &pidfd, &mut buffer);
    match received.map(|(length, descriptors)| (length, descriptors.into_iter().next())) {
        Ok((_, Some(root))) => Ok(root),
        Ok((4, None)) => Err(failed(Errno::from_raw_os_error(i32::from_ne_bytes(buffer)))),
        Ok(_) => Err(failed(Errno::PIPE)),
        Err(error) => Err(StartError::system(doing, error)),
    }
}

/// A way to tell the kernel about layers.
type Way = fn(&OwnedFd, &Layers) -> Result<(), Errno>;

fn mounted(say: Way, layers: &Layers, volatile: bool) -> Result<OwnedFd, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    if volatile {
        fsconfig_set_flag(&context, "volatile")?;
    }
    if !layers.label.is_empty() {
        fsconfig_set_string(&context, "context", layers.label.as_str())?;
    }
    say(&context, layers)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

fn by_descriptors(context: &OwnedFd, layers: &Layers) -> Result<(), Errno> {
    for layer in &layers.lower {
        fsconfig_set_fd(context, "lowerdir+", layer)?;
    }
    let Some((upper, work)) = &layers.upper else { return Ok(()) };
    fsconfig_set_fd(context, "upperdir", upper)?;
    fsconfig_set_fd(context, "workdir", work)
}

fn name(directory: &OwnedFd) -> String {
    directory.as_raw_fd().to_string()
}

fn by_names(context: &OwnedFd, layers: &Layers) -> Result<(), Errno> {
    for layer in &layers.lower {
        fsconfig_set_string(context, "lowerdir+", name(layer))?;
    }
    writable(context, layers)
}

fn writable(context: &OwnedFd, layers: &Layers) -> Result<(), Errno> {
    let Some((upper, work)) = &layers.upper else { return Ok(()) };
    fsconfig_set_string(context, "upperdir", name(upper))?;
    fsconfig_set_string(context, "workdir", name(work))
}

fn at_once(context: &OwnedFd, layers: &Layers) -> Result<(), Errno> {
    let lower: Vec<String> = layers.lower.iter().map(name).collect();
    fsconfig_set_string(context, "lowerdir", lower.join(":"))?;
    writable(context, layers)
}

/// Names that mean the same in any directory.
fn long_name(directory: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}

fn by_long_names(context: &OwnedFd, layers: &Layers) -> Result<(), Errno> {
    layers.lower.iter().try_for_each(|l| fsconfig_set_string(context, "lowerdir+", long_name(l)))
}

fn at_once_by_long_names(context: &OwnedFd, layers: &Layers) -> Result<(), Errno> {
    let lower: Vec<String> = layers.lower.iter().map(long_name).collect();
    fsconfig_set_string(context, "lowerdir", lower.join(":"))
}
