//! Ports that one container opens to another on a network that keeps its containers apart
//! (`--link` where `icc` is off).
//!
//! Where bridged packets are shown to the rules of IP (bridge-nf-call), that is a set of allowed
//! pairs in the chain `apart` of our table: who asks, who answers, the protocol and the port.
//! Elsewhere the ports of the bridge are isolated, which knows no exceptions. Then, with the first
//! opening, a table `bridge hoy` is made, and the two ports of the bridge are isolated no more: it
//! lets through between them what was opened and the answers to it, and nothing else from or to
//! them. There it is known by which interface a frame comes, so that a container gains nothing by
//! using another's address.
//!
//! Answers are known by their port there, since bridges have no connections: to begin one from the
//! opened port is what TCP cannot, and what a datagram can.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hoy_netlink::nft::{
    self, Base, Chain, ChainKind, Data, Element, Expression as E, Family, Field, Given, Hook, Load,
    Policy, Set, Value,
};
use hoy_netlink::{NetlinkError, Socket};
use hoy_types::PortSpec;
use rustix::io::Errno;

use super::chains::APART;
use super::elements::{Elements, protocol};
use super::sets::{LINKS4, LINKS6};
use super::{Firewall, TABLE};
use crate::NetworkError;
use crate::networks::PREFIX;
use crate::sandbox::Endpoint;

/// Before those of iptables' relative for bridges would be asked.
const FILTER_BRIDGED: i32 = -200;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const ICMPV6: u8 = 58;
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// What cannot arrive is told to who sent it.
const UNREACHABLE: u8 = 3;
/// The same of IPv6, and that a packet is too big.
const UNREACHABLE6: [u8; 2] = [1, 2];
/// Who has an address; without that nothing can be sent to it.
pub(super) const NEIGHBOURS: [u8; 2] = [135, 136];

/// Ports of the bridge that are not isolated any more.
const OPENED: Set = Set { name: "opened", id: 1, key: &[Field::Interface], data: Data::Nothing };
/// From port to port, for what belongs to no connection.
const PAIRS: Set =
    Set { name: "pairs", id: 2, key: &[Field::Interface, Field::Interface], data: Data::Nothing };
/// From port to port: what was opened.
const LINKS: Set = Set {
    name: "links",
    id: 3,
    key: &[Field::Interface, Field::Interface, Field::Protocol, Field::Port],
    data: Data::Nothing,
};

/// One end: a container's place in the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The endpoint's id.
    pub id: String,
    /// The port of the bridge.
    pub interface: String,
    pub addresses: Vec<IpAddr>,
}

impl Place {
    pub fn of(endpoint: &Endpoint) -> Self {
        let both = [endpoint.v4, endpoint.v6].into_iter().flatten();
        Self {
            id: endpoint.id.clone(),
            interface: endpoint.interface.clone(),
            addresses: both.map(|cidr| cidr.address).collect(),
        }
    }
}

/// Who may reach which ports of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Opening {
    pub from: Place,
    pub to: Place,
    pub ports: BTreeSet<PortSpec>,
}

/// All of them, by the ids of both ends.
#[derive(Debug, Default)]
pub(super) struct Openings(BTreeMap<(String, String), Opening>);

impl Openings {
    /// Gives what was there before.
    pub fn add(&mut self, opening: Opening) -> Option<Opening> {
        self.0.insert((opening.from.id.clone(), opening.to.id.clone()), opening)
    }

    pub fn remove(&mut self, opening: &Opening) {
        self.0.remove(&(opening.from.id.clone(), opening.to.id.clone()));
    }

    /// Those of endpoints that go.
    pub fn take(&mut self, gone: impl Fn(&str) -> bool) -> Vec<Opening> {
        let of = |opening: &Opening| gone(&opening.from.id) || gone(&opening.to.id);
        let keys: Vec<_> =
            self.0.iter().filter(|(_, one)| of(one)).map(|(key, _)| key.clone()).collect();
        keys.iter().filter_map(|key| self.0.remove(key)).collect()
    }

    /// The ports of bridges that are in no opening any more once some endpoints are gone, and those
    /// of these endpoints.
    fn left_alone(&self, gone: impl Fn(&str) -> bool) -> BTreeSet<String> {
        let stays = |one: &Opening| !gone(&one.from.id) && !gone(&one.to.id);
        let ends = |one: &Opening| [one.from.interface.clone(), one.to.interface.clone()];
        let (stay, go): (Vec<&Opening>, Vec<&Opening>) =
            self.0.values().partition(|one| stays(one));
        let kept: BTreeSet<String> = stay.into_iter().flat_map(ends).collect();
        go.into_iter().flat_map(ends).filter(|end| !kept.contains(end)).collect()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Opening> {
        self.0.values()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The elements of an opening in the table of IP.
pub(super) fn elements(opening: &Opening) -> Vec<(Set, Element)> {
    let mut out = Vec::new();
    for from in &opening.from.addresses {
        for to in opening.to.addresses.iter().filter(|to| to.is_ipv4() == from.is_ipv4()) {
            for port in &opening.ports {
                let key = [
                    Value::Address(*from),
                    Value::Address(*to),
                    Value::Protocol(protocol(port.protocol)),
                    Value::Port(port.port),
                ];
                let set = if to.is_ipv4() { LINKS4 } else { LINKS6 };
                out.push((set, Element { key: nft::bytes(&key), given: Given::Nothing }));
            }
        }
    }
    out
}

/// The rules for frames: see the head of this file.
fn chains() -> Vec<Chain> {
    const FORTH: &[Load] =
        &[Load::InterfaceIn, Load::InterfaceOut, Load::Protocol, Load::DestinationPort];
    const BACK: &[Load] =
        &[Load::InterfaceOut, Load::InterfaceIn, Load::Protocol, Load::SourcePort];
    let of = |load| E::In { load, set: OPENED, is: true };
    let pair = || E::In { load: &[Load::InterfaceIn, Load::InterfaceOut], set: PAIRS, is: true };
    let icmp = |number, kind| vec![E::Protocol(number), E::IcmpType(kind), pair(), E::Accept];
    let mut apart = vec![
        vec![E::In { load: FORTH, set: LINKS, is: true }, E::Accept],
        vec![E::Protocol(TCP), E::Begins, E::Drop],
        vec![E::In { load: BACK, set: LINKS, is: true }, E::Accept],
        vec![E::EtherType(ARP), pair(), E::Accept],
        vec![E::EtherType(IPV4), E::LaterFragment4, pair(), E::Accept],
        vec![E::EtherType(IPV6), E::LaterFragment6, pair(), E::Accept],
        icmp(ICMP, UNREACHABLE),
    ];
    apart.extend(NEIGHBOURS.iter().chain(&UNREACHABLE6).map(|kind| icmp(ICMPV6, *kind)));
    apart.push(vec![E::Drop]);
    let base = Base {
        kind: ChainKind::Filter,
        hook: Hook::Forward,
        priority: FILTER_BRIDGED,
        policy: Policy::Accept,
    };
    let goto = || E::Goto(APART);
    let forward = vec![
        vec![of(&[Load::InterfaceIn]), E::InterfaceOutPrefix(PREFIX), goto()],
        vec![of(&[Load::InterfaceOut]), E::InterfaceInPrefix(PREFIX), goto()],
    ];
    vec![
        Chain { name: APART, base: None, rules: apart },
        Chain { name: "forward", base: Some(base), rules: forward },
    ]
}

/// The elements of all openings in the table of bridges.
fn bridged(openings: &Openings) -> [(Set, Vec<Element>); 3] {
    let (mut opened, mut pairs, mut links) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for Opening { from, to, ports } in openings.iter() {
        let ends = [Value::Interface(&from.interface), Value::Interface(&to.interface)];
        opened.extend(ends.map(|end| nft::bytes(&[end])));
        pairs.insert(nft::bytes(&ends));
        pairs.insert(nft::bytes(&[ends[1], ends[0]]));
        for port in ports {
            let (number, port) = (protocol(port.protocol), port.port);
            let key = [ends[0], ends[1], Value::Protocol(number), Value::Port(port)];
            links.insert(nft::bytes(&key));
        }
    }
    let given = |keys: BTreeSet<Vec<u8>>| {
        keys.into_iter().map(|key| Element { key, given: Given::Nothing }).collect()
    };
    [(OPENED, given(opened)), (PAIRS, given(pairs)), (LINKS, given(links))]
}

impl Firewall {
    /// Opens ports of one container to another. `bridged`: the ports of the bridge are isolated
    /// where they are not opened here.
    pub(crate) fn open_ports(
        &mut self,
        opening: Opening,
        bridged: bool,
    ) -> Result<(), NetworkError> {
        let mut added = Elements::default();
        added.opening(&opening);
        let before = self.openings.add(opening.clone());
        if before.as_ref() == Some(&opening) {
            return Ok(());
        }
        let mut removed = Elements::default();
        before.iter().for_each(|before| removed.opening(before));
        let mut done = self.change("open ports to a container", &removed, &added);
        if bridged && done.is_ok() {
            done = self.install_bridged();
        }
        done.inspect_err(|_| {
            self.openings.remove(&opening);
            before.into_iter().for_each(|before| drop(self.openings.add(before)));
        })
    }

    /// What was opened while a daemon before this one ran, all at once; nothing else stays open.
    pub(crate) fn open_again(
        &mut self,
        openings: Vec<Opening>,
        bridged: bool,
    ) -> Result<(), NetworkError> {
        let mut added = Elements::default();
        for opening in openings {
            if self.openings.add(opening.clone()).is_none() {
                added.opening(&opening);
            }
        }
        if !self.openings.is_empty() {
            self.change("open ports to containers", &Elements::default(), &added)?;
        }
        if bridged { self.install_bridged() } else { Ok(remove(&mut self.nft)?) }
    }

    /// The ports of bridges that are to be isolated again before `close_ports`: without the table
    /// they would be open to all.
    pub(crate) fn left_alone(&self, gone: impl Fn(&str) -> bool) -> BTreeSet<String> {
        let bridged = self.installed.as_ref().is_some_and(|installed| installed.bridged.is_some());
        if bridged { self.openings.left_alone(gone) } else { BTreeSet::new() }
    }

    /// Endpoints that go take with them what was opened by them and to them.
    pub(crate) fn close_ports(&mut self, gone: impl Fn(&str) -> bool) -> Result<(), NetworkError> {
        let closed = self.openings.take(gone);
        if closed.is_empty() {
            return Ok(());
        }
        let mut removed = Elements::default();
        closed.iter().for_each(|opening| removed.opening(opening));
        self.change("close ports to a container", &removed, &Elements::default())?;
        match &self.installed {
            Some(installed) if installed.bridged.is_some() => self.install_bridged(),
            _ => Ok(()),
        }
    }

    /// The whole table for bridges, in one transaction; none where nothing is opened.
    fn install_bridged(&mut self) -> Result<(), NetworkError> {
        let owned = self.is_owned();
        if self.openings.is_empty() {
            remove(&mut self.nft)?;
            if let Some(installed) = &mut self.installed {
                installed.bridged = None;
            }
            return Ok(());
        }
        let flags = if owned { nft::OWNER | nft::PERSIST } else { 0 };
        install(&mut self.nft, &self.openings, flags).map_err(|error| match error.errno() {
            Some(errno) if LACKS.iter().any(|lacks| lacks.raw_os_error() == errno) => {
                NetworkError::NoBridgeRules
            }
            _ => error.into(),
        })?;
        let seen = seen(&mut self.nft)?;
        if let Some(installed) = &mut self.installed {
            installed.bridged = seen;
        }
        Ok(())
    }

    /// Whether the table for bridges is as it was made, where there is one.
    pub(super) fn bridged_is_whole(&mut self) -> Result<bool, NetworkError> {
        let Some(installed) = &self.installed else { return Ok(true) };
        if installed.bridged.is_none() || installed.owned {
            return Ok(true);
        }
        let wanted = installed.bridged.clone();
        Ok(seen(&mut self.nft)? == wanted)
    }

    /// Behind a table that was put back.
    pub(super) fn repair_bridged(&mut self) -> Result<(), NetworkError> {
        let there = self.installed.as_ref().is_some_and(|installed| installed.bridged.is_some());
        if there { self.install_bridged() } else { Ok(()) }
    }
}

/// What a kernel says that has no rules for bridges.
const LACKS: [Errno; 3] = [Errno::OPNOTSUPP, Errno::AFNOSUPPORT, Errno::NOENT];

fn install(nft: &mut Socket, openings: &Openings, flags: u32) -> Result<(), NetlinkError> {
    let mut attempt = |exists: bool| {
        let mut transaction = nft.nft_of(Family::Bridge, TABLE);
        if exists {
            transaction.delete_table();
        }
        transaction.table(flags);
        let all = bridged(openings);
        for (set, _) in &all {
            transaction.set(*set);
        }
        for chain in &chains() {
            transaction.chain(chain);
        }
        for (set, elements) in &all {
            transaction.add(*set, elements);
        }
        transaction.commit("install the table for bridges")
    };
    match attempt(true) {
        Err(error) if error.is_missing() => attempt(false),
        other => other,
    }
}

pub(super) fn remove(nft: &mut Socket) -> Result<(), NetlinkError> {
    let mut transaction = nft.nft_of(Family::Bridge, TABLE);
    transaction.delete_table();
    match transaction.commit("delete the table for bridges") {
        Err(error) if error.is_missing() => Ok(()),
        other => other,
    }
}

/// What tells whether the table is as we made it: its number, and those of its rules.
fn seen(nft: &mut Socket) -> Result<Option<(u64, Vec<u64>)>, NetlinkError> {
    let tables = nft.nft_tables()?;
    let ours = tables.iter().find(|table| table.family == Family::Bridge && table.name == TABLE);
    let Some(ours) = ours else { return Ok(None) };
    let rules = nft.nft_rules(Family::Bridge, TABLE)?;
    Ok(Some((ours.handle, rules.into_iter().map(|rule| rule.handle).collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(number: u8) -> Place {
        Place {
            id: number.to_string(),
            interface: format!("hv{number:09}"),
            addresses: vec![
                IpAddr::from([10, 0, 0, number]),
                IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number)]),
            ],
        }
    }

    fn opening(from: u8, to: u8, ports: &[&str]) -> Opening {
        let ports = ports.iter().map(|port| port.parse().unwrap()).collect();
        Opening { from: place(from), to: place(to), ports }
    }

    #[test]
    fn each_port_in_each_family_and_one_way() {
        let all = elements(&opening(2, 3, &["80/tcp", "53/udp"]));
        let count = |set: Set| all.iter().filter(|(of, _)| of.id == set.id).count();
        assert_eq!((all.len(), count(LINKS4), count(LINKS6)), (4, 2, 2));
        assert!(all.iter().all(|(set, element)| {
            let from = if set.id == LINKS4.id { &element.key[..4] } else { &element.key[..16] };
            from.last() == Some(&2)
        }));
    }

    #[test]
    fn what_several_open_is_there_once_and_goes_with_either_end() {
        let mut openings = Openings::default();
        openings.add(opening(2, 3, &["80/tcp"]));
        openings.add(opening(4, 3, &["80/tcp", "81/tcp"]));
        openings.add(opening(3, 4, &["80/tcp"]));
        let alone =
            |gone: &str| openings.left_alone(|id| id == gone).into_iter().collect::<Vec<_>>();
        assert_eq!(alone("4"), ["hv000000004"]);
        assert_eq!(alone("3"), ["hv000000002", "hv000000003", "hv000000004"]);
        assert!(alone("5").is_empty());
        let [opened, pairs, links] = bridged(&openings).map(|(_, elements)| elements.len());
        assert_eq!((opened, pairs, links), (3, 4, 4));
        assert_eq!(openings.take(|id| id == "4").len(), 2);
        let [opened, pairs, links] = bridged(&openings).map(|(_, elements)| elements.len());
        assert_eq!((opened, pairs, links), (2, 2, 1));
        assert_eq!(openings.take(|id| id == "3").len(), 1);
        assert!(openings.is_empty());
    }
}
