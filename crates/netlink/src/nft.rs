//! nftables: transactions on one table, from typed expressions.

use crate::message::Message;
use crate::{NetlinkError, Socket};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEWTABLE: u16 = SUBSYSTEM;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const NEWRULE: u16 = SUBSYSTEM | 6;
const NEWSET: u16 = SUBSYSTEM | 9;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const DELSETELEM: u16 = SUBSYSTEM | 14;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

const INET: u8 = 1;
const IPV4: u8 = 2;

/// The table belongs to our socket and survives it.
pub const OWNER: u32 = 2;
pub const PERSIST: u32 = 4;

/// Where a chain hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Prerouting = 0,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// What a chain is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    Filter,
    Nat,
}

/// A base chain with its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub name: &'static str,
    pub kind: ChainKind,
    pub hook: Hook,
    pub priority: i32,
    pub rules: Vec<Vec<Expression>>,
}

/// A map from addresses and ports to a container's address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    pub name: &'static str,
    pub id: u32,
    /// Whether the key begins with the destination address.
    pub with_address: bool,
}

/// One element of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    pub key: Vec<u8>,
    pub data: Vec<u8>,
}

/// One step of a rule. Registers are fixed by each kind, so that they compose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    Ipv4,
    InterfaceIn {
        name: String,
        is: bool,
    },
    InterfaceOut {
        name: String,
        is: bool,
    },
    Source {
        network: [u8; 4],
        prefix: u8,
    },
    Destination {
        network: [u8; 4],
        prefix: u8,
    },
    /// The destination is an address of this host.
    LocalDestination,
    /// Any of these bits of the connection's state.
    State(u32),
    /// Any of these bits of the connection's status.
    Status(u32),
    /// Look the destination up in a map and send the packet there.
    DnatByMap(Map),
    Masquerade,
    Accept,
    Drop,
}

pub const STATE_ESTABLISHED: u32 = 2;
pub const STATE_RELATED: u32 = 4;
/// The destination was translated.
pub const STATUS_DNAT: u32 = 0x20;

/// Registers of 32 bits each.
const R0: u32 = 8;

/// A transaction on one table.
pub struct Transaction<'a> {
    socket: &'a mut Socket,
    table: &'a str,
    message: Message,
}

impl Socket {
    /// Begins a transaction on a table of the family inet.
    pub fn nft<'a>(&'a mut self, table: &'a str) -> Transaction<'a> {
        let mut message = Message::new();
        // The batch concerns the subsystem nftables, in network order.
        message.begin(BATCH_BEGIN, REQUEST, self.next_sequence(), &[0, 0, 0, 10]);
        Transaction { socket: self, table, message }
    }
}

impl Transaction<'_> {
    fn begin(&mut self, kind: u16, flags: u16) -> &mut Message {
        let sequence = self.socket.next_sequence();
        self.message.begin(kind, REQUEST | ACK | flags, sequence, &[INET, 0, 0, 0])
    }

    pub fn delete_table(&mut self) -> &mut Self {
        let table = self.table;
        self.begin(DELTABLE, 0).string(1, table);
        self
    }

    pub fn table(&mut self, flags: u32) -> &mut Self {
        let table = self.table;
        self.begin(NEWTABLE, CREATE).string(1, table).big(2, flags);
        self
    }

    pub fn map(&mut self, map: Map) -> &mut Self {
        const ADDRESS: u32 = 7;
        const PROTOCOL: u32 = 12;
        const SERVICE: u32 = 13;
        const IS_MAP: u32 = 8;
        let (kind, length) = if map.with_address {
            (ADDRESS << 12 | PROTOCOL << 6 | SERVICE, 12)
        } else {
            (PROTOCOL << 6 | SERVICE, 8)
        };
        let table = self.table;
        let message = self.begin(NEWSET, CREATE);
        message.string(1, table).string(2, map.name).big(3, IS_MAP).big(4, kind).big(5, length);
        message.big(6, ADDRESS << 6 | SERVICE).big(7, 8).big(10, map.id);
        self
    }

    pub fn chain(&mut self, chain: &Chain) -> &mut Self {
        const POLICY_ACCEPT: u32 = 1;
        let table = self.table;
        let message = self.begin(NEWCHAIN, CREATE);
        message.string(1, table).string(3, chain.name);
        message.nested(4, |hook| {
            hook.big(1, chain.hook as u32).big(2, chain.priority as u32);
        });
        message.big(5, POLICY_ACCEPT);
        message.string(
            7,
            match chain.kind {
                ChainKind::Filter => "filter",
                ChainKind::Nat => "nat",
            },
        );
        for rule in &chain.rules {
            let message = self.begin(NEWRULE, CREATE | APPEND);
            message.string(1, table).string(2, chain.name);
            message.nested(4, |list| rule.iter().for_each(|step| step.encode(list)));
        }
        self
    }

    pub fn add(&mut self, map: Map, elements: &[Element]) -> &mut Self {
        self.elements(NEWSETELEM, CREATE, map, elements)
    }

    pub fn remove(&mut self, map: Map, elements: &[Element]) -> &mut Self {
        self.elements(DELSETELEM, 0, map, elements)
    }

    fn elements(&mut self, kind: u16, flags: u16, map: Map, elements: &[Element]) -> &mut Self {
        let table = self.table;
        // An attribute is at most 64 KiB long.
        for part in elements.chunks(500) {
            let message = self.begin(kind, flags);
            message.string(1, table).string(2, map.name);
            message.nested(3, |list| {
                for element in part {
                    list.nested(1, |one| {
                        one.nested(1, |key| {
                            key.attribute(1, &element.key);
                        });
                        if kind == NEWSETELEM {
                            one.nested(2, |data| {
                                data.attribute(1, &element.data);
                            });
                        }
                    });
                }
            });
        }
        self
    }

    /// All or nothing.
    pub fn commit(mut self, operation: &'static str) -> Result<(), NetlinkError> {
        if self.message.count() == 1 {
            return Ok(());
        }
        let sequence = self.socket.next_sequence();
        self.message.begin(BATCH_END, REQUEST, sequence, &[0, 0, 0, 10]);
        self.socket.transact(operation, self.message, 2)
    }
}

impl Expression {
    fn encode(&self, list: &mut Message) {
        match self {
            Self::Ipv4 => {
                meta(list, 15);
                compare(list, true, &[IPV4]);
            }
            Self::InterfaceIn { name, is } => {
                meta(list, 6);
                compare(list, *is, &interface(name));
            }
            Self::InterfaceOut { name, is } => {
                meta(list, 7);
                compare(list, *is, &interface(name));
            }
            Self::Source { network, prefix } => address(list, 12, *network, *prefix),
            Self::Destination { network, prefix } => address(list, 16, *network, *prefix),
            Self::LocalDestination => {
                const ADDRESS_TYPE: u32 = 3;
                const OF_DESTINATION: u32 = 2;
                const LOCAL: u32 = 2;
                expression(list, "fib", |data| {
                    data.big(1, R0).big(2, ADDRESS_TYPE).big(3, OF_DESTINATION);
                });
                compare(list, true, &LOCAL.to_ne_bytes());
            }
            Self::State(bits) => connection(list, 0, *bits),
            Self::Status(bits) => connection(list, 2, *bits),
            Self::DnatByMap(map) => dnat(list, *map),
            Self::Masquerade => expression(list, "masq", |_| {}),
            Self::Accept => verdict(list, 1),
            Self::Drop => verdict(list, 0),
        }
    }
}

fn expression(list: &mut Message, name: &str, data: impl FnOnce(&mut Message)) {
    list.nested(1, |one| {
        one.string(1, name);
        one.nested(2, data);
    });
}

fn meta(list: &mut Message, key: u32) {
    expression(list, "meta", |data| {
        data.big(1, R0).big(2, key);
    });
}

fn compare(list: &mut Message, equal: bool, value: &[u8]) {
    expression(list, "cmp", |data| {
        data.big(1, R0).big(2, u32::from(!equal));
        data.nested(3, |inside| {
            inside.attribute(1, value);
        });
    });
}

fn interface(name: &str) -> [u8; 16] {
    let mut out = [0; 16];
    let bytes = &name.as_bytes()[..name.len().min(15)];
    out[..bytes.len()].copy_from_slice(bytes);
    out
}

fn payload(list: &mut Message, register: u32, base: u32, offset: u32, length: u32) {
    expression(list, "payload", |data| {
        data.big(1, register).big(2, base).big(3, offset).big(4, length);
    });
}

fn mask(list: &mut Message, mask: [u8; 4]) {
    expression(list, "bitwise", |data| {
        data.big(1, R0).big(2, R0).big(3, 4);
        data.nested(4, |inside| {
            inside.attribute(1, &mask);
        });
        data.nested(5, |inside| {
            inside.attribute(1, &[0; 4]);
        });
    });
}

fn address(list: &mut Message, offset: u32, network: [u8; 4], prefix: u8) {
    const NETWORK_HEADER: u32 = 1;
    payload(list, R0, NETWORK_HEADER, offset, 4);
    let bits = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    mask(list, bits.to_be_bytes());
    let network = u32::from_be_bytes(network) & bits;
    compare(list, true, &network.to_be_bytes());
}

fn connection(list: &mut Message, key: u32, bits: u32) {
    expression(list, "ct", |data| {
        data.big(1, R0).big(2, key);
    });
    mask(list, bits.to_ne_bytes());
    compare(list, false, &[0; 4]);
}

fn dnat(list: &mut Message, map: Map) {
    const NETWORK_HEADER: u32 = 1;
    const TRANSPORT_HEADER: u32 = 2;
    let mut register = R0;
    if map.with_address {
        payload(list, register, NETWORK_HEADER, 16, 4);
        register += 1;
    }
    expression(list, "meta", |data| {
        data.big(1, register).big(2, 16);
    });
    payload(list, register + 1, TRANSPORT_HEADER, 2, 2);
    let target = R0 + 4;
    expression(list, "lookup", |data| {
        data.string(1, map.name).big(2, R0).big(3, target).big(4, map.id);
    });
    expression(list, "nat", |data| {
        const DNAT: u32 = 1;
        data.big(1, DNAT).big(2, u32::from(IPV4)).big(3, target).big(5, target + 1);
    });
}

fn verdict(list: &mut Message, code: u32) {
    expression(list, "immediate", |data| {
        data.big(1, 0);
        data.nested(2, |value| {
            value.nested(2, |verdict| {
                verdict.big(1, code);
            });
        });
    });
}
