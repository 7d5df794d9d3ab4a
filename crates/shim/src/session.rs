//! One supervised process — the container's first or an exec session — and its clients.
//!
//! Bytes flow: process → log and clients, clients → process. Every buffer is bounded; a client
//! that is slow slows the process down, as a pipe would; one that is gone is dropped at once.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime};

use hoy_logs::Stream;
use hoy_runtime::{StartError, Started};
use hoy_types::Timestamp;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::attached::{Client, Left};
use crate::log::Log;
use crate::message::AttachRequest;

/// How much is read at once.
pub(crate) const CHUNK: usize = 64 * 1024;
/// More than this waiting for one client stops reading from the process.
const CLIENT_BUFFER: usize = 256 * 1024;
/// What was in the pipes when the process ended is read even for a slow client: both at the size
/// that a process may give them.
const LAST_WORDS: usize = CLIENT_BUFFER + (2 << 20);
/// More than this waiting for the process stops reading from clients.
const STDIN_BUFFER: usize = 64 * 1024;
/// How long pipes that somebody else still holds are read after the process has ended.
const DRAIN: Duration = Duration::from_secs(2);
/// How long after the end of the process the log may take to be written.
const LOG_DRAIN: Duration = Duration::from_secs(3);
/// How long a client may take nothing once the process has ended.
const LINGER: Duration = Duration::from_secs(30);

/// Our end of one stream of the process.
#[derive(Debug)]
struct Output {
    fd: OwnedFd,
    stream: Stream,
    ended: bool,
}

/// What the supervisor has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// A client left by its keys.
    Detached,
    /// So many more records are missing in the log.
    LogDropped(u64),
}

/// Our ends of the standard streams, where there is no terminal.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// How the process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// 128 + signal for a killed process.
    pub code: i32,
    /// What it was killed by.
    pub signal: Option<i32>,
    /// Nanoseconds since 1970.
    pub at: i64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Session {
    pub pid: i32,
    pidfd: OwnedFd,
    /// The terminal, when it has one.
    console: Option<OwnedFd>,
    stdin: Option<OwnedFd>,
    outputs: Vec<Output>,
    clients: Vec<Client>,
    input: VecDeque<u8>,
    close_input: bool,
    stdin_once: bool,
    /// Its program is killed when a client vanishes.
    pub ends_with_client: bool,
    log: Option<Log>,
    /// Records that the supervisor was told of.
    dropped: u64,
    exited: Option<(Exit, Instant)>,
}

/// What poll found for one of a session's descriptors.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Slot {
    Process,
    Output(usize),
    Input,
    Log,
    Client(usize),
}

impl Session {
    pub fn new(
        pid: i32,
        pidfd: OwnedFd,
        console: Option<OwnedFd>,
        pipes: Option<Pipes>,
        stdin_once: bool,
        log: Option<Log>,
    ) -> std::io::Result<Self> {
        let mut session = Self {
            pid,
            pidfd,
            console: None,
            stdin: None,
            outputs: Vec::new(),
            clients: Vec::new(),
            input: VecDeque::new(),
            close_input: false,
            stdin_once,
            ends_with_client: false,
            log,
            dropped: 0,
            exited: None,
        };
        let nonblocking = |fd: &OwnedFd| rustix::io::ioctl_fionbio(fd, true);
        if let Some(console) = console {
            nonblocking(&console)?;
            session.stdin = Some(console.try_clone()?);
            let fd = console.try_clone()?;
            session.outputs.push(Output { fd, stream: Stream::Stdout, ended: false });
            session.console = Some(console);
        } else if let Some(pipes) = pipes {
            if let Some(stdin) = pipes.stdin {
                nonblocking(&stdin)?;
                session.stdin = Some(stdin);
            }
            for (fd, stream) in [(pipes.stdout, Stream::Stdout), (pipes.stderr, Stream::Stderr)] {
                nonblocking(&fd)?;
                session.outputs.push(Output { fd, stream, ended: false });
            }
        }
        Ok(session)
    }

    /// Of a further process.
    pub fn begun(started: Started, pipes: Option<Pipes>) -> Result<Self, StartError> {
        let pid = started.pid.as_raw_nonzero().get();
        Self::new(pid, started.pidfd, started.console, pipes, true, None)
            .map_err(|error| StartError::system("set up the streams", error))
    }

    pub fn console(&self) -> Option<&OwnedFd> {
        self.console.as_ref()
    }

    /// How it ended, once all that it said was read and logged. Clients may still be reading.
    pub fn finished(&self) -> Option<Exit> {
        let (exit, _) = self.exited?;
        (self.outputs.is_empty() && self.log.is_none()).then_some(exit)
    }

    /// Whether the process has ended, whatever of it is still to be read.
    pub fn has_exited(&self) -> bool {
        self.exited.is_some()
    }

    pub fn has_clients(&self) -> bool {
        !self.clients.is_empty()
    }

    /// Takes a client in. Its early bytes are its first input.
    pub fn attach(&mut self, fd: OwnedFd, request: &AttachRequest, notes: &mut Vec<Note>) {
        let stdin = request.stdin && self.stdin.is_some();
        // One whose socket cannot even be made non-blocking is no client.
        let Ok(mut client) = Client::new(fd, request, stdin) else { return };
        if stdin {
            client.keep_input(&request.early, self.console.is_some(), &mut self.input);
            if client.left == Some(Left::Detached) {
                notes.push(Note::Detached);
            }
        }
        self.clients.push(client);
        self.feed();
    }

    /// What to wait for.
    pub fn interests(&self) -> Vec<(Slot, BorrowedFd<'_>, PollFlags)> {
        let mut out = Vec::new();
        if self.exited.is_none() {
            out.push((Slot::Process, self.pidfd.as_fd(), PollFlags::IN));
        }
        if self.may_read() {
            for (index, output) in self.outputs.iter().enumerate() {
                out.push((Slot::Output(index), output.fd.as_fd(), PollFlags::IN));
            }
        }
        if let Some(stdin) = &self.stdin
            && !self.input.is_empty()
        {
            out.push((Slot::Input, stdin.as_fd(), PollFlags::OUT));
        }
        if let Some((fd, flags)) = self.log.as_ref().and_then(Log::interest) {
            out.push((Slot::Log, fd, flags));
        }
        let room = self.input.len() < STDIN_BUFFER;
        for (index, client) in self.clients.iter().enumerate() {
            if let Some(flags) = client.interest(room) {
                out.push((Slot::Client(index), client.fd.as_fd(), flags));
            }
        }
        out
    }

    /// Back-pressure: nothing more is read while the log or a client is behind.
    fn may_read(&self) -> bool {
        let most = if self.exited.is_some() { LAST_WORDS } else { CLIENT_BUFFER };
        self.clients.iter().all(|client| client.backlog() <= most)
            && (self.exited.is_some() || self.log.as_ref().is_none_or(Log::has_room))
    }

    /// When something must be looked at although nothing happens.
    pub fn deadline(&self) -> Option<Duration> {
        let stuck = self.log.as_ref().and_then(Log::deadline);
        let Some((_, at)) = self.exited else { return stuck };
        let left = |whole: Duration, passed: Duration| Some(whole.saturating_sub(passed));
        let ending = if !self.outputs.is_empty() {
            left(DRAIN, at.elapsed())
        } else if self.log.is_some() {
            left(LOG_DRAIN, at.elapsed())
        } else {
            let behind = self.clients.iter().filter(|client| client.backlog() > 0);
            behind.filter_map(|client| left(LINGER, client.stalled())).min()
        };
        stuck.into_iter().chain(ending).min()
    }

    /// Acts on what poll found.
    pub fn handle(
        &mut self,
        slot: Slot,
        found: PollFlags,
        scratch: &mut Vec<u8>,
        notes: &mut Vec<Note>,
    ) {
        match slot {
            Slot::Process => self.reap(),
            Slot::Output(index) => self.read_output(index, scratch),
            Slot::Input => self.feed(),
            Slot::Log => {
                if let Some(log) = &mut self.log {
                    log.handle();
                }
            }
            Slot::Client(index) => self.serve(index, found, scratch, notes),
        }
    }

    /// Drops what has ended since; call after a round of `handle`.
    pub fn tidy(&mut self, notes: &mut Vec<Note>) {
        self.outputs.retain(|output| !output.ended);
        let passed = self.exited.map(|(_, at)| at.elapsed());
        if passed.is_some_and(|passed| passed >= DRAIN) {
            self.outputs.clear();
        }
        if let Some(log) = &mut self.log
            && log.lost() > self.dropped
        {
            notes.push(Note::LogDropped(log.lost() - self.dropped));
            self.dropped = log.lost();
        }
        if let (Some(passed), true) = (passed, self.outputs.is_empty()) {
            if let Some(log) = &mut self.log {
                log.finish();
                // A helper that its disk still blocks writes the rest when it can, without us.
                if log.is_done() || passed >= LOG_DRAIN {
                    self.log = None;
                }
            }
            for client in &mut self.clients {
                if client.backlog() == 0 || client.stalled() >= LINGER {
                    client.left.get_or_insert(Left::Served);
                }
            }
        }
    }

    /// Whether a client has still something to hear.
    pub fn serves_clients(&self) -> bool {
        self.clients.iter().any(|client| client.left.is_none())
    }

    /// Closes the connections of clients that have left or were served. The end of a stream is
    /// seen at once: whatever follows from it must have been said before.
    pub fn close_clients(&mut self) {
        for client in self.clients.extract_if(.., |client| client.left.is_some()) {
            client.close();
        }
    }

    pub fn reap(&mut self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        if let Ok(Some(status)) = waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            let signal = status.terminating_signal();
            let killed = signal.map(|signal| 128 + signal);
            let code = status.exit_status().or(killed).unwrap_or(255);
            let at = Timestamp::from_system(SystemTime::now()).nanos();
            self.exited = Some((Exit { code, signal, at }, Instant::now()));
            self.stdin = None;
            self.input = VecDeque::new();
            self.clients.iter_mut().for_each(Client::begin_patience);
        }
    }

    fn read_output(&mut self, index: usize, scratch: &mut Vec<u8>) {
        // Both streams of one round: the second sees what the first has filled.
        if !self.may_read() {
            return;
        }
        let Some(output) = self.outputs.get_mut(index) else { return };
        scratch.clear();
        match rustix::io::read(&output.fd, rustix::buffer::spare_capacity(scratch)) {
            Ok(length) if length > 0 => {
                let stream = output.stream;
                if let Some(log) = &mut self.log {
                    log.write(stream, scratch);
                }
                for client in &mut self.clients {
                    client.tell(stream, scratch);
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            // The end; a terminal says so with EIO.
            _ => output.ended = true,
        }
    }

    /// Gives the process what waits for it.
    fn feed(&mut self) {
        while !self.input.is_empty() {
            let Some(stdin) = &self.stdin else {
                self.input = VecDeque::new();
                return;
            };
            let (first, _) = self.input.as_slices();
            match rustix::io::write(stdin, first) {
                Ok(written) => drop(self.input.drain(..written)),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => {
                    // Nobody reads any more.
                    self.input = VecDeque::new();
                    if self.console.is_none() {
                        self.stdin = None;
                    }
                    return;
                }
            }
        }
        self.input.shrink_to(0);
        if self.close_input && self.console.is_none() {
            self.stdin = None;
        }
    }

    fn serve(
        &mut self,
        index: usize,
        found: PollFlags,
        scratch: &mut Vec<u8>,
        notes: &mut Vec<Note>,
    ) {
        let terminal = self.console.is_some();
        let Some(client) = self.clients.get_mut(index) else { return };
        client.serve(found, terminal, scratch, &mut self.input);
        if client.left == Some(Left::Detached) {
            notes.push(Note::Detached);
        }
        if self.ends_with_client && client.is_gone() && self.exited.is_none() {
            // It leads a session of its own, and is not waited for yet: the number is its own.
            if let Some(leader) = Pid::from_raw(self.pid) {
                let _ = kill_process_group(leader, Signal::KILL);
            }
        }
        if client.stdin && self.stdin_once && (client.input_ended || client.left.is_some()) {
            self.close_input = true;
        }
        self.feed();
    }
}
