//! What is there: tables, base chains, rules, and word of every change.

use super::{Family, SUBSYSTEM};
use crate::message::{Attributes, Message};
use crate::{NetlinkError, Socket, SocketKind};

const NEWTABLE: u16 = SUBSYSTEM;
const GETTABLE: u16 = SUBSYSTEM | 1;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const GETCHAIN: u16 = SUBSYSTEM | 4;
const NEWRULE: u16 = SUBSYSTEM | 6;
const GETRULE: u16 = SUBSYSTEM | 7;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const GETSETELEM: u16 = SUBSYSTEM | 13;
const NEWGEN: u16 = SUBSYSTEM | 15;
const GETGEN: u16 = SUBSYSTEM | 16;

const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;

/// How often a list is begun again that somebody changed meanwhile.
const TRIES: usize = 20;

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFound {
    pub family: Family,
    pub name: String,
    pub flags: u32,
    /// Never given twice.
    pub handle: u64,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainFound {
    pub family: Family,
    pub table: String,
    pub name: String,
    pub handle: u64,
    /// Number of the hook and priority, for a base chain.
    pub hook: Option<(u32, i32)>,
    /// For a base chain: whether it accepts what no rule decides.
    pub accepts: Option<bool>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleFound {
    pub chain: String,
    /// Never given twice in a table.
    pub handle: u64,
    pub comment: Option<String>,
}

impl Socket {
    /// A number that every transaction of the namespace raises.
    pub fn nft_generation(&mut self) -> Result<u32, NetlinkError> {
        let mut message = Message::new();
        message.begin(GETGEN, REQUEST, self.next_sequence(), &[0; 4]);
        let mut found = None;
        self.ask("ask for the generation of the rules", message, |kind, body| {
            if kind == NEWGEN {
                found = body.get(4..).and_then(|rest| Attributes(rest).find(1)).and_then(big);
            }
        })?;
        found.ok_or_else(|| NetlinkError::garbled("ask for the generation of the rules"))
    }

    pub fn nft_tables(&mut self) -> Result<Vec<TableFound>, NetlinkError> {
        self.listing("list tables", GETTABLE, 0, &[], |kind, family, attributes| {
            (kind == NEWTABLE).then_some(())?;
            Some(TableFound {
                family: Family::of(family)?,
                name: text(attributes.find(1)?),
                flags: attributes.find(2).and_then(big).unwrap_or(0),
                handle: attributes.find(4).and_then(long)?,
            })
        })
    }

    /// The chains of every table.
    pub fn nft_chains(&mut self) -> Result<Vec<ChainFound>, NetlinkError> {
        self.listing("list chains", GETCHAIN, 0, &[], |kind, family, attributes| {
            (kind == NEWCHAIN).then_some(())?;
            let hook = attributes.find(4).map(Attributes).and_then(|hook| {
                Some((hook.find(1).and_then(big)?, hook.find(2).and_then(big)? as i32))
            });
            Some(ChainFound {
                family: Family::of(family)?,
                table: text(attributes.find(1)?),
                name: text(attributes.find(3)?),
                handle: attributes.find(2).and_then(long)?,
                hook,
                accepts: hook.and(attributes.find(5)).and_then(big).map(|policy| policy != 0),
            })
        })
    }

    /// The rules of a table.
    pub fn nft_rules(
        &mut self,
        family: Family,
        table: &str,
    ) -> Result<Vec<RuleFound>, NetlinkError> {
        let filter = [(1, table)];
        self.listing("list rules", GETRULE, family as u8, &filter, |kind, _, attributes| {
            (kind == NEWRULE && text(attributes.find(1)?) == table).then_some(())?;
            Some(RuleFound {
                chain: text(attributes.find(2)?),
                handle: attributes.find(3).and_then(long)?,
                comment: attributes.find(7).and_then(comment),
            })
        })
    }

    /// How many elements a set has.
    pub fn nft_count(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
    ) -> Result<usize, NetlinkError> {
        let filter = [(1, table), (2, set)];
        let parts = self.listing(
            "list a set",
            GETSETELEM,
            family as u8,
            &filter,
            |kind, _, attributes| {
                (kind == NEWSETELEM)
                    .then(|| attributes.find(3).map_or(0, |l| Attributes(l).count()))
            },
        )?;
        Ok(parts.into_iter().sum())
    }

    fn listing<T>(
        &mut self,
        operation: &'static str,
        kind: u16,
        family: u8,
        filter: &[(u16, &str)],
        mut each: impl FnMut(u16, u8, Attributes<'_>) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        for _ in 0..TRIES {
            let mut message = Message::new();
            message.begin(kind, REQUEST | DUMP, self.next_sequence(), &[family, 0, 0, 0]);
            for (attribute, value) in filter {
                message.string(*attribute, value);
            }
            let mut out = Vec::new();
            let listed = self.dump(operation, message, |kind, body| {
                if let (Some(family), Some(rest)) = (body.first(), body.get(4..)) {
                    out.extend(each(kind, *family, Attributes(rest)));
                }
            });
            match listed {
                Err(NetlinkError::Changed(_)) => {}
                other => return other.map(|()| out),
            }
        }
        Err(NetlinkError::Changed(operation))
    }
}

/// Hears of every change of the rules of a namespace.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
}

impl Monitor {
    /// In the namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        const NFTABLES: u32 = 7;
        Ok(Self { socket: Socket::listening(SocketKind::Netfilter, NFTABLES)? })
    }

    /// Waits until something was changed. Says nothing of what: whoever asks looks for himself,
    /// since words can be lost where many are said.
    pub fn wait(&self) -> Result<(), NetlinkError> {
        self.socket.wait_for_news("wait for changes of the rules")
    }

    /// The descriptor, to be polled together with others; `clear` when it is readable.
    pub fn descriptor(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.descriptor()
    }

    /// Forgets what was said until now.
    pub fn clear(&self) {
        self.socket.drain();
    }
}

fn big(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

fn long(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// The comment in a rule's user data: entries of type, length and value.
fn comment(mut data: &[u8]) -> Option<String> {
    loop {
        let (kind, length) = (*data.first()?, usize::from(*data.get(1)?));
        let value = data.get(2..2 + length)?;
        if kind == 0 {
            return Some(text(value));
        }
        data = data.get(2 + length..)?;
    }
}
