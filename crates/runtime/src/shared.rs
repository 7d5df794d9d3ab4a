//! What is shared with another container: its process numbers and its IPC.
//!
//! The daemon names the other by a descriptor of its first process, so that no number of a process
//! that has ended meanwhile is taken for it.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use hoy_rootfd::{Links, RootFd};
use hoy_sys::process::{self, CloneArgs};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::error::StartError;
use crate::plan::{NamespaceMode, NamespacePlan};
use crate::prepare::GivenFds;
use crate::starting::answer_of;

/// `fstatfs` of a tmpfs.
const TMPFS: i64 = 0x0102_1994;

/// A plan and what came with it belong together.
pub(crate) fn check(namespaces: &NamespacePlan, given: &GivenFds) -> Result<(), StartError> {
    let of = |mode: NamespaceMode, other: &Option<OwnedFd>| {
        (mode == NamespaceMode::Given) == other.is_some()
    };
    let never = [namespaces.uts, namespaces.cgroup].contains(&NamespaceMode::Given);
    if !of(namespaces.pid, &given.pid_of) || !of(namespaces.ipc, &given.ipc_of) || never {
        return Err(StartError::invalid("the plan and the containers that it shares do not match"));
    }
    Ok(())
}

/// /dev/shm of another container as it sees it. Cloned by a process of a moment, which enters the
/// other's mount namespace for that alone and has nothing else of ours.
pub(crate) fn memory_of(other: &OwnedFd) -> Result<OwnedFd, StartError> {
    let failed = |error: std::io::Error| {
        StartError::system("find the shared memory of the other container", error)
    };
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|errno| failed(errno.into()))?;
    let mut keep = [other.as_raw_fd(), theirs.as_raw_fd()];
    keep.sort_unstable();
    let args = CloneArgs { keep: Some(&keep), ..CloneArgs::default() };
    let (_, helper) = process::spawn(args, || {
        let told = clone_memory(other)
            .and_then(|mount| hoy_sys::socket::send(theirs.as_fd(), &[1], &[mount.as_fd()]));
        i32::from(told.is_err())
    })
    .map_err(failed)?;
    drop(theirs);
    let received = answer_of(&ours, &helper, &mut [0]);
    let mount = received.map_err(failed)?.1.pop();
    mount.ok_or_else(|| StartError::invalid("the other container has no /dev/shm"))
}

fn clone_memory(other: &OwnedFd) -> std::io::Result<OwnedFd> {
    process::setns(other.as_fd(), process::NEWNS)?;
    // From here on `/` is the other's.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = RootFd::new(rustix::fs::open("/", flags, Mode::empty())?);
    let found = root
        .open("dev/shm", flags, Links::None)
        .map_err(|error| std::io::Error::other(error.to_string()))?;
    if rustix::fs::fstatfs(&found)?.f_type as i64 != TMPFS {
        return Err(std::io::Error::other("/dev/shm is no tmpfs"));
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(&found, "", flags)?)
}
