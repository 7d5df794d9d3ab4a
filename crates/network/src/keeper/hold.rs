//! One socket that reserves a port of the host.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};

use hoy_sys::datagram;
use hoy_types::Protocol;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Shutdown, SocketFlags, SocketType, bind, ipproto, listen, shutdown, socket_with,
    sockopt,
};
use serde::{Deserialize, Serialize};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// A port of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Key {
    pub protocol: Protocol,
    pub ip: IpAddr,
    pub port: u16,
}

/// A port that is to be held, and where its connections go if they are not the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hold {
    pub key: Key,
    pub proxy: Option<SocketAddr>,
}

/// Binds. `None` where this kernel has no such sockets and nobody can have the port.
///
/// TCP sockets that were closed a moment ago stand in nobody's way (`SO_REUSEADDR`), and a port
/// that is held cannot be had with that option either: the kernel grants it beside a socket that
/// has it and does not listen. So each socket listens for the blink of an eye and then loses the
/// option; from then on a second `bind` fails, with the option and without.
pub(crate) fn take(hold: &Hold) -> Result<Option<OwnedFd>, Errno> {
    let Key { protocol, ip, port } = hold.key;
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, None),
        Protocol::Udp => (SocketType::DGRAM, None),
        Protocol::Sctp => (SocketType::STREAM, Some(ipproto::SCTP)),
    };
    let family = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = match socket_with(family, kind, flags, number) {
        Err(Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT) if protocol == Protocol::Sctp => {
            return Ok(None);
        }
        other => other?,
    };
    if ip.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    match protocol {
        Protocol::Tcp => sockopt::set_socket_reuseaddr(&socket, true)?,
        // What comes before somebody reads would otherwise be kept.
        Protocol::Udp if hold.proxy.is_none() => {
            let _ = datagram::drop_everything(socket.as_fd());
        }
        Protocol::Udp => {
            datagram::tell_local(socket.as_fd(), ip.is_ipv6()).map_err(|error| errno(&error))?;
        }
        Protocol::Sctp => {}
    }
    bind(&socket, &SocketAddr::new(ip, port))?;
    if protocol == Protocol::Tcp {
        if hold.proxy.is_some() {
            listen(&socket, BACKLOG)?;
        } else {
            listen(&socket, 0)?;
            sockopt::set_socket_reuseaddr(&socket, false)?;
            shutdown(&socket, Shutdown::Read)?;
        }
    }
    Ok(Some(socket))
}

pub(crate) fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(ip: &str, port: u16, protocol: Protocol) -> Hold {
        Hold { key: Key { protocol, ip: ip.parse().unwrap(), port }, proxy: None }
    }

    /// In a namespace of the test's own: all ports are free there.
    fn apart(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(|| {
            hoy_sys::process::unshare(hoy_sys::process::NEWNET).unwrap();
            hoy_netlink::Socket::open(hoy_netlink::SocketKind::Route).unwrap().set_up(1).unwrap();
            test();
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_held_port_is_had_by_nobody_and_answers_nobody() {
        apart(|| {
            for ip in ["0.0.0.0", "127.0.0.1", "::", "::1"] {
                let held = take(&hold(ip, 8080, Protocol::Tcp)).unwrap().unwrap();
                // Rust's listeners have SO_REUSEADDR, a second of ours has it at first.
                let other = std::net::TcpListener::bind((ip, 8080)).unwrap_err();
                assert_eq!(other.kind(), std::io::ErrorKind::AddrInUse);
                let address: SocketAddr =
                    if ip.contains(':') { "[::1]:8080" } else { "127.0.0.1:8080" }.parse().unwrap();
                for reuse in [false, true] {
                    let family =
                        if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                    let socket =
                        socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                            .unwrap();
                    sockopt::set_socket_reuseaddr(&socket, reuse).unwrap();
                    assert_eq!(bind(&socket, &address), Err(Errno::ADDRINUSE), "{ip} {reuse}");
                }
                assert_eq!(take(&hold(ip, 8080, Protocol::Tcp)).unwrap_err(), Errno::ADDRINUSE);
                let refused = std::net::TcpStream::connect(address).unwrap_err();
                assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{ip}");
                drop(held);
                drop(std::net::TcpListener::bind((ip, 8080)).unwrap());
            }
        });
    }

    #[test]
    fn a_connection_that_was_closed_a_moment_ago_is_in_nobodys_way() {
        apart(|| {
            let listener = std::net::TcpListener::bind("0.0.0.0:8080").unwrap();
            let client = std::net::TcpStream::connect("127.0.0.1:8080").unwrap();
            let (server, _) = listener.accept().unwrap();
            // The server's end closes first: its port stays in TIME_WAIT.
            drop((server, listener));
            drop(client);
            assert!(take(&hold("0.0.0.0", 8080, Protocol::Tcp)).unwrap().is_some());
        });
    }

    #[test]
    fn datagrams_are_not_kept() {
        apart(|| {
            let held = take(&hold("127.0.0.1", 5353, Protocol::Udp)).unwrap().unwrap();
            assert!(std::net::UdpSocket::bind("127.0.0.1:5353").is_err());
            let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(b"anything", "127.0.0.1:5353").unwrap();
            let mut buffer = [0; 16];
            let got = rustix::net::recv(&held, &mut buffer, rustix::net::RecvFlags::DONTWAIT);
            assert_eq!(got.unwrap_err(), Errno::AGAIN);
        });
    }

    #[test]
    fn other_families_and_other_addresses_do_not_collide() {
        apart(|| {
            let all = [
                hold("0.0.0.0", 80, Protocol::Tcp),
                hold("::", 80, Protocol::Tcp),
                hold("127.0.0.1", 81, Protocol::Tcp),
                hold("127.0.0.2", 81, Protocol::Tcp),
                hold("0.0.0.0", 80, Protocol::Udp),
            ];
            let held: Vec<_> = all.iter().map(|hold| take(hold).unwrap()).collect();
            assert_eq!(take(&hold("127.0.0.3", 80, Protocol::Tcp)).unwrap_err(), Errno::ADDRINUSE);
            drop(held);
            assert!(take(&hold("0.0.0.0", 132, Protocol::Sctp)).is_ok());
        });
    }
}
