//! Many datagrams with one system call, on IPv4 sockets: where it is their number that counts.
//! (One at a time, with all that the kernel says of it: `datagram`.)

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use crate::check;

/// How many datagrams one call takes or gives at most. No more than the kernel cuts one piece
/// into (UDP_MAX_SEGMENTS, 64).
pub const MANY: usize = 32;
/// What one datagram of IPv4 can carry, and so what a piece to be cut can have.
const LARGEST: usize = 65_507;
/// Room for one control message of two bytes, aligned as `cmsghdr` wants it.
type Control = [u64; 4];

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

    /// How many of those from the `from`th on can go as one piece that the kernel cuts: to the same
    /// address, and of one length but for the last, which may be shorter.
    fn alike(&self, from: usize) -> (usize, usize) {
        let mut begin = self.begin(from);
        let (mut count, mut length, mut all) = (0, 0, 0);
        let first = self.ends.get(from).map(|(_, to)| *to);
        for (end, to) in self.ends.iter().skip(from) {
            let this = end.saturating_sub(begin);
            begin = *end;
            if count == 0 {
                length = this;
            } else if Some(*to) != first || this > length || this == 0 || all + this > LARGEST {
                break;
            }
            (count, all) = (count + 1, all + this);
            if this < length {
                break;
            }
        }
        (count, length)
    }

    fn begin(&self, of: usize) -> usize {
        of.checked_sub(1).and_then(|last| self.ends.get(last)).map_or(0, |end| end.0)
    }

    /// As `send`, but what goes to the same address goes through the network as one piece where
    /// lengths allow it (UDP_SEGMENT), until it is put into the receiver's queue: datagram by
    /// datagram, in order.
    pub fn send_joined(&self, socket: BorrowedFd<'_>, from: usize) -> io::Result<usize> {
        let mut addresses = [sockaddr(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)); MANY];
        let mut pieces = [EMPTY; MANY];
        let mut controls: [Control; MANY] = [[0; 4]; MANY];
        let mut headers = [header(); MANY];
        let mut counts = [0; MANY];
        let (mut next, mut count) = (from, 0_u32);
        let slots = headers.iter_mut().zip(&mut pieces).zip(&mut addresses).zip(&mut controls);
        for ((((header, piece), address), control), alike) in slots.zip(&mut counts) {
            let Some((_, to)) = self.ends.get(next) else { break };
            let (datagrams, length) = self.alike(next);
            let end = self.begin(next + datagrams);
            let bytes = self.bytes.get(self.begin(next)..end).unwrap_or_default();
            piece.iov_base = bytes.as_ptr().cast_mut().cast();
            piece.iov_len = bytes.len();
            *address = sockaddr(*to);
            fill(header, piece, address);
            if let (2.., Ok(length)) = (datagrams, u16::try_from(length)) {
                cut(header, control, length);
            }
            *alike = datagrams;
            next += datagrams;
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the first `count` headers are valid; each points to one `iovec`, which points to
        // a part of `self.bytes`, to one `sockaddr_in`, and to no or one control message that is
        // whole; all of them outlive the call, and the kernel only reads what they point to.
        let sent = check(libc::c_long::from(unsafe {
            libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, flags as _)
        }));
        match sent {
            Ok(sent) => {
                let sent = usize::try_from(sent).unwrap_or(0);
                Ok(counts.iter().take(sent).sum())
            }
            // Longer than the interface's packets, or a kernel or an interface that cuts nothing:
            // one by one then.
            Err(error) if counts[0] > 1 && error.kind() != io::ErrorKind::WouldBlock => {
                self.send(socket, from)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends those from the `from`th on, without waiting; how many have left. An error concerns the
    /// first of them.
    pub fn send(&self, socket: BorrowedFd<'_>, from: usize) -> io::Result<usize> {
        let mut addresses = [sockaddr(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)); MANY];
        let mut pieces = [EMPTY; MANY];
        let mut headers = [header(); MANY];
        let mut begin = self.begin(from);
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

/// Lets the kernel cut what the header sends into datagrams of this length.
fn cut(header: &mut libc::mmsghdr, control: &mut Control, length: u16) {
    const SIZE: libc::c_uint = size_of::<u16>() as libc::c_uint;
    header.msg_hdr.msg_control = control.as_mut_ptr().cast();
    // SAFETY: arithmetic only.
    header.msg_hdr.msg_controllen = unsafe { libc::CMSG_SPACE(SIZE) } as _;
    // SAFETY: the buffer is aligned for a header and has room for one with its data (24 bytes of
    // 32), so that the first message is not null and all that is written is in it.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(&raw const header.msg_hdr);
        (*message).cmsg_level = libc::SOL_UDP;
        (*message).cmsg_type = libc::UDP_SEGMENT;
        (*message).cmsg_len = libc::CMSG_LEN(SIZE) as _;
        libc::CMSG_DATA(message).cast::<u16>().write_unaligned(length);
    }
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

    #[test]
    fn joined_they_arrive_as_they_are() {
        let one = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (other, third) =
            (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let to = |socket: &UdpSocket| match socket.local_addr().unwrap() {
            std::net::SocketAddr::V4(to) => to,
            std::net::SocketAddr::V6(_) => panic!(),
        };
        // Longer, shorter, empty, for somebody else in between, and more than one piece can have.
        let long = 16_000;
        let lengths = [9, 9, 9, 5, 9, 9, 12, 12, 0, 0, 7, 7, long, long, long, long, long, 3, 3];
        let mut out = ToSend::default();
        for (number, length) in lengths.into_iter().enumerate() {
            out.bytes.extend(std::iter::repeat_n(number as u8, length));
            out.end(to(if number == 5 { &third } else { &other }));
        }
        assert_eq!(out.alike(0), (4, 9));
        assert_eq!(out.alike(4), (1, 9));
        assert_eq!(out.alike(6), (2, 12));
        assert_eq!(out.alike(8), (1, 0));
        assert_eq!(out.alike(12), (4, long));
        let mut sent = 0;
        while sent < lengths.len() {
            sent += out.send_joined(one.as_fd(), sent).unwrap();
        }
        assert_eq!(sent, lengths.len());
        assert_eq!(out.send_joined(one.as_fd(), sent).unwrap(), 0);
        let mut received = Received::new(1 << 16);
        let mut came = |socket: &UdpSocket| {
            received.receive(socket.as_fd()).unwrap();
            let came = received.iter().map(|(bytes, cut, from)| {
                assert!(!cut && from == to(&one) && bytes.windows(2).all(|two| two[0] == two[1]));
                (bytes.len(), bytes.first().copied())
            });
            came.collect::<Vec<_>>()
        };
        let expected =
            |number: usize| (lengths[number], (lengths[number] > 0).then_some(number as u8));
        assert_eq!(came(&third), [expected(5)]);
        let others: Vec<_> = (0..lengths.len()).filter(|n| *n != 5).map(expected).collect();
        assert_eq!(came(&other), others);
    }
}
