//! The rules of table `inet hoy`, for all networks and both families.
//!
//! The chains are the same however much there is: networks and ports are elements of sets and maps
//! keyed by interface name and by address, protocol and port.
//!
//! On kernels that have it (6.9 and later) the table is owned by our socket: nobody else can change
//! it, other people's `flush ruleset` passes it by. When the last descriptor of the socket is
//! closed the table stays, but belongs to nobody, and a flush would take it. So the socket is to be
//! kept open by a process that outlives the daemon (`descriptor`), and taken over by the next one
//! (`open_kept`). Elsewhere `watch` notices and `repair` puts it back; until then (milliseconds)
//! the host forwards for our bridges what its other rules let through.
//!
//! What is decided where:
//! - `loopback` (prerouting, raw): packets from or to 127/8 come from `lo` or are dropped, since
//!   ports that are published on loopback are routed to the bridges.
//! - `prerouting`, `output` (nat): published ports, first those of one address of the host, then
//!   those of all. Not `::1` and not link-local addresses of IPv6: nothing can be forwarded from
//!   there; the keeper's sockets serve them.
//! - `forward`: see `forward_rules`. What nothing allows to enter a bridge is dropped: that is the
//!   isolation of networks from each other and of containers from the neighbours of the host.
//! - `strangers` (postrouting): where it was us who turned forwarding on, the host forwards nothing
//!   that neither comes from nor goes to one of our bridges.
//! - `input`: internal networks do not reach what the keeper publishes.
//! - `postrouting` (nat): masquerading.
//!
//! # People's own rules
//!
//! Table `inet hoy-user` with an empty chain `forward` is made where it is absent, and never
//! touched after that (but by `remove`). It is asked before ours: what is dropped there is dropped,
//! what is accepted there goes on to ours. To let something pass that ours would drop, set the bit
//! `ACCEPT_MARK` of its mark there, in both directions:
//!
//! ```text
//! nft add rule inet hoy-user forward iifname wg0 oifname hoy0 meta mark set mark or 0x10000000
//! nft add rule inet hoy-user forward iifname hoy0 oifname wg0 meta mark set mark or 0x10000000
//! ```
//!
//! Marks do not cross the border of a network namespace, so that no container can set it.

mod openings;

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};

use hoy_netlink::conntrack::Stale;
use hoy_netlink::nft::{
    self, Base, Chain, ChainKind, Data, Element, Expression as E, Family, Field, Given, Hook, Load,
    Policy, STATE_ESTABLISHED, STATE_RELATED, STATUS_DNAT, Set, Transaction, Value, Verdict,
};
use hoy_netlink::{NetlinkError, Socket, SocketKind};
use hoy_types::Protocol;

use crate::NetworkError;
use openings::Openings;
pub(crate) use openings::{Opening, Place};

/// Our table; of the family bridge as well, where openings need it.
pub const TABLE: &str = "hoy";
/// People's table, with one chain `forward`.
pub const USER_TABLE: &str = "hoy-user";
/// Packets whose mark has this bit pass our forward chain.
pub const ACCEPT_MARK: u32 = 0x1000_0000;

const RAW: i32 = -300;
const DSTNAT: i32 = -100;
const BEFORE_FILTER: i32 = -10;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

const ICMP: u8 = 1;
const UDP: u8 = 17;
const IGMP: u8 = 2;
const ICMPV6: u8 = 58;

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

const INTERFACE: &[Field] = &[Field::Interface];
const PAIR: &[Field] = &[Field::Interface, Field::Interface];
const PORT: &[Field] = &[Field::Protocol, Field::Port];
const SERVICE4: &[Field] = &[Field::Ipv4, Field::Protocol, Field::Port];
const SERVICE6: &[Field] = &[Field::Ipv6, Field::Protocol, Field::Port];
const LINK4: &[Field] = &[Field::Ipv4, Field::Ipv4, Field::Protocol, Field::Port];
const LINK6: &[Field] = &[Field::Ipv6, Field::Ipv6, Field::Protocol, Field::Port];
const TARGET4: Data = Data::Fields(&[Field::Ipv4, Field::Port]);
const TARGET6: Data = Data::Fields(&[Field::Ipv6, Field::Port]);

const fn set(id: u32, name: &'static str, key: &'static [Field], data: Data) -> Set {
    Set { name, id, key, data }
}

/// Published on one address.
const PORTS4: Set = set(1, "ports4", SERVICE4, TARGET4);
const PORTS6: Set = set(2, "ports6", SERVICE6, TARGET6);
/// Published on every address.
const ANY4: Set = set(3, "ports4-any", PORT, TARGET4);
const ANY6: Set = set(4, "ports6-any", PORT, TARGET6);
/// Ports of containers that are reached directly.
const OPEN4: Set = set(5, "open4", SERVICE4, Data::Nothing);
const OPEN6: Set = set(6, "open6", SERVICE6, Data::Nothing);
/// Ports of the host that the keeper carries.
const KEPT: Set = set(7, "kept", PORT, Data::Nothing);
const BRIDGES: Set = set(8, "bridges", INTERFACE, Data::Nothing);
const INTERNAL: Set = set(9, "internal", INTERFACE, Data::Nothing);
/// Each bridge with itself: what becomes of packets between its containers.
const WITHIN: Set = set(10, "within", PAIR, Data::Verdict);
const PAIRS: Set = set(11, "pairs", PAIR, Data::Nothing);
/// An interface of the host and a bridge that trusts it.
const TRUSTED: Set = set(12, "trusted", PAIR, Data::Nothing);
const MASQUERADE4: Set = set(13, "masquerade4", INTERFACE, Data::Nothing);
const MASQUERADE6: Set = set(14, "masquerade6", INTERFACE, Data::Nothing);
const SNAT4: Set = set(15, "snat4", INTERFACE, Data::Fields(&[Field::Ipv4]));
const SNAT6: Set = set(16, "snat6", INTERFACE, Data::Fields(&[Field::Ipv6]));
const UNPROTECTED4: Set = set(17, "unprotected4", INTERFACE, Data::Nothing);
const UNPROTECTED6: Set = set(18, "unprotected6", INTERFACE, Data::Nothing);
const ROUTED4: Set = set(19, "routed4", INTERFACE, Data::Nothing);
const ROUTED6: Set = set(20, "routed6", INTERFACE, Data::Nothing);
/// Published ports of containers that other hosts reach directly, too, where people want that.
const DIRECT4: Set = set(21, "direct4", SERVICE4, Data::Nothing);
const DIRECT6: Set = set(22, "direct6", SERVICE6, Data::Nothing);
/// Who may reach which port of whom, where containers are apart.
const LINKS4: Set = set(23, "links4", LINK4, Data::Nothing);
const LINKS6: Set = set(24, "links6", LINK6, Data::Nothing);

const SETS: [Set; 24] = [
    PORTS4,
    PORTS6,
    ANY4,
    ANY6,
    OPEN4,
    OPEN6,
    KEPT,
    BRIDGES,
    INTERNAL,
    WITHIN,
    PAIRS,
    TRUSTED,
    MASQUERADE4,
    MASQUERADE6,
    SNAT4,
    SNAT6,
    UNPROTECTED4,
    UNPROTECTED6,
    ROUTED4,
    ROUTED6,
    DIRECT4,
    DIRECT6,
    LINKS4,
    LINKS6,
];

/// Between containers of a network that wants them apart.
const APART: &str = "apart";

fn from(set: Set) -> E {
    E::In { load: &[Load::InterfaceIn], set, is: true }
}

fn to(set: Set) -> E {
    E::In { load: &[Load::InterfaceOut], set, is: true }
}

fn between(set: Set) -> E {
    E::In { load: &[Load::InterfaceIn, Load::InterfaceOut], set, is: true }
}

/// The chains. Those that are jumped to come first.
fn chains(closed: Closed) -> Vec<Chain> {
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
fn forward_rules() -> Vec<Vec<E>> {
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

/// Elements by the set that they belong to.
#[derive(Debug, Default)]
struct Elements(BTreeMap<u32, (Vec<Element>, Option<Set>)>);

impl Elements {
    fn put(&mut self, set: Set, key: &[Value<'_>], given: Given) {
        let slot = self.0.entry(set.id).or_default();
        slot.0.push(Element { key: nft::bytes(key), given });
        slot.1 = Some(set);
    }

    fn sets(&self) -> impl Iterator<Item = (Set, &[Element])> {
        self.0.values().filter_map(|(elements, set)| Some(((*set)?, elements.as_slice())))
    }

    fn add_to(&self, transaction: &mut Transaction<'_>) {
        self.sets().for_each(|(set, elements)| {
            transaction.add(set, elements);
        });
    }

    fn remove_from(&self, transaction: &mut Transaction<'_>) {
        self.sets().for_each(|(set, elements)| {
            transaction.remove(set, elements);
        });
    }

    fn opening(&mut self, opening: &Opening) {
        for (set, element) in openings::elements(opening) {
            let slot = self.0.entry(set.id).or_default();
            slot.0.push(element);
            slot.1 = Some(set);
        }
    }

    fn bridge(&mut self, rules: &BridgeRules) {
        let name = Value::Interface(&rules.interface);
        let verdict = if rules.icc { Verdict::Accept } else { Verdict::Goto(APART) };
        self.put(BRIDGES, &[name], Given::Nothing);
        self.put(WITHIN, &[name, name], Given::Verdict(verdict));
        self.put(PAIRS, &[name, name], Given::Nothing);
        if rules.internal {
            self.put(INTERNAL, &[name], Given::Nothing);
        }
        let mut trusted: Vec<&String> = rules.trusted.iter().collect();
        trusted.sort();
        trusted.dedup();
        for interface in trusted {
            self.put(TRUSTED, &[Value::Interface(interface), name], Given::Nothing);
        }
        let families = [
            (rules.masquerade4, rules.mode4, MASQUERADE4, SNAT4, UNPROTECTED4, ROUTED4),
            (rules.masquerade6, rules.mode6, MASQUERADE6, SNAT6, UNPROTECTED6, ROUTED6),
        ];
        for (masquerade, mode, masked, snat, unprotected, routed) in families {
            match masquerade {
                Masquerade::No => {}
                Masquerade::Yes => self.put(masked, &[name], Given::Nothing),
                // An address of the wrong family is none.
                Masquerade::To(address) if address.is_ipv6() != (snat == SNAT6) => {
                    self.put(masked, &[name], Given::Nothing);
                }
                Masquerade::To(address) => {
                    let address = nft::bytes(&[Value::Address(address)]);
                    self.put(snat, &[name], Given::Bytes(address));
                }
            }
            match mode {
                GatewayMode::NatUnprotected => self.put(unprotected, &[name], Given::Nothing),
                GatewayMode::Routed => self.put(routed, &[name], Given::Nothing),
                GatewayMode::Nat | GatewayMode::Isolated => {}
            }
        }
    }
}

/// What identifies a publication.
type Key = (u8, IpAddr, u16);

fn protocol(of: Protocol) -> u8 {
    match of {
        Protocol::Tcp => 6,
        Protocol::Udp => UDP,
        Protocol::Sctp => 132,
    }
}

fn key(publication: &Publication) -> Key {
    (protocol(publication.protocol), publication.host_ip, publication.host_port)
}

/// What lets other hosts reach a published port at the container's own address.
fn direct(publication: &Publication) -> Option<(Set, Element)> {
    let Publication { target, .. } = publication;
    if !matches!(publication.mode, GatewayMode::Nat | GatewayMode::NatUnprotected) {
        return None;
    }
    let set = if target.is_ipv6() { DIRECT6 } else { DIRECT4 };
    let number = Value::Protocol(protocol(publication.protocol));
    let key = nft::bytes(&[Value::Address(target.ip()), number, Value::Port(target.port())]);
    Some((set, Element { key, given: Given::Nothing }))
}

/// The one element of a publication. Elements of `OPEN4`, `OPEN6` and `KEPT` can be those of
/// several publications, and so can those of `direct`.
fn element(publication: &Publication) -> Option<(Set, Element)> {
    let Publication { host_ip, host_port, target, .. } = publication;
    let number = Value::Protocol(protocol(publication.protocol));
    let element = |key: &[Value<'_>], given| Element { key: nft::bytes(key), given };
    if publication.mode == GatewayMode::Routed {
        let set = if target.is_ipv6() { OPEN6 } else { OPEN4 };
        let key = [Value::Address(target.ip()), number, Value::Port(target.port())];
        return Some((set, element(&key, Given::Nothing)));
    }
    if publication.mode == GatewayMode::Isolated {
        return None;
    }
    if host_ip.is_ipv6() != target.is_ipv6() || *host_ip == IpAddr::V6(Ipv6Addr::LOCALHOST) {
        return Some((KEPT, element(&[number, Value::Port(*host_port)], Given::Nothing)));
    }
    let given = nft::bytes(&[Value::Address(target.ip()), Value::Port(target.port())]);
    let given = Given::Bytes(given);
    let service = [Value::Address(*host_ip), number, Value::Port(*host_port)];
    Some(match (host_ip.is_unspecified(), host_ip.is_ipv6()) {
        (true, false) => (ANY4, element(&service[1..], given)),
        (true, true) => (ANY6, element(&service[1..], given)),
        (false, false) => (PORTS4, element(&service, given)),
        (false, true) => (PORTS6, element(&service, given)),
    })
}

/// Flows of UDP to ports that were published, withdrawn or changed: whoever sends without a pause
/// goes on to where he went before, until the kernel forgets it. That takes the kernel some ten
/// milliseconds, whatever it finds: not to be done while others wait.
#[derive(Debug, Default)]
pub struct Flows(Vec<Stale>);

impl Flows {
    /// In the network namespace of the calling thread.
    pub fn forget(self) -> Result<(), NetworkError> {
        if !self.0.is_empty() {
            Socket::open(SocketKind::Netfilter)?.forget(&self.0)?;
        }
        Ok(())
    }

    pub fn add(&mut self, mut more: Self) {
        self.0.append(&mut more.0);
    }
}

/// The table, and what is to be in it.
#[derive(Debug)]
pub struct Firewall {
    /// Owns the table: kept open for as long as the daemon lives.
    nft: Socket,
    closed: Closed,
    bridges: BTreeMap<String, BridgeRules>,
    publications: HashMap<Key, Publication>,
    openings: Openings,
    /// How many publications stand behind an element that can have several.
    shared: HashMap<(u32, Vec<u8>), usize>,
    /// Published ports are reached directly, too.
    direct: bool,
    /// Once there was something to install.
    installed: Option<Installed>,
    /// Whether to ask for a table of our own.
    own: bool,
}

/// What the table looked like when we had made it.
#[derive(Debug)]
struct Installed {
    owned: bool,
    handle: u64,
    /// Rules by chain and handle. Of no interest in a table that nobody else can change.
    rules: Vec<(String, u64)>,
    /// The ruleset's generation when it was seen whole.
    seen: Option<u32>,
    /// The table for bridges, where there is one.
    bridged: Option<(u64, Vec<u64>)>,
}

impl Firewall {
    /// In the network namespace of the calling thread. Installs nothing yet.
    pub fn open() -> Result<Self, NetworkError> {
        Ok(Self {
            nft: Socket::open(SocketKind::Netfilter)?,
            closed: Closed::default(),
            bridges: BTreeMap::new(),
            publications: HashMap::new(),
            openings: Openings::default(),
            shared: HashMap::new(),
            direct: false,
            installed: None,
            own: true,
        })
    }

    /// With the socket of a daemon before this one, which somebody kept. It must belong to the
    /// network namespace of the calling thread; if it does not look so, it is not used.
    pub fn open_kept(socket: OwnedFd) -> Result<Self, NetworkError> {
        let mut fresh = Self::open()?;
        let mut kept = Socket::from_kept(socket, SocketKind::Netfilter)?;
        let same = kept.nft_generation()? == fresh.nft.nft_generation()?
            && kept.nft_tables()? == fresh.nft.nft_tables()?;
        if same {
            fresh.nft = kept;
        }
        Ok(fresh)
    }

    /// Whether other hosts reach published ports at the containers' own addresses, too.
    #[must_use]
    pub fn with_direct_routing(mut self, direct: bool) -> Self {
        self.direct = direct;
        self
    }

    /// The elements of a publication.
    fn elements_of(
        &self,
        publication: &Publication,
    ) -> impl Iterator<Item = (Set, Element)> + use<> {
        let direct = self.direct.then(|| direct(publication)).flatten();
        element(publication).into_iter().chain(direct)
    }

    /// The socket that the table belongs to, to be kept open by another process.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.nft.descriptor()
    }

    /// As on a kernel whose tables have no owner.
    #[doc(hidden)]
    pub fn open_without_owner() -> Result<Self, NetworkError> {
        Ok(Self { own: false, ..Self::open()? })
    }

    /// Whether the kernel keeps others from changing the table.
    pub fn is_owned(&self) -> bool {
        self.installed.as_ref().is_some_and(|installed| installed.owned)
    }

    /// The whole table, in one transaction: packets see what was there before, or this. A table
    /// that a daemon before this one left is replaced.
    pub fn install(
        &mut self,
        closed: Closed,
        bridges: Vec<BridgeRules>,
        publications: Vec<Publication>,
    ) -> Result<(), NetworkError> {
        self.closed = closed;
        self.bridges = bridges.into_iter().map(|rules| (rules.interface.clone(), rules)).collect();
        self.publications = publications.into_iter().map(|one| (key(&one), one)).collect();
        self.reinstall()
    }

    pub fn set_closed(&mut self, closed: Closed) -> Result<(), NetworkError> {
        if self.closed == closed && self.installed.is_some() {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.closed, closed);
        self.reinstall().inspect_err(|_| self.closed = before)
    }

    /// Adds a bridge, or changes its rules.
    pub fn add_bridge(&mut self, rules: BridgeRules) -> Result<(), NetworkError> {
        let mut added = Elements::default();
        added.bridge(&rules);
        let mut removed = Elements::default();
        let name = rules.interface.clone();
        let before = self.bridges.insert(name.clone(), rules);
        if let Some(before) = &before {
            removed.bridge(before);
        }
        self.change("add a network to the rules", &removed, &added).inspect_err(|_| {
            match before {
                Some(before) => self.bridges.insert(name, before),
                None => self.bridges.remove(&name),
            };
        })
    }

    /// Takes a bridge out. Packets of its interface, should it still be there, are then none of
    /// ours: delete the interface first.
    pub fn remove_bridge(&mut self, interface: &str) -> Result<(), NetworkError> {
        let Some(before) = self.bridges.remove(interface) else { return Ok(()) };
        let mut removed = Elements::default();
        removed.bridge(&before);
        let done = self.change("remove a network from the rules", &removed, &Elements::default());
        done.inspect_err(|_| {
            self.bridges.insert(before.interface.clone(), before);
        })
    }

    /// Publishes ports, all or none. One that was published for another target changes it. Gives
    /// the flows that go on where they went.
    pub fn publish(&mut self, publications: &[Publication]) -> Result<Flows, NetworkError> {
        self.republish("publish ports", &[], publications)
    }

    /// Takes published ports back, all or none. What is not published (or for another target) is
    /// left as it is.
    pub fn withdraw(&mut self, publications: &[Publication]) -> Result<Flows, NetworkError> {
        self.republish("withdraw published ports", publications, &[])
    }

    fn republish(
        &mut self,
        operation: &'static str,
        withdrawn: &[Publication],
        published: &[Publication],
    ) -> Result<Flows, NetworkError> {
        let (mut removed, mut added) = (Elements::default(), Elements::default());
        // What was there before, to be put back where the kernel refuses.
        let mut undo: Vec<(Key, Option<Publication>)> = Vec::new();
        for publication in withdrawn {
            let key = key(publication);
            if self.publications.get(&key) == Some(publication) {
                self.publications.remove(&key);
                undo.push((key, Some(publication.clone())));
                self.release(publication, &mut removed);
            }
        }
        for publication in published {
            let key = key(publication);
            let before = self.publications.get(&key).cloned();
            if before.as_ref() == Some(publication) {
                continue;
            }
            if let Some(before) = &before {
                self.release(before, &mut removed);
            }
            self.publications.insert(key, publication.clone());
            self.hold(publication, &mut added);
            undo.push((key, before));
        }
        let flows: Vec<Stale> = undo
            .iter()
            .filter(|((protocol, ..), _)| *protocol == UDP)
            .map(|((protocol, address, port), _)| Stale::To {
                protocol: *protocol,
                address: *address,
                port: *port,
            })
            .collect();
        self.change(operation, &removed, &added).inspect_err(|_| {
            for (key, before) in undo.into_iter().rev() {
                match before {
                    Some(before) => self.publications.insert(key, before),
                    None => self.publications.remove(&key),
                };
            }
            self.count();
        })?;
        Ok(Flows(flows))
    }

    /// A publication's elements, as far as it is the first that needs them.
    fn hold(&mut self, publication: &Publication, added: &mut Elements) {
        for (set, element) in self.elements_of(publication) {
            if set.data == Data::Nothing {
                let count = self.shared.entry((set.id, element.key.clone())).or_default();
                *count += 1;
                if *count > 1 {
                    continue;
                }
            }
            let slot = added.0.entry(set.id).or_default();
            slot.0.push(element);
            slot.1 = Some(set);
        }
    }

    /// A publication's elements, as far as nobody else needs them.
    fn release(&mut self, publication: &Publication, removed: &mut Elements) {
        for (set, element) in self.elements_of(publication) {
            if set.data == Data::Nothing {
                let shared = (set.id, element.key.clone());
                let count = self.shared.entry(shared.clone()).or_default();
                *count = count.saturating_sub(1);
                if *count > 0 {
                    continue;
                }
                self.shared.remove(&shared);
            }
            let slot = removed.0.entry(set.id).or_default();
            slot.0.push(element);
            slot.1 = Some(set);
        }
    }

    /// Counts anew who needs what; the elements of all publications.
    fn count(&mut self) -> Elements {
        self.shared.clear();
        let publications = std::mem::take(&mut self.publications);
        let mut all = Elements::default();
        for publication in publications.values() {
            self.hold(publication, &mut all);
        }
        self.publications = publications;
        all
    }

    /// Brings a difference to the kernel. Where the table is not what it should be, all of it.
    fn change(
        &mut self,
        operation: &'static str,
        removed: &Elements,
        added: &Elements,
    ) -> Result<(), NetworkError> {
        let Some(installed) = &mut self.installed else { return self.reinstall() };
        let before = self.nft.nft_generation()?;
        let mut transaction = self.nft.nft(TABLE);
        removed.remove_from(&mut transaction);
        added.add_to(&mut transaction);
        match transaction.commit(operation) {
            Err(error) if error.is_missing() => return self.reinstall(),
            other => other?,
        }
        // Whoever else changed something in between is looked after by `repair`.
        let after = self.nft.nft_generation()?;
        if installed.seen == Some(before) && after == before.wrapping_add(1) {
            installed.seen = Some(after);
        }
        Ok(())
    }

    /// Puts the table back if it is not there, or not as we made it. Says whether it had to.
    pub fn repair(&mut self) -> Result<bool, NetworkError> {
        let Some(installed) = &mut self.installed else { return Ok(false) };
        let generation = self.nft.nft_generation()?;
        if installed.seen == Some(generation) {
            return Ok(false);
        }
        let whole = is_whole(&mut self.nft, installed)?
            && (installed.owned || self.counts_agree()?)
            && has_user_table(&mut self.nft)?
            && self.bridged_is_whole()?;
        if whole {
            if let Some(installed) = &mut self.installed {
                installed.seen = Some(generation);
            }
            return Ok(false);
        }
        self.reinstall()?;
        Ok(true)
    }

    /// Whether every set has as many elements as it should.
    fn counts_agree(&mut self) -> Result<bool, NetworkError> {
        let elements = self.elements();
        for set in SETS {
            let wanted = elements.0.get(&set.id).map_or(0, |(elements, _)| elements.len());
            if self.nft.nft_count(Family::Inet, TABLE, set.name)? != wanted {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn elements(&mut self) -> Elements {
        let mut elements = self.count();
        for rules in self.bridges.values() {
            elements.bridge(rules);
        }
        for opening in self.openings.iter() {
            elements.opening(opening);
        }
        elements
    }

    fn reinstall(&mut self) -> Result<(), NetworkError> {
        let elements = self.elements();
        let chains = chains(self.closed);
        let mut attempt = |exists: bool, flags: u32| {
            let mut transaction = self.nft.nft(TABLE);
            if exists {
                transaction.delete_table();
            }
            transaction.table(flags);
            for set in SETS {
                transaction.set(set);
            }
            for chain in &chains {
                transaction.chain(chain);
            }
            elements.add_to(&mut transaction);
            transaction.commit("install the table")
        };
        let mut replace = |flags| match attempt(true, flags) {
            Err(error) if error.is_missing() => attempt(false, flags),
            other => other,
        };
        let owned = match self.own.then(|| replace(nft::OWNER | nft::PERSIST)) {
            Some(Ok(())) => true,
            // A kernel that does not know these flags.
            Some(Err(error)) if unknown_flags(&error) => {
                replace(0)?;
                false
            }
            Some(Err(error)) => return Err(self.explained(error)),
            None => {
                replace(0).map_err(|error| self.explained(error))?;
                false
            }
        };
        self.make_user_table()?;
        let tables = self.nft.nft_tables()?;
        let ours = tables.iter().find(|table| table.family == Family::Inet && table.name == TABLE);
        let handle = ours.map_or(0, |table| table.handle);
        let rules = if owned { Vec::new() } else { rules(&mut self.nft)? };
        // Not `seen`: somebody may have been quicker than we looked.
        let bridged = self.installed.take().and_then(|before| before.bridged);
        self.installed = Some(Installed { owned, handle, rules, seen: None, bridged });
        self.repair_bridged()
    }

    /// Why the table cannot be replaced, where it is somebody else's.
    fn explained(&mut self, error: NetlinkError) -> NetworkError {
        let denied = error.errno() == Some(rustix::io::Errno::PERM.raw_os_error());
        let owned = |nft: &mut Socket| {
            let tables = nft.nft_tables().unwrap_or_default();
            tables
                .iter()
                .any(|t| t.family == Family::Inet && t.name == TABLE && t.flags & nft::OWNER != 0)
        };
        if denied && owned(&mut self.nft) {
            return NetworkError::OwnedElsewhere;
        }
        error.into()
    }

    fn make_user_table(&mut self) -> Result<(), NetworkError> {
        if has_user_table(&mut self.nft)? {
            return Ok(());
        }
        let mut transaction = self.nft.nft(USER_TABLE);
        transaction.new_table(0).chain(&Chain {
            name: "forward",
            base: Some(Base {
                kind: ChainKind::Filter,
                hook: Hook::Forward,
                priority: BEFORE_FILTER,
                policy: Policy::Accept,
            }),
            rules: Vec::new(),
        });
        match transaction.commit("make the table for people's own rules") {
            Err(error) if error.exists() => Ok(()),
            other => Ok(other?),
        }
    }

    /// Takes both tables away. What is wanted stays known, but is not put back by `repair`.
    pub fn remove(&mut self) -> Result<(), NetworkError> {
        self.installed = None;
        for table in [TABLE, USER_TABLE] {
            let mut transaction = self.nft.nft(table);
            transaction.delete_table();
            match transaction.commit("delete the table") {
                Err(error) if error.is_missing() => {}
                other => other?,
            }
        }
        Ok(openings::remove(&mut self.nft)?)
    }
}

fn has_user_table(nft: &mut Socket) -> Result<bool, NetworkError> {
    let tables = nft.nft_tables()?;
    Ok(tables.iter().any(|table| table.family == Family::Inet && table.name == USER_TABLE))
}

fn rules(nft: &mut Socket) -> Result<Vec<(String, u64)>, NetworkError> {
    let mut rules: Vec<_> = nft
        .nft_rules(Family::Inet, TABLE)?
        .into_iter()
        .map(|rule| (rule.chain, rule.handle))
        .collect();
    rules.sort();
    Ok(rules)
}

/// Whether the table is the one that we made, with our rules.
fn is_whole(nft: &mut Socket, installed: &Installed) -> Result<bool, NetworkError> {
    let tables = nft.nft_tables()?;
    let ours = tables.iter().find(|table| table.family == Family::Inet && table.name == TABLE);
    if ours.is_none_or(|table| table.handle != installed.handle) {
        return Ok(false);
    }
    Ok(installed.owned || rules(nft)? == installed.rules)
}

fn unknown_flags(error: &NetlinkError) -> bool {
    use rustix::io::Errno;
    [Errno::OPNOTSUPP, Errno::INVAL].iter().any(|e| error.errno() == Some(e.raw_os_error()))
}
