//! The rules of table `inet hoy`, decided here and carried out by netlink.
//!
//! A fixed set of chains; ports come and go as elements of two maps. Packets to 127/8 that arrive
//! from outside are dropped before routing, since loopback publications are routed to the bridge.

use hoy_netlink::nft::{
    Base, Chain, ChainKind, Data, Element, Expression as E, Field, Given, Hook, Load, Policy,
    STATE_ESTABLISHED, STATE_RELATED, STATUS_DNAT, Set,
};
use hoy_types::Protocol;

use crate::address::Subnet;
use crate::{BoundPort, Endpoint, NetworkSettings};

pub(crate) const TABLE: &str = "hoy";
/// Publications on one address of the host.
pub(crate) const PORTS: Set = Set {
    name: "ports",
    id: 1,
    key: &[Field::Ipv4, Field::Protocol, Field::Port],
    data: Data::Fields(&[Field::Ipv4, Field::Port]),
};
/// Publications on all of them.
pub(crate) const PORTS_ANY: Set = Set {
    name: "ports-any",
    id: 2,
    key: &[Field::Protocol, Field::Port],
    data: Data::Fields(&[Field::Ipv4, Field::Port]),
};

const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

/// The chains for a bridge. `closed`: forwarding is on because of us, so nobody else's packets
/// pass.
pub(crate) fn chains(settings: &NetworkSettings, subnet: Subnet, closed: bool) -> Vec<Chain> {
    let bridge = &settings.bridge;
    let from = |is| E::InterfaceIn { name: bridge.clone(), is };
    let to = |is| E::InterfaceOut { name: bridge.clone(), is };
    let ours = E::Source { network: subnet.network().into(), prefix: subnet.prefix };
    let loopback = std::net::Ipv4Addr::new(127, 0, 0, 0).into();
    let translate = || {
        vec![
            vec![
                E::Ipv4,
                E::DnatBy {
                    load: &[Load::Destination4, Load::Protocol, Load::DestinationPort],
                    map: PORTS,
                    v6: false,
                },
            ],
            vec![
                E::Ipv4,
                E::LocalDestination,
                E::DnatBy {
                    load: &[Load::Protocol, Load::DestinationPort],
                    map: PORTS_ANY,
                    v6: false,
                },
            ],
        ]
    };
    let mut forward = vec![
        vec![to(true), E::State(STATE_ESTABLISHED | STATE_RELATED), E::Accept],
        vec![from(true), to(true), if settings.icc { E::Accept } else { E::Status(STATUS_DNAT) }],
    ];
    if !settings.icc {
        // Published ports stay open between containers, everything else is closed.
        forward[1].push(E::Accept);
        forward.push(vec![from(true), to(true), E::Drop]);
    }
    forward.push(vec![to(true), E::Status(STATUS_DNAT), E::Accept]);
    forward.push(vec![to(true), E::Drop]);
    forward.push(vec![from(true), E::Accept]);
    if closed {
        forward.push(vec![E::Drop]);
    }
    let mut postrouting = vec![
        // From the host by loopback, and from a container to a published port of itself or of a
        // neighbour: the answer must come back through us.
        vec![E::Ipv4, to(true), E::Source { network: loopback, prefix: 8 }, E::Masquerade],
        vec![E::Ipv4, to(true), ours.clone(), E::Status(STATUS_DNAT), E::Masquerade],
    ];
    if settings.masquerade {
        postrouting.push(vec![E::Ipv4, ours, to(false), E::Masquerade]);
    }
    let chain = |name, kind, hook, priority, rules| Chain {
        name,
        base: Some(Base { kind, hook, priority, policy: Policy::Accept }),
        rules,
    };
    vec![
        chain(
            "loopback",
            ChainKind::Filter,
            Hook::Prerouting,
            RAW,
            vec![vec![
                E::InterfaceIn { name: "lo".into(), is: false },
                E::Ipv4,
                E::Destination { network: loopback, prefix: 8 },
                E::Drop,
            ]],
        ),
        chain("prerouting", ChainKind::Nat, Hook::Prerouting, DSTNAT, translate()),
        chain("output", ChainKind::Nat, Hook::Output, DSTNAT, translate()),
        chain("forward", ChainKind::Filter, Hook::Forward, FILTER, forward),
        chain("postrouting", ChainKind::Nat, Hook::Postrouting, SRCNAT, postrouting),
    ]
}

/// The elements of an endpoint's ports: those for one address, those for any.
pub(crate) fn elements(endpoint: &Endpoint) -> (Vec<Element>, Vec<Element>) {
    let (mut exact, mut any) = (Vec::new(), Vec::new());
    for port in &endpoint.ports {
        let Some(element) = element(endpoint, port) else { continue };
        if port.host_ip.is_unspecified() {
            any.push(element);
        } else {
            exact.push(element);
        }
    }
    (exact, any)
}

fn element(endpoint: &Endpoint, port: &BoundPort) -> Option<Element> {
    let std::net::IpAddr::V4(host_ip) = port.host_ip else { return None };
    let protocol = match port.container.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    };
    let mut key = Vec::with_capacity(12);
    if !host_ip.is_unspecified() {
        key.extend(host_ip.octets());
    }
    key.extend([protocol, 0, 0, 0]);
    key.extend(port.host_port.to_be_bytes());
    key.extend([0, 0]);
    let mut data = endpoint.address.octets().to_vec();
    data.extend(port.container.port.to_be_bytes());
    data.extend([0, 0]);
    Some(Element { key, given: Given::Bytes(data) })
}
