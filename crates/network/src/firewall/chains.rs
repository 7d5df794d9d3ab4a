//! The chains and their rules, which stay the same however many networks and ports there are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hoy_netlink::nft::{
    Base, Chain, ChainKind, Expression as E, Hook, Load, Policy, STATE_ESTABLISHED, STATE_RELATED,
    STATUS_DNAT, Set,
};

use super::sets::*;
use super::wanted::Closed;
use super::{ACCEPT_MARK, FILTER, openings};

const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const SRCNAT: i32 = 100;

const ICMP: u8 = 1;
const IGMP: u8 = 2;
const ICMPV6: u8 = 58;

/// Between containers of a network that wants them apart.
pub(super) const APART: &str = "apart";

pub(super) fn from(set: Set) -> E {
    E::In { load: &[Load::InterfaceIn], set, is: true }
}

pub(super) fn to(set: Set) -> E {
    E::In { load: &[Load::InterfaceOut], set, is: true }
}

pub(super) fn between(set: Set) -> E {
    E::In { load: &[Load::InterfaceIn, Load::InterfaceOut], set, is: true }
}

/// The chains. Those that are jumped to come first.
pub(super) fn chains(closed: Closed) -> Vec<Chain> {
    let base = |name, kind, hook, priority, rules| Chain {
        name,
        base: Some(Base { kind, hook, priority, policy: Policy::Accept }),
        rules,
    };
    let outside = || E::InterfaceIn { name: "lo".into(), is: false };
    let loopback: IpAddr = Ipv4Addr::new(127, 0, 0, 0).into();
    let never = vec![
        vec![outside(), E::Ipv4, E::Destination { network: loopback, prefix: 8 }, E::Drop],
        vec![outside(), E::Ipv4, E::Source { network: loopback, prefix: 8 }, E::Drop],
    ];
    let kept = E::In { load: &[Load::Protocol, Load::DestinationPort], set: KEPT, is: true };
    vec![
        Chain { name: APART, base: None, rules: apart_rules() },
        base("loopback", ChainKind::Filter, Hook::Prerouting, RAW, never),
        base("prerouting", ChainKind::Nat, Hook::Prerouting, DSTNAT, publication_rules()),
        base("output", ChainKind::Nat, Hook::Output, DSTNAT, publication_rules()),
        base(
            "input",
            ChainKind::Filter,
            Hook::Input,
            FILTER,
            vec![vec![from(INTERNAL), kept, E::Drop]],
        ),
        base("forward", ChainKind::Filter, Hook::Forward, FILTER, forward_rules()),
        base("strangers", ChainKind::Filter, Hook::Postrouting, FILTER, stranger_rules(closed)),
        base("postrouting", ChainKind::Nat, Hook::Postrouting, SRCNAT, source_rules()),
    ]
}

fn publication_rules() -> Vec<Vec<E>> {
    let any = &[Load::Protocol, Load::DestinationPort];
    let link_local: IpAddr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into();
    vec![
        vec![
            E::Ipv4,
            E::DnatBy {
                load: &[Load::Destination4, Load::Protocol, Load::DestinationPort],
                map: PORTS4,
                v6: false,
            },
        ],
        vec![E::Ipv4, E::LocalDestination, E::DnatBy { load: any, map: ANY4, v6: false }],
        vec![
            E::Ipv6,
            E::Destination { network: Ipv6Addr::LOCALHOST.into(), prefix: 128 },
            E::Return,
        ],
        vec![E::Ipv6, E::Destination { network: link_local, prefix: 10 }, E::Return],
        vec![
            E::Ipv6,
            E::DnatBy {
                load: &[Load::Destination6, Load::Protocol, Load::DestinationPort],
                map: PORTS6,
                v6: true,
            },
        ],
        vec![E::Ipv6, E::LocalDestination, E::DnatBy { load: any, map: ANY6, v6: true }],
    ]
}

/// What is published is for all; what was opened is for whom it was opened to, and of that what
/// belongs to it. Who has which address can be asked: in IPv4, too, that is not seen here.
fn apart_rules() -> Vec<Vec<E>> {
    let link4 = &[Load::Source4, Load::Destination4, Load::Protocol, Load::DestinationPort];
    let link6 = &[Load::Source6, Load::Destination6, Load::Protocol, Load::DestinationPort];
    let mut rules = vec![
        vec![E::Status(STATUS_DNAT), E::Accept],
        vec![E::State(STATE_ESTABLISHED | STATE_RELATED), E::Accept],
        vec![E::Ipv4, E::In { load: link4, set: LINKS4, is: true }, E::Accept],
        vec![E::Ipv6, E::In { load: link6, set: LINKS6, is: true }, E::Accept],
    ];
    rules.extend(
        openings::NEIGHBOURS
            .map(|kind| vec![E::Ipv6, E::Protocol(ICMPV6), E::IcmpType(kind), E::Accept]),
    );
    rules.push(vec![E::Drop]);
    rules
}

/// In order: people's exceptions; within one network; internal networks, before anything can call
/// a packet established; what enters no bridge, such as the answers of published ports, of which
/// nothing more needs to be asked; connections that were allowed; what may enter a bridge.
pub(super) fn forward_rules() -> Vec<Vec<E>> {
    let known = || E::State(STATE_ESTABLISHED | STATE_RELATED);
    let service4 = |set| E::In {
        load: &[Load::Destination4, Load::Protocol, Load::DestinationPort],
        set,
        is: true,
    };
    let service6 = |set| E::In {
        load: &[Load::Destination6, Load::Protocol, Load::DestinationPort],
        set,
        is: true,
    };
    // Not from our other networks.
    let stranger = || E::In { load: &[Load::InterfaceIn], set: BRIDGES, is: false };
    vec![
        vec![E::Mark(ACCEPT_MARK), E::Accept],
        vec![E::VerdictBy { load: &[Load::InterfaceIn, Load::InterfaceOut], map: WITHIN }],
        vec![from(INTERNAL), E::Drop],
        vec![to(INTERNAL), E::Drop],
        vec![E::In { load: &[Load::InterfaceOut], set: BRIDGES, is: false }, E::Accept],
        vec![known(), E::Accept],
        vec![E::Status(STATUS_DNAT), E::Accept],
        vec![between(TRUSTED), E::Accept],
        vec![E::Ipv4, service4(OPEN4), E::Accept],
        vec![E::Ipv6, service6(OPEN6), E::Accept],
        vec![E::Ipv4, service4(DIRECT4), stranger(), E::Accept],
        vec![E::Ipv6, service6(DIRECT6), stranger(), E::Accept],
        vec![E::Ipv4, to(ROUTED4), E::Protocol(ICMP), E::Accept],
        vec![E::Ipv6, to(ROUTED6), E::Protocol(ICMPV6), E::Accept],
        vec![E::Ipv4, to(UNPROTECTED4), stranger(), E::Accept],
        vec![E::Ipv6, to(UNPROTECTED6), stranger(), E::Accept],
        vec![E::Drop],
    ]
}

/// What is forwarded between strangers is dropped. Not in the chain `forward`: with the kernel's
/// br_netfilter that one sees the frames within other people's bridges as well, which are none of
/// our business. Behind it these have no interface that they came from, and neither has what the
/// host itself sends. But the kernel's own words to its neighbours (ND, MLD, IGMP) are made with
/// the interface that they leave by, which then looks like the one that they came from: without
/// them the host would have no IPv6 any more. They come from an address of the host, from a
/// link-local one or from none; the latter two no router forwards.
fn stranger_rules(closed: Closed) -> Vec<Vec<E>> {
    let from6 = |network: Ipv6Addr, prefix| {
        vec![E::Ipv6, E::Source { network: network.into(), prefix }, E::Accept]
    };
    let mut rules = vec![
        vec![E::InterfaceIn { name: String::new(), is: true }, E::Accept],
        vec![from(BRIDGES), E::Accept],
        vec![to(BRIDGES), E::Accept],
        vec![E::Mark(ACCEPT_MARK), E::Accept],
    ];
    if closed.v4 {
        rules.push(vec![E::Ipv4, E::Protocol(IGMP), E::LocalSource(true), E::Accept]);
        rules.push(vec![E::Ipv4, E::Drop]);
    }
    if closed.v6 {
        rules.push(vec![E::Ipv6, E::Protocol(ICMPV6), E::LocalSource(true), E::Accept]);
        rules.push(from6(Ipv6Addr::UNSPECIFIED, 128));
        rules.push(from6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10));
        rules.push(vec![E::Ipv6, E::Drop]);
    }
    rules
}

fn source_rules() -> Vec<Vec<E>> {
    let loopback = Ipv4Addr::new(127, 0, 0, 0).into();
    let by = |map, v6| E::SnatBy { load: &[Load::InterfaceIn], map, v6 };
    vec![
        // From the host by loopback: the answer must come back through us.
        vec![E::Ipv4, to(BRIDGES), E::Source { network: loopback, prefix: 8 }, E::Masquerade],
        // From a container to a published port of itself or of a neighbour: the same.
        vec![between(PAIRS), E::Status(STATUS_DNAT), E::Masquerade],
        // With the kernel's br_netfilter such a packet never leaves the bridge, which does not say
        // where it came from. The host's own packets have no interface here either, but a source
        // of the host's.
        vec![
            E::InterfaceIn { name: String::new(), is: true },
            to(BRIDGES),
            E::Status(STATUS_DNAT),
            E::LocalSource(false),
            E::Masquerade,
        ],
        vec![between(PAIRS), E::Return],
        vec![E::Ipv4, by(SNAT4, false)],
        vec![E::Ipv6, by(SNAT6, true)],
        vec![E::Ipv4, from(MASQUERADE4), E::Masquerade],
        vec![E::Ipv6, from(MASQUERADE6), E::Masquerade],
    ]
}
