//! A container that runs: its process, its cgroup, and what keeps its mounts alive.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use hoy_cgroup::Cgroup;
use hoy_rootfd::RootFd;
use hoy_sys::process::{self, CloneArgs};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};
use rustix::process::Pid;

use crate::child::{self, CONSOLE, FAILED};
use crate::error::{FailureReason, StartError};
use crate::plan::{ExecPlan, NamespaceMode, ProcessPlan};
use crate::prepare::Prepared;
use crate::users;

/// The standard streams of a new process.
#[derive(Debug)]
pub enum Stdio {
    Pipes {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// A terminal of the container's own, whose master comes back.
    Terminal,
}

/// A started process.
#[derive(Debug)]
pub struct Started {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    /// The terminal's master, if it has one.
    pub console: Option<OwnedFd>,
}

/// A running container.
#[derive(Debug)]
pub struct Running {
    pidfd: OwnedFd,
    pid: Pid,
    cgroup: Cgroup,
    // Holds the overlay, so that the exiting process does not pay for its unmount.
    _root: RootFd,
    new_pid_namespace: bool,
}

impl Prepared {
    /// Starts the container's program. Returns once it runs, or why it does not.
    pub fn spawn(self, stdio: Stdio) -> Result<(Running, Started), StartError> {
        match self.try_spawn(stdio) {
            Ok(started) => {
                let pidfd = match started.pidfd.try_clone() {
                    Ok(pidfd) => pidfd,
                    Err(error) => {
                        let _ = self.cgroup.kill(Duration::from_secs(2));
                        self.cgroup.remove();
                        return Err(StartError::system("duplicate a descriptor", error));
                    }
                };
                let running = Running {
                    pidfd,
                    pid: started.pid,
                    cgroup: self.cgroup,
                    _root: self.root,
                    new_pid_namespace: self.plan.namespaces.pid == NamespaceMode::New,
                };
                Ok((running, started))
            }
            Err(error) => {
                let _ = self.cgroup.kill(Duration::from_secs(2));
                self.cgroup.remove();
                Err(error)
            }
        }
    }

    fn try_spawn(&self, stdio: Stdio) -> Result<Started, StartError> {
        let tasks = self.cgroup.task_files().map_err(cgroup_error)?;
        let mut namespaces = process::NEWNS;
        for (mode, flag) in [
            (self.plan.namespaces.pid, process::NEWPID),
            (self.plan.namespaces.ipc, process::NEWIPC),
            (self.plan.namespaces.uts, process::NEWUTS),
        ] {
            if mode == NamespaceMode::New {
                namespaces |= flag;
            }
        }
        let args = CloneArgs { namespaces, cgroup: self.cgroup.unified() };
        let started = launch(args, |channel| child::first(self, &stdio, &tasks, channel))?;
        drop(stdio);
        size_console(&started, &self.plan.process);
        Ok(started)
    }
}

fn cgroup_error(error: hoy_cgroup::CgroupError) -> StartError {
    StartError::new(FailureReason::System, error.to_string())
}

fn size_console(started: &Started, plan: &ProcessPlan) {
    if let (Some(console), Some((rows, columns))) = (&started.console, plan.console_size) {
        let _ = resize(console, rows, columns);
    }
}

/// Sets a terminal's size.
pub fn resize(console: &OwnedFd, rows: u16, columns: u16) -> std::io::Result<()> {
    let size =
        rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(console, size)?)
}

/// Clones a process and waits until it has become its program or said why not.
fn launch(args: CloneArgs<'_>, child: impl FnOnce(&OwnedFd) -> i32) -> Result<Started, StartError> {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|errno| StartError::system("make a channel to the process", errno))?;
    let (pid, pidfd) = process::spawn(args, || child(&theirs))
        .map_err(|error| StartError::system("make a process", error))?;
    drop(theirs);
    let mut console = None;
    let mut buffer = vec![0; 4096];
    loop {
        let received = hoy_sys::socket::receive(ours.as_fd(), &mut buffer, RecvFlags::empty());
        match received {
            Ok((0, _)) => return Ok(Started { pid, pidfd, console }),
            Ok((length, descriptors)) => match buffer.first() {
                Some(&CONSOLE) => console = descriptors.into_iter().next(),
                Some(&FAILED) => {
                    reap(&pidfd);
                    return Err(child::parse_report(buffer.get(1..length).unwrap_or_default()));
                }
                _ => {}
            },
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                let _ = process::pidfd_signal(pidfd.as_fd(), 9);
                reap(&pidfd);
                return Err(StartError::system("hear of the process", error));
            }
        }
    }
}

fn reap(pidfd: &OwnedFd) {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let _ = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
}

impl Running {
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Starts a further process in the container.
    pub fn exec(&self, plan: &ExecPlan, stdio: Stdio) -> Result<Started, StartError> {
        let process_plan = &plan.process;
        if process_plan.args.is_empty() {
            return Err(StartError::invalid("no command specified"));
        }
        let path = format!("/proc/{}/root", self.pid.as_raw_nonzero());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| StartError::system("open the container's root", errno))?;
        let credentials = users::resolve(
            &RootFd::new(root),
            &process_plan.user,
            &process_plan.additional_groups,
        )?;
        let tasks = self.cgroup.task_files().map_err(cgroup_error)?;
        let child = child::ExecChild {
            plan: process_plan,
            credentials: &credentials,
            stdio: &stdio,
            tasks: &tasks,
            container: self.pidfd.as_fd(),
        };
        let args = CloneArgs { namespaces: 0, cgroup: self.cgroup.unified() };
        let started =
            self.in_pid_namespace(|| launch(args, |channel| child::further(&child, channel)))?;
        size_console(&started, process_plan);
        Ok(started)
    }

    /// Children are born into the container's pid namespace while `make` runs; the caller itself
    /// stays where it is, and stays their parent.
    fn in_pid_namespace<T>(
        &self,
        make: impl FnOnce() -> Result<T, StartError>,
    ) -> Result<T, StartError> {
        if !self.new_pid_namespace {
            return make();
        }
        let own =
            rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| StartError::system("open our pid namespace", errno))?;
        process::setns(self.pidfd.as_fd(), process::NEWPID)
            .map_err(|error| StartError::system("enter the container's pid namespace", error))?;
        let made = make();
        process::setns(own.as_fd(), process::NEWPID)
            .map_err(|error| StartError::system("return to our pid namespace", error))?;
        made
    }

    /// A signal to the first process.
    pub fn signal(&self, signal: i32) -> Result<(), StartError> {
        process::pidfd_signal(self.pidfd.as_fd(), signal).map_err(|error| {
            let reason = if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) {
                FailureReason::State
            } else {
                FailureReason::System
            };
            StartError::new(reason, format!("signal {signal}: {}", crate::error::text(&error)))
        })
    }

    /// SIGKILL to all of it.
    pub fn kill_all(&self, deadline: Duration) -> Result<(), StartError> {
        self.cgroup.kill(deadline).map_err(cgroup_error)
    }

    /// Stops every process, or lets them go on.
    pub fn freeze(&self, frozen: bool) -> Result<(), StartError> {
        self.cgroup.freeze(frozen).map_err(cgroup_error)
    }

    /// How many processes the kernel killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        self.cgroup.oom_kills()
    }

    /// Takes back what the kernel does not take back by itself.
    pub fn clean_up(self) {
        let _ = self.cgroup.kill(Duration::from_secs(2));
        self.cgroup.remove();
    }
}
