//! The worker's own program: what `hoyd worker look` does.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;

use hoy_jail::{Jail, READS_TREES};
use rustix::net::RecvFlags;

use crate::worker::MAX_MESSAGE;
use crate::{Question, files};

/// There is only the directory, and nothing in it can be changed.
const JAIL: Jail =
    Jail { capabilities: READS_TREES, address_space: 1 << 30, open_files: Some(64), writes: false };

/// See the module.
pub fn main() -> ExitCode {
    match rustix::stdio::stdin().try_clone_to_owned().and_then(work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn work(control: OwnedFd) -> io::Result<()> {
    let mut buffer = vec![0; MAX_MESSAGE];
    let (length, descriptors) =
        hoy_sys::socket::receive(control.as_fd(), &mut buffer, RecvFlags::empty())?;
    let root = descriptors.into_iter().next();
    let root = root.ok_or_else(|| io::Error::other("no directory came"))?;
    let question: Question = serde_json::from_slice(buffer.get(..length).unwrap_or_default())?;
    JAIL.around(root)?;
    let answer = serde_json::to_vec(&files::answer(&question))?;
    hoy_sys::socket::send(control.as_fd(), &answer, &[]).map(drop)
}
