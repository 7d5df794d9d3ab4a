//! Many datagrams with one system call, on IPv4 sockets.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use crate::check;

/// How many datagrams one call takes or gives at most.
pub const MANY: usize = 32;

/// Room for datagrams that come together; used again and again.
#[derive(Debug)]
pub struct Received {
    /// How much of one datagram is kept.
    room: usize,
    bytes: Vec<u8>,
    datagrams: Vec<(usize, bool, SocketAddrV4)>,
}

impl Received {
    pub fn new(room: usize) -> Self {
        Self { room, bytes: vec![0; room * MANY], datagrams: Vec::with_capacity(MANY) }
    }

    /// What came with the last call: the bytes, whether there was no room for all of them, and
    /// who sent them.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], bool, SocketAddrV4)> {
        let pieces = self.bytes.chunks(self.room.max(1));
        self.datagrams.iter().zip(pieces).map(|((length, cut, from), piece)| {
            (piece.get(..*length).unwrap_or(piece), *cut, *from)
        })
    }

    /// Takes what waits in the socket's queue, without waiting for more. Fewer than `MANY` mean
    /// that the queue was empty then.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.datagrams.clear();
        let mut from = [sockaddr(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)); MANY];
        let mut pieces = [EMPTY; MANY];
        for (piece, bytes) in pieces.iter_mut().zip(self.bytes.chunks_mut(self.room.max(1))) {
            piece.iov_base = bytes.as_mut_ptr().cast();
            piece.iov_len = bytes.len();
        }
        let mut headers = [header(); MANY];
        for ((header, piece), from) in headers.iter_mut().zip(&mut pieces).zip(&mut from) {
            fill(header, piece, from);
        }
        // SAFETY: `headers` has MANY valid headers; each points to one `iovec`, which points to
        // its own part of `self.bytes`, and to one `sockaddr_in`; all of them outlive the call and
        // nothing else looks at them meanwhile. A null timeout is allowed.
        let count = check(libc::c_long::from(unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                MANY as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        }))?;
        let count = usize::try_from(count).unwrap_or(0);
        for (header, from) in headers.iter().zip(&from).take(count) {
            let address = Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr));
            let from = SocketAddrV4::new(address, u16::from_be(from.sin_port));
            let cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            self.datagrams.push((header.msg_len as usize, cut, from));
        }
        Ok(count)
    }
}

/// Datagrams that leave together; used again and again.
#[derive(Debug, Default)]
pub struct ToSend {
    /// One datagram behind the other.
    pub bytes: Vec<u8>,
    ends: Vec<(usize, SocketAddrV4)>,
}

impl ToSend {
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// What was appended to `bytes` since the last one is a datagram for `to`. No more than
    /// `MANY` are taken.
    pub fn end(&mut self, to: SocketAddrV4) {
        if self.ends.len() < MANY {
            self.ends.push((self.bytes.len(), to));
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// Sends those from the `from`th on, without waiting; how many have left. An error concerns the
    /// first of them.
    pub fn send(&self, socket: BorrowedFd<'_>, from: usize) -> io::Result<usize> {
        let mut addresses = [sockaddr(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)); MANY];
        let mut pieces = [EMPTY; MANY];
        let mut headers = [header(); MANY];
        let mut begin = from.checked_sub(1).and_then(|last| self.ends.get(last)).map_or(0, |e| e.0);
        let mut count = 0;
        let slots = headers.iter_mut().zip(&mut pieces).zip(&mut addresses);
        for (((header, piece), address), (end, to)) in slots.zip(self.ends.iter().skip(from)) {
            let bytes = self.bytes.get(begin..*end).unwrap_or_default();
            begin = *end;
            piece.iov_base = bytes.as_ptr().cast_mut().cast();
            piece.iov_len = bytes.len();
            *address = sockaddr(*to);
            fill(header, piece, address);
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the first `count` headers are valid; each points to one `iovec`, which points to
        // a part of `self.bytes`, and to one `sockaddr_in`; all of them outlive the call, and the
        // kernel only reads what they point to.
        let sent = check(libc::c_long::from(unsafe {
            libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, flags as _)
        }))?;
        Ok(usize::try_from(sent).unwrap_or(0))
    }
}

const EMPTY: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

fn sockaddr(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

fn header() -> libc::mmsghdr {
    // SAFETY: all fields are integers and pointers, for which zero is a valid value. (They differ
    // between C libraries, so that they cannot be named.)
    unsafe { std::mem::zeroed() }
}

fn fill(header: &mut libc::mmsghdr, piece: &mut libc::iovec, name: &mut libc::sockaddr_in) {
    header.msg_hdr.msg_iov = piece;
    header.msg_hdr.msg_iovlen = 1;
    header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
    header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn many_there_and_back() {
        let one = UdpSocket::bind("127.0.0.1:0").unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(to) = other.local_addr().unwrap() else { panic!() };
        let mut out = ToSend::default();
        for number in 0..MANY + 8 {
            out.bytes.extend(std::iter::repeat_n(number as u8, number));
            out.end(to);
        }
        assert_eq!(out.send(one.as_fd(), 0).unwrap(), MANY);
        let mut received = Received::new(16);
        assert_eq!(received.receive(other.as_fd()).unwrap(), MANY);
        for (number, (bytes, cut, from)) in received.iter().enumerate() {
            assert_eq!(bytes, vec![number as u8; number.min(16)]);
            assert_eq!(cut, number > 16);
            assert_eq!(std::net::SocketAddr::V4(from), one.local_addr().unwrap());
        }
        let empty = received.receive(other.as_fd()).unwrap_err();
        assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(received.iter().count(), 0);

        assert_eq!(out.send(one.as_fd(), MANY - 1).unwrap(), 1);
        assert_eq!(received.receive(other.as_fd()).unwrap(), 1);
        assert_eq!(received.iter().next().unwrap().0, [MANY as u8 - 1; 16]);
        assert_eq!(out.send(one.as_fd(), MANY).unwrap(), 0);
    }
}
