//! A further process of a container that runs.

use std::os::fd::{AsFd as _, OwnedFd};

use hoy_rootfd::RootFd;
use hoy_sys::process::{self, CloneArgs};
use hoy_types::IdMaps;
use hoy_weak::{Protection, without};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;

use super::program::{Role, confine, program};
use super::words::{CONSOLE, born, report};
use super::{become_root, join_cgroups, raise_limits};
use crate::error::StartError;
use crate::lsm;
use crate::plan::{ProcessLabels, ProcessPlan};
use crate::running::Stdio;
use crate::starting::Doing;
use crate::users::{self, Credentials};

/// What a further process of a running container begins with.
pub(crate) struct ExecChild<'a> {
    pub plan: &'a ProcessPlan,
    /// The ids of the container's user namespace.
    pub userns: Option<&'a IdMaps>,
    pub stdio: &'a Stdio,
    pub tasks: Vec<OwnedFd>,
    /// The container's first process: whose namespaces are entered.
    pub container: OwnedFd,
    pub pid: Pid,
    /// Which of them, as for `setns`.
    pub namespaces: u64,
}

/// Makes a further process of the container, beside this one. This one belongs to the host until
/// its end, where nobody in the container sees it: what can look at the process that it makes, or
/// trace it, finds no descriptor, directory or mount of the host there (R5).
pub(crate) fn further(child: ExecChild<'_>, channel: &OwnedFd) -> i32 {
    match join(child, channel) {
        Ok(()) => 0,
        Err(error) => report(channel, &error),
    }
}

pub(super) fn join(child: ExecChild<'_>, channel: &OwnedFd) -> Result<(), StartError> {
    process::reset_signals();
    join_cgroups(&child.tasks)?;
    drop(child.tasks);
    let credentials = further_credentials(child.plan, child.pid, child.userns)?;
    Doing::Entering.tell(channel);
    // While /proc is the host's: what a container has mounted there may be anything. The process
    // that is made below inherits it.
    if child.plan.labels != ProcessLabels::default() {
        let proc = lsm::host_proc().map_err(|error| StartError::system("open /proc", error))?;
        confine(&proc, child.plan, Role::Further)?;
    }
    let mapped = child.namespaces & process::NEWUSER != 0;
    if mapped {
        raise_limits(child.plan);
    }
    process::setns(child.container.as_fd(), child.namespaces)
        .map_err(|error| StartError::system("enter the container's namespaces", error))?;
    drop(child.container);
    if mapped {
        become_root()?;
    }
    let slave = if child.plan.tty {
        let (master, slave) = exec_terminal()?;
        hoy_sys::socket::send(channel.as_fd(), &[CONSOLE], &[master.as_fd()])
            .map_err(|error| StartError::system("hand the terminal over", error))?;
        Some(slave)
    } else {
        None
    };
    let args = CloneArgs { sibling: true, ..CloneArgs::default() };
    let (pid, pidfd) = process::spawn(args, || {
        if without(Protection::CleanJoin) {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let _ = process::new_session_keyring();
        let done = program(child.plan, &credentials, child.stdio, slave, Role::Further, channel);
        match done {
            Ok(never) => match never {},
            Err(error) => report(channel, &error),
        }
    })
    .map_err(|error| StartError::system("make a process in the container", error))?;
    born(channel, pid, &pidfd)
}

/// Who a further process is to be, by the files of the container as it is now.
fn further_credentials(
    plan: &ProcessPlan,
    container: Pid,
    userns: Option<&IdMaps>,
) -> Result<Credentials, StartError> {
    let path = format!("/proc/{}/root", container.as_raw_nonzero());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| StartError::system("open the container's root", errno))?;
    let found = users::resolve(&RootFd::new(root), &plan.user, &plan.additional_groups)?;
    users::check_mapped(&found, userns)?;
    Ok(found)
}

/// A terminal from the devpts that lies at /dev/pts now: checked to be one.
fn exec_terminal() -> Result<(OwnedFd, OwnedFd), StartError> {
    const DEVPTS: i64 = 0x1cd1;
    let failed = |errno: Errno| StartError::system("open a terminal", errno);
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let path = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let handle = rustix::fs::open("/dev/pts/ptmx", path, Mode::empty()).map_err(failed)?;
    let magic = rustix::fs::fstatfs(&handle).map_err(failed)?.f_type as i64;
    if magic != DEVPTS {
        return Err(StartError::invalid("/dev/pts of the container is no devpts"));
    }
    let master = rustix::fs::open("/dev/pts/ptmx", flags, Mode::empty()).map_err(failed)?;
    rustix::pty::unlockpt(&master).map_err(failed)?;
    let peer = rustix::pty::OpenptFlags::RDWR
        | rustix::pty::OpenptFlags::NOCTTY
        | rustix::pty::OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, peer).map_err(failed)?;
    Ok((master, slave))
}
