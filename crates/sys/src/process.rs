//! Making processes and ending them.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use rustix::process::Pid;

use crate::check;

/// Namespaces for a new process, and where it begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneArgs<'a> {
    /// `CLONE_NEW*` of <linux/sched.h>.
    pub namespaces: u64,
    /// A cgroup v2 directory to begin in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// A child of the caller's parent, beside the caller.
    pub sibling: bool,
    /// All that it has open beside the standard streams, sorted; absent, all that the caller has.
    /// What else it captures must not be used there.
    pub keep: Option<&'a [RawFd]>,
}

pub const NEWNS: u64 = libc::CLONE_NEWNS as u64;
pub const NEWUTS: u64 = libc::CLONE_NEWUTS as u64;
pub const NEWIPC: u64 = libc::CLONE_NEWIPC as u64;
pub const NEWPID: u64 = libc::CLONE_NEWPID as u64;
pub const NEWNET: u64 = libc::CLONE_NEWNET as u64;
pub const NEWCGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
pub const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;

const CLONE_PARENT: u64 = libc::CLONE_PARENT as u64;
pub(crate) const CLONE_PIDFD: u64 = libc::CLONE_PIDFD as u64;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args`, version 2.
#[repr(C)]
#[derive(Default)]
pub(crate) struct RawCloneArgs {
    pub flags: u64,
    pub pidfd: u64,
    pub child_tid: u64,
    pub parent_tid: u64,
    pub exit_signal: u64,
    pub stack: u64,
    pub stack_size: u64,
    pub tls: u64,
    pub set_tid: u64,
    pub set_tid_size: u64,
    pub cgroup: u64,
}

/// Runs `child` in a new process with memory of its own; what it returns is its exit status.
///
/// Only from a process with a single thread: the copy would otherwise inherit locks that nobody
/// is left to release. Anything else is refused with EDEADLK.
pub fn spawn(args: CloneArgs<'_>, child: impl FnOnce() -> i32) -> io::Result<(Pid, OwnedFd)> {
    alone()?;
    let mut pidfd: libc::c_int = -1;
    let mut raw = RawCloneArgs {
        flags: args.namespaces | CLONE_PIDFD,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..RawCloneArgs::default()
    };
    if args.sibling {
        // The parent hears of its end as it would hear of the caller's.
        raw.flags |= CLONE_PARENT;
        raw.exit_signal = 0;
    }
    if let Some(cgroup) = args.cgroup {
        raw.flags |= CLONE_INTO_CGROUP;
        raw.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `raw` is a valid clone_args of the given size, and `pidfd` outlives the call. No
    // CLONE_VM: the child has a copy of this memory and of the only thread's stack, so it runs as
    // after fork.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut raw, size_of::<RawCloneArgs>()) };
    match check(result)? {
        0 => match args.keep.map_or(Ok(()), crate::apart::close_all_but) {
            Ok(()) => run_and_exit(child),
            Err(_) => exit_now(255),
        },
        pid => {
            // SAFETY: the kernel has just made this descriptor for us (CLONE_PIDFD).
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            Ok((pid.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?, pidfd))
        }
    }
}

/// As [`spawn`] without namespaces, where a seccomp filter refuses clone3: inside of containers.
pub fn fork(child: impl FnOnce() -> i32) -> io::Result<Pid> {
    alone()?;
    // SAFETY: this is the only thread, so that nothing in the copied memory is held by another.
    match check(unsafe { libc::fork() }.into())? {
        0 => run_and_exit(child),
        pid => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            pid.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
        }
    }
}

/// What a new process does: never back into the code of the one that made it.
fn run_and_exit(child: impl FnOnce() -> i32) -> ! {
    exit_now(std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(255))
}

/// Fails where the calling process has another thread.
fn alone() -> io::Result<()> {
    let crowded = || io::Error::from_raw_os_error(libc::EDEADLK);
    // To leave the thread group is no change for a process of one thread, and refused to any other.
    match unshare(libc::CLONE_THREAD as u64) {
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(crowded()),
        // Inside of a container a filter forbids to ask that. A directory has two links and one
        // for each directory in it.
        Err(_) => match std::fs::metadata("/proc/self/task")?.nlink() {
            3 => Ok(()),
            _ => Err(crowded()),
        },
    }
}

/// Ends this process without running anything that was registered for its end.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: the process ends, or the call fails; no memory is touched.
    unsafe { libc::syscall(libc::SYS_exit_group, status) };
    // A filter that forbids to end: `_exit` would try for ever.
    std::process::abort()
}

/// Leaves namespaces behind for new ones. Of the calling thread only.
pub fn unshare(namespaces: u64) -> io::Result<()> {
    // Sharing less memory or fewer descriptors is not asked for here: only namespaces.
    let all = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET | NEWCGROUP;
    // SAFETY: unshare(2) with namespace flags changes nothing that Rust relies on.
    check(unsafe { libc::unshare((namespaces & all) as libc::c_int) }.into()).map(drop)
}

/// Enters namespaces: by a namespace's descriptor, or several by a pidfd.
pub fn setns(target: BorrowedFd<'_>, namespaces: u64) -> io::Result<()> {
    // SAFETY: setns(2) takes any descriptor and checks it.
    check(unsafe { libc::setns(target.as_raw_fd(), namespaces as libc::c_int) }.into()).map(drop)
}

/// Sends any signal, real-time ones too.
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers but a null one, which means "as kill(2)".
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    check(result).map(drop)
}

/// Sets every signal back to its default action and unblocks all: what a fresh program expects.
pub fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is always a valid action; numbers that the C library keeps for itself
        // are refused by it.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: an all-zero sigset_t is valid, sigemptyset makes it empty.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Blocks every signal: for who is about to become a program that waits for them, and for which
/// none that comes before it does may be lost.
pub fn block_signals() {
    // SAFETY: an all-zero sigset_t is valid, sigfillset makes it full.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
}

/// Ignores a signal. For SIGTERM and the like in a supervisor that must outlive them.
pub fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN is always a valid action.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Gives a signal its default action, as SIGPIPE in a command line.
pub fn default_signal(signal: i32) {
    // SAFETY: SIG_DFL is always a valid action.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// A descriptor on which the given signals, blocked from now on, can be read.
pub fn signal_fd(signals: &[i32]) -> io::Result<File> {
    // SAFETY: the set is initialised by sigemptyset before use, and the pointers outlive the calls.
    let fd = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()).into())?;
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    check(fd.into())?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// A child that has ended and that nobody has waited for yet; it stays so.
pub fn ended_child() -> Option<Pid> {
    // SAFETY: an all-zero siginfo_t is valid, and it outlives the call.
    let (result, info) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        (libc::waitid(libc::P_ALL, 0, &raw mut info, options), info)
    };
    // SAFETY: the kernel has filled in what waitid(2) fills in, or left the zeroes.
    let pid = unsafe { info.si_pid() };
    if result == 0 { Pid::from_raw(pid) } else { None }
}

/// Begins a session keyring of this process's own.
pub fn new_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name means an anonymous keyring.
    check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<u8>()) })
        .map(drop)
}

/// Marks every descriptor from `first` on close-on-exec.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    // SAFETY: only flags of descriptors are changed.
    check(unsafe {
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC)
    })
    .map(drop)
}

/// A resource limit by the kernel's number; u64::MAX is unlimited.
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the new limit outlives the call, the old one is not asked for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            &raw const limit,
            std::ptr::null_mut::<libc::rlimit64>(),
        )
    };
    check(result).map(drop)
}

/// Raises a hard limit to at least `hard` and leaves the soft one: what a process can set itself
/// once it is root no more.
pub fn raise_hard_limit(resource: u32, hard: u64) -> io::Result<()> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the old limit is written to `limit`, which outlives the call; none is set.
    let result = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            std::ptr::null::<libc::rlimit64>(),
            &raw mut limit,
        )
    };
    check(result)?;
    if limit.rlim_max < hard { set_rlimit(resource, limit.rlim_cur, hard) } else { Ok(()) }
}

/// As whom this thread touches files from now on. Answered by nothing: ask again with -1 to know.
pub fn set_file_ids(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: setfsgid and setfsuid have no preconditions.
    let now = unsafe {
        libc::setfsgid(gid);
        libc::setfsuid(uid);
        (libc::setfsuid(u32::MAX), libc::setfsgid(u32::MAX))
    };
    let wanted = (uid.cast_signed(), gid.cast_signed());
    if now == wanted { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EPERM)) }
}

/// A signal to a process and its group's leader only.
pub fn kill(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: kill(2) checks both numbers.
    check(unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) }.into()).map(drop)
}
