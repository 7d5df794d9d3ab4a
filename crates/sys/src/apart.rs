//! A helper process that shares nothing with its maker but the descriptors it is given.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::process::Pid;

use crate::process::{self, CloneArgs};

/// What the helper runs: a plain function, so that it cannot have a descriptor that it was not
/// given.
pub type Helper = fn(&[u8], Vec<OwnedFd>) -> i32;

/// Runs `helper` in a new process that holds the standard streams, `descriptors`, and no other;
/// what it returns is its exit status. Only from a process with a single thread.
pub fn spawn_apart(
    helper: Helper,
    argument: &[u8],
    descriptors: Vec<OwnedFd>,
) -> io::Result<(Pid, OwnedFd)> {
    let mut kept: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    kept.sort_unstable();
    let args = CloneArgs { keep: Some(&kept), ..CloneArgs::default() };
    process::spawn(args, || helper(argument, descriptors))
}

/// Closes every descriptor from 3 on that is not in the sorted list.
///
/// Only in a process that was just made: whatever owned them must not be used there.
pub(crate) fn close_all_but(kept: &[RawFd]) -> io::Result<()> {
    let mut from: libc::c_uint = 3;
    for fd in kept {
        let fd = libc::c_uint::try_from(*fd).unwrap_or(0);
        if fd > from {
            close_range(from, fd - 1)?;
        }
        from = from.max(fd + 1);
    }
    close_range(from, libc::c_uint::MAX)
}

fn close_range(first: libc::c_uint, last: libc::c_uint) -> io::Result<()> {
    // SAFETY: this process is a copy that runs one function and ends without unwinding into its
    // maker's frames: no owner of a closed descriptor is dropped there, and what the function
    // captures is in the list, as `CloneArgs::keep` demands.
    crate::check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}
