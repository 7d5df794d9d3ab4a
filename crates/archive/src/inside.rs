//! The worker's own program: what `hoyd worker tree` does. It never comes back from where it goes.

use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use hoy_jail::{CapabilitySet, Jail, WRITES_TREES};
use hoy_rootfd::RootFd;
use hoy_runtime::StartError;
use hoy_sys::process;
use rustix::net::RecvFlags;

use crate::changes;
use crate::job::{Change, Fault, Job, MAX_MESSAGE, Place, Reply, Task};
use crate::place;

/// It can read and write files, and nothing else.
const JAIL: Jail = Jail {
    capabilities: WRITES_TREES,
    address_space: 4 << 30,
    // Lowered before it goes anywhere.
    open_files: None,
    writes: true,
};
/// Without SYS_ADMIN nobody reads the marks that overlayfs leaves. Only who compares layers keeps
/// it, who reads and does nothing else.
const COMPARING: Jail = Jail { capabilities: WRITES_TREES.union(CapabilitySet::SYS_ADMIN), ..JAIL };
/// Changes that are told at once, in bytes.
const BATCH: usize = 32 << 10;

/// A failure with what the client is told.
#[derive(Debug)]
pub(crate) struct Failed(pub Fault, pub String);

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        let text = match error.raw_os_error() {
            Some(_) => hoy_runtime::plain_error(&error),
            None => error.to_string(),
        };
        Self(Fault::Other, text)
    }
}

impl From<StartError> for Failed {
    fn from(error: StartError) -> Self {
        Self(Fault::Other, error.message)
    }
}

/// See the module.
pub fn main() -> ExitCode {
    let (Ok(control), Ok(data)) =
        (rustix::stdio::stdin().try_clone_to_owned(), rustix::stdio::stdout().try_clone_to_owned())
    else {
        return ExitCode::FAILURE;
    };
    let reply = match work(&control, UnixStream::from(data)) {
        Ok(entries) => Reply::Done { entries },
        Err(Failed(fault, text)) => Reply::Failed(fault, text.chars().take(4000).collect()),
    };
    match say(&control, &reply) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn say(control: &OwnedFd, reply: &Reply) -> io::Result<()> {
    let message = postcard::to_stdvec(reply).map_err(io::Error::other)?;
    hoy_sys::socket::send(control.as_fd(), &message, &[]).map(drop)
}

fn work(control: &OwnedFd, mut data: UnixStream) -> Result<u64, Failed> {
    let mut buffer = vec![0; MAX_MESSAGE];
    let (length, descriptors) =
        hoy_sys::socket::receive(control.as_fd(), &mut buffer, RecvFlags::empty())?;
    let job: Job = postcard::from_bytes(&buffer[..length]).map_err(io::Error::other)?;
    let pidfd = descriptors.into_iter().next();
    rustix::process::umask(rustix::fs::Mode::empty());
    // A name of each level of a deep tree is held open.
    process::set_rlimit(7, 4096, 4096)?;
    match job.task {
        Task::Changes { root } => {
            let written = hoy_runtime::show_written(&root)?;
            COMPARING.here()?;
            let mut batch: Vec<Change> = Vec::new();
            let mut size = 0;
            for change in changes::compare(&written, false)? {
                size += change.path.len() + 16;
                batch.push(Change { path: change.shown(), kind: change.kind });
                if size > BATCH {
                    say(control, &Reply::Changes(std::mem::take(&mut batch)))?;
                    size = 0;
                }
            }
            say(control, &Reply::Changes(batch))?;
            Ok(0)
        }
        Task::Layer { root } => {
            let written = hoy_runtime::show_written(&root)?;
            COMPARING.here()?;
            let found = changes::compare(&written, true)?;
            let mut out = BufWriter::with_capacity(64 << 10, data);
            changes::pack(&written, &found, &mut out)?;
            out.flush()?;
            Ok(found.len() as u64)
        }
        Task::Export => {
            let root = enter(&job.place, pidfd, true)?;
            JAIL.here()?;
            place::export(&root, BufWriter::with_capacity(64 << 10, data))?;
            Ok(0)
        }
        Task::Stat { path } => {
            let root = enter(&job.place, pidfd, false)?;
            JAIL.here()?;
            say(control, &Reply::Stat(place::stat(&root, &path)?))?;
            Ok(0)
        }
        Task::Get { path } => {
            let root = enter(&job.place, pidfd, false)?;
            JAIL.here()?;
            say(control, &Reply::Stat(place::stat(&root, &path)?))?;
            place::pack(&root, &path, BufWriter::with_capacity(64 << 10, data))?;
            Ok(0)
        }
        Task::Put { path, keep_kinds, owner } => {
            let userns = matches!(job.place, Place::Running { userns: true });
            let root = enter(&job.place, pidfd, false)?;
            JAIL.here()?;
            let owner = owner.map(|user| hoy_runtime::ids_of(&root, &user)).transpose()?;
            place::unpack(&root, &path, &mut data, keep_kinds, owner, userns)?;
            Ok(0)
        }
    }
}

fn enter(place: &Place, pidfd: Option<OwnedFd>, alone: bool) -> Result<RootFd, Failed> {
    Ok(match (place, pidfd) {
        (Place::Running { userns }, Some(pidfd)) => {
            hoy_runtime::show_running(&pidfd, *userns, alone)?
        }
        (Place::Running { .. }, None) => {
            return Err(Failed(Fault::Other, "no process came with the job".to_owned()));
        }
        (Place::Resting { root, label, mounts }, _) => {
            let mounts = if alone { &[] } else { mounts.as_slice() };
            hoy_runtime::show_resting(root, label, mounts)?
        }
    })
}
