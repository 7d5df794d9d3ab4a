//! A netlink socket and what goes over it: transactions with acknowledgements, and dumps.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
    sockopt,
};

use crate::NetlinkError;
use crate::message::{Answer, Attributes, Message, answers};

const DEADLINE: Duration = Duration::from_secs(10);
/// What may lie in the socket. A transaction must fit whole; it grows with those that need it.
const BUFFER: usize = 4 << 20;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Flags of an error: the request is not repeated, and there are attributes.
const CAPPED: u16 = 0x100;
const ACK_TLVS: u16 = 0x200;
/// Flag of a part of a list: the list was changed while it was read.
const CHANGED: u16 = 0x10;

/// Which part of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    Route,
    Netfilter,
    /// `sock_diag`.
    Diagnosis,
}

/// A socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    pub fn open(kind: SocketKind) -> Result<Self, NetlinkError> {
        Self::bound(kind, 0)
    }

    /// A socket that somebody kept: the kernel knows it as the one that it was.
    pub fn from_kept(fd: OwnedFd, kind: SocketKind) -> Result<Self, NetlinkError> {
        let operation = "take a kept netlink socket over";
        let failed =
            |errno: rustix::io::Errno| NetlinkError::Io { operation, source: errno.into() };
        let domain = sockopt::socket_domain(&fd).map_err(failed)?;
        let protocol = sockopt::socket_protocol(&fd).map_err(failed)?;
        let wanted = match kind {
            SocketKind::Route => None,
            SocketKind::Netfilter => Some(netlink::NETFILTER),
            SocketKind::Diagnosis => Some(netlink::SOCK_DIAG),
        };
        if domain != AddressFamily::NETLINK || protocol != wanted {
            return Err(NetlinkError::garbled(operation));
        }
        Ok(Self { fd, sequence: 0 })
    }

    /// One that hears what the kernel says to a group (counted from 1, up to 32).
    pub(crate) fn listening(kind: SocketKind, group: u32) -> Result<Self, NetlinkError> {
        Self::bound(kind, 1_u32.checked_shl(group.saturating_sub(1)).unwrap_or(0))
    }

    fn bound(kind: SocketKind, groups: u32) -> Result<Self, NetlinkError> {
        let failed = |errno: rustix::io::Errno| NetlinkError::Io {
            operation: "open a netlink socket",
            source: errno.into(),
        };
        let protocol = match kind {
            // Protocol 0.
            SocketKind::Route => None,
            SocketKind::Netfilter => Some(netlink::NETFILTER),
            SocketKind::Diagnosis => Some(netlink::SOCK_DIAG),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)
            .map_err(failed)?;
        bind(&fd, &SocketAddrNetlink::new(0, groups)).map_err(failed)?;
        // The system's bounds are for those who may not raise them.
        if sockopt::set_socket_recv_buffer_size_force(&fd, BUFFER).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&fd, BUFFER);
        }
        if sockopt::set_socket_send_buffer_size_force(&fd, BUFFER).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(&fd, BUFFER);
        }
        Ok(Self { fd, sequence: 0 })
    }

    /// A number for the next message.
    pub fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Sends messages that all ask for an acknowledgement (but `silent` of them), and waits for
    /// every one. The first refusal is the error.
    pub fn transact(
        &mut self,
        operation: &'static str,
        message: Message,
        silent: usize,
    ) -> Result<(), NetlinkError> {
        let mut outstanding = message.count().saturating_sub(silent);
        self.send(operation, &message.bytes())?;
        let started = Instant::now();
        let mut refused = None;
        let mut buffer = vec![0; 64 * 1024];
        while outstanding > 0 {
            let length = match self.receive(operation, &mut buffer, started) {
                Ok(length) => length,
                // A refused batch is not acknowledged further.
                Err(NetlinkError::Late(_)) if refused.is_some() => break,
                Err(error) => return Err(error),
            };
            for answer in answers(&buffer[..length]) {
                if answer.kind != ERROR {
                    continue;
                }
                outstanding = outstanding.saturating_sub(1);
                if let (Some(error), None) = (refusal(operation, &answer), &refused) {
                    refused = Some(error);
                    // Give the rest of a failed batch a moment, then stop waiting for it.
                    self.drain();
                    outstanding = 0;
                }
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Asks for a list; each part is given to `each` with its type.
    pub fn dump(
        &mut self,
        operation: &'static str,
        message: Message,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<(), NetlinkError> {
        self.send(operation, &message.bytes())?;
        let started = Instant::now();
        let mut buffer = vec![0; 64 * 1024];
        let mut changed = false;
        loop {
            let length = self.receive(operation, &mut buffer, started)?;
            for answer in answers(&buffer[..length]) {
                changed |= answer.flags & CHANGED != 0;
                match answer.kind {
                    DONE if changed => return Err(NetlinkError::Changed(operation)),
                    DONE => return Ok(()),
                    ERROR => return refusal(operation, &answer).map_or(Ok(()), Err),
                    kind => each(kind, answer.body),
                }
            }
        }
    }

    /// Asks for one thing, which is answered by one message.
    pub fn ask(
        &mut self,
        operation: &'static str,
        message: Message,
        mut each: impl FnMut(u16, &[u8]),
    ) -> Result<(), NetlinkError> {
        self.send(operation, &message.bytes())?;
        let started = Instant::now();
        let mut buffer = vec![0; 64 * 1024];
        let length = self.receive(operation, &mut buffer, started)?;
        for answer in answers(&buffer[..length]) {
            match answer.kind {
                ERROR => return refusal(operation, &answer).map_or(Ok(()), Err),
                kind => each(kind, answer.body),
            }
        }
        Ok(())
    }

    /// Sends messages whose answers do not matter.
    pub(crate) fn tell(
        &mut self,
        operation: &'static str,
        message: Message,
    ) -> Result<(), NetlinkError> {
        self.send(operation, &message.bytes())
    }

    /// Waits, without a deadline, until the kernel says something to the socket's group.
    pub(crate) fn wait_for_news(&self, operation: &'static str) -> Result<(), NetlinkError> {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        loop {
            match poll(&mut fds, None) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    return Err(NetlinkError::Io { operation, source: errno.into() });
                }
            }
        }
        self.drain();
        Ok(())
    }

    /// To be kept by another process: what belongs to the socket stays its own as long as anybody
    /// has it open.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn send(&self, operation: &'static str, bytes: &[u8]) -> Result<(), NetlinkError> {
        self.drain();
        // The kernel counts twice what was asked for, for its own bookkeeping.
        if bytes.len() > BUFFER {
            let _ = sockopt::set_socket_send_buffer_size_force(&self.fd, bytes.len() + 4096);
        }
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.fd, bytes, SendFlags::empty(), &kernel)
            .map(drop)
            .map_err(|errno| NetlinkError::Io { operation, source: errno.into() })
    }

    /// What is left of an earlier answer means nothing to the next question.
    pub(crate) fn drain(&self) {
        use rustix::io::Errno;
        let mut buffer = [0; 4096];
        // No more than fits the socket: who talks without end is not listened to without end.
        for _ in 0..100_000 {
            match recv(&self.fd, &mut buffer, RecvFlags::DONTWAIT) {
                // Some words were lost; others may lie behind them.
                Ok(_) | Err(Errno::INTR | Errno::NOBUFS) => {}
                Err(_) => return,
            }
        }
    }

    fn receive(
        &self,
        operation: &'static str,
        buffer: &mut [u8],
        started: Instant,
    ) -> Result<usize, NetlinkError> {
        let failed = |source: io::Error| NetlinkError::Io { operation, source };
        loop {
            match recv(&self.fd, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((_, length)) => return Ok(length.min(buffer.len())),
                Err(rustix::io::Errno::AGAIN) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(failed(errno.into())),
            }
            let left = DEADLINE.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(NetlinkError::Late(operation));
            }
            let timeout =
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }
}

fn refusal(operation: &'static str, answer: &Answer<'_>) -> Option<NetlinkError> {
    let code = answer.body.get(..4)?;
    let code = i32::from_ne_bytes([code[0], code[1], code[2], code[3]]);
    if code == 0 {
        return None;
    }
    let _ = answer.sequence;
    let mut explanation = String::new();
    if answer.flags & ACK_TLVS != 0 {
        let request = answer.body.get(4..8).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
        let skip = if answer.flags & CAPPED != 0 {
            20
        } else {
            4 + (request.unwrap_or(16) as usize).next_multiple_of(4)
        };
        if let Some(text) = Attributes(answer.body.get(skip..).unwrap_or_default()).find(1) {
            explanation = String::from_utf8_lossy(text).trim_end_matches('\0').to_owned();
        }
    }
    let source = io::Error::from_raw_os_error(code.saturating_neg());
    Some(NetlinkError::Refused { operation, source, explanation })
}
