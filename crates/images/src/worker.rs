//! The worker: untrusted bytes are unpacked by a process that cannot hurt.
//!
//! The daemon executes itself with other arguments. The worker sees nothing but the directory it
//! fills, has no network, and holds no capability beyond those that unpacking needs. It hands
//! back descriptors of opaque directories, since the attribute that marks them is not its to set.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use hoy_jail::{Jail, WRITES_TREES};
use hoy_types::Digest;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};

use crate::{ImageError, Result, unpack};

const JAIL: Jail = Jail {
    capabilities: WRITES_TREES,
    address_space: 4 << 30,
    open_files: Some(256),
    writes: true,
};
/// A layer that takes longer is stuck.
const DEADLINE: Duration = Duration::from_secs(3600);

const OPAQUE: u8 = b'O';
const IMPLIED: u8 = b'I';
const DONE: u8 = b'D';
const FAILED: u8 = b'E';

/// How to start one: the daemon's own program.
#[derive(Clone, Debug)]
pub struct Worker {
    pub program: PathBuf,
}

/// What a layer turned out to be.
#[derive(Debug)]
pub(crate) struct Layer {
    pub diff_id: Digest,
    pub size: u64,
    pub implied: Vec<String>,
}

impl Worker {
    /// Unpacks a blob into a directory.
    pub(crate) fn unpack(&self, blob: &Path, directory: &Path) -> Result<Layer> {
        let failed = ImageError::io("unpack a layer");
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|errno| ImageError::io("unpack a layer")(errno.into()))?;
        let start = || -> io::Result<_> {
            let source = File::open(blob)?;
            let target: OwnedFd = File::open(directory)?.into();
            hoy_sys::socket::send(ours.as_fd(), b"T", &[target.as_fd()])?;
            Command::new(&self.program)
                .args(["worker", "unpack"])
                .env_clear()
                .envs(hoy_weak::inherited())
                .stdin(Stdio::from(source))
                .stdout(Stdio::from(theirs))
                .stderr(Stdio::null())
                .spawn()
        };
        let mut child = start().map_err(failed)?;
        let outcome = listen(&ours);
        if outcome.is_err() {
            // Ours: it has not been waited for.
            let _ = child.kill();
        }
        let _ = child.wait();
        outcome
    }
}

fn listen(socket: &OwnedFd) -> Result<Layer> {
    let started = Instant::now();
    let mut implied = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    let io = |error: io::Error| ImageError::io("hear of a worker")(error);
    loop {
        let left = DEADLINE.saturating_sub(started.elapsed());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: 0 };
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Err(io(io::ErrorKind::TimedOut.into())),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(io(errno.into())),
        }
        let (length, descriptors) =
            hoy_sys::socket::receive(socket.as_fd(), &mut buffer, RecvFlags::empty())
                .map_err(io)?;
        let message = &buffer[..length];
        let text = || String::from_utf8_lossy(message.get(1..).unwrap_or_default()).into_owned();
        match message.first() {
            Some(&OPAQUE) => {
                for directory in descriptors {
                    let flags = rustix::fs::XattrFlags::empty();
                    rustix::fs::fsetxattr(&directory, "trusted.overlay.opaque", b"y", flags)
                        .map_err(|errno| io(errno.into()))?;
                }
            }
            Some(&IMPLIED) => implied.push(text()),
            Some(&DONE) if length == 41 => {
                let hash: [u8; 32] = message[1..33].try_into().unwrap_or_default();
                let size = u64::from_ne_bytes(message[33..41].try_into().unwrap_or_default());
                return Ok(Layer { diff_id: Digest::from_sha256(hash), size, implied });
            }
            Some(&FAILED) => return Err(ImageError::Invalid(text())),
            _ => {
                return Err(ImageError::Invalid(
                    "the archive could not be unpacked: its worker ended".into(),
                ));
            }
        }
    }
}

/// The worker's own program: what `hoyd worker unpack` does.
pub fn main() -> ExitCode {
    let socket = match rustix::stdio::stdout().try_clone_to_owned() {
        Ok(socket) => socket,
        Err(_) => return ExitCode::FAILURE,
    };
    let message = match work(&socket) {
        Ok(unpacked) => {
            for path in &unpacked.implied {
                let mut message = vec![IMPLIED];
                message.extend(path.as_bytes());
                if hoy_sys::socket::send(socket.as_fd(), &message, &[]).is_err() {
                    return ExitCode::FAILURE;
                }
            }
            let mut message = vec![DONE];
            message.extend(unpacked.diff_id);
            message.extend(unpacked.size.to_ne_bytes());
            message
        }
        Err(error) => {
            let text = match error.raw_os_error() {
                Some(code) if code == rustix::io::Errno::NOSPC.raw_os_error() => {
                    "no space left on device".to_owned()
                }
                _ => error.to_string(),
            };
            let mut message = vec![FAILED];
            message.extend(text.bytes().take(4000));
            message
        }
    };
    match hoy_sys::socket::send(socket.as_fd(), &message, &[]) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn work(socket: &OwnedFd) -> io::Result<unpack::Unpacked> {
    let mut buffer = [0; 16];
    let (_, descriptors) =
        hoy_sys::socket::receive(socket.as_fd(), &mut buffer, RecvFlags::empty())?;
    let target = descriptors
        .into_iter()
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no directory came"))?;
    let source = File::from(rustix::stdio::stdin().try_clone_to_owned()?);
    let compressed = source.metadata()?.len();
    let root = if hoy_weak::without(hoy_weak::Protection::Jail) {
        // Without a jail `/` is the machine's.
        target
    } else {
        JAIL.around(target)?;
        rustix::process::umask(rustix::fs::Mode::empty());
        rustix::fs::open(
            "/",
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?
    };
    unpack::apply(source, compressed, root.as_fd(), |directory| {
        hoy_sys::socket::send(socket.as_fd(), &[OPAQUE], &[directory.as_fd()]).map(drop)
    })
}
