//! What another OCI runtime starts from: the root file system and the sources of mounts, made
//! visible in a mount namespace of the supervisor's own, and the bundle's document.
//!
//! The host's mount table does not grow, and all of it is gone with the supervisor.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use hoy_cgroup::Limits;
use hoy_oci::runtime as oci;
use hoy_rootfd::RootFd;
use hoy_sys::process;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount, unmount,
};

use crate::bundle::{self, Facts};
use crate::error::StartError;
use crate::plan::{ContainerPlan, DevicePlan, NamespaceMode, NetMode, ProcessPlan};
use crate::prepare::{
    DeviceNode, GivenFds, Source, default_devices, extra_device, host_devices, source,
};
use crate::{rootfs, users};

/// A bundle that lies ready. Its mounts end with this value, or with this process. What the
/// container still uses of them stays as long as it does.
#[derive(Debug)]
pub struct Bundle {
    place: PathBuf,
    root: RootFd,
    /// Named by the document, by our descriptor's number.
    _network: Option<OwnedFd>,
    capabilities: u64,
    sources: usize,
}

/// Makes the bundle in `place`, a directory that this makes. From then on this process has a mount
/// namespace of its own.
pub fn prepare_external(
    plan: &ContainerPlan,
    given: GivenFds,
    place: &Path,
) -> Result<Bundle, StartError> {
    if plan.process.args.is_empty() {
        return Err(StartError::invalid("no command specified"));
    }
    if (plan.namespaces.net == NetMode::Given) != given.netns.is_some() {
        return Err(StartError::invalid("the plan and its network namespace do not match"));
    }
    if given.pid_of.is_some() || given.ipc_of.is_some() {
        return Err(StartError::invalid("only the built-in runtime shares with other containers"));
    }
    if plan.userns.is_some() {
        return Err(StartError::invalid("only the built-in runtime has user namespaces"));
    }
    let seccomp = plan.external.as_ref().and_then(|external| external.seccomp.as_deref());
    let seccomp = seccomp.map(serde_json::from_str::<oci::Seccomp>).transpose();
    let seccomp =
        seccomp.map_err(|error| StartError::invalid(format!("the seccomp profile: {error}")))?;
    let root = RootFd::new(rootfs::mount(&plan.root, &plan.mount_label, None)?);
    let credentials = users::resolve(&root, &plan.process.user, &plan.process.additional_groups)?;
    // Cloned in the host's namespace: a shared one must hear from it and tell it.
    let sources: Vec<Source> = plan
        .mounts
        .iter()
        .map(|mount| source(mount, &plan.mount_label, None))
        .collect::<Result<_, _>>()?;
    // The runtime enters it, and wants it to be there. One that cannot be made is its to refuse.
    let _ = root.make_directories(&plan.process.cwd, 0o755);
    let capabilities = rustix::thread::capabilities(None)
        .map_err(|errno| StartError::system("read the capabilities", errno))?
        .permitted
        .bits();
    directory(place)?;
    directory(&place.join("rootfs"))?;
    directory(&place.join("mounts"))?;
    process::unshare(process::NEWNS)
        .map_err(|error| StartError::system("make a mount namespace", error))?;
    // What the host mounts is seen here, what it unmounts is let go of.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(|errno| StartError::system("separate the mounts from the host's", errno))?;
    let bundle = Bundle {
        place: place.to_owned(),
        root,
        _network: given.netns,
        capabilities,
        sources: sources.len(),
    };
    attach(bundle.root.as_fd(), &place.join("rootfs"))?;
    let mut paths = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        paths.push(bundle.attach_source(index, source)?);
    }
    let facts = Facts {
        root: place.join("rootfs").display().to_string(),
        network: bundle._network.as_ref().map(own_descriptor),
        credentials: &credentials,
        capabilities,
        sources: paths,
        devices: further_devices(plan),
        throttling: throttling(),
        queues: match plan.namespaces.ipc {
            NamespaceMode::New | NamespaceMode::Given => has_queues(),
            NamespaceMode::Host => Path::new("/dev/mqueue").exists(),
        },
    };
    let document = bundle::document(plan, seccomp, &facts)?;
    write_document(&place.join("config.json"), &document)?;
    Ok(bundle)
}

impl Bundle {
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Writes the document of a further process.
    pub fn write_process(&self, plan: &ProcessPlan, file: &Path) -> Result<(), StartError> {
        if plan.args.is_empty() {
            return Err(StartError::invalid("no command specified"));
        }
        let credentials = users::resolve(&self.root, &plan.user, &plan.additional_groups)?;
        write_document(file, &bundle::process(plan, &credentials, self.capabilities)?)
    }

    /// Writes limits as `update` takes them.
    pub fn write_limits(&self, limits: &Limits, file: &Path) -> Result<(), StartError> {
        write_document(file, &bundle::resources(limits))
    }

    fn source_path(&self, index: usize) -> PathBuf {
        self.place.join("mounts").join(index.to_string())
    }

    fn attach_source(&self, index: usize, source: &Source) -> Result<String, StartError> {
        let Source::Bind { mount, directory: is_directory } = source else {
            return Ok(String::new());
        };
        let path = self.source_path(index);
        if *is_directory {
            directory(&path)?;
        } else {
            std::fs::write(&path, "").map_err(|error| made(&path, error))?;
        }
        attach(mount.as_fd(), &path)?;
        Ok(path.display().to_string())
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        for index in 0..self.sources {
            let _ = unmount(self.source_path(index), UnmountFlags::DETACH);
        }
        let _ = unmount(self.place.join("rootfs"), UnmountFlags::DETACH);
    }
}

/// A directory for root alone.
fn directory(path: &Path) -> Result<(), StartError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(path).map_err(|error| made(path, error))
}

fn made(path: &Path, error: std::io::Error) -> StartError {
    StartError::system(&format!("make {}", path.display()), error)
}

fn attach(mount: std::os::fd::BorrowedFd<'_>, path: &Path) -> Result<(), StartError> {
    move_mount(mount, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno: Errno| StartError::system(&format!("mount on {}", path.display()), errno))
}

/// How another process of root's opens one of our descriptors.
fn own_descriptor(fd: &OwnedFd) -> String {
    let pid = rustix::process::getpid().as_raw_nonzero();
    format!("/proc/{pid}/fd/{}", fd.as_raw_fd())
}

fn write_document(path: &Path, document: &impl serde::Serialize) -> Result<(), StartError> {
    let text = serde_json::to_vec(document)
        .map_err(|error| StartError::system("write the bundle", std::io::Error::other(error)))?;
    std::fs::write(path, text)
        .map_err(|error| StartError::system(&format!("write {}", path.display()), error))
}

/// Beside those that every runtime makes by itself.
fn further_devices(plan: &ContainerPlan) -> Vec<DeviceNode> {
    let mut all = default_devices();
    let usual = all.len();
    all.extend(plan.extra_devices.iter().map(extra_device));
    if plan.devices == DevicePlan::All {
        host_devices(Path::new("/dev"), "", &mut all, 0);
    }
    all.split_off(usual)
}

fn throttling() -> Vec<String> {
    let path = |cpu: usize| format!("/sys/devices/system/cpu/cpu{cpu}");
    (0..4096)
        .map(path)
        .take_while(|path| Path::new(path).exists())
        .map(|path| format!("{path}/thermal_throttle"))
        .filter(|path| Path::new(path).exists())
        .collect()
}

fn has_queues() -> bool {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    known.lines().any(|line| line.split_whitespace().last() == Some("mqueue"))
}
