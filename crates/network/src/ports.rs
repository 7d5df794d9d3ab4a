//! Reserving ports of the host: a bound socket for each, so that other programs are told.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use hoy_types::{PortBinding, PortSpec, Protocol};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use crate::{BoundPort, NetworkError};

type Key = (Protocol, Ipv4Addr, u16);

/// All reserved ports.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    held: HashMap<Key, OwnedFd>,
    next: u16,
}

/// Why a port cannot be had, in Docker's words.
type Refusal = String;

impl Ports {
    /// Reserves all or none.
    pub fn reserve(
        &mut self,
        wanted: &[PortBinding],
        default_ip: Ipv4Addr,
        refused: impl Fn(Refusal) -> NetworkError,
    ) -> Result<Vec<BoundPort>, NetworkError> {
        let mut out: Vec<BoundPort> = Vec::new();
        for binding in wanted {
            let one = address_of(binding, default_ip)
                .and_then(|address| self.reserve_one(binding, address).map_err(&refused));
            match one {
                Ok(bound) => out.push(bound),
                Err(error) => {
                    self.release(&out);
                    return Err(error);
                }
            }
        }
        Ok(out)
    }

    fn reserve_one(&mut self, binding: &PortBinding, ip: Ipv4Addr) -> Result<BoundPort, Refusal> {
        let container = binding.container;
        let bound = |host_port| BoundPort { container, host_ip: ip, host_port };
        match binding.host_ports {
            Some((first, last)) if first == last => {
                self.hold(container, ip, first)?;
                Ok(bound(first))
            }
            Some((first, last)) => (first..=last)
                .find(|port| self.hold(container, ip, *port).is_ok())
                .map(bound)
                .ok_or_else(|| {
                    format!("Bind for {ip}:{first}-{last} failed: all ports are allocated")
                }),
            None => {
                let (first, last) = ephemeral_range();
                let begin = self.next.clamp(first, last);
                let port = (begin..=last)
                    .chain(first..begin)
                    .find(|port| self.hold(container, ip, *port).is_ok())
                    .ok_or_else(|| "no free port is left in the ephemeral range".to_owned())?;
                self.next = port.checked_add(1).unwrap_or(first);
                Ok(bound(port))
            }
        }
    }

    fn hold(&mut self, container: PortSpec, ip: Ipv4Addr, port: u16) -> Result<(), Refusal> {
        // What overlaps by another address is found by the kernel, at the bind below.
        let taken = [ip, Ipv4Addr::UNSPECIFIED]
            .iter()
            .any(|address| self.held.contains_key(&(container.protocol, *address, port)));
        if taken {
            return Err(format!("Bind for {ip}:{port} failed: port is already allocated"));
        }
        let kind = match container.protocol {
            Protocol::Udp => SocketType::DGRAM,
            Protocol::Tcp | Protocol::Sctp => SocketType::STREAM,
        };
        let failed = |errno: Errno| match errno {
            Errno::ADDRINUSE => format!(
                "failed to bind host port for {ip}:{port}/{}: address already in use: another \
                 program of this host listens there",
                container.protocol
            ),
            errno => {
                format!("failed to bind host port for {ip}:{port}/{}: {errno}", container.protocol)
            }
        };
        let socket = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None);
        let socket = socket.map_err(failed)?;
        bind(&socket, &SocketAddrV4::new(ip, port)).map_err(failed)?;
        self.held.insert((container.protocol, ip, port), socket);
        Ok(())
    }

    /// Takes ports again that an endpoint had before the daemon ended. What somebody else has
    /// taken since is not reserved, but still published.
    pub fn restore(&mut self, ports: &[BoundPort]) {
        for port in ports {
            let _ = self.hold(port.container, port.host_ip, port.host_port);
        }
    }

    pub fn release(&mut self, ports: &[BoundPort]) {
        for port in ports {
            self.held.remove(&(port.container.protocol, port.host_ip, port.host_port));
        }
    }
}

fn address_of(binding: &PortBinding, default_ip: Ipv4Addr) -> Result<Ipv4Addr, NetworkError> {
    if binding.container.protocol == Protocol::Sctp {
        return Err(NetworkError::Sctp);
    }
    match binding.host_ip {
        None => Ok(default_ip),
        Some(IpAddr::V4(address)) => Ok(address),
        Some(address @ IpAddr::V6(_)) => Err(NetworkError::Ipv6(address)),
    }
}

/// Where the kernel takes ports of its own from.
fn ephemeral_range() -> (u16, u16) {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let text = text.unwrap_or_default();
    let mut numbers = text.split_whitespace().map(|word| word.parse::<u16>());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) if first > 0 && first <= last => (first, last),
        _ => (49_153, 65_535),
    }
}
