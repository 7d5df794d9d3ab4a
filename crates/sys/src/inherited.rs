//! Descriptors that a service manager has opened for this program: sd_listen_fds(3).

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first one, by the protocol.
const FIRST: RawFd = 3;
/// More make no sense.
const MOST: RawFd = 64;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The sockets that were handed to this very process, with their names; none the second time.
/// Children do not get them.
pub fn sockets() -> io::Result<Vec<(OwnedFd, String)>> {
    let var = |name| std::env::var(name).unwrap_or_default();
    if var("LISTEN_PID") != std::process::id().to_string() || TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let count: RawFd = var("LISTEN_FDS").parse().unwrap_or(0);
    if !(0..=MOST).contains(&count) {
        return Err(io::Error::other(format!("LISTEN_FDS={count} makes no sense")));
    }
    let names = var("LISTEN_FDNAMES");
    let mut names = names.split(':');
    let mut out = Vec::new();
    for number in FIRST..FIRST + count {
        // SAFETY: a call on plain numbers; one that is not open is an error.
        let flags = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
        crate::check(flags.into())?;
        // SAFETY: it is open, and the protocol says that it is ours: LISTEN_PID names this process,
        // so that whoever executed it opened these numbers for it. They are taken once.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        out.push((socket, names.next().unwrap_or_default().to_owned()));
    }
    Ok(out)
}
