//! What a new process tells its parent, until its program runs.

use std::os::fd::{AsFd as _, OwnedFd};

use rustix::process::Pid;

use crate::error::{FailureReason, StartError};

/// A descriptor of its terminal.
pub(crate) const CONSOLE: u8 = 1;
/// Why it failed: see `report`. Silence and a closed channel mean that the program runs.
pub(crate) const FAILED: u8 = 2;
/// The number and the descriptor of the process that begins instead of the one that was made.
pub(crate) const BORN: u8 = 3;
/// What it is about to do: see [`crate::starting::Doing`].
pub(crate) const DOING: u8 = 4;

/// Tells the parent of the process that is the container's.
pub(super) fn born(channel: &OwnedFd, pid: Pid, pidfd: &OwnedFd) -> Result<(), StartError> {
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
