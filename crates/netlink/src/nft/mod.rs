//! nftables: transactions on one table, from typed expressions, and what is there already.
//!
//! A transaction is one batch: packets see all of it or nothing. Only its last message asks for an
//! acknowledgement (the kernel answers refusals unasked), so that twenty thousand elements are not
//! twenty thousand answers.

mod expression;
mod list;

use std::net::IpAddr;

pub use expression::{Expression, Load, STATE_ESTABLISHED, STATE_RELATED, STATUS_DNAT, Verdict};
pub use list::{ChainFound, Monitor, RuleFound, TableFound};

use crate::message::Message;
use crate::{NetlinkError, Socket};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEWTABLE: u16 = SUBSYSTEM;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const NEWRULE: u16 = SUBSYSTEM | 6;
const DELRULE: u16 = SUBSYSTEM | 8;
const NEWSET: u16 = SUBSYSTEM | 9;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const DELSETELEM: u16 = SUBSYSTEM | 14;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const EXCL: u16 = 0x200;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// The table belongs to our socket and survives it.
pub const OWNER: u32 = 2;
pub const PERSIST: u32 = 4;

/// Which packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet = 1,
    Ipv4 = 2,
    Bridge = 7,
    Ipv6 = 10,
}

impl Family {
    fn of(number: u8) -> Option<Self> {
        [Self::Inet, Self::Ipv4, Self::Bridge, Self::Ipv6].into_iter().find(|f| *f as u8 == number)
    }

    /// As `nft` writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ipv4 => "ip",
            Self::Bridge => "bridge",
            Self::Ipv6 => "ip6",
        }
    }
}

/// Where a chain hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Prerouting = 0,
    Input = 1,
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

/// What becomes of a packet that no rule of a base chain decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Drop = 0,
    Accept = 1,
}

/// What makes a chain one that the kernel enters by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    pub kind: ChainKind,
    pub hook: Hook,
    pub priority: i32,
    pub policy: Policy,
}

/// A chain with its rules; without `base` it is entered by jumps only, and must be made before the
/// rules that jump to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub name: &'static str,
    pub base: Option<Base>,
    pub rules: Vec<Vec<Expression>>,
}

/// One part of a set's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Interface,
    Ipv4,
    Ipv6,
    Protocol,
    Port,
}

impl Field {
    /// The number that `nft` knows the type by, so that it can list our sets.
    fn kind(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Interface => 41,
        }
    }

    /// Bytes in a key, where each part fills whole registers.
    fn length(self) -> u32 {
        match self {
            Self::Ipv4 | Self::Protocol | Self::Port => 4,
            Self::Ipv6 | Self::Interface => 16,
        }
    }
}

/// What a set gives for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// Whether it is there.
    Nothing,
    Verdict,
    Fields(&'static [Field]),
}

/// A named set or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set {
    pub name: &'static str,
    /// Different from every other set's in a transaction.
    pub id: u32,
    pub key: &'static [Field],
    pub data: Data,
}

/// The value of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Interface(&'a str),
    Address(IpAddr),
    Protocol(u8),
    Port(u16),
}

/// Values one after another, as they lie in registers.
pub fn bytes(values: &[Value<'_>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(32);
    for value in values {
        match value {
            Value::Interface(name) => out.extend(expression::interface(name)),
            Value::Address(IpAddr::V4(address)) => out.extend(address.octets()),
            Value::Address(IpAddr::V6(address)) => out.extend(address.octets()),
            Value::Protocol(number) => out.extend([*number, 0, 0, 0]),
            Value::Port(port) => {
                out.extend(port.to_be_bytes());
                out.extend([0, 0]);
            }
        }
    }
    out
}

/// What an element gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    Nothing,
    Verdict(Verdict),
    /// From `bytes`.
    Bytes(Vec<u8>),
}

/// One element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// From `bytes`.
    pub key: Vec<u8>,
    pub given: Given,
}

/// A transaction on one table.
pub struct Transaction<'a> {
    socket: &'a mut Socket,
    family: Family,
    table: &'a str,
    message: Message,
}

impl Socket {
    /// Begins a transaction on a table of the family inet.
    pub fn nft<'a>(&'a mut self, table: &'a str) -> Transaction<'a> {
        self.nft_of(Family::Inet, table)
    }

    /// Begins a transaction on a table of any family.
    pub fn nft_of<'a>(&'a mut self, family: Family, table: &'a str) -> Transaction<'a> {
        let mut message = Message::new();
        // The batch concerns the subsystem nftables, in network order.
        message.begin(BATCH_BEGIN, REQUEST, self.next_sequence(), &[0, 0, 0, 10]);
        Transaction { socket: self, family, table, message }
    }
}

impl Transaction<'_> {
    fn begin(&mut self, kind: u16, flags: u16) -> &mut Message {
        let sequence = self.socket.next_sequence();
        self.message.begin(kind, REQUEST | flags, sequence, &[self.family as u8, 0, 0, 0])
    }

    pub fn delete_table(&mut self) -> &mut Self {
        let table = self.table;
        self.begin(DELTABLE, 0).string(1, table);
        self
    }

    /// Makes the table, or adopts the one that is there.
    pub fn table(&mut self, flags: u32) -> &mut Self {
        let table = self.table;
        self.begin(NEWTABLE, CREATE).string(1, table).big(2, flags);
        self
    }

    /// Makes the table; one that is there already refuses the whole transaction.
    pub fn new_table(&mut self, flags: u32) -> &mut Self {
        let table = self.table;
        self.begin(NEWTABLE, CREATE | EXCL).string(1, table).big(2, flags);
        self
    }

    pub fn set(&mut self, set: Set) -> &mut Self {
        const IS_MAP: u32 = 8;
        const VERDICTS: u32 = 0xffff_ff00;
        let kind = |fields: &[Field]| fields.iter().fold(0, |all, one| all << 6 | one.kind());
        let length = |fields: &[Field]| fields.iter().map(|one| one.length()).sum();
        let single = |fields: &[Field], length: u32| match fields {
            // A part that stands alone has its own length.
            [Field::Protocol] => 1,
            [Field::Port] => 2,
            _ => length,
        };
        let table = self.table;
        let message = self.begin(NEWSET, CREATE);
        message.string(1, table).string(2, set.name);
        message.big(3, if set.data == Data::Nothing { 0 } else { IS_MAP });
        message.big(4, kind(set.key)).big(5, single(set.key, length(set.key)));
        match set.data {
            Data::Nothing => {}
            Data::Verdict => {
                message.big(6, VERDICTS);
            }
            Data::Fields(fields) => {
                message.big(6, kind(fields)).big(7, single(fields, length(fields)));
            }
        }
        message.big(10, set.id);
        // For those who list it: the order of bytes in a key.
        if set.key == [Field::Interface] {
            const KEY_ORDER: u8 = 0;
            const HOST: u8 = 1;
            message.attribute(13, &[KEY_ORDER, 4, HOST, 0, 0, 0]);
        }
        self
    }

    /// Makes a chain, and its rules behind those that it may have.
    pub fn chain(&mut self, chain: &Chain) -> &mut Self {
        let table = self.table;
        let message = self.begin(NEWCHAIN, CREATE);
        message.string(1, table).string(3, chain.name);
        if let Some(base) = &chain.base {
            message.nested(4, |hook| {
                hook.big(1, base.hook as u32).big(2, base.priority as u32);
            });
            message.big(5, base.policy as u32);
            message.string(
                7,
                match base.kind {
                    ChainKind::Filter => "filter",
                    ChainKind::Nat => "nat",
                },
            );
        }
        self.rules(chain)
    }

    /// The rules of a chain that is there (made before by `chain` without rules, so that others
    /// can jump to it).
    pub fn rules(&mut self, chain: &Chain) -> &mut Self {
        let table = self.table;
        for rule in &chain.rules {
            let message = self.begin(NEWRULE, CREATE | APPEND);
            message.string(1, table).string(2, chain.name);
            expression::rule(message, rule);
        }
        self
    }

    /// A rule in front of all others of a chain, marked with a comment.
    pub fn insert_rule(&mut self, chain: &str, rule: &[Expression], comment: &str) -> &mut Self {
        const COMMENT: u8 = 0;
        let table = self.table;
        let message = self.begin(NEWRULE, CREATE);
        message.string(1, table).string(2, chain);
        expression::rule(message, rule);
        let text = &comment.as_bytes()[..comment.len().min(120)];
        let mut userdata = vec![COMMENT, text.len() as u8 + 1];
        userdata.extend_from_slice(text);
        userdata.push(0);
        message.attribute(7, &userdata);
        self
    }

    pub fn delete_rule(&mut self, chain: &str, handle: u64) -> &mut Self {
        let table = self.table;
        let message = self.begin(DELRULE, 0);
        message.string(1, table).string(2, chain).attribute(3, &handle.to_be_bytes());
        self
    }

    pub fn add(&mut self, set: Set, elements: &[Element]) -> &mut Self {
        self.elements(NEWSETELEM, CREATE, set, elements)
    }

    pub fn remove(&mut self, set: Set, elements: &[Element]) -> &mut Self {
        self.elements(DELSETELEM, 0, set, elements)
    }

    fn elements(&mut self, kind: u16, flags: u16, set: Set, elements: &[Element]) -> &mut Self {
        let table = self.table;
        // An attribute is at most 64 KiB long.
        for part in elements.chunks(400) {
            let message = self.begin(kind, flags);
            message.string(1, table).string(2, set.name);
            message.nested(3, |list| {
                for element in part {
                    list.nested(1, |one| {
                        one.nested(1, |key| {
                            key.attribute(1, &element.key);
                        });
                        if kind == NEWSETELEM {
                            match &element.given {
                                Given::Nothing => {}
                                Given::Verdict(verdict) => {
                                    one.nested(2, |data| verdict.encode(data));
                                }
                                Given::Bytes(bytes) => {
                                    one.nested(2, |data| {
                                        data.attribute(1, bytes);
                                    });
                                }
                            }
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
        self.message.add_flags(ACK);
        let sequence = self.socket.next_sequence();
        self.message.begin(BATCH_END, REQUEST, sequence, &[0, 0, 0, 10]);
        let silent = self.message.count().saturating_sub(1);
        self.socket.transact(operation, self.message, silent)
    }
}
