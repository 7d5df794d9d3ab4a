//! What a new process does between its birth and its program.
//!
//! Everything that fails is told to the parent in words; the process then ends.

mod further;
mod program;
mod words;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use hoy_sys::process::{self, CloneArgs};
use hoy_types::IdMaps;
use hoy_weak::{Protection, without};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount, unmount,
};
use rustix::process::DumpableBehavior;

pub(crate) use self::further::{ExecChild, further};
pub(crate) use self::program::is_pipe;
use self::program::{Role, confine, program};
pub(crate) use self::words::{BORN, CONSOLE, DOING, FAILED, parse_report};
use self::words::{born, report};
use crate::error::StartError;
use crate::plan::{NamespaceMode, ProcessPlan};
use crate::prepare::Prepared;
use crate::rootfs::as_root_of;
use crate::running::Stdio;
use crate::starting::Doing;
use crate::tree;

/// What a container's first process begins with.
pub(crate) struct FirstChild<'a> {
    pub prepared: &'a Prepared,
    pub stdio: &'a Stdio,
    pub tasks: &'a [OwnedFd],
    /// Its new ones, as for `clone`.
    pub namespaces: u64,
}

/// Becomes the container's first process, or makes it where that is born into a user namespace.
/// Otherwise returns only when it could not.
pub(crate) fn first(child: &FirstChild<'_>, channel: &OwnedFd) -> i32 {
    rustix::process::umask(Mode::empty());
    Doing::Files.tell(channel);
    let prepared = child.prepared;
    let done = share(prepared).and_then(|()| match (&prepared.userns, &prepared.plan.userns) {
        (Some(userns), Some(maps)) => beget(child, userns, maps, channel),
        _ if prepared.pid_of.is_some() => beget_beside(child, channel),
        _ => tree::device_files(prepared)
            .and_then(|dev| enter(child, dev, channel))
            .map(|never| match never {}),
    });
    match done {
        Ok(()) => 0,
        Err(error) => report(channel, &error),
    }
}

/// Enters what belongs to another container while this is the machine's root. Who enters its
/// process numbers stays outside of them; who is born from then on is inside.
fn share(prepared: &Prepared) -> Result<(), StartError> {
    for (other, namespace) in
        [(&prepared.ipc_of, process::NEWIPC), (&prepared.pid_of, process::NEWPID)]
    {
        if let Some(other) = other {
            process::setns(other.as_fd(), namespace).map_err(|error| {
                StartError::system("enter a namespace of another container", error)
            })?;
        }
    }
    Ok(())
}

/// Makes the container's first process among those of another container.
fn beget_beside(child: &FirstChild<'_>, channel: &OwnedFd) -> Result<(), StartError> {
    let args = CloneArgs { namespaces: child.namespaces, sibling: true, ..CloneArgs::default() };
    let (pid, pidfd) = process::spawn(args, || {
        match tree::device_files(child.prepared).and_then(|dev| enter(child, dev, channel)) {
            Ok(never) => match never {},
            Err(error) => report(channel, &error),
        }
    })
    .map_err(|error| StartError::system("make a process in the other container", error))?;
    born(channel, pid, &pidfd)
}

/// Does what only the machine's root can, enters the user namespace, and makes the container's
/// first process, to which all its other namespaces then belong.
fn beget(
    child: &FirstChild<'_>,
    userns: &OwnedFd,
    maps: &IdMaps,
    channel: &OwnedFd,
) -> Result<(), StartError> {
    let plan = &child.prepared.plan.process;
    let mut dev = Some(as_root_of(maps, || {
        let dev = tree::device_files(child.prepared)?;
        tree::other_device_files(child.prepared, &dev)?;
        Ok(dev)
    })?);
    raise_limits(plan);
    if let Some(adjustment) = plan.oom_score_adj {
        // As below: a host that does not let its root lower it runs the container all the same.
        let _ = std::fs::write("/proc/self/oom_score_adj", adjustment.to_string());
    }
    process::setns(userns.as_fd(), process::NEWUSER)
        .map_err(|error| StartError::system("enter the user namespace", error))?;
    become_root()?;
    let args = CloneArgs { namespaces: child.namespaces, sibling: true, ..CloneArgs::default() };
    let (pid, pidfd) = process::spawn(args, || {
        let dev = dev.take().ok_or_else(|| StartError::invalid("no /dev"));
        match dev.and_then(|dev| enter(child, dev, channel)) {
            Ok(never) => match never {},
            Err(error) => report(channel, &error),
        }
    })
    .map_err(|error| StartError::system("make a process in the user namespace", error))?;
    born(channel, pid, &pidfd)
}

/// What is set once it is root of its user namespace only must not be more than what it has.
fn raise_limits(plan: &ProcessPlan) {
    for limit in &plan.rlimits {
        // A host whose root may not: as much as it has.
        let _ = process::raise_hard_limit(limit.resource, limit.hard);
    }
}

/// After a user namespace was entered: its root, with all that that one may.
pub(crate) fn become_root() -> Result<(), StartError> {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let failed = |errno: Errno| StartError::system("become root of the user namespace", errno);
    let (gid, uid) = (rustix::fs::Gid::ROOT, rustix::fs::Uid::ROOT);
    set_thread_groups(&[]).map_err(failed)?;
    set_thread_res_gid(gid, gid, gid).map_err(failed)?;
    set_thread_res_uid(uid, uid, uid).map_err(failed)?;
    // Whoever has the same ids must not look into what is still a part of ours, whatever the
    // machine's settings say of programs that change who they are.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed)
}

enum Never {}

pub(crate) fn join_cgroups(tasks: &[OwnedFd]) -> Result<(), StartError> {
    for file in tasks {
        // By the process itself: see the crate `hoy-cgroup`.
        rustix::io::write(file, b"0")
            .map_err(|errno| StartError::system("join a cgroup", errno))?;
    }
    Ok(())
}

fn enter(child: &FirstChild<'_>, dev: OwnedFd, channel: &OwnedFd) -> Result<Never, StartError> {
    let failed = |doing: &'static str| move |error: io::Error| StartError::system(doing, error);
    let FirstChild { prepared, stdio, tasks, .. } = *child;
    let plan = &prepared.plan;
    process::reset_signals();
    join_cgroups(tasks)?;
    prepared.cgroup.inhabited();
    if plan.namespaces.cgroup == NamespaceMode::New {
        process::unshare(process::NEWCGROUP).map_err(failed("make a cgroup namespace"))?;
    }
    if let Some(netns) = &prepared.netns {
        process::setns(netns.as_fd(), process::NEWNET).map_err(failed("enter the network"))?;
    }
    root_mount(prepared)?;
    let tree = tree::build(prepared, dev)?;
    if plan.namespaces.uts == NamespaceMode::New {
        rustix::system::sethostname(plan.hostname.as_bytes())
            .map_err(|errno| StartError::system("set the host name", errno))?;
        if !plan.domainname.is_empty() {
            rustix::system::setdomainname(plan.domainname.as_bytes())
                .map_err(|errno| StartError::system("set the domain name", errno))?;
        }
    }
    let terminal =
        if plan.process.tty { Some(tree::terminal(&tree, &prepared.root, true)?) } else { None };
    if let (Some(adjustment), None) = (plan.process.oom_score_adj, &prepared.userns) {
        // A host that does not let its root lower it runs the container all the same.
        let _ = write_own(&tree.proc, "oom_score_adj", &adjustment.to_string());
    }
    weaken(prepared);
    confine(&tree.proc, &plan.process, Role::First)?;
    switch_root(prepared)?;
    let _ = process::new_session_keyring();
    let slave = match terminal {
        Some((master, slave)) => {
            hoy_sys::socket::send(channel.as_fd(), &[CONSOLE], &[master.as_fd()])
                .map_err(failed("hand the terminal over"))?;
            Some(slave)
        }
        None => None,
    };
    let mut process_plan = plan.process.clone();
    if prepared.init.is_some() {
        process_plan.args.splice(0..0, ["/sbin/docker-init".to_owned(), "--".to_owned()]);
        // The container counts as started before that program has its signals: a process 1 that
        // does not block one and does not handle it yet would never see it.
        process::block_signals();
    }
    program(&process_plan, &prepared.credentials, stdio, slave, Role::First, channel)
}

/// What the control build of the attack tests does to itself while it still sees the host.
fn weaken(prepared: &Prepared) {
    if without(Protection::ClosedDescriptors) {
        let leaked = rustix::fs::open("/", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        std::mem::forget(leaked);
    }
    if without(Protection::Paths) {
        let _ = prepared.root.make_directories(&prepared.plan.process.cwd, 0o755);
    }
}

fn write_own(proc: &OwnedFd, file: &str, value: &str) -> io::Result<()> {
    tree::write_proc(proc, &format!("{}/{file}", std::process::id()), value)
}

/// Attaches the overlay somewhere in our copy of the host's tree, ready to become the root.
fn root_mount(prepared: &Prepared) -> Result<(), StartError> {
    let failed = |errno: Errno| StartError::system("attach the root file system", errno);
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(failed)?;
    // Over the root itself: the one directory that everybody can reach.
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(prepared.root.as_fd(), "", rustix::fs::CWD, "/", flags).map_err(failed)
}

/// Makes the overlay `/` and lets go of the host's tree.
fn switch_root(prepared: &Prepared) -> Result<(), StartError> {
    let failed = |errno: Errno| StartError::system("switch to the root file system", errno);
    rustix::process::fchdir(prepared.root.as_fd()).map_err(failed)?;
    rustix::process::pivot_root(".", ".").map_err(failed)?;
    unmount(".", UnmountFlags::DETACH).map_err(failed)?;
    rustix::process::chdir("/").map_err(failed)?;
    if prepared.plan.root.readonly {
        hoy_sys::mount::set_attributes(prepared.root.as_fd(), hoy_sys::mount::RDONLY, 0, false)
            .map_err(|error| StartError::system("make the root read-only", error))?;
    }
    Ok(())
}
