//! What the rest of the crate wants of the rules, in its own words.

use std::net::{IpAddr, SocketAddr};

use hoy_types::Protocol;

/// What one bridge network wants of the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeRules {
    pub interface: String,
    /// Containers of the network may talk to each other.
    pub icc: bool,
    /// Nothing is forwarded from or to other interfaces.
    pub internal: bool,
    pub masquerade4: Masquerade,
    pub masquerade6: Masquerade,
    pub mode4: GatewayMode,
    pub mode6: GatewayMode,
    /// Interfaces of the host from where every port of the containers is reached.
    pub trusted: Vec<String>,
}

/// As whom containers talk to other networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masquerade {
    /// As themselves.
    No,
    /// As the address of the interface that the packet leaves by.
    Yes,
    /// As this address of the host.
    To(IpAddr),
}

/// How containers are reached from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayMode {
    /// By published ports of the host.
    Nat,
    /// By published ports, and every port of theirs directly.
    NatUnprotected,
    /// Published ports of theirs directly; no port of the host.
    Routed,
    /// Not at all; the host has no address there.
    Isolated,
}

/// A published port.
///
/// One whose target is of another family than its address is carried by the keeper: here it only
/// serves to keep internal networks away from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    pub protocol: Protocol,
    /// Unspecified: any address of its family that the host has.
    pub host_ip: IpAddr,
    pub host_port: u16,
    pub target: SocketAddr,
    /// The bridge.
    pub interface: String,
    pub mode: GatewayMode,
}

/// Forwarding was turned on by us, so that what neither comes from nor goes to one of our
/// interfaces is dropped: the host does not become a router for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Closed {
    pub v4: bool,
    pub v6: bool,
}
