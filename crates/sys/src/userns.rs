//! Making a user namespace together with the network namespace that belongs to it, or only that.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::check;
use crate::process::{CLONE_PIDFD, NEWNET, NEWUSER, RawCloneArgs};

const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// A user namespace and a network namespace that it owns, held by descriptors alone.
#[derive(Debug)]
pub struct Namespaces {
    pub user: OwnedFd,
    pub net: OwnedFd,
}

/// Makes both with the given contents of uid_map and gid_map. From any thread: a process of a
/// moment is born into them, and they outlive it.
pub fn user_and_network(uid_map: &str, gid_map: &str) -> io::Result<Namespaces> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut pidfd: libc::c_int = -1;
    let mut raw = RawCloneArgs {
        // No handler of ours may run there, and nobody is signalled at its end.
        flags: NEWUSER | NEWNET | CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
        pidfd: (&raw mut pidfd) as u64,
        ..RawCloneArgs::default()
    };
    // SAFETY: `raw` is a valid clone_args of the given size, and `pidfd` outlives the call. The
    // child has a copy of this memory, of which other threads may hold locks: it calls nothing but
    // `wait_and_exit`, which takes none.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut raw, size_of::<RawCloneArgs>()) };
    let pid = match check(result)? {
        0 => wait_and_exit(read.as_raw_fd(), write.as_raw_fd()),
        pid => pid,
    };
    // SAFETY: the kernel has just made this descriptor for us (CLONE_PIDFD).
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let take = || -> io::Result<Namespaces> {
        // In one write each, as the kernel wants them.
        let map = |file: &str, text: &str| {
            let mut file = File::options().write(true).open(format!("/proc/{pid}/{file}"))?;
            file.write_all(text.as_bytes())
        };
        map("uid_map", uid_map)?;
        map("gid_map", gid_map)?;
        Ok(Namespaces {
            user: File::open(format!("/proc/{pid}/ns/user"))?.into(),
            net: File::open(format!("/proc/{pid}/ns/net"))?.into(),
        })
    };
    let taken = take();
    drop(write);
    end(&pidfd);
    taken
}

/// A network namespace of a user namespace that is there. From any thread: a process of a moment
/// enters the one and makes the other.
pub fn network_of(user: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    let (told, tell) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut pidfd: libc::c_int = -1;
    let mut raw = RawCloneArgs {
        flags: CLONE_PIDFD | CLONE_CLEAR_SIGHAND,
        pidfd: (&raw mut pidfd) as u64,
        ..RawCloneArgs::default()
    };
    // SAFETY: `raw` is a valid clone_args of the given size, and `pidfd` outlives the call. The
    // child has a copy of this memory, of which other threads may hold locks: it calls nothing but
    // `enter_and_make`, which takes none.
    let result =
        unsafe { libc::syscall(libc::SYS_clone3, &raw mut raw, size_of::<RawCloneArgs>()) };
    let pid = match check(result)? {
        0 => {
            enter_and_make(user.as_raw_fd(), tell.as_raw_fd(), read.as_raw_fd(), write.as_raw_fd())
        }
        pid => pid,
    };
    // SAFETY: the kernel has just made this descriptor for us (CLONE_PIDFD).
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    drop(tell);
    let take = || -> io::Result<OwnedFd> {
        let mut code = [0; 4];
        match rustix::io::read(&told, &mut code)? {
            4 if code == [0; 4] => Ok(File::open(format!("/proc/{pid}/ns/net"))?.into()),
            4 => Err(io::Error::from_raw_os_error(i32::from_ne_bytes(code))),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    };
    let taken = take();
    drop(write);
    end(&pidfd);
    taken
}

/// Tells with the number of an error, or zero, how it went, and stays until the pipe is closed.
fn enter_and_make(
    user: libc::c_int,
    tell: libc::c_int,
    read: libc::c_int,
    write: libc::c_int,
) -> ! {
    // SAFETY: bare system calls take no locks. The descriptors are this process's own copies; errno
    // is of this thread, and `code` outlives the write.
    unsafe {
        let made = libc::syscall(libc::SYS_setns, user, NEWUSER as libc::c_int) == 0
            && libc::syscall(libc::SYS_unshare, NEWNET as libc::c_int) == 0;
        let code: libc::c_int = if made { 0 } else { *libc::__errno_location() };
        libc::syscall(libc::SYS_write, tell, &raw const code, size_of::<libc::c_int>());
        libc::syscall(libc::SYS_close, tell);
    }
    wait_and_exit(read, write)
}

/// Ends a process that signals nobody at its end.
fn end(pidfd: &OwnedFd) {
    let _ = crate::process::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
    // __WALL: one that signals nobody is found only when it is asked for.
    let all = WaitIdOptions::EXITED | WaitIdOptions::from_bits_retain(libc::__WALL as u32);
    while let Err(rustix::io::Errno::INTR) = waitid(WaitId::PidFd(pidfd.as_fd()), all) {}
}

/// Until the maker closes the pipe, if only by its end.
fn wait_and_exit(read: libc::c_int, write: libc::c_int) -> ! {
    let mut byte = 0_u8;
    // SAFETY: both descriptors are this process's own copies, which nothing here uses again; bare
    // system calls take no locks, and `byte` outlives the read.
    unsafe {
        libc::syscall(libc::SYS_close, write);
        libc::syscall(libc::SYS_read, read, &raw mut byte, 1);
        libc::_exit(0)
    }
}
