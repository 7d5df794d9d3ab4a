//! The socket on which a runtime hands over a terminal's master.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hoy_runtime::{FailureReason, StartError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen,
    socket_with,
};

/// The runtime has said that it is done: what it sent lies there.
const PATIENCE: Duration = Duration::from_secs(5);
/// What fits into a socket's address, with its end.
const LONGEST: usize = 107;

#[derive(Debug)]
pub(super) struct Console {
    listener: OwnedFd,
    /// Keeps the name good where it goes by this descriptor.
    _directory: OwnedFd,
    path: PathBuf,
    name: String,
}

impl Console {
    pub fn listen(place: &Path, name: &str) -> Result<Self, StartError> {
        let file = format!("{name}.sock");
        let made = || -> io::Result<Self> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(place, flags, Mode::empty())?;
            let flags = SocketFlags::CLOEXEC;
            let listener = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            let short = format!("/proc/self/fd/{}/{file}", directory.as_raw_fd());
            bind(&listener, &SocketAddrUnix::new(short)?)?;
            listen(&listener, 1)?;
            let path = place.join(&file);
            let name = match path.to_str() {
                Some(name) if name.len() <= LONGEST => name.to_owned(),
                _ => {
                    let pid = rustix::process::getpid().as_raw_nonzero();
                    format!("/proc/{pid}/fd/{}/{file}", directory.as_raw_fd())
                }
            };
            Ok(Self { listener, _directory: directory, path, name })
        };
        made().map_err(|error| StartError::system("make the terminal's socket", error))
    }

    /// As the runtime is told.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The terminal that the runtime has sent.
    pub fn receive(self) -> Result<OwnedFd, StartError> {
        let received = || -> io::Result<Option<OwnedFd>> {
            ready(&self.listener)?;
            let peer = accept_with(&self.listener, SocketFlags::CLOEXEC)?;
            ready(&peer)?;
            let mut name = [0; 4096];
            let flags = RecvFlags::DONTWAIT;
            let (_, descriptors) = hoy_sys::socket::receive(peer.as_fd(), &mut name, flags)?;
            Ok(descriptors.into_iter().next())
        };
        match received() {
            Ok(Some(master)) => Ok(master),
            Ok(None) => Err(StartError::new(
                FailureReason::System,
                "the runtime sent something else than a terminal",
            )),
            Err(error) => Err(StartError::system("receive the terminal", error)),
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn ready(fd: &OwnedFd) -> io::Result<()> {
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    match poll(&mut fds, Some(&patience))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}
