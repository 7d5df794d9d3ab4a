//! What a new process does between its birth and its program.
//!
//! Everything that fails is told to the parent in words; the process then ends.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hoy_rootfd::{Links, RootError, RootFd};
use hoy_sys::exec::{CStringArray, execve};
use hoy_sys::process::{self, CloneArgs};
use hoy_sys::seccomp;
use hoy_types::IdMaps;
use hoy_weak::{Protection, without};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount, unmount,
};
use rustix::process::{DumpableBehavior, Pid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::error::{FailureReason, StartError, text};
use crate::lsm;
use crate::plan::{NamespaceMode, ProcessLabels, ProcessPlan};
use crate::prepare::Prepared;
use crate::rootfs::as_root_of;
use crate::running::Stdio;
use crate::tree;
use crate::users::Credentials;

/// What the child tells its parent: a descriptor of its terminal, or why it failed. Silence and a
/// closed channel mean that the program runs.
pub(crate) const CONSOLE: u8 = 1;
pub(crate) const FAILED: u8 = 2;
/// The number and the descriptor of the process that begins instead of the one that was made.
pub(crate) const BORN: u8 = 3;

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

/// Tells the parent of the process that is the container's.
fn born(channel: &OwnedFd, pid: Pid, pidfd: &OwnedFd) -> Result<(), StartError> {
    let mut message = vec![BORN];
    message.extend(pid.as_raw_nonzero().get().to_ne_bytes());
    hoy_sys::socket::send(channel.as_fd(), &message, &[pidfd.as_fd()])
        .map(drop)
        .map_err(|error| StartError::system("hand the process over", error))
}

pub(crate) fn report(channel: &OwnedFd, error: &StartError) -> i32 {
    let reason = match error.reason {
        FailureReason::NotFound => 0,
        FailureReason::NotExecutable => 1,
        FailureReason::Invalid => 2,
        FailureReason::State => 3,
        FailureReason::System => 4,
    };
    let mut message = vec![FAILED, reason];
    message.extend(error.message.bytes().take(4000));
    // If the parent is gone there is nobody to tell. A filter that is in force already leaves one
    // of both more often than a certain one.
    if rustix::io::write(channel, &message).is_err() {
        let _ = hoy_sys::socket::send(channel.as_fd(), &message, &[]);
    }
    255
}

/// The inverse of `report`.
pub(crate) fn parse_report(message: &[u8]) -> StartError {
    let reason = match message.first() {
        Some(0) => FailureReason::NotFound,
        Some(1) => FailureReason::NotExecutable,
        Some(2) => FailureReason::Invalid,
        Some(3) => FailureReason::State,
        _ => FailureReason::System,
    };
    let text = String::from_utf8_lossy(message.get(1..).unwrap_or_default());
    StartError::new(reason, text.into_owned())
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
    program(&process_plan, &prepared.credentials, stdio, slave, Role::First)
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

/// As what the program is to run: told while our own proc is at hand, true from its first
/// instruction on.
fn confine(proc: &OwnedFd, plan: &ProcessPlan, role: Role) -> Result<(), StartError> {
    lsm::confine(proc, &plan.labels).map_err(|error| {
        let reason = if error.missing { FailureReason::NotFound } else { FailureReason::System };
        role.failure(reason, &error.text)
    })
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

/// Which of a container's processes is about to begin.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    First,
    Further,
}

impl Role {
    /// In the words of Docker's runtime, which names the phase for a container's first process.
    fn failure(self, reason: FailureReason, text: &str) -> StartError {
        let phase = if self == Self::First { "error during container init: " } else { "" };
        StartError::new(reason, format!("unable to start container process: {phase}{text}"))
    }
}

/// From a process inside the container's namespaces to its program.
fn program(
    plan: &ProcessPlan,
    credentials: &Credentials,
    stdio: &Stdio,
    terminal: Option<OwnedFd>,
    role: Role,
) -> Result<Never, StartError> {
    let failed = |doing: &'static str| move |errno: Errno| StartError::system(doing, errno);
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::setsid().map_err(failed("begin a session"))?;
    streams(stdio, terminal, credentials.uid, plan.console_size)?;
    working_directory(&plan.cwd, role)?;
    for limit in &plan.rlimits {
        match process::set_rlimit(limit.resource, limit.soft, limit.hard) {
            Ok(()) => {}
            // A host whose root may not raise limits: as much as it has.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => return Err(StartError::system("set a resource limit", error)),
        }
    }
    let environment = environment(plan, &credentials.home)?;
    let arguments = strings(&plan.args)?;
    let candidates = candidates(plan)?;
    // Nothing is opened from here on, and a filter may not know this call.
    if !without(Protection::ClosedDescriptors) {
        process::close_on_exec_from(3)
            .map_err(|error| StartError::system("close descriptors", error))?;
    }
    if !plan.no_new_privileges {
        load_filter(plan)?;
    }
    identity(plan, credentials)?;
    if plan.no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(failed("set no_new_privs"))?;
        load_filter(plan)?;
    }
    Err(execute(&candidates, &arguments, &environment, plan, role))
}

fn streams(
    stdio: &Stdio,
    terminal: Option<OwnedFd>,
    uid: u32,
    size: Option<(u16, u16)>,
) -> Result<(), StartError> {
    let failed = |errno: Errno| StartError::system("set up the standard streams", errno);
    let all = |stdin: BorrowedFd<'_>, stdout: BorrowedFd<'_>, stderr: BorrowedFd<'_>| {
        rustix::stdio::dup2_stdin(stdin)?;
        rustix::stdio::dup2_stdout(stdout)?;
        rustix::stdio::dup2_stderr(stderr)
    };
    match (terminal, stdio) {
        (Some(slave), _) => {
            rustix::process::ioctl_tiocsctty(&slave).map_err(failed)?;
            if let Some((rows, columns)) = size {
                // Before the program can ask for it.
                let _ = crate::running::resize(&slave, rows, columns);
            }
            if uid != 0 {
                let owner = Some(rustix::fs::Uid::from_raw(uid));
                rustix::fs::fchown(&slave, owner, None).map_err(failed)?;
            }
            all(slave.as_fd(), slave.as_fd(), slave.as_fd()).map_err(failed)
        }
        (None, Stdio::Pipes { stdin, stdout, stderr }) => {
            if uid != 0 {
                // /dev/stdout and the like can be opened again by whoever the program runs as.
                let owner = Some(rustix::fs::Uid::from_raw(uid));
                for stream in [stdin, stdout, stderr] {
                    if is_pipe(stream) {
                        rustix::fs::fchown(stream, owner, None).map_err(failed)?;
                    }
                }
            }
            all(stdin.as_fd(), stdout.as_fd(), stderr.as_fd()).map_err(failed)
        }
        (None, Stdio::Terminal) => Err(StartError::invalid("no terminal for the process")),
    }
}

pub(crate) fn is_pipe(stream: &OwnedFd) -> bool {
    rustix::fs::fstat(stream).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo
    })
}

/// Enters the working directory and proves that it lies inside (R5). A container's own is made if
/// it is missing; one that a further process names must be there.
fn working_directory(path: &str, role: Role) -> Result<(), StartError> {
    let failed = |errno: Errno| StartError::system(&format!("chdir to cwd ({path:?})"), errno);
    if !path.starts_with('/') {
        return Err(StartError::invalid("Cwd must be an absolute path"));
    }
    if without(Protection::WorkingDirectory) {
        return rustix::process::chdir(path).map_err(failed);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).map_err(failed)?;
    let root = RootFd::new(root);
    let directory = match role {
        Role::First => root.make_directories(path, 0o755),
        Role::Further => root.open(path, flags, Links::Inside),
    };
    let directory = directory.map_err(|error| unusable(path, role, &error))?;
    rustix::process::fchdir(&directory).map_err(failed)?;
    let current = rustix::process::getcwd(Vec::new()).map_err(failed)?;
    if current.to_bytes().first() != Some(&b'/') {
        return Err(StartError::invalid(format!(
            "the working directory {path:?} lies outside of the container"
        )));
    }
    Ok(())
}

fn unusable(path: &str, role: Role, error: &RootError) -> StartError {
    let reason = if error.is_missing() { FailureReason::NotFound } else { FailureReason::Invalid };
    let cause = error.io().map_or_else(|| error.to_string(), text);
    role.failure(reason, &format!("chdir to cwd ({path:?}) set in config.json failed: {cause}"))
}

fn c_string(text: &str) -> Result<CString, StartError> {
    CString::new(text).map_err(|_| StartError::invalid(format!("a NUL byte in {text:?}")))
}

fn strings(list: &[String]) -> Result<CStringArray, StartError> {
    let list = list.iter().map(|text| c_string(text)).collect::<Result<Vec<_>, _>>()?;
    Ok(CStringArray::new(list))
}

fn environment(plan: &ProcessPlan, home: &str) -> Result<CStringArray, StartError> {
    let mut all = plan.env.clone();
    if !all.iter().any(|entry| entry.starts_with("HOME=")) {
        all.push(format!("HOME={home}"));
    }
    if without(Protection::OwnEnvironment) {
        all.extend(std::env::vars().map(|(name, value)| format!("{name}={value}")));
    }
    strings(&all)
}

/// Where the command may lie: its own path, or each directory of PATH.
fn candidates(plan: &ProcessPlan) -> Result<Vec<CString>, StartError> {
    let command = plan.args.first().map(String::as_str).unwrap_or_default();
    if command.contains('/') {
        return Ok(vec![c_string(command)?]);
    }
    let path = plan.env.iter().rev().find_map(|entry| entry.strip_prefix("PATH="));
    let path = path.unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    path.split(':')
        .filter(|directory| directory.starts_with('/') && !command.is_empty())
        .map(|directory| c_string(&format!("{directory}/{command}")))
        .collect()
}

fn load_filter(plan: &ProcessPlan) -> Result<(), StartError> {
    if plan.seccomp.is_empty() || without(Protection::Filter) {
        return Ok(());
    }
    let program: Vec<seccomp::Instruction> = plan
        .seccomp
        .iter()
        .map(|i| seccomp::Instruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k })
        .collect();
    seccomp::load(&program, plan.seccomp_flags)
        .map_err(|error| StartError::system("load the seccomp filter", error))
}

/// Groups, user and capabilities: the bounding set first, while it can still be lowered.
fn identity(plan: &ProcessPlan, credentials: &Credentials) -> Result<(), StartError> {
    use rustix::thread::{
        clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
        set_thread_gid, set_thread_groups, set_thread_uid,
    };
    let failed = |doing: &'static str| move |errno: Errno| StartError::system(doing, errno);
    let have = rustix::thread::capabilities(None).map_err(failed("read the capabilities"))?;
    let granted = plan.capabilities & have.permitted.bits();
    for number in 0..64 {
        if granted >> number & 1 == 0 {
            match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number))
            {
                Ok(()) => {}
                // Beyond the kernel's last one.
                Err(Errno::INVAL) => break,
                Err(errno) => return Err(failed("lower the bounding set")(errno)),
            }
        }
    }
    let groups: Vec<rustix::fs::Gid> =
        credentials.groups.iter().map(|gid| rustix::fs::Gid::from_raw(*gid)).collect();
    if !without(Protection::Groups) {
        set_thread_groups(&groups).map_err(failed("set the groups"))?;
    }
    // The calls that Docker's runtime makes, since a filter that is in force already may allow no
    // others; with the capability, they set the real and the saved ids, too.
    let gid = rustix::fs::Gid::from_raw(credentials.gid);
    set_thread_gid(gid).map_err(failed("set the group"))?;
    let uid = rustix::fs::Uid::from_raw(credentials.uid);
    set_thread_uid(uid).map_err(failed("set the user"))?;
    // Somebody else than root has none left: leaving uid 0 cleared them.
    let effective = if credentials.uid == 0 { granted } else { 0 };
    let sets = CapabilitySets {
        effective: CapabilitySet::from_bits_retain(effective),
        permitted: CapabilitySet::from_bits_retain(effective),
        inheritable: if without(Protection::Inheritable) {
            CapabilitySet::from_bits_retain(granted)
        } else {
            CapabilitySet::empty()
        },
    };
    set_capabilities(None, sets).map_err(failed("set the capabilities"))?;
    clear_ambient_capability_set().map_err(failed("clear the ambient set"))
}

/// Tries the candidates in turn; says what was wrong as Docker's runtime does.
fn execute(
    candidates: &[CString],
    arguments: &CStringArray,
    environment: &CStringArray,
    plan: &ProcessPlan,
    role: Role,
) -> StartError {
    let command = plan.args.first().map(String::as_str).unwrap_or_default();
    let say = |reason, text: &str| role.failure(reason, &format!("exec: {command:?}: {text}"));
    let mut denied = false;
    for path in candidates {
        let error = execve(path, arguments, environment);
        match error.raw_os_error() {
            Some(libc_enoent) if libc_enoent == Errno::NOENT.raw_os_error() => {
                // The interpreter of a script or of a dynamic program can be what is missing.
                if command.contains('/')
                    && rustix::fs::statat(rustix::fs::CWD, path.as_c_str(), AtFlags::empty())
                        .is_ok()
                {
                    return say(
                        FailureReason::NotFound,
                        &format!("{command}: no such file or directory"),
                    );
                }
            }
            Some(code) if code == Errno::NOTDIR.raw_os_error() => {}
            Some(code) if code == Errno::ACCESS.raw_os_error() => {
                let directory =
                    rustix::fs::statat(rustix::fs::CWD, path.as_c_str(), AtFlags::empty())
                        .is_ok_and(|stat| {
                            rustix::fs::FileType::from_raw_mode(stat.st_mode)
                                == rustix::fs::FileType::Directory
                        });
                if command.contains('/') {
                    let text = if directory { "is a directory" } else { "permission denied" };
                    return say(FailureReason::NotExecutable, text);
                }
                denied |= !directory;
            }
            Some(code) if code == Errno::NOEXEC.raw_os_error() => {
                return StartError::new(
                    FailureReason::System,
                    format!("exec {}: exec format error", path.to_string_lossy()),
                );
            }
            _ => return say(FailureReason::System, &text(&error)),
        }
    }
    if denied {
        say(FailureReason::NotExecutable, "permission denied")
    } else if command.contains('/') {
        say(FailureReason::NotFound, &format!("stat {command}: no such file or directory"))
    } else {
        say(FailureReason::NotFound, "executable file not found in $PATH")
    }
}

/// What a further process of a running container begins with.
pub(crate) struct ExecChild<'a> {
    pub plan: &'a ProcessPlan,
    pub credentials: &'a Credentials,
    pub stdio: &'a Stdio,
    pub tasks: Vec<OwnedFd>,
    /// The container's first process: whose namespaces are entered.
    pub container: OwnedFd,
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

fn join(child: ExecChild<'_>, channel: &OwnedFd) -> Result<(), StartError> {
    process::reset_signals();
    join_cgroups(&child.tasks)?;
    drop(child.tasks);
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
        match program(child.plan, child.credentials, child.stdio, slave, Role::Further) {
            Ok(never) => match never {},
            Err(error) => report(channel, &error),
        }
    })
    .map_err(|error| StartError::system("make a process in the container", error))?;
    born(channel, pid, &pidfd)
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
