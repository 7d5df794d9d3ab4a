//! Making a user namespace together with the network namespace that belongs to it.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

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
    let _ = crate::process::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
    // __WALL: one that signals nobody is found only when it is asked for.
    let all = WaitIdOptions::EXITED | WaitIdOptions::from_bits_retain(libc::__WALL as u32);
    while let Err(rustix::io::Errno::INTR) = waitid(WaitId::PidFd(pidfd.as_fd()), all) {}
    taken
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
