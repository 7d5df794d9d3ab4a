//! From inside the container's namespaces to its program: the same for its first process and for
//! further ones.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use hoy_rootfd::{Links, RootError, RootFd};
use hoy_sys::exec::{CStringArray, execve};
use hoy_sys::{process, seccomp};
use hoy_weak::{Protection, without};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::Never;
use crate::error::{FailureReason, StartError, text};
use crate::lsm;
use crate::plan::ProcessPlan;
use crate::running::Stdio;
use crate::starting::Doing;
use crate::users::Credentials;

/// As what the program is to run: told while our own proc is at hand, true from its first
/// instruction on.
pub(super) fn confine(proc: &OwnedFd, plan: &ProcessPlan, role: Role) -> Result<(), StartError> {
    lsm::confine(proc, &plan.labels).map_err(|error| {
        let reason = if error.missing { FailureReason::NotFound } else { FailureReason::System };
        role.failure(reason, &error.text)
    })
}

/// Which of a container's processes is about to begin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
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
pub(super) fn program(
    plan: &ProcessPlan,
    credentials: &Credentials,
    stdio: &Stdio,
    terminal: Option<OwnedFd>,
    role: Role,
    channel: &OwnedFd,
) -> Result<Never, StartError> {
    let failed = |doing: &'static str| move |errno: Errno| StartError::system(doing, errno);
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::process::setsid().map_err(failed("begin a session"))?;
    streams(stdio, terminal, credentials.uid, plan.console_size)?;
    Doing::Directory.tell(channel);
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
    Doing::Program.tell(channel);
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
