//! One attached client: its stream, its buffer, its detach keys.
//!
//! What it does not take at once waits in a buffer that the session bounds by reading no more
//! from the process.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hoy_logs::Stream;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown};

use crate::message::AttachRequest;

/// How many bytes a client that ends may leave unread and still get a clean end of its stream.
const UNREAD: usize = 1 << 20;
/// What is kept of an empty buffer.
const KEPT: usize = 4096;

#[derive(Debug)]
pub(crate) struct Client {
    pub fd: OwnedFd,
    pub stdin: bool,
    stdout: bool,
    stderr: bool,
    framed: bool,
    keys: Vec<u8>,
    matched: usize,
    pending: VecDeque<u8>,
    /// It has said that no more input will come.
    pub input_ended: bool,
    /// It has closed its stream: it hears nothing more, but what it said before still counts.
    deaf: bool,
    pub left: Option<Left>,
    progress: Instant,
}

/// Why a client is no longer attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Vanished,
    /// By its keys.
    Detached,
    /// It has everything that there was.
    Served,
}

impl Client {
    pub fn new(fd: OwnedFd, request: &AttachRequest, stdin: bool) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            fd,
            stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            framed: request.framed,
            keys: request.detach_keys.clone(),
            matched: 0,
            pending: VecDeque::new(),
            input_ended: false,
            deaf: false,
            left: None,
            progress: Instant::now(),
        })
    }

    /// How many bytes it has not taken yet.
    pub fn backlog(&self) -> usize {
        self.pending.len()
    }

    /// It has hung up, and did not leave by its keys.
    pub fn is_gone(&self) -> bool {
        self.deaf || self.left == Some(Left::Vanished)
    }

    /// For how long it has taken nothing although something was there.
    pub fn stalled(&self) -> Duration {
        self.progress.elapsed()
    }

    /// The time before this does not count against it.
    pub fn begin_patience(&mut self) {
        self.progress = Instant::now();
    }

    /// What to wait for, or `None` for nothing at all: not even its end, which would be told again
    /// and again.
    pub fn interest(&self, input_has_room: bool) -> Option<PollFlags> {
        let mut flags = PollFlags::empty();
        if !self.input_ended && (input_has_room || !self.stdin) {
            flags |= PollFlags::IN;
        } else if self.deaf {
            return None;
        }
        if !self.pending.is_empty() {
            flags |= PollFlags::OUT;
        }
        Some(flags)
    }

    /// Sends it what the process said.
    pub fn tell(&mut self, stream: Stream, bytes: &[u8]) {
        let (wanted, number) = match stream {
            Stream::Stdout => (self.stdout, 1),
            Stream::Stderr => (self.stderr, 2),
        };
        if !wanted || self.deaf || self.left.is_some() {
            return;
        }
        let [a, b, c, d] = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
        let head = [number, 0, 0, 0, a, b, c, d];
        let head = if self.framed { &head[..] } else { &[] };
        if self.pending.is_empty() {
            // The clock of a client that was idle starts now.
            self.progress = Instant::now();
        }
        let sent = if self.pending.is_empty() { self.send(head, bytes) } else { 0 };
        if self.deaf {
            return;
        }
        self.pending.extend(&head[sent.min(head.len())..]);
        self.pending.extend(&bytes[sent.saturating_sub(head.len())..]);
    }

    /// Sends what it takes at once, without waiting.
    fn send(&mut self, first: &[u8], second: &[u8]) -> usize {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let parts = [IoSlice::new(first), IoSlice::new(second)];
        loop {
            let mut none = SendAncillaryBuffer::default();
            match rustix::net::sendmsg(&self.fd, &parts, &mut none, flags) {
                Ok(sent) => {
                    self.progress = Instant::now();
                    return sent;
                }
                Err(Errno::AGAIN) => return 0,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.deafen();
                    return 0;
                }
            }
        }
    }

    /// It is gone as a reader. As a writer it is gone when its last byte was read.
    fn deafen(&mut self) {
        self.deaf = true;
        self.pending = VecDeque::new();
        if !self.stdin || self.input_ended {
            self.left = Some(Left::Vanished);
        }
    }

    pub fn flush(&mut self) {
        while !self.pending.is_empty() {
            let pending = std::mem::take(&mut self.pending);
            let (first, second) = pending.as_slices();
            let sent = self.send(first, second);
            if self.deaf {
                return;
            }
            self.pending = pending;
            self.pending.drain(..sent);
            if sent == 0 {
                return;
            }
        }
        self.pending.shrink_to(KEPT);
    }

    /// Acts on what poll found, and adds to `input` what goes to the process.
    pub fn serve(
        &mut self,
        found: PollFlags,
        terminal: bool,
        scratch: &mut Vec<u8>,
        input: &mut VecDeque<u8>,
    ) {
        if found.contains(PollFlags::OUT) {
            self.flush();
        }
        if found.contains(PollFlags::ERR) {
            self.left = Some(Left::Vanished);
            return;
        }
        if found.contains(PollFlags::HUP) && !self.deaf {
            self.deafen();
        }
        if !found.contains(PollFlags::IN) || self.input_ended || self.left.is_some() {
            return;
        }
        scratch.clear();
        let room = rustix::buffer::spare_capacity(scratch);
        match rustix::net::recv(&self.fd, room, RecvFlags::DONTWAIT) {
            Ok((0, _)) => {
                self.input_ended = true;
                if self.deaf {
                    self.left = Some(Left::Vanished);
                }
            }
            Ok(_) if self.stdin => self.keep_input(scratch, terminal, input),
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.left = Some(Left::Vanished),
        }
    }

    /// What of its input goes to the process. Keys that end the attachment do not; they are looked
    /// for on a terminal only, across packets.
    pub fn keep_input(&mut self, bytes: &[u8], terminal: bool, input: &mut VecDeque<u8>) {
        if !terminal || self.keys.is_empty() {
            input.extend(bytes);
            return;
        }
        for byte in bytes {
            if self.keys.get(self.matched) != Some(byte) {
                // It was not the sequence after all: what was held back goes through.
                input.extend(&self.keys[..self.matched]);
                self.matched = 0;
            }
            if self.keys.get(self.matched) != Some(byte) {
                input.push_back(*byte);
                continue;
            }
            self.matched += 1;
            if self.matched == self.keys.len() {
                self.left = Some(Left::Detached);
                return;
            }
        }
    }

    /// Ends its stream. Input that nobody read would turn the end into an error at its side.
    pub fn close(mut self) {
        self.flush();
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Both);
        let mut buffer = [0; 4096];
        let mut unread = 0;
        while unread < UNREAD {
            match rustix::net::recv(&self.fd, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(_) => return,
                Ok((length, _)) => unread += length,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn client(keys: &[u8], framed: bool) -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let request = AttachRequest {
            stdin: true,
            stdout: true,
            stderr: true,
            early: Vec::new(),
            framed,
            detach_keys: keys.to_vec(),
        };
        (Client::new(ours.into(), &request, true).unwrap(), theirs)
    }

    fn kept(client: &mut Client, bytes: &[u8], terminal: bool) -> Vec<u8> {
        let mut input = VecDeque::new();
        client.keep_input(bytes, terminal, &mut input);
        input.into()
    }

    #[test]
    fn detach_keys_across_packets() {
        let (mut client, _peer) = client(&[16, 17], false);
        assert_eq!(kept(&mut client, b"ab\x10", true), b"ab");
        assert_eq!(kept(&mut client, b"c\x10\x10", true), b"\x10c\x10");
        assert_eq!(client.left, None);
        assert_eq!(kept(&mut client, b"\x11rest", true), b"");
        assert_eq!(client.left, Some(Left::Detached));
    }

    #[test]
    fn a_single_detach_key() {
        let (mut client, _peer) = client(b"q", false);
        assert_eq!(kept(&mut client, b"abq", true), b"ab");
        assert_eq!(client.left, Some(Left::Detached));
    }

    #[test]
    fn without_a_terminal_everything_passes() {
        let (mut client, _peer) = client(&[16, 17], false);
        assert_eq!(kept(&mut client, b"\x10\x11", false), b"\x10\x11");
        assert_eq!(client.left, None);
    }

    #[test]
    fn frames_survive_a_slow_reader() {
        use std::io::Read as _;
        let (mut client, mut peer) = client(&[], true);
        let mut expected = Vec::new();
        for number in 0..100_u32 {
            let bytes = vec![number as u8; 20_000 + number as usize];
            client.tell(if number % 2 == 0 { Stream::Stdout } else { Stream::Stderr }, &bytes);
            expected.extend([1 + (number % 2) as u8, 0, 0, 0]);
            expected.extend((bytes.len() as u32).to_be_bytes());
            expected.extend(bytes);
        }
        assert!(client.backlog() > 0);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).unwrap();
            all
        });
        while client.backlog() > 0 {
            client.flush();
            std::thread::yield_now();
        }
        client.close();
        assert!(reader.join().unwrap() == expected);
    }

    #[test]
    fn one_that_is_gone_is_left_but_its_words_count() {
        use std::io::Write as _;
        let (mut client, mut peer) = client(&[], false);
        peer.write_all(b"last words").unwrap();
        drop(peer);
        let (mut scratch, mut input) = (Vec::with_capacity(4), VecDeque::new());
        let found = PollFlags::IN | PollFlags::HUP;
        while client.left.is_none() {
            client.serve(found, false, &mut scratch, &mut input);
        }
        assert_eq!(input, *b"last words");
    }
}
