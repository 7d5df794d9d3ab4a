//! A container that runs: its process, its cgroup, and what keeps its mounts alive.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use hoy_cgroup::Cgroup;
use hoy_rootfd::RootFd;
use hoy_sys::process::{self, CloneArgs};
use hoy_types::IdMaps;
use rustix::fs::{Gid, Uid};
use rustix::process::Pid;

use crate::child;
use crate::error::{FailureReason, StartError};
use crate::plan::{ContainerPlan, ExecPlan, NamespaceMode};
use crate::prepare::Prepared;
use crate::starting::{Channel, Starting};

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
    /// What a further process enters.
    namespaces: u64,
    /// The ids of its user namespace.
    userns: Option<IdMaps>,
}

/// How long a container's program may take to begin: less than what the daemon waits for it.
const FIRST: Duration = Duration::from_secs(45);
/// How long what was begun may take to end.
const KILL: Duration = Duration::from_secs(2);

/// A container that was not started.
#[derive(Debug)]
pub struct Refusal {
    pub error: StartError,
    pub remains: Option<Box<Remains>>,
}

/// What the kernel has not let go of yet: processes to be waited for, and after them their cgroup
/// is to be removed.
#[derive(Debug)]
pub struct Remains {
    pub processes: Vec<OwnedFd>,
    pub cgroup: Cgroup,
}

impl From<StartError> for Refusal {
    fn from(error: StartError) -> Self {
        Self { error, remains: None }
    }
}

impl Prepared {
    /// Starts the container's program. Returns once it runs, or why it does not.
    pub fn spawn(mut self, stdio: Stdio) -> Result<(Running, Started), Refusal> {
        let (started, left) = match self.try_spawn(stdio) {
            Ok(both) => both,
            Err(error) => (Err(error), Vec::new()),
        };
        let held = started.and_then(|started| match started.pidfd.try_clone() {
            Ok(pidfd) => Ok((pidfd, started)),
            Err(error) => Err(StartError::system("duplicate a descriptor", error)),
        });
        match held {
            Ok((pidfd, started)) => {
                self.cgroup.begun(&self.plan.cgroup.limits);
                let running = Running {
                    pidfd,
                    pid: started.pid,
                    cgroup: self.cgroup,
                    _root: self.root,
                    namespaces: namespaces_of(&self.plan),
                    userns: self.plan.userns,
                };
                Ok((running, started))
            }
            Err(error) if left.is_empty() => {
                let _ = self.cgroup.kill(KILL);
                self.cgroup.remove();
                Err(error.into())
            }
            Err(error) => {
                let _ = self.cgroup.kill(Duration::ZERO);
                let remains = Remains { processes: left, cgroup: self.cgroup };
                Err(Refusal { error, remains: Some(Box::new(remains)) })
            }
        }
    }

    /// What came of it, and processes that have to be waited for.
    fn try_spawn(
        &self,
        stdio: Stdio,
    ) -> Result<(Result<Started, StartError>, Vec<OwnedFd>), StartError> {
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
        give(&stdio, self.plan.userns.as_ref())?;
        let cgroup = self.cgroup.unified();
        // What belongs to a user namespace is made by who has entered it.
        // And so is what begins among another container's processes.
        let later = self.userns.is_some() || self.pid_of.is_some();
        let at_once = if later { 0 } else { namespaces };
        let args = CloneArgs { namespaces: at_once, cgroup, ..CloneArgs::default() };
        let channel = Channel::new()?;
        let start = child::FirstChild { prepared: self, stdio: &stdio, tasks: &tasks, namespaces };
        let starting = Starting::begin(args, channel, |channel| child::first(&start, channel))?;
        drop(stdio);
        Ok(starting.complete(&self.plan.process, FIRST))
    }
}

/// The host's pid and user namespaces are not entered again: they are where the supervisor is.
fn namespaces_of(plan: &ContainerPlan) -> u64 {
    let mut all =
        process::NEWNS | process::NEWUTS | process::NEWIPC | process::NEWNET | process::NEWCGROUP;
    if plan.namespaces.pid != NamespaceMode::Host {
        all |= process::NEWPID;
    }
    if plan.userns.is_some() {
        all |= process::NEWUSER;
    }
    all
}

/// Pipes belong to the root of the container's user namespace, which may then give them on: who
/// has them as standard streams may open them again by their names.
fn give(stdio: &Stdio, userns: Option<&IdMaps>) -> Result<(), StartError> {
    let (Stdio::Pipes { stdin, stdout, stderr }, Some(maps)) = (stdio, userns) else {
        return Ok(());
    };
    let owner = (maps.uid(0).map(Uid::from_raw), maps.gid(0).map(Gid::from_raw));
    for stream in [stdin, stdout, stderr] {
        if child::is_pipe(stream) {
            rustix::fs::fchown(stream, owner.0, owner.1)
                .map_err(|errno| StartError::system("set up the standard streams", errno))?;
        }
    }
    Ok(())
}

fn cgroup_error(error: hoy_cgroup::CgroupError) -> StartError {
    StartError::new(FailureReason::System, error.to_string())
}

/// Sets a terminal's size.
pub fn resize(console: &OwnedFd, rows: u16, columns: u16) -> std::io::Result<()> {
    let size =
        rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(console, size)?)
}

impl Running {
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Begins a further process in the container. Looks at nothing that lies in the container:
    /// that is done by the process, which may wait for it for ever.
    pub fn exec(&self, plan: &ExecPlan, stdio: Stdio) -> Result<Starting, StartError> {
        let process_plan = &plan.process;
        if process_plan.args.is_empty() {
            return Err(StartError::invalid("no command specified"));
        }
        give(&stdio, self.userns.as_ref())?;
        let tasks = self.cgroup.task_files().map_err(cgroup_error)?;
        let container = self.pidfd.try_clone();
        let container =
            container.map_err(|error| StartError::system("duplicate a descriptor", error))?;
        let channel = Channel::new()?;
        let mut keep: Vec<RawFd> = tasks.iter().map(AsRawFd::as_raw_fd).collect();
        keep.extend([container.as_raw_fd(), channel.theirs.as_raw_fd()]);
        if let Stdio::Pipes { stdin, stdout, stderr } = &stdio {
            keep.extend([stdin, stdout, stderr].map(AsRawFd::as_raw_fd));
        }
        keep.sort_unstable();
        let child = child::ExecChild {
            plan: process_plan,
            userns: self.userns.as_ref(),
            stdio: &stdio,
            tasks,
            container,
            pid: self.pid,
            namespaces: self.namespaces,
        };
        let leaf = self.cgroup.unified_of(self.pid.as_raw_nonzero().get());
        let cgroup = leaf.as_ref().map(AsFd::as_fd).or_else(|| self.cgroup.unified());
        let all = hoy_weak::without(hoy_weak::Protection::CleanJoin);
        let keep = (!all).then_some(keep.as_slice());
        let args = CloneArgs { cgroup, keep, ..CloneArgs::default() };
        Starting::begin(args, channel, |channel| child::further(child, channel))
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
        // One that was given the host's cgroups may have moved elsewhere.
        let _ = process::pidfd_signal(self.pidfd.as_fd(), 9);
        self.cgroup.kill(deadline).map_err(cgroup_error)
    }

    /// Stops every process, or lets them go on.
    pub fn freeze(&self, frozen: bool) -> Result<(), StartError> {
        self.cgroup.freeze(frozen).map_err(cgroup_error)
    }

    /// Sets limits while it runs.
    pub fn update(&self, limits: &hoy_cgroup::Limits) -> Result<(), StartError> {
        self.cgroup.update(limits).map_err(cgroup_error)
    }

    /// Readable when the kernel was short of memory for it; `None` where that cannot be watched.
    pub fn watch_oom(&self) -> Option<hoy_cgroup::OomWatch> {
        self.cgroup.watch_oom().ok()
    }

    /// How many processes the kernel killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        self.cgroup.oom_kills()
    }

    /// What a file of its cgroup says.
    pub fn cgroup_text(&self, controller: &str, file: &str) -> Option<String> {
        self.cgroup.read(controller, file)
    }

    /// Every process in its cgroup.
    pub fn processes(&self) -> Vec<i32> {
        self.cgroup.processes()
    }

    /// Takes back what the kernel does not take back by itself.
    pub fn clean_up(self) {
        let _ = self.cgroup.kill(Duration::from_secs(2));
        self.cgroup.remove();
    }
}
