//! Ground: cgroup v1 and v2 behind one typed API.
//!
//! Which hierarchy serves which controller is read from mountinfo, per controller: a machine may
//! have both. On v1 a process joins by writing `0` into each `tasks` file itself: writing another
//! process's id takes a lock that waits for RCU (10 ms). On v2 it is born in its cgroup.

mod dbus;
mod devices;
mod hierarchy;
mod limits;
mod oom;
mod support;
pub mod systemd;
mod usage;
mod v2devices;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use limits::{Setting, Version};

pub use dbus::BusError;
pub use hierarchy::{Hierarchies, Hierarchy};
pub use limits::{BlockLimits, Bound, Limits, PerDevice, Realtime, cpu_weight};
pub use oom::OomWatch;
pub use support::Support;
pub use usage::{BlockEntry, BlockUsage, CpuUsage, MemoryUsage, Meter, Usage, system_cpu};

/// Where a container's cgroup lies and what it may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CgroupPlan {
    /// Below the root of every hierarchy: `hoy` or what `--cgroup-parent` says. Relative, no `..`.
    /// For systemd the name of a slice.
    pub parent: String,
    /// The container's own directory below it.
    pub name: String,
    pub limits: Limits,
    /// The devices that the container may use; `None` allows all (privileged).
    pub devices: Option<Vec<DeviceRule>>,
    pub driver: Driver,
}

/// Who makes cgroups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Driver {
    #[default]
    Cgroupfs,
    /// The init system, as a scope.
    Systemd,
}

/// One line of the device allow list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// `a`, `b` or `c`.
    pub kind: char,
    /// `None` is `*`.
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Of `rwm`.
    pub access: String,
}

/// What went wrong with which cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("{operation} cgroup {path}: {}", plain(.source))]
    Io { operation: &'static str, path: String, source: io::Error },
    #[error("set the {limit} of cgroup {path} to {value}: {}", plain(.source))]
    Limit { limit: &'static str, value: String, path: String, source: io::Error },
    #[error("{operation} {unit}: {source}")]
    Systemd { operation: &'static str, unit: String, source: BusError },
    #[error("this kernel has no {0} for cgroups")]
    Missing(&'static str),
    #[error("invalid cgroup name {0:?}")]
    Name(String),
    #[error("cgroup {0} is still populated")]
    Busy(String),
}

/// A container's cgroup in all hierarchies.
#[derive(Debug)]
pub struct Cgroup {
    path: String,
    members: Vec<Member>,
    /// Its name, if it is one of systemd's scopes.
    unit: Option<String>,
    holder: Option<systemd::Holder>,
}

/// Its directory in one of them.
#[derive(Debug)]
struct Member {
    hierarchy: Hierarchy,
    directory: OwnedFd,
}

impl Cgroup {
    /// Makes the directories and sets the limits. On failure nothing of it remains.
    pub fn create(plan: &CgroupPlan) -> Result<Self, CgroupError> {
        let hierarchies = Hierarchies::of_this_machine()?;
        let path = path_of(plan, &hierarchies)?;
        let mut cgroup =
            Self { path: path.clone(), members: Vec::new(), unit: unit_of(plan), holder: None };
        if cgroup.unit.is_some() {
            match systemd::start(plan, &hierarchies) {
                Ok(holder) => cgroup.holder = Some(holder),
                Err(error) => {
                    cgroup.remove();
                    return Err(error);
                }
            }
        }
        for hierarchy in hierarchies.used() {
            let made = match (&cgroup.holder, hierarchies.unified()) {
                // There it is, with all controllers: delegated.
                (Some(_), true) => hierarchy
                    .open(&path)
                    .and_then(|found| found.ok_or_else(|| CgroupError::Name(path.clone()))),
                _ => hierarchy.make(&path),
            };
            match made {
                Ok(directory) => {
                    cgroup.members.push(Member { hierarchy: hierarchy.clone(), directory });
                }
                Err(error) => {
                    cgroup.remove();
                    return Err(error);
                }
            }
        }
        if let Err(error) = cgroup.limit(plan) {
            cgroup.remove();
            return Err(error);
        }
        Ok(cgroup)
    }

    /// Finds a cgroup that exists already, in whatever hierarchies it is left.
    pub fn open(plan: &CgroupPlan) -> Result<Option<Self>, CgroupError> {
        let hierarchies = Hierarchies::of_this_machine()?;
        let path = path_of(plan, &hierarchies)?;
        let mut members = Vec::new();
        for hierarchy in hierarchies.used() {
            if let Some(directory) = hierarchy.open(&path)? {
                members.push(Member { hierarchy: hierarchy.clone(), directory });
            }
        }
        let unit = unit_of(plan);
        Ok((!members.is_empty()).then_some(Self { path, members, unit, holder: None }))
    }

    fn limit(&self, plan: &CgroupPlan) -> Result<(), CgroupError> {
        self.give_parents_realtime(plan)?;
        self.write_limits(&plan.limits)?;
        if let Some(limits) = self.with_holder(&plan.limits) {
            self.write_limits(&limits)?;
        }
        match &plan.devices {
            Some(rules) => devices::allow_only(self, rules),
            None => Ok(()),
        }
    }

    /// Sets limits of a running container.
    pub fn update(&self, limits: &Limits) -> Result<(), CgroupError> {
        if let Some(unit) = &self.unit {
            systemd::update(unit, limits, |controller| self.version(controller))?;
        }
        self.write_limits(limits)
    }

    /// To be said by the container's first process once it is in its cgroup, which until then
    /// somebody else may have to keep.
    pub fn inhabited(&self) {
        if let Some(holder) = &self.holder {
            holder.let_go();
        }
    }

    /// To be said by its supervisor once the container's first process runs.
    pub fn begun(&mut self, limits: &Limits) {
        let changed = self.with_holder(limits).is_some();
        drop(self.holder.take());
        if changed {
            // Of one that has ended already, nothing is left to be limited.
            let _ = self.write_limits(&Limits { pids: limits.pids, ..Limits::default() });
        }
    }

    /// What is different as long as there is one process more. On v1 it does not keep another from
    /// joining.
    fn with_holder(&self, limits: &Limits) -> Option<Limits> {
        match limits.pids {
            Some(Bound::At(pids))
                if self.holder.is_some() && self.version("pids") == Version::V2 =>
            {
                Some(Limits { pids: Some(Bound::At(pids.saturating_add(1))), ..Limits::default() })
            }
            _ => None,
        }
    }

    /// What is refused is tried once more after the others: whether memory or memory with swap must
    /// be raised first depends on what was.
    fn write_limits(&self, limits: &Limits) -> Result<(), CgroupError> {
        let mut refused = Vec::new();
        for setting in limits::settings(limits, |controller| self.version(controller)) {
            match self.apply(&setting) {
                Err(CgroupError::Limit { source, .. })
                    if source.kind() == io::ErrorKind::InvalidInput =>
                {
                    refused.push(setting);
                }
                other => other?,
            }
        }
        refused.iter().try_for_each(|setting| self.apply(setting))
    }

    fn version(&self, controller: &str) -> Version {
        match self.find(controller) {
            Some(member) if member.hierarchy.unified => Version::V2,
            None if self.members.iter().all(|member| member.hierarchy.unified) => Version::V2,
            _ => Version::V1,
        }
    }

    fn apply(&self, setting: &Setting) -> Result<(), CgroupError> {
        let member = self.find(setting.controller).ok_or(CgroupError::Missing(setting.limit))?;
        for (file, value) in &setting.choices {
            match write_file(member.directory.as_fd(), file, value) {
                Ok(()) => return Ok(()),
                Err(source) if source.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(CgroupError::Limit {
                        limit: setting.limit,
                        value: value.clone(),
                        path: self.path.clone(),
                        source,
                    });
                }
            }
        }
        Err(CgroupError::Missing(setting.limit))
    }

    /// Real-time time is handed down from the root and starts as nothing.
    fn give_parents_realtime(&self, plan: &CgroupPlan) -> Result<(), CgroupError> {
        let realtime = &plan.limits.realtime;
        let given = Limits {
            realtime: Realtime {
                runtime_us: realtime.parent_runtime_us,
                period_us: realtime.parent_period_us,
                ..Realtime::default()
            },
            ..Limits::default()
        };
        if given == Limits::default() || realtime.runtime_us.is_none() {
            return Ok(());
        }
        let hierarchies = Hierarchies::of_this_machine()?;
        let mut path = String::new();
        for part in plan.parent.trim_matches('/').split('/') {
            path = format!("{path}/{part}").trim_start_matches('/').to_owned();
            let members = Vec::new();
            let mut parent = Self { path: path.clone(), members, unit: None, holder: None };
            for hierarchy in hierarchies.used().filter(|hierarchy| hierarchy.has("cpu")) {
                if let Some(directory) = hierarchy.open(&path)? {
                    parent.members.push(Member { hierarchy: hierarchy.clone(), directory });
                }
            }
            parent.write_limits(&given)?;
        }
        Ok(())
    }

    /// Whether the kernel shows a file in the cgroup of a controller.
    pub(crate) fn shows(&self, controller: &str, file: &str) -> bool {
        self.find(controller).is_some_and(|member| {
            rustix::fs::accessat(
                &member.directory,
                file,
                rustix::fs::Access::EXISTS,
                AtFlags::empty(),
            )
            .is_ok()
        })
    }

    /// What is written in a file of a controller; for tests and figures.
    pub fn read(&self, controller: &str, file: &str) -> Option<String> {
        let member = self.find(controller)?;
        read_file(member.directory.as_fd(), file).ok()
    }

    /// A descriptor that becomes readable when the kernel ends a process for want of memory.
    pub fn watch_oom(&self) -> Result<OomWatch, CgroupError> {
        let member = self.find("memory").ok_or(CgroupError::Missing("memory controller"))?;
        OomWatch::new(member.directory.as_fd(), member.hierarchy.unified)
            .map_err(|source| self.failed("watch the memory of", &self.path, source))
    }

    fn find(&self, controller: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.hierarchy.has(controller))
    }

    fn write(&self, member: &Member, file: &str, value: &str) -> Result<(), CgroupError> {
        write_file(member.directory.as_fd(), file, value)
            .map_err(|source| self.failed("write", &format!("{} {file}", self.path), source))
    }

    fn failed(&self, operation: &'static str, path: &str, source: io::Error) -> CgroupError {
        CgroupError::Io { operation, path: path.to_owned(), source }
    }

    /// The directory to be born in (CLONE_INTO_CGROUP), where there is v2.
    pub fn unified(&self) -> Option<BorrowedFd<'_>> {
        let unified = self.members.iter().find(|member| member.hierarchy.unified);
        unified.map(|member| member.directory.as_fd())
    }

    /// The same for a further process. Where the container has handed controllers down itself, as
    /// an init system or an engine in it does, no process can be in its own directory: then it is
    /// the one where its first process is.
    pub fn unified_of(&self, first: i32) -> Option<OwnedFd> {
        let member = self.members.iter().find(|member| member.hierarchy.unified)?;
        let text = read_file(member.directory.as_fd(), "cgroup.subtree_control");
        if text.is_ok_and(|text| !text.trim().is_empty()) {
            let text = std::fs::read_to_string(format!("/proc/{first}/cgroup")).ok()?;
            let path = member.hierarchy.below(member.hierarchy.of_process(&text)?)?;
            let leaf = path.strip_prefix(&self.path)?.strip_prefix('/')?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let empty = Mode::empty();
            return rustix::fs::openat2(&member.directory, leaf, flags, empty, resolve).ok();
        }
        member.directory.try_clone().ok()
    }

    /// Opens what a process must write `0` to in order to join the v1 hierarchies.
    pub fn task_files(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        let v1 = self.members.iter().filter(|member| !member.hierarchy.unified);
        v1.map(|member| {
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&member.directory, "tasks", flags, Mode::empty())
                .map_err(|errno| self.failed("open tasks of", &self.path, errno.into()))
        })
        .collect()
    }

    /// For a mount of the container's own view: each v1 hierarchy's name and directory.
    pub fn views(&self) -> impl Iterator<Item = (&str, bool, BorrowedFd<'_>)> {
        self.members.iter().map(|member| {
            (member.hierarchy.name.as_str(), member.hierarchy.unified, member.directory.as_fd())
        })
    }

    /// Every process in it and in what it has made below, in whichever hierarchy it still is.
    pub fn processes(&self) -> Vec<i32> {
        let mut out = Vec::new();
        for member in &self.members {
            hierarchy::processes(member.directory.as_fd(), &mut out);
        }
        out.sort_unstable();
        out.dedup();
        out
    }

    /// SIGKILL to every process in it, until none is left or the deadline is reached.
    pub fn kill(&self, deadline: Duration) -> Result<(), CgroupError> {
        let started = Instant::now();
        loop {
            let unified = self.members.iter().find(|member| member.hierarchy.unified);
            let at_once = unified.is_some_and(|member| {
                write_file(member.directory.as_fd(), "cgroup.kill", "1").is_ok()
            });
            let processes = self.processes();
            if processes.is_empty() {
                return Ok(());
            }
            if !at_once {
                for pid in processes {
                    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                        // One that has just gone is what is wanted.
                        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                    }
                }
            }
            if started.elapsed() >= deadline {
                return Err(CgroupError::Busy(self.path.clone()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Stops every process in it, or lets them go on. Where not all can be stopped, none is.
    pub fn freeze(&self, frozen: bool) -> Result<(), CgroupError> {
        let done = self.set_frozen(frozen);
        if frozen && done.is_err() {
            let _ = self.set_frozen(false);
        }
        done
    }

    fn set_frozen(&self, frozen: bool) -> Result<(), CgroupError> {
        let v1 = self.members.iter().find(|m| !m.hierarchy.unified && m.hierarchy.has("freezer"));
        if let Some(member) = v1 {
            return self.freeze_v1(member, frozen);
        }
        let unified = self.members.iter().find(|member| member.hierarchy.unified);
        let member = unified.ok_or(CgroupError::Missing("freezer"))?;
        self.write(member, "cgroup.freeze", if frozen { "1" } else { "0" })?;
        let wanted = if frozen { "frozen 1" } else { "frozen 0" };
        self.await_text(member, "cgroup.events", wanted)
    }

    fn freeze_v1(&self, member: &Member, frozen: bool) -> Result<(), CgroupError> {
        let state = if frozen { "FROZEN" } else { "THAWED" };
        self.write(member, "freezer.state", state)?;
        self.await_text(member, "freezer.state", state)
    }

    fn await_text(&self, member: &Member, file: &str, wanted: &str) -> Result<(), CgroupError> {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(2) {
            let text = read_file(member.directory.as_fd(), file)
                .map_err(|source| self.failed("read", &self.path, source))?;
            if text.contains(wanted) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(CgroupError::Busy(self.path.clone()))
    }

    /// How many processes of it the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> u64 {
        let Some(member) = self.find("memory") else { return 0 };
        let file = if member.hierarchy.unified { "memory.events" } else { "memory.oom_control" };
        let text = read_file(member.directory.as_fd(), file).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    }

    /// Removes the directories; one that is still busy is tried again for a short while.
    pub fn remove(mut self) {
        drop(self.holder.take());
        if let Some(unit) = &self.unit {
            systemd::stop(unit);
            // The one it keeps its tree in; what it leaves in others is removed below.
            let named = self.members.iter().find(|member| member.hierarchy.has(hierarchy::SYSTEMD));
            let v2 = || self.members.iter().find(|member| member.hierarchy.unified);
            if let Some(member) = named.or_else(v2) {
                member.hierarchy.await_systemd(&self.path);
            }
        }
        for member in &self.members {
            member.hierarchy.remove(&self.path);
            if self.unit.is_some() {
                member.hierarchy.remove_slices(&self.path);
            }
        }
    }
}

/// To be done by a daemon at its start: see [`Hierarchy`]. Where cgroups are the machine's own, or
/// of v1, there is nothing to do.
pub fn make_room() -> Result<(), CgroupError> {
    let hierarchies = Hierarchies::of_this_machine()?;
    match hierarchies.v2() {
        Some(v2) if hierarchies.unified() => v2.vacate("init"),
        _ => Ok(()),
    }
}

/// Removes a parent of containers where nothing is left in it.
pub fn remove_parent(parent: &str) -> Result<(), CgroupError> {
    let parent = parent.trim_matches('/');
    if parent.is_empty() || parent.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(CgroupError::Name(parent.to_owned()));
    }
    for hierarchy in Hierarchies::of_this_machine()?.all() {
        // One that holds something is refused by the kernel: and so it stays.
        let _ = std::fs::remove_dir(hierarchy.root.join(parent));
    }
    Ok(())
}

/// Removes a container's directories in every hierarchy, also where hoy itself makes none: another
/// runtime does.
pub fn remove_everywhere(plan: &CgroupPlan) -> Result<(), CgroupError> {
    let hierarchies = Hierarchies::of_this_machine()?;
    let path = path_of(plan, &hierarchies)?;
    if let Some(unit) = unit_of(plan) {
        systemd::stop(&unit);
    }
    for hierarchy in hierarchies.all() {
        hierarchy.remove(&path);
    }
    Ok(())
}

fn unit_of(plan: &CgroupPlan) -> Option<String> {
    (plan.driver == Driver::Systemd).then(|| systemd::unit(plan))
}

/// The kernel's words for an error, without Rust's "(os error N)".
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}

fn path_of(plan: &CgroupPlan, hierarchies: &Hierarchies) -> Result<String, CgroupError> {
    if plan.driver == Driver::Systemd {
        return systemd::path(plan, hierarchies);
    }
    let path = format!("{}/{}", plan.parent.trim_matches('/'), plan.name);
    let bad = |part: &str| matches!(part, "" | "." | "..") || part.contains('\0');
    if path.trim_start_matches('/').split('/').any(bad) {
        return Err(CgroupError::Name(path));
    }
    Ok(path.trim_start_matches('/').to_owned())
}

pub(crate) fn write_file(directory: BorrowedFd<'_>, file: &str, value: &str) -> io::Result<()> {
    let fd = rustix::fs::openat(directory, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    loop {
        match rustix::io::write(&fd, value.as_bytes()) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

pub(crate) fn read_file(directory: BorrowedFd<'_>, file: &str) -> io::Result<String> {
    let fd = rustix::fs::openat(directory, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    io::Read::read_to_string(&mut std::fs::File::from(fd), &mut text)?;
    Ok(text)
}

pub(crate) fn remove_directory(parent: BorrowedFd<'_>, path: &str) {
    let started = Instant::now();
    loop {
        match rustix::fs::unlinkat(parent, path, AtFlags::REMOVEDIR) {
            Err(Errno::BUSY) if started.elapsed() < Duration::from_secs(1) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            _ => return,
        }
    }
}
