//! Which ports of the host have a socket: one dump of `inet_diag`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Message, NetlinkError, Socket, SocketKind};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const INET: u8 = 2;
const INET6: u8 = 10;
/// TCP listeners, what is unconnected, and what is bound without listening (which kernels before
/// 6.8 do not tell).
const STATES: u32 = 1 << 10 | 1 << 7 | 1 << 13;
/// `INET_DIAG_SKV6ONLY`.
const ONLY_V6: u16 = 11;

/// A socket that has a port to itself: it listens, or takes what anybody sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundSocket {
    pub ip: IpAddr,
    pub port: u16,
    /// Also takes what comes by IPv4.
    pub both: bool,
    pub inode: u32,
}

/// All such sockets of one transport protocol (6: TCP, 17: UDP) in the namespace of the thread.
pub fn bound_sockets(protocol: u8) -> Result<Vec<BoundSocket>, NetlinkError> {
    let mut socket = Socket::open(SocketKind::Diagnosis)?;
    let mut out = Vec::new();
    for family in [INET, INET6] {
        let mut request = Vec::with_capacity(56);
        request.extend([family, protocol, 0, 0]);
        request.extend(STATES.to_ne_bytes());
        // No socket in particular.
        request.extend([0; 48]);
        let mut message = Message::new();
        message.begin(SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, socket.next_sequence(), &request);
        socket.dump("list the sockets of this host", message, |kind, body| {
            if kind == SOCK_DIAG_BY_FAMILY {
                out.extend(parse(body));
            }
        })?;
    }
    Ok(out)
}

/// `struct inet_diag_msg` and its attributes.
fn parse(body: &[u8]) -> Option<BoundSocket> {
    let head: &[u8; 72] = body.get(..72)?.try_into().ok()?;
    let port = u16::from_be_bytes([head[4], head[5]]);
    let address: [u8; 16] = head[8..24].try_into().ok()?;
    let v6 = head[0] == INET6;
    let ip: IpAddr = if v6 {
        Ipv6Addr::from(address).into()
    } else {
        Ipv4Addr::new(address[0], address[1], address[2], address[3]).into()
    };
    let only = crate::Attributes(body.get(72..)?).find(ONLY_V6);
    let both = v6 && ip.is_unspecified() && only.is_none_or(|value| value.first() != Some(&1));
    let inode = u32::from_ne_bytes([head[68], head[69], head[70], head[71]]);
    Some(BoundSocket { ip, port, both, inode })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_sockets_are_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let datagrams = std::net::UdpSocket::bind("[::1]:0").unwrap();
        for (protocol, address) in
            [(6, listener.local_addr().unwrap()), (17, datagrams.local_addr().unwrap())]
        {
            let all = bound_sockets(protocol).unwrap();
            let found = all.iter().find(|s| s.ip == address.ip() && s.port == address.port());
            assert!(found.is_some_and(|socket| socket.inode != 0 && !socket.both), "{all:?}");
        }
    }

    #[test]
    fn a_short_answer_is_none() {
        for length in 0..72 {
            assert_eq!(parse(&vec![2; length]), None);
        }
    }
}
