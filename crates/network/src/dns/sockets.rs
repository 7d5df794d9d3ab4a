//! The container's end: sockets at 127.0.0.11 in its namespace, and the rules that lead port 53
//! to them.
//!
//! The ports are random, so that port 53 stays free for a server of the container's own. Headers
//! are rewritten packet by packet, without connection tracking: a question before anything else of
//! the container looks at it, an answer when it comes back out of the loopback interface. Rules of
//! the container's own see port 53 in what arrives, and connections as they are.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};

use hoy_netlink::nft::{Base, Chain, ChainKind, Expression as E, Family, Hook, Policy};
use hoy_netlink::{Socket, SocketKind};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use crate::NetworkError;

/// What containers have in resolv.conf.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
pub(crate) const PORT: u16 = 53;
const TABLE: &str = "hoy-dns";
const RAW: i32 = -300;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Questions wait here while there is no daemon: about three thousand.
const RECEIVE_BUFFER: usize = 1 << 20;
const BACKLOG: i32 = 128;

/// Sockets of one container.
#[derive(Debug)]
pub struct DnsSockets {
    pub udp: OwnedFd,
    pub tcp: OwnedFd,
}

/// Opens them. To be called by a thread that is in the container's network namespace, whose
/// loopback interface is up.
pub fn open_sockets() -> Result<DnsSockets, NetworkError> {
    let failed = |errno: rustix::io::Errno| NetworkError::Io {
        operation: "open the sockets of the embedded DNS server",
        source: errno.into(),
    };
    let open = |kind| -> Result<OwnedFd, rustix::io::Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET, kind, flags, None)?;
        bind(&socket, &SocketAddrV4::new(ADDRESS, 0))?;
        Ok(socket)
    };
    let udp = open(SocketType::DGRAM).map_err(failed)?;
    // Beyond what the machine allows its users. Where even we may not: what they may.
    if sockopt::set_socket_recv_buffer_size_force(&udp, RECEIVE_BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(&udp, RECEIVE_BUFFER).map_err(failed)?;
    }
    let tcp = open(SocketType::STREAM).map_err(failed)?;
    listen(&tcp, BACKLOG).map_err(failed)?;
    let ports = (port_of(&udp).map_err(failed)?, port_of(&tcp).map_err(failed)?);
    let chains = chains(ports.0, ports.1);
    let mut netlink = Socket::open(SocketKind::Netfilter)?;
    let mut transaction = netlink.nft_of(Family::Ipv4, TABLE);
    // Sockets that were opened here before are forgotten.
    transaction.table(0).delete_table().table(0);
    for chain in &chains {
        transaction.chain(chain);
    }
    transaction.commit("lead port 53 to the embedded DNS server")?;
    Ok(DnsSockets { udp, tcp })
}

pub(crate) fn port_of(socket: impl AsFd) -> Result<u16, rustix::io::Errno> {
    let address = rustix::net::getsockname(socket)?;
    Ok(SocketAddr::try_from(address)?.port())
}

fn chains(udp: u16, tcp: u16) -> [Chain; 2] {
    let address = || IpAddr::from(ADDRESS);
    let there = |protocol, port| {
        vec![
            E::Destination { network: address(), prefix: 32 },
            E::Protocol(protocol),
            E::DestinationPort(PORT),
            E::SetDestinationPort(port),
            E::Accept,
        ]
    };
    let back = |protocol, port| {
        vec![
            E::Source { network: address(), prefix: 32 },
            E::Protocol(protocol),
            E::SourcePort(port),
            E::SetSourcePort(PORT),
            E::Accept,
        ]
    };
    let chain = |name, hook, rules| {
        let (kind, policy) = (ChainKind::Filter, Policy::Accept);
        Chain { name, base: Some(Base { kind, hook, priority: RAW, policy }), rules }
    };
    [
        chain("questions", Hook::Output, vec![there(UDP, udp), there(TCP, tcp)]),
        chain("answers", Hook::Prerouting, vec![back(UDP, udp), back(TCP, tcp)]),
    ]
}
