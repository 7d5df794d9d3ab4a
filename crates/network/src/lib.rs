//! Room: the default bridge, addresses, ports, firewall: pure plans and their execution.
//!
//! Everything is netlink; no other program is executed, no table but our own is touched. The cost
//! of a port is one map element, whatever is there already. It works in whatever network
//! namespace the daemon runs in.

mod address;
mod bridge;
mod firewall;
pub mod foreign;
mod ports;
mod watch;

use std::net::{IpAddr, Ipv4Addr};

use hoy_types::{ErrorKind, IdMaps, PortBinding, PortSpec};
use serde::{Deserialize, Serialize};

pub use address::Subnet;
pub use bridge::{NetTicket, Network};
pub use firewall::{
    ACCEPT_MARK, BridgeRules, Closed, Firewall, GatewayMode, Masquerade, Publication, TABLE,
    USER_TABLE,
};
pub use watch::Watcher;

/// How the default bridge is to be.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkSettings {
    pub bridge: String,
    /// Fixed address and prefix, or the first pool that is free.
    pub subnet: Option<Subnet>,
    pub mtu: u32,
    pub forward: bool,
    pub masquerade: bool,
    /// Containers on the bridge may talk to each other.
    pub icc: bool,
    /// Where ports are published that name no host address.
    pub host_ip: Ipv4Addr,
}

/// What a container wants of the network.
#[derive(Clone, Debug, Default)]
pub struct EndpointSpec {
    /// For messages: the container's name.
    pub name: String,
    pub ports: Vec<PortBinding>,
    /// The ids of the user namespace that is to own the network; absent, it is the machine's.
    pub owner: Option<IdMaps>,
}

/// What it got: kept with the container's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// 64 hexadecimal digits.
    pub id: String,
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Ipv4Addr,
    pub mac: String,
    /// The host's end.
    pub interface: String,
    pub ports: Vec<BoundPort>,
}

/// A published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundPort {
    pub container: PortSpec,
    pub host_ip: Ipv4Addr,
    pub host_port: u16,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(transparent)]
    Netlink(#[from] hoy_netlink::NetlinkError),
    #[error("{operation}: {source}")]
    Io { operation: &'static str, source: std::io::Error },
    #[error("make a user namespace{limit}: {0}", limit = limit(.0))]
    Userns(std::io::Error),
    #[error("no available IPv4 addresses on this network's address pools: bridge")]
    Exhausted,
    #[error(
        "all predefined address pools have been fully subnetted or overlap a route of this host"
    )]
    NoPool,
    #[error(
        "failed to set up container networking: driver failed programming external connectivity on \
         endpoint {name} ({endpoint}): {reason}"
    )]
    Port { name: String, endpoint: String, reason: String },
    #[error("publishing on the IPv6 address {0} is not available yet")]
    Ipv6(IpAddr),
    #[error("publishing SCTP ports is not available yet")]
    Sctp,
}

impl NetworkError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Ipv6(_) | Self::Sctp => ErrorKind::NotImplemented,
            _ => ErrorKind::System,
        }
    }

    pub(crate) fn io(operation: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }
}

/// Which setting to look at.
fn limit(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull => " (user.max_user_namespaces allows no more)",
        _ => "",
    }
}
