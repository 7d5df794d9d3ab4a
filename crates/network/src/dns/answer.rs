//! What becomes of one query: an answer from the container's networks, a question to resolvers,
//! or nothing. Decided without waiting; Docker's rules, except where said.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::names::{SharedZone, Zone};
use super::upstream::Upstreams;
use super::wire::{
    A, AAAA, ANY, Answer, IN, Malformed, NO_ERROR, PTR, Query, SERVER_FAILURE, refuse, reverse,
};

/// What one container sees.
pub(crate) struct View {
    zones: Vec<SharedZone>,
    links: HashMap<Box<[u8]>, Box<[u8]>>,
    pub upstreams: Upstreams,
    ndots_set: bool,
}

/// Memory that is used again for every query.
#[derive(Default)]
pub(crate) struct Scratch {
    v4: Vec<Ipv4Addr>,
    v6: Vec<Ipv6Addr>,
}

/// What is to be done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The answer was written.
    Answered,
    /// Resolvers know.
    Ask,
    /// Not worth a word.
    Ignore,
}

impl View {
    pub fn new(
        zones: Vec<SharedZone>,
        links: &[(String, String)],
        upstreams: Upstreams,
        ndots_set: bool,
    ) -> Self {
        let key = |name: &str| -> Box<[u8]> { name.to_ascii_lowercase().into_bytes().into() };
        let links = links.iter().map(|(alias, name)| (key(alias), key(name))).collect();
        Self { zones, links, upstreams, ndots_set }
    }

    /// Appends the answer to a packet to `out`. `limit`: what the transport can carry, if that is
    /// not for the client to say.
    pub fn answer(
        &self,
        packet: &[u8],
        limit: Option<usize>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Outcome {
        let query = match Query::read(packet) {
            Ok(query) => query,
            Err(Malformed::Ignore) => return Outcome::Ignore,
            Err(Malformed::Code(code)) => {
                refuse(out, packet, code);
                return Outcome::Answered;
            }
        };
        let limit = limit.unwrap_or_else(|| query.udp_limit());
        if self.local(&query, limit, scratch, out) {
            return Outcome::Answered;
        }
        let plain = !query.name.bytes().contains(&b'.');
        if plain && self.ndots_set && matches!(query.kind, A | AAAA) {
            Answer::new(out, &query, NO_ERROR, limit).finish();
            return Outcome::Answered;
        }
        if matches!(self.upstreams, Upstreams::Never) {
            Answer::new(out, &query, SERVER_FAILURE, limit).finish();
            return Outcome::Answered;
        }
        Outcome::Ask
    }

    /// Whether the answer was to be had here.
    fn local(
        &self,
        query: &Query<'_>,
        limit: usize,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> bool {
        if query.odd || query.class != IN {
            return false;
        }
        let name = query.name.bytes();
        if query.kind == PTR {
            return reverse(name).is_some_and(|address| self.reverse(query, address, limit, out));
        }
        // `_service._protocol.name` is about the name.
        let name = match query.kind {
            SRV => service(name).unwrap_or(name),
            _ => name,
        };
        let name = self.links.get(name).map_or(name, |target| target);
        let in_zones =
            |look: &mut dyn FnMut(&Zone) -> bool| self.zones.iter().any(|zone| look(&zone.read()));
        let Scratch { v4, v6 } = scratch;
        v4.clear();
        v6.clear();
        let known = match query.kind {
            A => in_zones(&mut |zone| zone.v4(name, v4)),
            AAAA => in_zones(&mut |zone| zone.v6(name, v6)),
            ANY => in_zones(&mut |zone| zone.v4(name, v4) && zone.v6(name, v6)),
            // There is none of that, and nobody else would know.
            MX | SRV => in_zones(&mut |zone| zone.knows(name)),
            // A domain that is the alias of a container here may have records elsewhere; a bare
            // name has none, and what must not leave does not.
            _ => {
                let here = !name.contains(&b'.') || matches!(self.upstreams, Upstreams::Never);
                here && in_zones(&mut |zone| zone.knows(name))
            }
        };
        if !known {
            return false;
        }
        let mut answer = Answer::new(out, query, NO_ERROR, limit);
        let _fits = v4.iter().all(|address| answer.a(*address))
            && v6.iter().all(|address| answer.aaaa(*address));
        answer.finish();
        true
    }

    fn reverse(&self, query: &Query<'_>, address: IpAddr, limit: usize, out: &mut Vec<u8>) -> bool {
        self.zones.iter().any(|zone| {
            let zone = zone.read();
            let Some(name) = zone.owner(address) else { return false };
            let mut answer = Answer::new(out, query, NO_ERROR, limit);
            answer.ptr(name);
            answer.finish();
            true
        })
    }
}

const MX: u16 = 15;
const SRV: u16 = 33;

/// The name behind `_service._protocol.`.
fn service(name: &[u8]) -> Option<&[u8]> {
    let mut parts = name.splitn(3, |byte| *byte == b'.');
    let mut underscored = || parts.next().is_some_and(|label| label.starts_with(b"_"));
    (underscored() && underscored()).then(|| parts.next()).flatten()
}
