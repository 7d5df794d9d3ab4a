//! Room: networks, addresses, names, ports, firewall: pure plans and their execution.
//!
//! Everything is netlink; no other program is executed, no table but our own is touched. The cost
//! of a port is one map element, whatever is there already. It works in whatever network
//! namespace the daemon runs in.

mod address;
mod dns;
mod firewall;
pub mod foreign;
mod host;
mod inside;
pub mod keeper;
mod networks;
mod ports;
mod sandbox;
mod spec;
mod watch;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use hoy_types::ErrorKind;

pub use address::{BadCidr, Cidr, Claim, Pool, Supply, docker_supply, local_supply};
pub use dns::{Dns, DnsClient, DnsSockets, EndpointNames, Forward, open_sockets};
pub use firewall::{
    ACCEPT_MARK, BridgeRules, Closed, Firewall, Flows, GatewayMode, Masquerade, Publication, TABLE,
    USER_TABLE,
};
pub use host::{Forwarding, parse_mac};
pub use inside::open_sockets_in;
pub use keeper::KeeperPlace;
pub use networks::{Link, Networks, Ticket};
pub use ports::{BoundPort, Carrier, Families, Ports, Wanted};
pub use sandbox::{Endpoint, EndpointSpec, Owner, SandboxSpec};
pub use spec::{
    BridgeOptions, Driver, Facts, LinkOptions, NetworkRequest, NetworkSpec, OTHER_GATEWAY4,
    OTHER_GATEWAY6, PoolRequest, PoolSpec, SpecError, is_interface_name,
};
pub use watch::Watcher;

/// How networks are to be on this host.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The default bridge; absent, there is none.
    pub default: Option<NetworkRequest>,
    /// Where networks take subnets from that name none.
    pub supplies: Vec<Supply>,
    pub mtu: u32,
    /// Forwarding is turned on where it is off.
    pub forward: bool,
    /// Strangers' packets are forwarded, too, where it was us who turned it on.
    pub open: bool,
    /// Published ports are reached at the containers' own addresses, too.
    pub direct: bool,
    /// Where ports are published that name no host address; unspecified: everywhere.
    pub host_ip4: Ipv4Addr,
    pub host_ip6: Ipv6Addr,
    /// What the kernel cannot do is done by the helper.
    pub proxied: bool,
    /// Absent, this process holds the sockets of published ports.
    pub keeper: Option<KeeperPlace>,
    /// The host's own name servers, which no network is to hide.
    pub resolv_conf: PathBuf,
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
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("no available {family} addresses on this network's address pools: {network}")]
    Exhausted { family: &'static str, network: String },
    #[error("Address already in use")]
    AddressInUse,
    #[error("no configured subnet or ip-range contain the IP address {0}")]
    Outside(IpAddr),
    #[error(
        "take over the table inet hoy, which belongs to another daemon or to a process that keeps \
         a daemon's socket"
    )]
    OwnedElsewhere,
    #[error("network {0} not found")]
    NoNetwork(String),
    #[error("network {0} has active endpoints")]
    InUse(String),
    #[error(
        "invalid subinterface vlan name {0}, example formatting is eth0.10: the parent interface \
         does not exist on this host (`ip link` lists those that do)"
    )]
    NoParent(String),
    #[error(
        "this kernel has no {0} (CONFIG_{upper}): containers cannot join a network of that driver",
        upper = .0.to_uppercase()
    )]
    NoDriver(&'static str),
    #[error(
        "this kernel has no rules for bridged packets (CONFIG_NF_TABLES_BRIDGE): ports cannot be \
         opened to a linked container where containers are kept apart (icc=false), unless \
         net.bridge.bridge-nf-call-iptables is 1"
    )]
    NoBridgeRules,
    #[error(
        "create a macvlan: in the mode passthru it needs its parent for itself, and that has others \
         (of a container that has ended, too, until the kernel has given up its connections)"
    )]
    NotAlone,
    #[error(
        "driver failed programming external connectivity on endpoint {name} ({endpoint}): {reason}"
    )]
    Port { name: String, endpoint: String, reason: String },
}

impl NetworkError {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Spec(
                SpecError::Overlap | SpecError::ManySubnets | SpecError::SameBridge { .. },
            )
            | Self::InUse(_)
            | Self::AddressInUse => ErrorKind::Forbidden,
            Self::Spec(SpecError::NoGateway) => ErrorKind::System,
            Self::Spec(_) | Self::Outside(_) | Self::NoParent(_) => ErrorKind::InvalidParameter,
            Self::NoNetwork(_) => ErrorKind::NotFound,
            _ => ErrorKind::System,
        }
    }

    /// The firewall's rules belong to somebody else, at present; or did when it was tried, and the
    /// owner was gone when the reason was looked for.
    pub fn is_owned_elsewhere(&self) -> bool {
        let denied = Some(rustix::io::Errno::PERM.raw_os_error());
        match self {
            Self::OwnedElsewhere => true,
            Self::Netlink(error) => error.errno() == denied,
            _ => false,
        }
    }

    pub(crate) fn io(operation: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { operation, source }
    }

    pub(crate) fn address(why: Claim, address: IpAddr) -> Self {
        match why {
            Claim::Used => Self::AddressInUse,
            Claim::Outside => Self::Outside(address),
        }
    }
}

/// Which setting to look at.
fn limit(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::StorageFull => " (user.max_user_namespaces allows no more)",
        _ => "",
    }
}
