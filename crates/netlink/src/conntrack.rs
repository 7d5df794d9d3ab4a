//! Connections that the kernel remembers, and makes forget: a flow of UDP that began before a port
//! was published (or before its container changed) would go on to where it went.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::message::{Attributes, Message};
use crate::{NetlinkError, Socket};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const INET: u8 = 2;
const INET6: u8 = 10;

const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;

/// How many are forgotten at once.
const PART: usize = 1000;
/// How many are forgotten at most by one call: more than kernels remember unless told to.
const MOST: usize = 1 << 20;

/// Which connections are to be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stale {
    /// Those that were begun to an address (unspecified: any of its family) and port.
    To { protocol: u8, address: IpAddr, port: u16 },
    /// Those that this address answers.
    AnsweredBy(IpAddr),
}

impl Stale {
    fn v6(self) -> bool {
        match self {
            Self::To { address, .. } | Self::AnsweredBy(address) => address.is_ipv6(),
        }
    }
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tuple {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// 0 where the protocol has none.
    port: u16,
}

impl Socket {
    /// Forgets connections; says how many. Asks the kernel for those that are meant, if it is one
    /// kind and the kernel can (5.8 and later); else looks at all of them once.
    pub fn forget(&mut self, stale: &[Stale]) -> Result<usize, NetlinkError> {
        let mut count = 0;
        for v6 in [false, true] {
            let wanted: HashSet<Stale> =
                stale.iter().copied().filter(|one| one.v6() == v6).collect();
            if !wanted.is_empty() {
                count += self.forget_family(if v6 { INET6 } else { INET }, &wanted)?;
            }
        }
        Ok(count)
    }

    fn forget_family(
        &mut self,
        family: u8,
        wanted: &HashSet<Stale>,
    ) -> Result<usize, NetlinkError> {
        let mut single = wanted.iter();
        let filter = match (single.next(), single.next()) {
            // The kernel's comparison of IPv6 addresses is the wrong way round (up to 6.18).
            (Some(Stale::To { protocol, port, .. }), None) if family == INET6 => {
                let address = Ipv6Addr::UNSPECIFIED.into();
                Some(Stale::To { protocol: *protocol, address, port: *port })
            }
            (Some(Stale::AnsweredBy(_)), None) if family == INET6 => None,
            (Some(one), None) => Some(*one),
            _ => None,
        };
        let found = match self.connections(family, filter, wanted) {
            Err(error) if filter.is_some() && error.errno().is_some() => {
                self.connections(family, None, wanted)?
            }
            other => other?,
        };
        for part in found.chunks(PART) {
            let mut message = Message::new();
            for (original, id, zone) in part {
                // One that has ended meanwhile is refused, which is as good.
                message.begin(DELETE, REQUEST, self.next_sequence(), &[family, 0, 0, 0]);
                message.nested(ORIGINAL, |tuple| {
                    tuple.raw(original);
                });
                message.attribute(ID, id);
                if let Some(zone) = zone {
                    message.attribute(ZONE, zone);
                }
            }
            self.tell("forget connections", message)?;
        }
        Ok(found.len())
    }

    #[expect(clippy::type_complexity, reason = "raw parts of an answer, for its only caller")]
    fn connections(
        &mut self,
        family: u8,
        filter: Option<Stale>,
        wanted: &HashSet<Stale>,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>, Option<Vec<u8>>)>, NetlinkError> {
        let mut message = Message::new();
        message.begin(GET, REQUEST | DUMP, self.next_sequence(), &[family, 0, 0, 0]);
        if let Some(filter) = filter {
            put_filter(&mut message, filter);
        }
        let mut out = Vec::new();
        let listed = self.dump("list connections", message, |_, body| {
            let attributes = Attributes(body.get(4..).unwrap_or_default());
            let (Some(original), Some(reply), Some(id)) =
                (attributes.find(ORIGINAL), attributes.find(REPLY), attributes.find(ID))
            else {
                return;
            };
            let meant = parse(original)
                .zip(parse(reply))
                .is_some_and(|(original, reply)| is_stale(wanted, original, reply));
            if meant && out.len() < MOST {
                out.push((original.to_vec(), id.to_vec(), attributes.find(ZONE).map(Vec::from)));
            }
        });
        match listed {
            // Connections come and go while they are read; the ones that are meant were there.
            Ok(()) | Err(NetlinkError::Changed(_)) => Ok(out),
            Err(error) => Err(error),
        }
    }
}

fn is_stale(wanted: &HashSet<Stale>, original: Tuple, reply: Tuple) -> bool {
    let Tuple { destination: address, protocol, port, .. } = original;
    let any = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    wanted.contains(&Stale::AnsweredBy(reply.source))
        || wanted.contains(&Stale::To { protocol, address, port })
        || wanted.contains(&Stale::To { protocol, address: any, port })
}

/// What the kernel is to list: an address, protocol and port of one direction.
fn put_filter(message: &mut Message, filter: Stale) {
    const SOURCE: u32 = 1;
    const DESTINATION: u32 = 2;
    const PROTOCOL: u32 = 8;
    const DESTINATION_PORT: u32 = 32;
    let put = |tuple: &mut Message, address: IpAddr, v4: u16, v6: u16| {
        tuple.nested(1, |ip| {
            match address {
                IpAddr::V4(address) => ip.attribute(v4, &address.octets()),
                IpAddr::V6(address) => ip.attribute(v6, &address.octets()),
            };
        });
    };
    let (original, reply) = match filter {
        Stale::AnsweredBy(address) => {
            message.nested(REPLY, |tuple| put(tuple, address, 1, 3));
            (0, SOURCE)
        }
        Stale::To { protocol, address, port } => {
            message.nested(ORIGINAL, |tuple| {
                if !address.is_unspecified() {
                    put(tuple, address, 2, 4);
                }
                tuple.nested(2, |transport| {
                    transport.attribute(1, &[protocol]).attribute(3, &port.to_be_bytes());
                });
            });
            let address = if address.is_unspecified() { 0 } else { DESTINATION };
            (address | PROTOCOL | DESTINATION_PORT, 0)
        }
    };
    message.nested(FILTER, |flags| {
        flags.number(1, original).number(2, reply);
    });
}

fn parse(tuple: &[u8]) -> Option<Tuple> {
    let tuple = Attributes(tuple);
    let addresses = Attributes(tuple.find(1)?);
    let transport = Attributes(tuple.find(2)?);
    let address = |v4, v6| -> Option<IpAddr> {
        if let Some(bytes) = addresses.find(v4) {
            return Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into());
        }
        Some(Ipv6Addr::from(<[u8; 16]>::try_from(addresses.find(v6)?).ok()?).into())
    };
    Some(Tuple {
        source: address(1, 3)?,
        destination: address(2, 4)?,
        protocol: *transport.find(1)?.first()?,
        port: transport
            .find(3)
            .and_then(|bytes| Some(u16::from_be_bytes(bytes.try_into().ok()?)))
            .unwrap_or(0),
    })
}
