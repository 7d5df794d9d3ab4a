//! One supervised process — the container's first or an exec session — and its clients.
//!
//! Bytes flow: process → log and clients, clients → process. Every buffer is bounded; a client
//! that is slow slows the process down, as a pipe would; one that is gone is dropped at once.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use hoy_logs::{Stream, Writer};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::message::AttachRequest;

/// More than this waiting for one client stops reading from the process.
const CLIENT_BUFFER: usize = 256 * 1024;
/// More than this waiting for the process stops reading from clients.
const STDIN_BUFFER: usize = 64 * 1024;
/// How much is read at once.
const CHUNK: usize = 64 * 1024;
/// How long pipes that somebody else still holds are read after the process has ended.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a client may take nothing once the process has ended.
const LINGER: Duration = Duration::from_secs(30);

/// Our end of one stream of the process.
#[derive(Debug)]
struct Output {
    fd: OwnedFd,
    stream: Stream,
    ended: bool,
}

/// An attached client.
#[derive(Debug)]
struct Client {
    fd: OwnedFd,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    framed: bool,
    keys: Vec<u8>,
    matched: usize,
    pending: VecDeque<u8>,
    /// It has said that no more input will come.
    input_ended: bool,
    gone: bool,
    progress: Instant,
}

/// What the supervisor has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    /// A client left by its keys.
    Detached,
    /// Records could not be written.
    LogDropped,
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
    log: Option<Writer>,
    exited: Option<(i32, Instant)>,
}

/// What poll found for one of a session's descriptors.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Slot {
    Process,
    Output(usize),
    Input,
    Client(usize),
}

impl Session {
    pub fn new(
        pid: i32,
        pidfd: OwnedFd,
        console: Option<OwnedFd>,
        pipes: Option<(Option<OwnedFd>, OwnedFd, OwnedFd)>,
        stdin_once: bool,
        log: Option<Writer>,
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
            log,
            exited: None,
        };
        let nonblocking = |fd: &OwnedFd| rustix::io::ioctl_fionbio(fd, true);
        if let Some(console) = console {
            nonblocking(&console)?;
            session.stdin = Some(console.try_clone()?);
            session.outputs.push(Output {
                fd: console.try_clone()?,
                stream: Stream::Stdout,
                ended: false,
            });
            session.console = Some(console);
        } else if let Some((stdin, stdout, stderr)) = pipes {
            if let Some(stdin) = stdin {
                nonblocking(&stdin)?;
                session.stdin = Some(stdin);
            }
            for (fd, stream) in [(stdout, Stream::Stdout), (stderr, Stream::Stderr)] {
                nonblocking(&fd)?;
                session.outputs.push(Output { fd, stream, ended: false });
            }
        }
        Ok(session)
    }

    pub fn console(&self) -> Option<&OwnedFd> {
        self.console.as_ref()
    }

    /// The exit code once the process has ended and all it said was read.
    pub fn finished(&self) -> Option<i32> {
        let (code, at) = self.exited?;
        (self.outputs.is_empty() || at.elapsed() >= DRAIN).then_some(code)
    }

    pub fn has_clients(&self) -> bool {
        !self.clients.is_empty()
    }

    /// Takes a client in. Its early bytes are its first input.
    pub fn attach(&mut self, fd: OwnedFd, request: &AttachRequest) {
        if rustix::io::ioctl_fionbio(&fd, true).is_err() {
            return;
        }
        let mut client = Client {
            fd,
            stdin: request.stdin && self.stdin.is_some(),
            stdout: request.stdout,
            stderr: request.stderr,
            framed: request.framed,
            keys: request.detach_keys.clone(),
            matched: 0,
            pending: VecDeque::new(),
            input_ended: false,
            gone: false,
            progress: Instant::now(),
        };
        if client.stdin {
            let early = client.keep_input(&request.early, self.console.is_some());
            self.input.extend(early);
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
        let blocked = self.clients.iter().any(|client| client.pending.len() > CLIENT_BUFFER);
        if !blocked {
            for (index, output) in self.outputs.iter().enumerate() {
                out.push((Slot::Output(index), output.fd.as_fd(), PollFlags::IN));
            }
        }
        if let Some(stdin) = &self.stdin
            && !self.input.is_empty()
        {
            out.push((Slot::Input, stdin.as_fd(), PollFlags::OUT));
        }
        for (index, client) in self.clients.iter().enumerate() {
            let mut flags = PollFlags::empty();
            if !client.input_ended && self.input.len() < STDIN_BUFFER {
                flags |= PollFlags::IN;
            }
            if !client.pending.is_empty() {
                flags |= PollFlags::OUT;
            }
            out.push((Slot::Client(index), client.fd.as_fd(), flags));
        }
        out
    }

    /// When something must be looked at although nothing happens.
    pub fn deadline(&self) -> Option<Duration> {
        let (_, at) = self.exited?;
        if !self.outputs.is_empty() {
            return Some(DRAIN.saturating_sub(at.elapsed()));
        }
        let waits = self.clients.iter().filter(|client| !client.pending.is_empty());
        waits.map(|client| LINGER.saturating_sub(client.progress.elapsed())).min()
    }

    /// Acts on what poll found.
    pub fn handle(&mut self, slot: Slot, found: PollFlags, notes: &mut Vec<Note>) {
        match slot {
            Slot::Process => self.reap(),
            Slot::Output(index) => self.read_output(index, notes),
            Slot::Input => self.feed(),
            Slot::Client(index) => self.serve(index, found, notes),
        }
    }

    /// Drops what has ended since; call after a round of `handle`.
    pub fn tidy(&mut self) {
        self.outputs.retain(|output| !output.ended);
        let ended = self.exited.is_some() && self.outputs.is_empty();
        let late = self.exited.is_some_and(|(_, at)| at.elapsed() >= DRAIN);
        if late {
            self.outputs.clear();
        }
        if ended || late {
            if let Some(log) = &mut self.log {
                let _ = log.finish(hoy_types::Timestamp::from_system(std::time::SystemTime::now()));
            }
            for client in &mut self.clients {
                let stuck = client.progress.elapsed() >= LINGER;
                if client.pending.is_empty() || stuck {
                    let _ = rustix::net::shutdown(&client.fd, rustix::net::Shutdown::Both);
                    client.gone = true;
                }
            }
        }
        self.clients.retain(|client| !client.gone);
    }

    fn reap(&mut self) {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        if let Ok(Some(status)) = waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            let killed = status.terminating_signal().map(|signal| 128 + signal);
            let code = status.exit_status().or(killed).unwrap_or(255);
            self.exited = Some((code, Instant::now()));
            self.stdin = None;
            self.input.clear();
            for client in &mut self.clients {
                client.progress = Instant::now();
            }
        }
    }

    fn read_output(&mut self, index: usize, notes: &mut Vec<Note>) {
        let Some(output) = self.outputs.get_mut(index) else { return };
        let mut buffer = vec![0; CHUNK];
        match rustix::io::read(&output.fd, &mut buffer) {
            Ok(length) if length > 0 => {
                let (stream, bytes) = (output.stream, &buffer[..length]);
                if let Some(log) = &mut self.log
                    && log
                        .push(
                            stream,
                            hoy_types::Timestamp::from_system(std::time::SystemTime::now()),
                            bytes,
                        )
                        .and_then(|()| log.flush())
                        .is_err()
                {
                    notes.push(Note::LogDropped);
                }
                for client in &mut self.clients {
                    client.tell(stream, bytes);
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
                self.input.clear();
                return;
            };
            let (first, _) = self.input.as_slices();
            match rustix::io::write(stdin, first) {
                Ok(written) => drop(self.input.drain(..written)),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => {
                    // Nobody reads any more.
                    self.input.clear();
                    if self.console.is_none() {
                        self.stdin = None;
                    }
                    return;
                }
            }
        }
        if self.close_input && self.console.is_none() {
            self.stdin = None;
        }
    }

    fn serve(&mut self, index: usize, found: PollFlags, notes: &mut Vec<Note>) {
        let terminal = self.console.is_some();
        let Some(client) = self.clients.get_mut(index) else { return };
        if found.contains(PollFlags::OUT) {
            client.flush();
        }
        if found.intersects(PollFlags::HUP | PollFlags::ERR) {
            client.gone = true;
        }
        if found.contains(PollFlags::IN) && !client.input_ended {
            let mut buffer = vec![0; CHUNK / 2];
            match rustix::net::recv(&client.fd, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => client.input_ended = true,
                Ok((_, length)) if client.stdin => {
                    let bytes = client.keep_input(&buffer[..length.min(buffer.len())], terminal);
                    self.input.extend(bytes);
                    if client.gone {
                        notes.push(Note::Detached);
                    }
                }
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => client.gone = true,
            }
        }
        let left = client.input_ended || client.gone;
        if left && client.stdin && self.stdin_once {
            self.close_input = true;
        }
        self.feed();
    }
}

impl Client {
    fn tell(&mut self, stream: Stream, bytes: &[u8]) {
        let (wanted, number) = match stream {
            Stream::Stdout => (self.stdout, 1),
            Stream::Stderr => (self.stderr, 2),
        };
        if !wanted || self.gone {
            return;
        }
        if self.framed {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
            self.pending.extend([number, 0, 0, 0]);
            self.pending.extend(length);
        }
        self.pending.extend(bytes);
        self.flush();
    }

    fn flush(&mut self) {
        while !self.pending.is_empty() {
            let (first, _) = self.pending.as_slices();
            match rustix::net::send(&self.fd, first, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(written) => {
                    self.pending.drain(..written);
                    self.progress = Instant::now();
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.pending.clear();
                    self.gone = true;
                }
            }
        }
        self.pending.shrink_to(4096);
    }

    /// What of its input goes to the process. Keys that end the attachment do not; they are looked
    /// for on a terminal only, across packets.
    fn keep_input(&mut self, bytes: &[u8], terminal: bool) -> Vec<u8> {
        if !terminal || self.keys.is_empty() {
            return bytes.to_vec();
        }
        let mut out = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    self.gone = true;
                    return out;
                }
                continue;
            }
            // It was not the sequence after all: what was held back goes through.
            out.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if self.keys.first() == Some(byte) {
                self.matched = 1;
                if self.keys.len() == 1 {
                    self.gone = true;
                    return out;
                }
            } else {
                out.push(*byte);
            }
        }
        out
    }
}

/// For poll: the descriptors of what `interests` said.
pub(crate) fn poll_fds<'a>(interests: &[(Slot, BorrowedFd<'a>, PollFlags)]) -> Vec<PollFd<'a>> {
    interests.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(keys: &[u8]) -> Client {
        let fd =
            rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
        Client {
            fd: fd.unwrap(),
            stdin: true,
            stdout: true,
            stderr: true,
            framed: false,
            keys: keys.to_vec(),
            matched: 0,
            pending: VecDeque::new(),
            input_ended: false,
            gone: false,
            progress: Instant::now(),
        }
    }

    #[test]
    fn detach_keys_across_packets() {
        let mut client = client(&[16, 17]);
        assert_eq!(client.keep_input(b"ab\x10", true), b"ab");
        assert_eq!(client.keep_input(b"c\x10\x10", true), b"\x10c\x10");
        assert!(!client.gone);
        assert_eq!(client.keep_input(b"\x11rest", true), b"");
        assert!(client.gone);
    }

    #[test]
    fn without_a_terminal_everything_passes() {
        let mut client = client(&[16, 17]);
        assert_eq!(client.keep_input(b"\x10\x11", false), b"\x10\x11");
        assert!(!client.gone);
    }
}
