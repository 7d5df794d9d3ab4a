//! Starting a program from a process that has very much open, at a cost that does not grow with
//! it: fork(2) and posix_spawn(3) copy every descriptor only for the program to close it.

use std::ffi::c_void;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};
use rustix::io::DupFlags;
use rustix::process::Pid;

use crate::exec::CStringArray;
use crate::{check, process};

/// Enough for what a new process does before it is another program.
const STACK: usize = 64 << 10;

/// Starts programs with one descriptor of the caller's as standard input, and nothing else.
#[derive(Debug)]
pub struct Launcher {
    null: OwnedFd,
    /// A low number: a new process has no descriptor above it for as long as it is ours. What lies
    /// here while nobody starts anything is /dev/null.
    slot: Mutex<OwnedFd>,
}

/// What the new process needs; it shares our memory and writes the error there.
struct Start<'a> {
    image: RawFd,
    input: RawFd,
    null: RawFd,
    args: &'a CStringArray,
    env: &'a CStringArray,
    error: i32,
}

impl Launcher {
    /// To be made early: its descriptors get the lowest numbers that are free.
    pub fn new() -> io::Result<Self> {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let slot = rustix::io::fcntl_dupfd_cloexec(&null, 3)?;
        Ok(Self { null, slot: Mutex::new(slot) })
    }

    /// Starts the program in a file that is open, with all signals at their default. Waits until
    /// it has begun; the caller has to wait for its end. A script cannot be started this way.
    pub fn start(
        &self,
        image: BorrowedFd<'_>,
        args: &CStringArray,
        env: &CStringArray,
        input: BorrowedFd<'_>,
    ) -> io::Result<Pid> {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        rustix::io::dup3(input, &mut slot, DupFlags::CLOEXEC)?;
        let started = start(&mut Start {
            image: image.as_raw_fd(),
            input: slot.as_raw_fd(),
            null: self.null.as_raw_fd(),
            args,
            env,
            error: 0,
        });
        // The caller's end alone decides when the other side sees it closed.
        rustix::io::dup3(self.null.as_fd(), &mut slot, DupFlags::CLOEXEC)?;
        started
    }
}

fn start(start: &mut Start<'_>) -> io::Result<Pid> {
    let mut stack = vec![0_u128; STACK / size_of::<u128>()];
    let top = stack.as_mut_ptr_range().end.cast::<c_void>();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: the child runs `child` on a stack of its own, which is aligned and outlives it, as
    // does `start`: by CLONE_VFORK this thread goes on only when the child is another program or
    // has ended. The child shares our memory and, by all signals being blocked, runs nothing but
    // `child`, which allocates nothing, takes no lock and returns through no frame of ours.
    let pid = unsafe {
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) =
            (std::mem::zeroed(), std::mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let pid = libc::clone(child, top, flags, std::ptr::from_mut(start).cast());
        let error = io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        if pid < 0 { Err(error) } else { Ok(pid) }
    }?;
    drop(stack);
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::Other)?;
    if start.error == 0 {
        return Ok(pid);
    }
    let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    Err(io::Error::from_raw_os_error(start.error))
}

extern "C" fn child(start: *mut c_void) -> i32 {
    // SAFETY: this is what `start` has given, which looks at it again only when we are gone.
    let start = unsafe { &mut *start.cast::<Start<'_>>() };
    start.error = become_program(start).raw_os_error().unwrap_or(libc::EIO);
    127
}

fn become_program(start: &Start<'_>) -> io::Error {
    let last = start.image.max(start.input).max(start.null);
    let first = libc::c_uint::try_from(last + 1).unwrap_or(libc::c_uint::MAX);
    // SAFETY: the table of descriptors becomes this process's own, without those from `first` on,
    // which nothing here uses; the parent's stays as it is.
    let apart = unsafe {
        const CLOSE_RANGE_UNSHARE: libc::c_uint = 2;
        libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_UNSHARE)
    };
    if let Err(error) = check(apart) {
        return error;
    }
    for (from, to) in [(start.input, 0), (start.null, 1), (start.null, 2)] {
        // SAFETY: numbers of a table that is this process's own since the call above.
        if let Err(error) = check(unsafe { libc::dup2(from, to) }.into()) {
            return error;
        }
    }
    if let Err(error) = process::close_on_exec_from(3) {
        return error;
    }
    // The actions are this process's own: no handler of the parent's runs here.
    process::reset_signals();
    start.args.execute(start.image, start.env)
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::fs::File;
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    use rustix::process::{WaitOptions, waitpid};

    use super::*;

    fn strings(list: &[&str]) -> CStringArray {
        CStringArray::new(list.iter().map(|text| CString::new(*text).unwrap()).collect())
    }

    fn run(launcher: &Launcher, program: &str, args: &[&str]) -> io::Result<(i32, String)> {
        let image = File::open(program).unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let env = strings(&["A=b"]);
        let pid = launcher.start(image.as_fd(), &strings(args), &env, theirs.as_fd())?;
        drop(theirs);
        let mut text = String::new();
        // Ends when nobody has the other end any more: the slot, above all.
        ours.read_to_string(&mut text).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        Ok((status.exit_status().unwrap(), text))
    }

    #[test]
    fn a_program_has_what_it_was_given_and_nothing_else() {
        let launcher = Launcher::new().unwrap();
        let many: Vec<File> = (0..300).map(|_| File::open("/dev/null").unwrap()).collect();
        // One that a fork would have handed on.
        let kept = rustix::io::dup(&many[0]).unwrap();
        let script =
            "echo $A $0 >&0; grep Sig[BI] /proc/self/status >&0; ls /proc/self/fd >&0; exit 7";
        let (code, text) = run(&launcher, "/bin/sh", &["sh", "-c", script, "name"]).unwrap();
        assert_eq!(code, 7);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "b name");
        let signals = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16);
        // Below those that the C library keeps for itself. A Rust program ignores SIGPIPE.
        let own = |line: &str| signals(line).unwrap() & 0x7fff_ffff;
        assert_eq!((own(lines[1]), own(lines[2])), (0, 0), "{text}");
        // The last is that of the directory itself.
        assert_eq!(lines[3..], ["0", "1", "2", "3"], "{text}");
        // Ours are all there.
        assert!(many.iter().all(|file| file.metadata().is_ok()));
        assert!(rustix::io::fcntl_getfd(&kept).is_ok());
        assert_eq!(run(&launcher, "/bin/true", &["true"]).unwrap(), (0, String::new()));
    }

    #[test]
    fn what_is_no_program_is_an_error() {
        let launcher = Launcher::new().unwrap();
        let error = run(&launcher, "/etc/passwd", &["x"]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
}
