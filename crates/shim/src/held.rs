//! A running container, whichever runtime made it.

use std::time::Duration;

use hoy_cgroup::{Limits, OomWatch};
use hoy_runtime::{
    ContainerPlan, ExecPlan, GivenFds, Refusal, Running, StartError, Started, Starting, Stdio,
    prepare,
};

use crate::external::External;

/// What the supervisor holds of it.
#[derive(Debug)]
pub(crate) enum Held {
    BuiltIn(Running),
    External(Box<External>),
}

/// A further process.
#[derive(Debug)]
pub(crate) enum Further {
    Started(Started),
    Starting(Starting),
}

impl Held {
    /// Makes the container and starts its program. On failure nothing of it remains but what is
    /// told with that.
    pub fn start(
        plan: ContainerPlan,
        given: GivenFds,
        stdio: Stdio,
    ) -> Result<(Self, Started), Refusal> {
        if plan.external.is_some() {
            let (external, started) = External::start(&plan, given, stdio)?;
            return Ok((Self::External(Box::new(external)), started));
        }
        let (running, started) = prepare(plan, given)?.spawn(stdio)?;
        Ok((Self::BuiltIn(running), started))
    }

    /// Begins a further process in the container.
    pub fn exec(&self, plan: &ExecPlan, stdio: Stdio) -> Result<Further, StartError> {
        match self {
            Self::BuiltIn(running) => running.exec(plan, stdio).map(Further::Starting),
            Self::External(external) => external.exec(plan, stdio).map(Further::Started),
        }
    }

    /// A signal to the first process.
    pub fn signal(&self, signal: i32) -> Result<(), StartError> {
        match self {
            Self::BuiltIn(running) => running.signal(signal),
            Self::External(external) => external.signal(signal),
        }
    }

    /// SIGKILL to all of it.
    pub fn kill_all(&self, deadline: Duration) -> Result<(), StartError> {
        match self {
            Self::BuiltIn(running) => running.kill_all(deadline),
            Self::External(external) => external.kill_all(deadline),
        }
    }

    /// Stops every process, or lets them go on.
    pub fn freeze(&self, frozen: bool) -> Result<(), StartError> {
        match self {
            Self::BuiltIn(running) => running.freeze(frozen),
            Self::External(external) => external.freeze(frozen),
        }
    }

    /// Sets limits while it runs.
    pub fn update(&self, limits: &Limits) -> Result<(), StartError> {
        match self {
            Self::BuiltIn(running) => running.update(limits),
            Self::External(external) => external.update(limits),
        }
    }

    /// Readable when the kernel was short of memory for it; `None` where that cannot be watched.
    pub fn watch_oom(&self) -> Option<OomWatch> {
        match self {
            Self::BuiltIn(running) => running.watch_oom(),
            Self::External(external) => external.watch_oom(),
        }
    }

    /// How many processes the kernel killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        match self {
            Self::BuiltIn(running) => running.oom_kills(),
            Self::External(external) => external.oom_kills(),
        }
    }

    /// What a file of its cgroup says.
    pub fn cgroup_text(&self, controller: &str, file: &str) -> Option<String> {
        match self {
            Self::BuiltIn(running) => running.cgroup_text(controller, file),
            Self::External(external) => external.cgroup_text(controller, file),
        }
    }

    /// Every process in its cgroup.
    pub fn processes(&self) -> Vec<i32> {
        match self {
            Self::BuiltIn(running) => running.processes(),
            Self::External(external) => external.processes(),
        }
    }

    /// Takes back what the kernel does not take back by itself.
    pub fn clean_up(self) {
        match self {
            Self::BuiltIn(running) => running.clean_up(),
            Self::External(external) => external.clean_up(),
        }
    }
}
