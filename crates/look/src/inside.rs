//! The worker's own program: what `hoyd worker look` does.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;

use hoy_sys::process;
use rustix::net::RecvFlags;
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::worker::MAX_MESSAGE;
use crate::{Question, files};

/// DAC_READ_SEARCH: files are somebody's own.
const CAPABILITIES: u64 = 1 << 2;

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
    jail(root)?;
    let answer = serde_json::to_vec(&files::answer(&question))?;
    hoy_sys::socket::send(control.as_fd(), &answer, &[]).map(drop)
}

/// From here on there is only the directory, and nothing in it can be changed.
fn jail(directory: OwnedFd) -> io::Result<()> {
    process::unshare(process::NEWNS | process::NEWNET | process::NEWIPC | process::NEWUTS)?;
    rustix::process::fchdir(&directory)?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")?;
    drop(directory);
    // Address space, open files, core, file size.
    process::set_rlimit(9, 1 << 30, 1 << 30)?;
    process::set_rlimit(7, 64, 64)?;
    process::set_rlimit(4, 0, 0)?;
    process::set_rlimit(1, 0, 0)?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)?;
    for number in 0..64 {
        if CAPABILITIES >> number & 1 == 0 {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            if rustix::thread::remove_capability_from_bounding_set(capability).is_err() {
                break;
            }
        }
    }
    let kept = CapabilitySet::from_bits_retain(CAPABILITIES);
    let sets =
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)?;
    Ok(())
}
