//! What daemon and keeper say to each other, one SOCK_SEQPACKET message each.
//!
//! The greeting and the handing over are plain bytes and never change: keepers live longer than
//! daemons, and an old one must understand that much of a new one. The rest is postcard.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use hoy_types::Protocol;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, ipproto, sockopt};
use serde::{Deserialize, Serialize};

use super::{Hold, Key};

/// Raise it whenever `Request` or `Reply` change.
pub const VERSION: u16 = 1;
/// Items in one message.
pub(super) const MAX_ITEMS: usize = 256;
/// No message is longer.
pub(super) const MAX_MESSAGE: usize = 64 * 1024;
/// The keeper does nothing that takes time.
const DEADLINE: Duration = Duration::from_secs(10);

const HELLO: &[u8; 10] = b"hoy ports ";
/// "Give me all your sockets and go."
pub(super) const HAND_OVER: &[u8] = b"hoy ports hand over";
const SOCKETS: u8 = b's';
const LAST: u8 = b'e';

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    Hold(Vec<Hold>),
    Release(Vec<Key>),
    /// Those that come after this one.
    List(Option<Key>),
    /// Release everything and end.
    End,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The error number of each that could not be held.
    Results(Vec<Option<i32>>),
    Done,
    /// An empty list is the last.
    Keys(Vec<Key>),
}

/// The greeting of either side: its version and process.
pub(super) fn hello(version: u16) -> Vec<u8> {
    let mut out = HELLO.to_vec();
    out.extend(version.to_le_bytes());
    out.extend(std::process::id().to_le_bytes());
    out
}

pub(super) fn parse_hello(bytes: &[u8]) -> Option<(u16, u32)> {
    let rest = bytes.strip_prefix(HELLO.as_slice())?;
    let version = u16::from_le_bytes(rest.get(..2)?.try_into().ok()?);
    let process = u32::from_le_bytes(rest.get(2..6)?.try_into().ok()?);
    Some((version, process))
}

pub(super) fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(message).map_err(io::Error::other)
}

/// All of the bytes must belong to it, and it must be no more than is allowed.
pub(super) fn decode_request(bytes: &[u8]) -> Option<Request> {
    let request = match postcard::take_from_bytes::<Request>(bytes) {
        Ok((request, [])) => request,
        _ => return None,
    };
    let count = match &request {
        Request::Hold(items) => items.len(),
        Request::Release(items) => items.len(),
        Request::List(_) | Request::End => 0,
    };
    (count <= MAX_ITEMS).then_some(request)
}

pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    hoy_sys::socket::send(socket, bytes, &[]).map(drop)
}

/// One message, or an error after the deadline. The end of the connection is an error.
pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let started = Instant::now();
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        let left = DEADLINE.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let timeout =
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let (length, descriptors) =
            hoy_sys::socket::receive(socket, &mut buffer, RecvFlags::empty())?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.truncate(length);
        return Ok((buffer, descriptors));
    }
}

/// Sends sockets to a successor; with each, whether it was proxied.
pub(super) fn hand_over(
    socket: BorrowedFd<'_>,
    sockets: &[(BorrowedFd<'_>, bool)],
) -> io::Result<()> {
    for part in sockets.chunks(hoy_sys::socket::MAX_DESCRIPTORS) {
        let mut bytes = vec![SOCKETS];
        bytes.extend(part.iter().map(|(_, proxied)| u8::from(*proxied)));
        let descriptors: Vec<BorrowedFd<'_>> = part.iter().map(|(fd, _)| *fd).collect();
        hoy_sys::socket::send(socket, &bytes, &descriptors)?;
    }
    send(socket, &[LAST])
}

/// Takes a predecessor's sockets over. What they are is asked of the kernel.
pub(super) fn take_over(socket: BorrowedFd<'_>) -> io::Result<Vec<(Key, bool, OwnedFd)>> {
    send(socket, HAND_OVER)?;
    let mut out = Vec::new();
    loop {
        let (bytes, descriptors) = receive(socket)?;
        match bytes.split_first() {
            Some((&SOCKETS, proxied)) => {
                let parts = descriptors.into_iter().zip(proxied);
                out.extend(
                    parts.filter_map(|(fd, proxied)| Some((key_of(&fd)?, *proxied == 1, fd))),
                );
            }
            Some((&LAST, [])) => return Ok(out),
            // A greeting that was on its way.
            _ if parse_hello(&bytes).is_some() => {}
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

fn key_of(socket: &OwnedFd) -> Option<Key> {
    let protocol = match sockopt::socket_protocol(socket.as_fd()).ok()?? {
        ipproto::TCP => Protocol::Tcp,
        ipproto::UDP => Protocol::Udp,
        ipproto::SCTP => Protocol::Sctp,
        _ => return None,
    };
    let address = rustix::net::getsockname(socket).ok()?;
    let address = std::net::SocketAddr::try_from(address).ok()?;
    let ip: IpAddr = address.ip();
    Some(Key { protocol, ip, port: address.port() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_bounded_and_whole() {
        let key = Key { protocol: Protocol::Udp, ip: "::".parse().unwrap(), port: 53 };
        let hold = Hold { key, proxy: Some("[fd00::1]:53".parse().unwrap()) };
        let whole = encode(&Request::Hold(vec![hold; MAX_ITEMS])).unwrap();
        assert!(whole.len() < MAX_MESSAGE);
        assert_eq!(decode_request(&whole), Some(Request::Hold(vec![hold; MAX_ITEMS])));
        for length in 0..whole.len() {
            assert_eq!(decode_request(&whole[..length]), None);
        }
        let more = encode(&Request::Release(vec![key; MAX_ITEMS + 1])).unwrap();
        assert_eq!(decode_request(&more), None);
        assert_eq!(decode_request(&[0xff; 100]), None);
        assert_eq!(parse_hello(&hello(7)), Some((7, std::process::id())));
        assert_eq!(parse_hello(b"hoy ports "), None);
    }
}
