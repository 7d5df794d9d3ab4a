//! A container that another OCI runtime makes and runs, called as containerd calls it.
//!
//! The supervisor is the subreaper of what the runtime leaves behind: the container's first
//! process and further ones become its children, so that it hears their codes. Every call has a
//! deadline, for it is made by the only thread there is.

mod call;
mod console;
mod remains;

use std::cell::Cell;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hoy_cgroup::{Cgroup, CgroupPlan, Limits, OomWatch};
use hoy_runtime::{
    Bundle, ContainerPlan, ExecPlan, FailureReason, GivenFds, ProcessPlan, StartError, Started,
    Stdio, prepare_external,
};
use hoy_sys::process;
use rustix::process::{Pid, PidfdFlags, pidfd_open, set_child_subreaper};

use call::Runtime;
use console::Console;
pub use remains::{list, place, take_back};

/// Together less than what the daemon waits for a start.
const CREATE: Duration = Duration::from_secs(40);
const START: Duration = Duration::from_secs(15);
/// Less than what the daemon waits for the answer.
const EXEC: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_secs(8);
/// How long an end is tried.
const DELETE: Duration = Duration::from_secs(10);
const KILL: Duration = Duration::from_secs(2);

const SIGKILL: i32 = 9;

/// See the module.
#[derive(Debug)]
pub(crate) struct External {
    runtime: Runtime,
    bundle: Bundle,
    pidfd: OwnedFd,
    cgroup: Cgroups,
    /// Numbers the files of further processes.
    next: Cell<u32>,
}

/// Where the container's cgroup lies: made by the runtime, as the document says.
#[derive(Debug)]
struct Cgroups(CgroupPlan);

impl Cgroups {
    fn open(&self) -> Option<Cgroup> {
        Cgroup::open(&self.0).ok().flatten()
    }

    /// What the runtime has not removed.
    fn remove(&self) {
        let _ = hoy_cgroup::remove_everywhere(&self.0);
    }

    fn kill(&self, deadline: Duration) -> Result<(), StartError> {
        let Some(cgroup) = self.open() else { return Ok(()) };
        cgroup
            .kill(deadline)
            .map_err(|error| StartError::new(FailureReason::System, error.to_string()))
    }
}

impl External {
    /// Makes the container and starts its program. On failure nothing of it remains.
    pub fn start(
        plan: &ContainerPlan,
        given: GivenFds,
        stdio: Stdio,
    ) -> Result<(Self, Started), StartError> {
        let Some(external) = &plan.external else {
            return Err(StartError::invalid("no runtime is named"));
        };
        let place = external.place.clone();
        // Of a supervisor that was killed.
        remains::take_back_of(&place, &plan.id);
        let cgroup = Cgroups(plan.cgroup.clone());
        set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|errno| StartError::system("become the parent of orphans", errno))?;
        let runtime = Runtime::new(external, &plan.id)?;
        let started = Self::create(plan, &place, given, stdio, runtime.clone());
        match started {
            Ok((bundle, started, pidfd)) => {
                let next = Cell::new(0);
                Ok((Self { runtime, bundle, pidfd, cgroup, next }, started))
            }
            Err(error) => {
                let _ = cgroup.kill(KILL);
                if place.join(call::STATE).exists() {
                    let _ = runtime.call(&["delete", "--force"], DELETE);
                }
                cgroup.remove();
                remains::remove(&place);
                Err(error)
            }
        }
    }

    fn create(
        plan: &ContainerPlan,
        place: &Path,
        given: GivenFds,
        stdio: Stdio,
        runtime: Runtime,
    ) -> Result<(Bundle, Started, OwnedFd), StartError> {
        let bundle = prepare_external(plan, given, place)?;
        runtime.note(place)?;
        let bundle_path = place.display().to_string();
        let words = ["create", "--bundle", &bundle_path];
        let born = Birth::new(place, "init", &plan.process)?;
        let started = born.call(&runtime, &words, stdio, CREATE, "create")?;
        runtime
            .call(&["start"], START)
            .map_err(|failure| failure.refused("OCI runtime start failed"))?;
        let pidfd = started.pidfd.try_clone();
        let pidfd = pidfd.map_err(|error| StartError::system("duplicate a descriptor", error))?;
        Ok((bundle, started, pidfd))
    }

    /// Starts a further process in the container.
    pub fn exec(&self, plan: &ExecPlan, stdio: Stdio) -> Result<Started, StartError> {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        let place = self.bundle.place();
        let document = Removed(place.join(format!("exec-{number}.json")));
        self.bundle.write_process(&plan.process, &document.0)?;
        let path = document.0.display().to_string();
        let words = ["exec", "--detach", "--process", &path];
        let born = Birth::new(place, &format!("exec-{number}"), &plan.process)?;
        born.call(&self.runtime, &words, stdio, EXEC, "exec")
    }

    /// A signal to the first process.
    pub fn signal(&self, signal: i32) -> Result<(), StartError> {
        let number = signal.to_string();
        match self.runtime.call_after(&["kill"], &[&number], SHORT) {
            Ok(()) => Ok(()),
            // Nothing that a runtime does may stand between a container and its end.
            Err(_) if signal == SIGKILL => {
                let _ = process::pidfd_signal(self.pidfd.as_fd(), SIGKILL);
                Ok(())
            }
            Err(failure) => Err(failure.plain()),
        }
    }

    /// SIGKILL to all of it.
    pub fn kill_all(&self, deadline: Duration) -> Result<(), StartError> {
        self.cgroup.kill(deadline)?;
        // Where the runtime put it into no cgroup that we know of.
        let _ = process::pidfd_signal(self.pidfd.as_fd(), SIGKILL);
        Ok(())
    }

    /// Stops every process, or lets them go on.
    pub fn freeze(&self, frozen: bool) -> Result<(), StartError> {
        let word = if frozen { "pause" } else { "resume" };
        self.runtime.call(&[word], SHORT).map_err(|failure| failure.plain())
    }

    /// Sets limits while it runs.
    pub fn update(&self, limits: &Limits) -> Result<(), StartError> {
        let document = Removed(self.bundle.place().join("limits.json"));
        self.bundle.write_limits(limits, &document.0)?;
        let path = document.0.display().to_string();
        let told = self.runtime.call(&["update", "--resources", &path], SHORT);
        told.map_err(|failure| failure.plain())
    }

    /// Readable when the kernel was short of memory for it.
    pub fn watch_oom(&self) -> Option<OomWatch> {
        self.cgroup.open()?.watch_oom().ok()
    }

    /// How many processes the kernel killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        self.cgroup.open().map_or(0, |cgroup| cgroup.oom_kills())
    }

    /// What a file of its cgroup says.
    pub fn cgroup_text(&self, controller: &str, file: &str) -> Option<String> {
        self.cgroup.open()?.read(controller, file)
    }

    /// Every process in its cgroup.
    pub fn processes(&self) -> Vec<i32> {
        self.cgroup.open().map_or_else(Vec::new, |cgroup| cgroup.processes())
    }

    /// Takes back what the kernel does not take back by itself.
    pub fn clean_up(self) {
        let _ = self.cgroup.kill(KILL);
        let _ = self.runtime.call(&["delete", "--force"], DELETE);
        self.cgroup.remove();
        let place = self.bundle.place().to_owned();
        drop(self.bundle);
        remains::remove(&place);
    }
}

/// A file that goes with its value.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A process that is about to be made by the runtime: how we hear of it.
struct Birth {
    pid_file: Removed,
    console: Option<Console>,
    size: Option<(u16, u16)>,
}

impl Birth {
    fn new(place: &Path, name: &str, plan: &ProcessPlan) -> Result<Self, StartError> {
        let console = plan.tty.then(|| Console::listen(place, name)).transpose()?;
        Ok(Self {
            pid_file: Removed(place.join(format!("{name}.pid"))),
            console,
            size: plan.console_size,
        })
    }

    fn call(
        self,
        runtime: &Runtime,
        words: &[&str],
        stdio: Stdio,
        deadline: Duration,
        what: &str,
    ) -> Result<Started, StartError> {
        let pid_file = self.pid_file.0.display().to_string();
        let mut words = words.to_vec();
        words.extend(["--pid-file", &pid_file]);
        let socket = self.console.as_ref().map(|console| console.name().to_owned());
        if let Some(socket) = &socket {
            words.extend(["--console-socket", socket]);
        }
        runtime
            .call_with(&words, stdio, deadline)
            .map_err(|failure| failure.refused(&format!("OCI runtime {what} failed")))?;
        let text = std::fs::read_to_string(&self.pid_file.0).map_err(|error| {
            StartError::system("read what the runtime says of the process", error)
        })?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| {
            StartError::new(
                FailureReason::System,
                format!("the runtime {} gives {text:?} for a process id", runtime.name()),
            )
        })?;
        // It is our child by now, so that its number cannot be another's.
        let pidfd = pidfd_open(pid, PidfdFlags::empty())
            .map_err(|errno| StartError::system("hold the process", errno))?;
        let console = self.console.map(Console::receive).transpose()?;
        if let (Some(console), Some((rows, columns))) = (&console, self.size) {
            let _ = hoy_runtime::resize(console, rows, columns);
        }
        Ok(Started { pid, pidfd, console })
    }
}
