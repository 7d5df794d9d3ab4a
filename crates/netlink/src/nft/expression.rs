//! The steps of a rule and how the kernel wants them. Registers are fixed by each kind, so that
//! steps compose.

use std::net::IpAddr;

use super::{Data, Set};
use crate::message::Message;

pub const STATE_ESTABLISHED: u32 = 2;
pub const STATE_RELATED: u32 = 4;
/// The destination was translated.
pub const STATUS_DNAT: u32 = 0x20;

const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// Registers of 32 bits each; sixteen of them.
const R0: u32 = 8;
/// Where a map's answer goes: keys are at most 32 bytes long.
const ANSWER: u32 = R0 + 8;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

const META_ETHERTYPE: u32 = 1;
const META_MARK: u32 = 3;
const META_INTERFACE_IN: u32 = 6;
const META_INTERFACE_OUT: u32 = 7;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;

/// What ends a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    /// To a chain of the same table, and back.
    Jump(&'static str),
    /// To a chain of the same table, and not back.
    Goto(&'static str),
}

/// A part of a packet that is looked up in a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    InterfaceIn,
    InterfaceOut,
    Source4,
    Destination4,
    Source6,
    Destination6,
    Protocol,
    SourcePort,
    DestinationPort,
}

/// One step of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    Ipv4,
    Ipv6,
    /// Transport protocol: 6 TCP, 17 UDP, 132 SCTP.
    Protocol(u8),
    InterfaceIn {
        name: String,
        is: bool,
    },
    InterfaceOut {
        name: String,
        is: bool,
    },
    /// The interface's name begins so.
    InterfaceInPrefix(&'static str),
    InterfaceOutPrefix(&'static str),
    /// What a frame carries: in tables of bridges, where `Ipv4` and `Ipv6` are never true.
    EtherType(u16),
    /// TCP that begins a connection. The protocol must have been asked for before.
    Begins,
    /// The protocol, ICMP or ICMPv6, must have been asked for before.
    IcmpType(u8),
    /// A piece of a packet that does not say to which port it goes. What the frame carries must
    /// have been asked for before.
    LaterFragment4,
    LaterFragment6,
    /// The family must have been asked for before.
    Source {
        network: IpAddr,
        prefix: u8,
    },
    Destination {
        network: IpAddr,
        prefix: u8,
    },
    /// The protocol must have been asked for before.
    SourcePort(u16),
    DestinationPort(u16),
    /// The destination is an address of this host.
    LocalDestination,
    /// The source is an address of this host, or is not.
    LocalSource(bool),
    /// Any of these bits of the connection's state.
    State(u32),
    /// Any of these bits of the connection's status.
    Status(u32),
    /// The packet belongs to a connection's first direction (or to its answers).
    Original(bool),
    /// All of these bits of the packet's mark.
    Mark(u32),
    /// These parts of the packet are in a set, or are not.
    In {
        load: &'static [Load],
        set: Set,
        is: bool,
    },
    /// A map's verdict for these parts of the packet; what it does not have goes on.
    VerdictBy {
        load: &'static [Load],
        map: Set,
    },
    /// Sends the packet to the address and port that a map has for these parts of it.
    DnatBy {
        load: &'static [Load],
        map: Set,
        v6: bool,
    },
    /// Lets the packet come from the address that a map has for these parts of it.
    SnatBy {
        load: &'static [Load],
        map: Set,
        v6: bool,
    },
    SnatTo(IpAddr),
    Masquerade,
    /// Writes the port into the packet, without remembering the connection. The protocol must have
    /// been asked for before: it says where the checksum is.
    SetSourcePort(u16),
    SetDestinationPort(u16),
    Accept,
    Drop,
    Return,
    Jump(&'static str),
    Goto(&'static str),
}

/// The expressions of a rule.
pub(super) fn rule(message: &mut Message, steps: &[Expression]) {
    message.nested(4, |list| {
        let mut protocol = None;
        for step in steps {
            if let Expression::Protocol(number) = step {
                protocol = Some(*number);
            }
            step.encode(list, protocol);
        }
    });
}

impl Expression {
    fn encode(&self, list: &mut Message, protocol: Option<u8>) {
        match self {
            Self::Ipv4 => family(list, IPV4),
            Self::Ipv6 => family(list, IPV6),
            Self::Protocol(number) => {
                meta(list, R0, META_PROTOCOL);
                compare(list, true, &[*number]);
            }
            Self::InterfaceIn { name, is } => {
                meta(list, R0, META_INTERFACE_IN);
                compare(list, *is, &interface(name));
            }
            Self::InterfaceOut { name, is } => {
                meta(list, R0, META_INTERFACE_OUT);
                compare(list, *is, &interface(name));
            }
            Self::InterfaceInPrefix(prefix) => {
                meta(list, R0, META_INTERFACE_IN);
                compare(list, true, prefix.as_bytes());
            }
            Self::InterfaceOutPrefix(prefix) => {
                meta(list, R0, META_INTERFACE_OUT);
                compare(list, true, prefix.as_bytes());
            }
            Self::EtherType(number) => {
                meta(list, R0, META_ETHERTYPE);
                compare(list, true, &number.to_be_bytes());
            }
            Self::Begins => {
                const SYN: u8 = 2;
                const ACK: u8 = 16;
                payload(list, R0, TRANSPORT_HEADER, 13, 1);
                mask(list, &[SYN | ACK]);
                compare(list, true, &[SYN]);
            }
            Self::IcmpType(number) => {
                payload(list, R0, TRANSPORT_HEADER, 0, 1);
                compare(list, true, &[*number]);
            }
            Self::LaterFragment4 => {
                payload(list, R0, NETWORK_HEADER, 6, 2);
                mask(list, &0x1fff_u16.to_be_bytes());
                compare(list, false, &[0; 2]);
            }
            Self::LaterFragment6 => {
                const FRAGMENT: u8 = 44;
                payload(list, R0, NETWORK_HEADER, 6, 1);
                compare(list, true, &[FRAGMENT]);
                payload(list, R0, NETWORK_HEADER, 42, 2);
                mask(list, &0xfff8_u16.to_be_bytes());
                compare(list, false, &[0; 2]);
            }
            Self::Source { network, prefix } => {
                let load = if network.is_ipv4() { Load::Source4 } else { Load::Source6 };
                address(list, load, *network, *prefix);
            }
            Self::Destination { network, prefix } => {
                let load = if network.is_ipv4() { Load::Destination4 } else { Load::Destination6 };
                address(list, load, *network, *prefix);
            }
            Self::SourcePort(port) => {
                Load::SourcePort.encode(list, R0);
                compare(list, true, &port.to_be_bytes());
            }
            Self::DestinationPort(port) => {
                Load::DestinationPort.encode(list, R0);
                compare(list, true, &port.to_be_bytes());
            }
            Self::LocalDestination => local(list, 2, true),
            Self::LocalSource(is) => local(list, 1, *is),
            Self::State(bits) => connection(list, 0, *bits),
            Self::Status(bits) => connection(list, 2, *bits),
            Self::Original(is) => {
                expression(list, "ct", |data| {
                    data.big(1, R0).big(2, 1);
                });
                compare(list, *is, &[0]);
            }
            Self::Mark(bits) => {
                meta(list, R0, META_MARK);
                mask(list, &bits.to_ne_bytes());
                compare(list, true, &bits.to_ne_bytes());
            }
            Self::In { load, set, is } => {
                loads(list, load);
                lookup(list, *set, None, !*is);
            }
            Self::VerdictBy { load, map } => {
                loads(list, load);
                lookup(list, *map, Some(0), false);
            }
            Self::DnatBy { load, map, v6 } => {
                const DNAT: u32 = 1;
                loads(list, load);
                lookup(list, *map, Some(ANSWER), false);
                let port = ANSWER + if *v6 { 4 } else { 1 };
                nat(list, DNAT, *v6, ANSWER, Some(port));
            }
            Self::SnatBy { load, map, v6 } => {
                loads(list, load);
                lookup(list, *map, Some(ANSWER), false);
                nat(list, SNAT, *v6, ANSWER, None);
            }
            Self::SnatTo(address) => {
                match address {
                    IpAddr::V4(address) => immediate(list, &address.octets()),
                    IpAddr::V6(address) => immediate(list, &address.octets()),
                }
                nat(list, SNAT, address.is_ipv6(), R0, None);
            }
            Self::Masquerade => expression(list, "masq", |_| {}),
            Self::SetSourcePort(port) => write_port(list, 0, *port, protocol),
            Self::SetDestinationPort(port) => write_port(list, 2, *port, protocol),
            Self::Accept => decide(list, Verdict::Accept),
            Self::Drop => decide(list, Verdict::Drop),
            Self::Return => decide(list, Verdict::Return),
            Self::Jump(chain) => decide(list, Verdict::Jump(chain)),
            Self::Goto(chain) => decide(list, Verdict::Goto(chain)),
        }
    }
}

impl Load {
    /// Loads it to a register; says how many registers it fills.
    fn encode(self, list: &mut Message, register: u32) -> u32 {
        let mut payload = |base: u32, offset: u32, length: u32| {
            payload(list, register, base, offset, length);
            length.div_ceil(4)
        };
        match self {
            Self::Source4 => payload(NETWORK_HEADER, 12, 4),
            Self::Destination4 => payload(NETWORK_HEADER, 16, 4),
            Self::Source6 => payload(NETWORK_HEADER, 8, 16),
            Self::Destination6 => payload(NETWORK_HEADER, 24, 16),
            Self::SourcePort => payload(TRANSPORT_HEADER, 0, 2),
            Self::DestinationPort => payload(TRANSPORT_HEADER, 2, 2),
            Self::Protocol => {
                meta(list, register, META_PROTOCOL);
                1
            }
            Self::InterfaceIn => {
                meta(list, register, META_INTERFACE_IN);
                4
            }
            Self::InterfaceOut => {
                meta(list, register, META_INTERFACE_OUT);
                4
            }
        }
    }
}

impl Verdict {
    /// As an attribute of data.
    pub(super) fn encode(self, data: &mut Message) {
        let (code, chain) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
            Self::Return => (-5, None),
        };
        data.nested(2, |verdict| {
            verdict.big(1, code as u32);
            if let Some(chain) = chain {
                verdict.string(2, chain);
            }
        });
    }
}

fn expression(list: &mut Message, name: &str, data: impl FnOnce(&mut Message)) {
    list.nested(1, |one| {
        one.string(1, name);
        one.nested(2, data);
    });
}

fn meta(list: &mut Message, register: u32, key: u32) {
    expression(list, "meta", |data| {
        data.big(1, register).big(2, key);
    });
}

fn payload(list: &mut Message, register: u32, base: u32, offset: u32, length: u32) {
    expression(list, "payload", |data| {
        data.big(1, register).big(2, base).big(3, offset).big(4, length);
    });
}

fn family(list: &mut Message, number: u8) {
    meta(list, R0, META_FAMILY);
    compare(list, true, &[number]);
}

fn compare(list: &mut Message, equal: bool, value: &[u8]) {
    expression(list, "cmp", |data| {
        data.big(1, R0).big(2, u32::from(!equal));
        data.nested(3, |inside| {
            inside.attribute(1, value);
        });
    });
}

/// A name as the kernel compares it: filled up with zeros.
pub(super) fn interface(name: &str) -> [u8; 16] {
    let mut out = [0; 16];
    let bytes = &name.as_bytes()[..name.len().min(15)];
    out[..bytes.len()].copy_from_slice(bytes);
    out
}

fn mask(list: &mut Message, mask: &[u8]) {
    expression(list, "bitwise", |data| {
        data.big(1, R0).big(2, R0).big(3, mask.len() as u32);
        data.nested(4, |inside| {
            inside.attribute(1, mask);
        });
        data.nested(5, |inside| {
            inside.attribute(1, &vec![0; mask.len()]);
        });
    });
}

fn address(list: &mut Message, load: Load, network: IpAddr, prefix: u8) {
    load.encode(list, R0);
    let prefix = u32::from(prefix);
    match network {
        IpAddr::V4(network) => {
            let bits = u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0);
            mask(list, &bits.to_be_bytes());
            compare(list, true, &(u32::from(network) & bits).to_be_bytes());
        }
        IpAddr::V6(network) => {
            let bits = u128::MAX.checked_shl(128 - prefix.min(128)).unwrap_or(0);
            mask(list, &bits.to_be_bytes());
            compare(list, true, &(u128::from(network) & bits).to_be_bytes());
        }
    }
}

/// Whether an address (1: the source, 2: the destination) is this host's.
fn local(list: &mut Message, which: u32, is: bool) {
    const ADDRESS_TYPE: u32 = 3;
    const LOCAL: u32 = 2;
    expression(list, "fib", |data| {
        data.big(1, R0).big(2, ADDRESS_TYPE).big(3, which);
    });
    compare(list, is, &LOCAL.to_ne_bytes());
}

fn connection(list: &mut Message, key: u32, bits: u32) {
    expression(list, "ct", |data| {
        data.big(1, R0).big(2, key);
    });
    mask(list, &bits.to_ne_bytes());
    compare(list, false, &[0; 4]);
}

fn loads(list: &mut Message, loads: &[Load]) {
    let mut register = R0;
    for load in loads {
        register += load.encode(list, register);
    }
}

fn lookup(list: &mut Message, set: Set, answer: Option<u32>, inverted: bool) {
    const INVERTED: u32 = 1;
    expression(list, "lookup", |data| {
        data.string(1, set.name).big(2, R0);
        if let Some(register) = answer.filter(|_| set.data != Data::Nothing) {
            data.big(3, register);
        }
        data.big(4, set.id);
        if inverted {
            data.big(5, INVERTED);
        }
    });
}

const SNAT: u32 = 0;

fn nat(list: &mut Message, kind: u32, v6: bool, address: u32, port: Option<u32>) {
    let family = if v6 { IPV6 } else { IPV4 };
    expression(list, "nat", |data| {
        data.big(1, kind).big(2, u32::from(family)).big(3, address);
        if let Some(port) = port {
            data.big(5, port);
        }
    });
}

fn immediate(list: &mut Message, value: &[u8]) {
    expression(list, "immediate", |data| {
        data.big(1, R0);
        data.nested(2, |inside| {
            inside.attribute(1, value);
        });
    });
}

fn write_port(list: &mut Message, offset: u32, port: u16, protocol: Option<u8>) {
    const INTERNET_CHECKSUM: u32 = 1;
    let checksum = match protocol {
        Some(6) => Some(16),
        Some(17) => Some(6),
        _ => None,
    };
    immediate(list, &port.to_be_bytes());
    expression(list, "payload", |data| {
        data.big(5, R0).big(2, TRANSPORT_HEADER).big(3, offset).big(4, 2);
        if let Some(at) = checksum {
            data.big(6, INTERNET_CHECKSUM).big(7, at);
        }
    });
}

fn decide(list: &mut Message, verdict: Verdict) {
    const VERDICT_REGISTER: u32 = 0;
    expression(list, "immediate", |data| {
        data.big(1, VERDICT_REGISTER);
        data.nested(2, |value| verdict.encode(value));
    });
}
