//! A netlink socket and what goes over it: transactions with acknowledgements, and dumps.

use std::io;
use std::os::fd::OwnedFd;
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
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Flags of an error: the request is not repeated, and there are attributes.
const CAPPED: u16 = 0x100;
const ACK_TLVS: u16 = 0x200;

/// Which part of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    Route,
    Netfilter,
}

/// A socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    pub fn open(kind: SocketKind) -> Result<Self, NetlinkError> {
        let failed = |errno: rustix::io::Errno| NetlinkError::Io {
            operation: "open a netlink socket",
            source: errno.into(),
        };
        let protocol = match kind {
            // Protocol 0.
            SocketKind::Route => None,
            SocketKind::Netfilter => Some(netlink::NETFILTER),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)
            .map_err(failed)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0)).map_err(failed)?;
        // A large transaction is answered by as many acknowledgements.
        let _ = sockopt::set_socket_recv_buffer_size(&fd, 4 << 20);
        let _ = sockopt::set_socket_send_buffer_size(&fd, 4 << 20);
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
        loop {
            let length = self.receive(operation, &mut buffer, started)?;
            for answer in answers(&buffer[..length]) {
                match answer.kind {
                    DONE => return Ok(()),
                    ERROR => return refusal(operation, &answer).map_or(Ok(()), Err),
                    kind => each(kind, answer.body),
                }
            }
        }
    }

    fn send(&self, operation: &'static str, bytes: &[u8]) -> Result<(), NetlinkError> {
        self.drain();
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.fd, bytes, SendFlags::empty(), &kernel)
            .map(drop)
            .map_err(|errno| NetlinkError::Io { operation, source: errno.into() })
    }

    /// What is left of an earlier answer means nothing to the next question.
    fn drain(&self) {
        let mut buffer = [0; 4096];
        while recv(&self.fd, &mut buffer, RecvFlags::DONTWAIT).is_ok() {}
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
