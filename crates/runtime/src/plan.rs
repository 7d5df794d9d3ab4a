//! The container plan: everything that the kernel has to be told, as plain data.
//!
//! The engine decides it, the shim carries it out. It travels in postcard's encoding, so fields
//! are only ever appended, together with the message version of `hoy-shim`.

use std::path::PathBuf;

use hoy_cgroup::CgroupPlan;
use hoy_types::{IdMaps, UserRef, UserSpec};
use serde::{Deserialize, Serialize};

/// One container, ready to be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerPlan {
    pub id: String,
    pub hostname: String,
    pub domainname: String,
    pub root: RootPlan,
    pub namespaces: NamespacePlan,
    pub process: ProcessPlan,
    /// In this order, after the default mounts.
    pub mounts: Vec<MountPlan>,
    pub devices: DevicePlan,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    /// Names with dots, in the container's own namespaces only.
    pub sysctls: Vec<(String, String)>,
    pub cgroup: CgroupPlan,
    /// Bytes of /dev/shm; `None` leaves it out.
    pub shm_size: Option<u64>,
    /// /sys and /sys/fs/cgroup writable (privileged).
    pub writable_sys: bool,
    /// The host's hoy-init, bound to /sbin/docker-init and put before the command.
    pub init: Option<PathBuf>,
    /// Nodes beside those of `devices`.
    pub extra_devices: Vec<DeviceNodePlan>,
    /// The ids of its own user namespace, whose descriptor comes with the plan. Files of the root
    /// file system lie on the disk with the ids that they have inside.
    pub userns: Option<IdMaps>,
    /// What SELinux calls every file of the container's own file systems; empty for nothing.
    pub mount_label: String,
    /// Another OCI runtime than the built-in one.
    pub external: Option<ExternalPlan>,
}

/// An OCI runtime that is a program, and what only such a one has to be told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExternalPlan {
    /// As the daemon's settings call it.
    pub name: String,
    /// The program, and the arguments that come before all others.
    pub path: PathBuf,
    pub args: Vec<String>,
    /// A directory of the container's own below the exec root: it need not exist.
    pub place: PathBuf,
    /// `linux.seccomp` of the runtime specification as JSON: the same profile as the process's
    /// compiled one. `None` for unconfined.
    pub seccomp: Option<String>,
    pub annotations: Vec<(String, String)>,
}

/// The root file system: an overlay over directories that the store owns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RootPlan {
    /// Topmost first.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
    /// No sync at unmount: only for containers that do not outlive their exit.
    pub volatile: bool,
    pub readonly: bool,
}

/// Which namespaces are new. The mount namespace always is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamespacePlan {
    pub net: NetMode,
    pub pid: NamespaceMode,
    pub ipc: NamespaceMode,
    pub uts: NamespaceMode,
    pub cgroup: NamespaceMode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    New,
    Host,
    /// Of the process that comes with the plan.
    Given,
}

/// Where the network comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetMode {
    /// A descriptor of the namespace comes with the plan.
    Given,
    Host,
}

/// What is executed, and as whom. Shared by the container's first process and by exec.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessPlan {
    pub args: Vec<String>,
    /// `KEY=value`; HOME is added from passwd when missing.
    pub env: Vec<String>,
    pub cwd: String,
    /// Resolved against the image's passwd and group by the runtime, below the root descriptor.
    pub user: UserSpec,
    pub additional_groups: Vec<UserRef>,
    pub tty: bool,
    /// Rows and columns to begin with.
    pub console_size: Option<(u16, u16)>,
    /// Bounding, permitted and effective; inheritable and ambient stay empty.
    pub capabilities: u64,
    pub no_new_privileges: bool,
    pub rlimits: Vec<Rlimit>,
    /// A classic BPF program, compiled once per profile by the engine; empty for unconfined.
    pub seccomp: Vec<BpfInstruction>,
    pub oom_score_adj: Option<i32>,
    /// SECCOMP_FILTER_FLAG_*.
    pub seccomp_flags: u32,
    pub labels: ProcessLabels,
}

/// What the host's security modules confine a process as; empty where they are not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessLabels {
    /// The name of a profile.
    pub apparmor: String,
    /// A context.
    pub selinux: String,
}

/// One `setrlimit`. `resource` is the kernel's number (RLIMIT_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BpfInstruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// A mount beyond the default ones. Targets are resolved inside the container's root only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MountPlan {
    pub target: String,
    pub source: MountSource,
    pub readonly: bool,
    pub propagation: Propagation,
    /// The label that SELinux is to know the source by from now on.
    pub relabel: Option<String>,
    /// What is mounted below the source stays as writable as it is.
    pub readonly_top_only: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MountSource {
    /// A path of the host, file or directory.
    Bind { path: PathBuf, recursive: bool },
    /// A fresh tmpfs.
    Tmpfs { size: Option<u64>, mode: Option<u32>, options: TmpfsOptions },
    /// A volume's directory, or what lies in it at a path: its files lie on the disk with the ids
    /// that they have inside.
    Volume { path: PathBuf, subpath: String },
    /// An image's files, or those at a path, to be read. Topmost layer first.
    Image { lower: Vec<PathBuf>, subpath: String },
}

/// Flags of a tmpfs; Docker's default is noexec, nosuid and nodev.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TmpfsOptions {
    pub noexec: bool,
    pub nosuid: bool,
    pub nodev: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    Private,
    Slave,
    Shared,
}

/// What lies in /dev.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum DevicePlan {
    /// null, zero, full, random, urandom, tty.
    Default,
    /// Those and every device node of the host's /dev (privileged).
    All,
}

/// One device node to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNodePlan {
    /// Absolute, in the container.
    pub path: String,
    /// Type and permissions.
    pub mode: u32,
    pub major: u32,
    pub minor: u32,
    pub uid: u32,
    pub gid: u32,
}

/// A further process in a running container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExecPlan {
    pub process: ProcessPlan,
}
