//! The start of a process, from its birth to its program.
//!
//! What lies between may take for ever: a program, a directory or a file of users can lie on a file
//! system whose server has stopped to answer, and nothing that waits for one can be killed. So a
//! start is something that is awaited beside other things, and can be given up.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use hoy_sys::process::{self, CloneArgs};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::child::{self, BORN, CONSOLE, DOING, FAILED};
use crate::error::{FailureReason, StartError};
use crate::plan::ProcessPlan;
use crate::running::Started;

/// How long a process that was killed may take to end, where nothing else can be done meanwhile.
const KILLED: Duration = Duration::from_secs(2);
/// How long a process of a moment may take for the one thing that it is made for.
const HELPER: Duration = Duration::from_secs(20);

/// What a new process is about to do that may take for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    User = 0,
    Entering = 1,
    Directory = 2,
    Program = 3,
    /// Of a container's first process.
    Files = 4,
}

impl Doing {
    /// Tells the parent of it, as far as there is one.
    pub fn tell(self, channel: &OwnedFd) {
        let _ = rustix::io::write(channel, &[DOING, self as u8]);
    }

    fn told(byte: u8) -> Self {
        match byte {
            1 => Self::Entering,
            2 => Self::Directory,
            3 => Self::Program,
            4 => Self::Files,
            _ => Self::User,
        }
    }

    fn words(self, plan: &ProcessPlan) -> String {
        match self {
            Self::User => "look its user up".to_owned(),
            Self::Files => "make its files ready".to_owned(),
            Self::Entering => "enter the container".to_owned(),
            Self::Directory => format!("chdir to cwd ({:?})", plan.cwd),
            Self::Program => {
                format!("exec: {:?}", plan.args.first().map_or("", String::as_str))
            }
        }
    }
}

/// A process that is not its program yet.
#[derive(Debug)]
pub struct Starting {
    ours: OwnedFd,
    /// First the process that was made, then the one that it has made in its stead.
    started: Started,
    /// Who has made that one, and ends at once.
    maker: Option<OwnedFd>,
    failure: Option<StartError>,
    doing: Doing,
}

impl Starting {
    /// Makes a process that tells what it does on the channel that it is given.
    pub(crate) fn begin(
        args: CloneArgs<'_>,
        channel: Channel,
        child: impl FnOnce(&OwnedFd) -> i32,
    ) -> Result<Self, StartError> {
        let Channel { ours, theirs } = channel;
        let (pid, pidfd) = process::spawn(args, || child(&theirs))
            .map_err(|error| StartError::system("make a process", error))?;
        drop(theirs);
        let started = Started { pid, pidfd, console: None };
        Ok(Self { ours, started, maker: None, failure: None, doing: Doing::User })
    }

    /// Readable when there is something to [`advance`](Self::advance) by.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.ours.as_fd()
    }

    /// Hears what there is to hear. True once the process has become its program, has failed or has
    /// ended: see [`finish`](Self::finish).
    pub fn advance(&mut self) -> bool {
        let mut buffer = vec![0; 4096];
        // To the end, so that no process is left that nobody knows of.
        loop {
            let received =
                hoy_sys::socket::receive(self.ours.as_fd(), &mut buffer, RecvFlags::DONTWAIT);
            match received {
                Ok((0, _)) => return true,
                Ok((length, descriptors)) => {
                    self.hear(buffer.get(..length).unwrap_or_default(), descriptors);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
                Err(error) => {
                    self.kill();
                    self.failure = Some(StartError::system("hear of the process", error));
                    return true;
                }
            }
        }
    }

    fn hear(&mut self, message: &[u8], descriptors: Vec<OwnedFd>) {
        let mut descriptors = descriptors.into_iter();
        match message {
            [CONSOLE, ..] => self.started.console = descriptors.next(),
            [FAILED, report @ ..] => self.failure = Some(child::parse_report(report)),
            [DOING, what, ..] => self.doing = Doing::told(*what),
            [BORN, a, b, c, d] => {
                let pid = Pid::from_raw(i32::from_ne_bytes([*a, *b, *c, *d]));
                if let (Some(pid), Some(pidfd)) = (pid, descriptors.next()) {
                    self.maker = Some(std::mem::replace(&mut self.started.pidfd, pidfd));
                    self.started.pid = pid;
                }
            }
            _ => {}
        }
    }

    /// What came of it, and processes that are about to end and have to be waited for.
    pub fn finish(self) -> (Result<Started, StartError>, Vec<OwnedFd>) {
        let mut over: Vec<OwnedFd> = self.maker.into_iter().collect();
        let result = match self.failure {
            Some(failure) => {
                over.push(self.started.pidfd);
                Err(failure)
            }
            None => Ok(self.started),
        };
        over.retain(|pidfd| !reap_now(pidfd));
        (result, over)
    }

    /// Ends the process, if the kernel lets it end.
    pub fn kill(&self) {
        for pidfd in self.maker.iter().chain([&self.started.pidfd]) {
            let _ = process::pidfd_signal(pidfd.as_fd(), 9);
        }
    }

    /// What to say when it has taken too long, which is for the plan of the same process.
    pub fn late(&self, plan: &ProcessPlan) -> StartError {
        let text = format!(
            "unable to start container process: {}: it has waited in the kernel for too long, as \
             for a file system that does not answer",
            self.doing.words(plan),
        );
        StartError::new(FailureReason::System, text)
    }

    /// What is left of one that is not waited for any more.
    pub fn give_up(self) -> Vec<OwnedFd> {
        self.kill();
        let left = self.maker.into_iter().chain([self.started.pidfd]);
        left.filter(|pidfd| !reap_now(pidfd)).collect()
    }

    /// Waits for a time, in which nothing else is done. What came of it, and what is left.
    pub(crate) fn complete(
        mut self,
        plan: &ProcessPlan,
        within: Duration,
    ) -> (Result<Started, StartError>, Vec<OwnedFd>) {
        let deadline = Instant::now() + within;
        loop {
            if self.advance() {
                let (result, over) = self.finish();
                // At the end of all that it does: this takes moments.
                return (result, over.into_iter().filter(|pidfd| !reap(pidfd)).collect());
            }
            if !readable(self.as_fd(), deadline) {
                break;
            }
        }
        self.kill();
        let late = self.late(plan);
        let patience = Instant::now() + KILLED;
        while !self.advance() && readable(self.as_fd(), patience) {}
        (Err(late), self.give_up())
    }
}

/// Between a process and the one that it becomes: closed without a word when it runs.
pub(crate) struct Channel {
    ours: OwnedFd,
    pub theirs: OwnedFd,
}

impl Channel {
    pub fn new() -> Result<Self, StartError> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|errno| StartError::system("make a channel to the process", errno))?;
        Ok(Self { ours, theirs })
    }
}

/// What a process of a moment has to say before it ends. One that says nothing in time is killed,
/// and not waited for.
pub(crate) fn answer_of(
    ours: &OwnedFd,
    helper: &OwnedFd,
    buffer: &mut [u8],
) -> std::io::Result<(usize, Vec<OwnedFd>)> {
    let answer = if readable(ours.as_fd(), Instant::now() + HELPER) {
        hoy_sys::socket::receive(ours.as_fd(), buffer, RecvFlags::DONTWAIT)
    } else {
        let _ = process::pidfd_signal(helper.as_fd(), 9);
        Err(std::io::ErrorKind::TimedOut.into())
    };
    reap(helper);
    answer
}

/// Whether there was something to read before a moment came.
pub(crate) fn readable(fd: BorrowedFd<'_>, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(Errno::INTR) => {}
            Err(_) => return true,
        }
    }
}

/// Takes the end of a child that has ended; false for one that goes on.
pub fn reap_now(pidfd: &OwnedFd) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    !matches!(waitid(WaitId::PidFd(pidfd.as_fd()), options), Ok(None))
}

/// The same, for one that is about to end.
pub(crate) fn reap(pidfd: &OwnedFd) -> bool {
    readable(pidfd.as_fd(), Instant::now() + KILLED) && reap_now(pidfd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> ProcessPlan {
        ProcessPlan {
            args: vec!["/f/stuck".into()],
            env: Vec::new(),
            cwd: "/work".into(),
            user: "".parse().unwrap(),
            additional_groups: Vec::new(),
            tty: false,
            console_size: None,
            capabilities: 0,
            no_new_privileges: false,
            rlimits: Vec::new(),
            seccomp: Vec::new(),
            oom_score_adj: None,
            seccomp_flags: 0,
            labels: crate::plan::ProcessLabels::default(),
        }
    }

    #[test]
    fn what_hung_is_named() {
        for (byte, words) in [
            (0, "look its user up"),
            (1, "enter"),
            (2, "cwd (\"/work\")"),
            (3, "\"/f/stuck\""),
            (4, "files"),
        ] {
            let text = Doing::told(byte).words(&plan());
            assert!(text.contains(words), "{text}");
            assert_eq!(Doing::told(byte) as u8, byte);
        }
    }
}
