//! DNS packets: questions read strictly, answers written within a limit. Pure.
//!
//! Of a question everything is walked, so that what is passed on to resolvers is well-formed; no
//! compression pointer is ever followed. Of a resolver's answer only what decides is looked at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const HEADER: usize = 12;
/// The longest name, written with dots.
const LONGEST: usize = 254;
/// What UDP may carry where the client says nothing (RFC 1035).
pub(crate) const PLAIN_UDP: usize = 512;
/// What we say that we can receive (RFC 6891).
const OUR_UDP: u16 = 1232;
/// The length of our OPT record.
const OPT_LENGTH: usize = 11;

pub(crate) const A: u16 = 1;
pub(crate) const PTR: u16 = 12;
pub(crate) const AAAA: u16 = 28;
pub(crate) const OPT: u16 = 41;
pub(crate) const ANY: u16 = 255;
/// The class of the Internet.
pub(crate) const IN: u16 = 1;

pub(crate) const NO_ERROR: u8 = 0;
pub(crate) const FORMAT_ERROR: u8 = 1;
pub(crate) const SERVER_FAILURE: u8 = 2;
pub(crate) const NOT_IMPLEMENTED: u8 = 4;
pub(crate) const REFUSED: u8 = 5;

const RESPONSE: u8 = 0x80;
const OPCODE: u8 = 0x78;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;

/// A name in lower case, labels joined by dots, without the last dot.
#[derive(Clone)]
pub(crate) struct Name {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Name {
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn push(&mut self, bytes: &[u8]) -> Option<()> {
        let room = self.bytes.get_mut(self.length..self.length + bytes.len())?;
        room.copy_from_slice(bytes);
        room.make_ascii_lowercase();
        self.length += bytes.len();
        Some(())
    }
}

/// A question, and what its answer has to repeat.
pub(crate) struct Query<'a> {
    packet: &'a [u8],
    pub name: Name,
    /// A label has a dot or a null byte in it: no name of ours, though it may read like one.
    pub odd: bool,
    pub kind: u16,
    pub class: u16,
    /// Where the question ends.
    end: usize,
    /// The size that the client can receive, if it speaks EDNS.
    pub edns: Option<u16>,
}

/// Why a packet is no question that can be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Nobody would understand an answer.
    Ignore,
    /// The answer is this code alone.
    Code(u8),
}

fn u16_at(packet: &[u8], at: usize) -> Option<u16> {
    let bytes = packet.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

impl<'a> Query<'a> {
    pub fn read(packet: &'a [u8]) -> Result<Self, Malformed> {
        if packet.len() < HEADER || packet[2] & RESPONSE != 0 {
            return Err(Malformed::Ignore);
        }
        if packet[2] & OPCODE != 0 {
            return Err(Malformed::Code(NOT_IMPLEMENTED));
        }
        Self::body(packet).ok_or(Malformed::Code(FORMAT_ERROR))
    }

    fn body(packet: &'a [u8]) -> Option<Self> {
        let count = |at| u16_at(packet, at);
        if count(4)? != 1 || count(6)? != 0 {
            return None;
        }
        let mut name = Name { bytes: [0; LONGEST], length: 0 };
        let mut odd = false;
        let mut at = HEADER;
        loop {
            let length = usize::from(*packet.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            // The first name has nothing before it that it could point to.
            if length > 63 {
                return None;
            }
            let label = packet.get(at..at + length)?;
            odd |= label.iter().any(|byte| matches!(byte, b'.' | 0));
            if name.length > 0 {
                name.push(b".")?;
            }
            name.push(label)?;
            at += length;
        }
        // 255 octets on the wire at most.
        if at - HEADER > 255 {
            return None;
        }
        let (kind, class) = (u16_at(packet, at)?, u16_at(packet, at + 2)?);
        let end = at + 4;
        let edns = further(packet, end, usize::from(count(8)?) + usize::from(count(10)?))?;
        Some(Self { packet, name, odd, kind, class, end, edns })
    }

    /// How long an answer over UDP may be.
    pub fn udp_limit(&self) -> usize {
        self.edns.map_or(PLAIN_UDP, |size| usize::from(size).max(PLAIN_UDP))
    }

    /// The question as it goes to a resolver.
    pub fn with_id(&self, id: u16) -> Vec<u8> {
        let mut out = self.packet.to_vec();
        out[..2].copy_from_slice(&id.to_be_bytes());
        out
    }
}

/// Walks the records behind the question; the size of the only OPT record, if there is one.
fn further(packet: &[u8], mut at: usize, count: usize) -> Option<Option<u16>> {
    let mut edns = None;
    for _ in 0..count {
        let root = packet.get(at) == Some(&0);
        at = skip_name(packet, at)?;
        let (kind, class) = (u16_at(packet, at)?, u16_at(packet, at + 2)?);
        if kind == OPT {
            if edns.is_some() || !root {
                return None;
            }
            edns = Some(class);
        }
        at += 10 + usize::from(u16_at(packet, at + 8)?);
        if at > packet.len() {
            return None;
        }
    }
    (at == packet.len()).then_some(edns)
}

/// Where the name at `at` ends. A pointer ends it; where it leads is of no interest.
fn skip_name(packet: &[u8], mut at: usize) -> Option<usize> {
    let begin = at;
    loop {
        let length = *packet.get(at)?;
        match length {
            0 => return Some(at + 1),
            1..=63 => at += 1 + usize::from(length),
            192.. => return (usize::from(u16_at(packet, at)? & 0x3fff) < at).then_some(at + 2),
            _ => return None,
        }
        if at - begin > 254 {
            return None;
        }
    }
}

/// An answer in the making, at the end of a buffer that may hold others before it.
pub(crate) struct Answer<'b> {
    out: &'b mut Vec<u8>,
    begin: usize,
    /// Where the answer must end at the latest, the OPT record apart.
    limit: usize,
    edns: bool,
    records: u16,
}

const TTL: u32 = 600;

impl<'b> Answer<'b> {
    /// `limit`: of the whole answer.
    pub fn new(out: &'b mut Vec<u8>, query: &Query<'_>, code: u8, limit: usize) -> Self {
        let begin = out.len();
        let flags = RESPONSE | (query.packet[2] & RECURSION_DESIRED);
        // The client's wish not to have signatures checked is repeated (RFC 4035, 3.1.6).
        let checking = query.packet[3] & 0x10;
        out.extend_from_slice(&query.packet[..2]);
        out.extend_from_slice(&[flags, RECURSION_AVAILABLE | checking | code]);
        out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&query.packet[HEADER..query.end]);
        let edns = query.edns.is_some();
        let limit = begin + limit.min(usize::from(u16::MAX)) - if edns { OPT_LENGTH } else { 0 };
        Self { out, begin, limit, edns, records: 0 }
    }

    /// A record about the name that was asked for. False if there was no room: the answer is then
    /// marked as truncated.
    fn record(&mut self, kind: u16, data: &[u8]) -> bool {
        if self.out.len() + 12 + data.len() > self.limit {
            self.out[self.begin + 2] |= TRUNCATED;
            return false;
        }
        // A pointer to the question's name.
        self.out.extend_from_slice(&[0xc0, HEADER as u8]);
        self.out.extend_from_slice(&kind.to_be_bytes());
        self.out.extend_from_slice(&IN.to_be_bytes());
        self.out.extend_from_slice(&TTL.to_be_bytes());
        // Data is an address or a name: never longer than 255.
        self.out.extend_from_slice(&(data.len() as u16).to_be_bytes());
        self.out.extend_from_slice(data);
        self.records += 1;
        true
    }

    pub fn a(&mut self, address: Ipv4Addr) -> bool {
        self.record(A, &address.octets())
    }

    pub fn aaaa(&mut self, address: Ipv6Addr) -> bool {
        self.record(AAAA, &address.octets())
    }

    pub fn ptr(&mut self, wire_name: &[u8]) -> bool {
        self.record(PTR, wire_name)
    }

    pub fn finish(self) {
        let count = self.begin + 6;
        self.out[count..count + 2].copy_from_slice(&self.records.to_be_bytes());
        if self.edns {
            self.out[self.begin + 11] = 1;
            self.out.push(0);
            self.out.extend_from_slice(&OPT.to_be_bytes());
            self.out.extend_from_slice(&OUR_UDP.to_be_bytes());
            self.out.extend_from_slice(&[0; 6]);
        }
    }
}

/// Answers what could not be read: a header alone.
pub(crate) fn refuse(out: &mut Vec<u8>, packet: &[u8], code: u8) {
    let Some(header) = packet.get(..HEADER) else { return };
    out.extend_from_slice(&header[..2]);
    let flags = RESPONSE | (header[2] & (OPCODE | RECURSION_DESIRED));
    out.extend_from_slice(&[flags, RECURSION_AVAILABLE | code]);
    out.extend_from_slice(&[0; 8]);
}

/// What a resolver's packet says about a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Not an answer to it.
    Foreign,
    /// An answer that another resolver may know better.
    Failed,
    /// There is more than fits.
    Truncated,
    Good,
}

/// Judges a packet that came from where the question with `id` was sent to.
pub(crate) fn judge(packet: &[u8], query: &Query<'_>, id: u16) -> Reply {
    let question = &query.packet[HEADER..query.end];
    let same = packet.len() >= HEADER
        && packet[..2] == id.to_be_bytes()
        && packet[2] & RESPONSE != 0
        && packet[2] & OPCODE == 0;
    if !same {
        return Reply::Foreign;
    }
    let code = packet[3] & 0x0f;
    let repeated = packet.get(HEADER..query.end);
    if !repeated.is_some_and(|repeated| repeated.eq_ignore_ascii_case(question)) {
        // An error may come without the question.
        let bare = packet[4..6] == [0, 0] && code != NO_ERROR;
        return if bare { Reply::Failed } else { Reply::Foreign };
    }
    match code {
        SERVER_FAILURE | REFUSED | NOT_IMPLEMENTED | FORMAT_ERROR => Reply::Failed,
        _ if packet[2] & TRUNCATED != 0 => Reply::Truncated,
        _ => Reply::Good,
    }
}

/// Makes a resolver's answer one for the client: its id, its spelling of the name, its limit.
pub(crate) fn relay(mut packet: Vec<u8>, query: &Query<'_>, limit: usize) -> Vec<u8> {
    packet[..2].copy_from_slice(&query.packet[..2]);
    if packet.len() >= query.end {
        packet[HEADER..query.end].copy_from_slice(&query.packet[HEADER..query.end]);
    }
    packet[3] |= RECURSION_AVAILABLE;
    if packet.len() <= limit {
        return packet;
    }
    let mut out = Vec::with_capacity(query.end + OPT_LENGTH);
    Answer::new(&mut out, query, packet[3] & 0x0f, limit).finish();
    out[2] |= TRUNCATED;
    out
}

/// A name as it goes into a record; `None` if DNS cannot say it.
pub(crate) fn encode_name(name: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(name.len() + 2);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
        out.push(length);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    (out.len() <= 255).then_some(out)
}

/// The address that a name below in-addr.arpa or ip6.arpa stands for.
pub(crate) fn reverse(name: &[u8]) -> Option<IpAddr> {
    let name = std::str::from_utf8(name).ok()?;
    if let Some(name) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut labels = name.rsplit('.');
        for octet in &mut octets {
            let label = labels.next()?;
            let plain = label.bytes().all(|byte| byte.is_ascii_digit())
                && (label == "0" || !label.starts_with('0'));
            *octet = label.parse().ok().filter(|_| plain)?;
        }
        return labels.next().is_none().then(|| Ipv4Addr::from(octets).into());
    }
    let mut address: u128 = 0;
    let mut labels = name.strip_suffix(".ip6.arpa")?.rsplit('.');
    for _ in 0..32 {
        let mut digits = labels.next()?.chars();
        address = address << 4 | u128::from(digits.next()?.to_digit(16)?);
        if digits.next().is_some() {
            return None;
        }
    }
    labels.next().is_none().then(|| Ipv6Addr::from(address).into())
}
