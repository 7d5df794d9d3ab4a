//! What a network, a publication or an opening is in the sets and maps.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use hoy_netlink::nft::{self, Element, Given, Set, Transaction, Value, Verdict};
use hoy_types::Protocol;

use super::chains::APART;
use super::openings::{self, Opening};
use super::sets::*;
use super::wanted::{BridgeRules, GatewayMode, Masquerade, Publication};

/// Elements by the set that they belong to.
#[derive(Debug, Default)]
pub(super) struct Elements(BTreeMap<u32, (Vec<Element>, Option<Set>)>);

impl Elements {
    pub(super) fn add(&mut self, set: Set, element: Element) {
        let slot = self.0.entry(set.id).or_default();
        slot.0.push(element);
        slot.1 = Some(set);
    }

    /// How many there are of a set.
    pub(super) fn count(&self, set: Set) -> usize {
        self.0.get(&set.id).map_or(0, |(elements, _)| elements.len())
    }

    fn put(&mut self, set: Set, key: &[Value<'_>], given: Given) {
        self.add(set, Element { key: nft::bytes(key), given });
    }

    pub(super) fn sets(&self) -> impl Iterator<Item = (Set, &[Element])> {
        self.0.values().filter_map(|(elements, set)| Some(((*set)?, elements.as_slice())))
    }

    pub(super) fn add_to(&self, transaction: &mut Transaction<'_>) {
        self.sets().for_each(|(set, elements)| {
            transaction.add(set, elements);
        });
    }

    pub(super) fn remove_from(&self, transaction: &mut Transaction<'_>) {
        self.sets().for_each(|(set, elements)| {
            transaction.remove(set, elements);
        });
    }

    pub(super) fn opening(&mut self, opening: &Opening) {
        for (set, element) in openings::elements(opening) {
            self.add(set, element);
        }
    }

    pub(super) fn bridge(&mut self, rules: &BridgeRules) {
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

pub(super) const UDP: u8 = 17;

/// What identifies a publication.
pub(super) type Key = (u8, IpAddr, u16);

pub(super) fn protocol(of: Protocol) -> u8 {
    match of {
        Protocol::Tcp => 6,
        Protocol::Udp => UDP,
        Protocol::Sctp => 132,
    }
}

pub(super) fn key(publication: &Publication) -> Key {
    (protocol(publication.protocol), publication.host_ip, publication.host_port)
}

/// What lets other hosts reach a published port at the container's own address.
pub(super) fn direct(publication: &Publication) -> Option<(Set, Element)> {
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
pub(super) fn element(publication: &Publication) -> Option<(Set, Element)> {
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
