//! The daemon's side: one process for one question, with a deadline.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};

use crate::{Findings, Question};

/// No message is larger.
pub(crate) const MAX_MESSAGE: usize = 128 << 10;
/// Who explains waits no longer for what files say.
const DEADLINE: Duration = Duration::from_secs(5);

/// Why nothing is known of a container's files.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error("look at the container's files: {0}")]
    Io(#[from] io::Error),
    #[error("look at the container's files: no answer after {} s", DEADLINE.as_secs())]
    Late,
    #[error("look at the container's files: the worker ended without an answer")]
    Ended,
}

/// How to start one: the daemon's own program.
#[derive(Clone, Debug)]
pub struct Worker {
    pub program: PathBuf,
}

impl Worker {
    /// Answers a question by the files below a directory. Blocks.
    pub fn ask(&self, root: &OwnedFd, question: &Question) -> Result<Findings, LookError> {
        let message = serde_json::to_vec(question).map_err(io::Error::from)?;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(io::Error::from)?;
        hoy_sys::socket::send(ours.as_fd(), &message, &[root.as_fd()])?;
        let mut child = Command::new(&self.program)
            .args(["worker", "look"])
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let answer = listen(&ours);
        if answer.is_err() {
            // Ours: it has not been waited for.
            let _ = child.kill();
        }
        // One that a file system holds ends when that lets it go: nobody waits for that.
        std::thread::spawn(move || child.wait());
        answer
    }
}

fn listen(socket: &OwnedFd) -> Result<Findings, LookError> {
    let started = Instant::now();
    loop {
        let left = DEADLINE.saturating_sub(started.elapsed());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(0),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Err(LookError::Late),
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(io::Error::from(errno).into()),
        }
    }
    let mut buffer = vec![0; MAX_MESSAGE];
    let (length, _) = hoy_sys::socket::receive(socket.as_fd(), &mut buffer, RecvFlags::empty())?;
    let answer = serde_json::from_slice(buffer.get(..length).unwrap_or_default());
    answer.map_err(|_| LookError::Ended)
}
