//! The daemon's side: a worker is started, listened to, and ended.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};

use crate::job::{Change, Fault, Job, MAX_MESSAGE, PathStat, Reply};

/// How long a worker may take for its next word or piece: beyond that something holds it.
const PATIENCE: Duration = Duration::from_secs(60);
/// What may be told of changes.
const MAX_CHANGES: usize = 5_000_000;
/// Bytes that travel at once.
const PIECE: usize = 64 << 10;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The worker's own words.
    #[error("{1}")]
    Failed(Fault, String),
    #[error("{operation}: {source}")]
    Io { operation: &'static str, source: io::Error },
    #[error("the container's files do not answer: something in them waits for ever")]
    Late,
    /// What the client sent, or did not take.
    #[error("{0}")]
    Client(io::Error),
}

pub type Result<T> = std::result::Result<T, ArchiveError>;

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> ArchiveError {
    move |source| ArchiveError::Io { operation, source }
}

/// How to start one: the daemon's own program.
#[derive(Clone, Debug)]
pub struct Worker {
    pub program: PathBuf,
}

/// Takes an archive piece by piece; an error ends the work.
pub trait Sink: FnMut(&[u8]) -> io::Result<()> {}
impl<T: FnMut(&[u8]) -> io::Result<()>> Sink for T {}

/// A worker at work. Dropping it ends it.
pub struct Running {
    child: Child,
    control: OwnedFd,
    data: UnixStream,
    /// Given back once the process is no more, however long the kernel holds it.
    lease: Option<Box<dyn Send>>,
}

impl Worker {
    /// Starts one. `pidfd` comes with a running container's place, `lease` is kept until the
    /// worker's process has ended.
    pub fn start(
        &self,
        job: &Job,
        pidfd: Option<OwnedFd>,
        lease: Box<dyn Send>,
    ) -> Result<Running> {
        let message = postcard::to_stdvec(job)
            .map_err(|error| failed("tell a worker")(io::Error::other(error)))?;
        if message.len() > MAX_MESSAGE {
            return Err(failed("tell a worker")(io::ErrorKind::InvalidInput.into()));
        }
        let pair = |kind| {
            socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
                .map_err(|errno| failed("start a worker")(errno.into()))
        };
        let (control, theirs) = pair(SocketType::SEQPACKET)?;
        let (data, their_data) = pair(SocketType::STREAM)?;
        let data = UnixStream::from(data);
        data.set_read_timeout(Some(PATIENCE)).map_err(failed("start a worker"))?;
        data.set_write_timeout(Some(PATIENCE)).map_err(failed("start a worker"))?;
        let descriptors: Vec<_> = pidfd.iter().map(|fd| fd.as_fd()).collect();
        hoy_sys::socket::send(control.as_fd(), &message, &descriptors)
            .map_err(failed("tell a worker"))?;
        let child = Command::new(&self.program)
            .args(["worker", "tree"])
            .env_clear()
            .envs(hoy_weak::inherited())
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::from(their_data))
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed("start a worker"))?;
        Ok(Running { child, control, data, lease: Some(lease) })
    }
}

impl Running {
    /// Its next word.
    fn hear(&mut self) -> Result<Reply> {
        let started = Instant::now();
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            let left = PATIENCE.saturating_sub(started.elapsed());
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(0),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = [PollFd::new(&self.control, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return Err(ArchiveError::Late),
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("hear of a worker")(errno.into())),
            }
        }
        let received =
            hoy_sys::socket::receive(self.control.as_fd(), &mut buffer, RecvFlags::empty());
        let (length, _) = received.map_err(failed("hear of a worker"))?;
        let ended = || failed("hear of a worker")(io::Error::other("it has ended"));
        if length == 0 {
            return Err(ended());
        }
        match postcard::from_bytes(&buffer[..length]).map_err(|_| ended())? {
            Reply::Failed(fault, text) => Err(ArchiveError::Failed(fault, text)),
            reply => Ok(reply),
        }
    }

    fn out_of_turn() -> ArchiveError {
        failed("hear of a worker")(io::Error::other("it speaks out of turn"))
    }

    /// What lies at the path.
    pub fn stat(&mut self) -> Result<PathStat> {
        match self.hear()? {
            Reply::Stat(stat) => Ok(stat),
            _ => Err(Self::out_of_turn()),
        }
    }

    /// The end of its work; how many entries an archive had.
    pub fn done(&mut self) -> Result<u64> {
        match self.hear()? {
            Reply::Done { entries } => Ok(entries),
            _ => Err(Self::out_of_turn()),
        }
    }

    pub fn changes(&mut self) -> Result<Vec<Change>> {
        let mut all = Vec::new();
        loop {
            match self.hear()? {
                Reply::Changes(some) if all.len() <= MAX_CHANGES => all.extend(some),
                Reply::Done { .. } => return Ok(all),
                _ => return Err(Self::out_of_turn()),
            }
        }
    }

    /// Its archive as a reader; what comes of it is told by [`Self::done`].
    pub fn archive(&self) -> Result<UnixStream> {
        self.data.try_clone().map_err(failed("listen to a worker"))
    }

    /// Passes its archive on; an archive that is not whole is an error.
    pub fn pass_on(&mut self, mut sink: impl Sink) -> Result<u64> {
        let mut buffer = vec![0; PIECE];
        loop {
            match self.data.read(&mut buffer) {
                Ok(0) => return self.done(),
                Ok(length) => sink(&buffer[..length]).map_err(ArchiveError::Client)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_late(&error) => return Err(ArchiveError::Late),
                Err(error) => return Err(failed("listen to a worker")(error)),
            }
        }
    }

    /// Hands it an archive to its end, and hears what came of it.
    pub fn feed(&mut self, mut source: impl Read) -> Result<u64> {
        let mut buffer = vec![0; PIECE];
        loop {
            let length = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(ArchiveError::Client(error)),
            };
            match self.data.write_all(&buffer[..length]) {
                Ok(()) => {}
                Err(error) if is_late(&error) => return Err(ArchiveError::Late),
                // It has ended already, and says why.
                Err(_) => break,
            }
        }
        let _ = self.data.shutdown(std::net::Shutdown::Write);
        self.done()
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ours: it has not been waited for.
        let _ = self.child.kill();
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // Usually a moment; but what the kernel holds ends when the kernel lets go of it.
        let lease = self.lease.take();
        let pid = rustix::process::Pid::from_child(&self.child);
        let wait = move || {
            let options = rustix::process::WaitOptions::empty();
            while let Err(Errno::INTR) = rustix::process::waitpid(Some(pid), options) {}
            drop(lease);
        };
        // Without a thread the process stays as a zombie, and the lease goes at once.
        let _ = std::thread::Builder::new().stack_size(512 << 10).spawn(wait);
    }
}
