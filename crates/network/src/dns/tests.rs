//! The pure parts: packets of every kind, names, and what becomes of a query.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::answer::{Outcome, Scratch, View};
use super::names::{EndpointNames, Zones};
use super::upstream::Upstreams;
use super::wire::{self, Malformed, Query, Reply};

const MX: u16 = 15;
const TXT: u16 = 16;
const SRV: u16 = 33;

/// A question as clients write it.
fn question(name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
    let mut packet = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        packet.push(label.len() as u8);
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
    packet.extend_from_slice(&kind.to_be_bytes());
    packet.extend_from_slice(&[0, 1]);
    if let Some(size) = edns {
        packet.extend_from_slice(&[0, 0, 41]);
        packet.extend_from_slice(&size.to_be_bytes());
        packet.extend_from_slice(&[0; 6]);
    }
    packet
}

/// What an answer says, read by other means than ours: code, truncated, addresses and names.
fn read(packet: &[u8]) -> (u8, bool, Vec<String>) {
    let name = |mut at: usize| -> (String, usize) {
        let (mut text, mut end, mut jumped) = (String::new(), at, false);
        loop {
            let length = usize::from(packet[at]);
            if length >= 192 {
                if !jumped {
                    end = at + 2;
                }
                jumped = true;
                at = (length & 63) << 8 | usize::from(packet[at + 1]);
                continue;
            }
            if length == 0 {
                return (text, if jumped { end } else { at + 1 });
            }
            text.push_str(&String::from_utf8_lossy(&packet[at + 1..=at + length]));
            text.push('.');
            at += 1 + length;
        }
    };
    let number = |at: usize| usize::from(packet[at]) << 8 | usize::from(packet[at + 1]);
    assert!(packet[2] & 0x80 != 0, "an answer");
    let mut at = 12;
    for _ in 0..number(4) {
        at = name(at).1 + 4;
    }
    let mut records = Vec::new();
    for record in 0..number(6) + number(8) + number(10) {
        at = name(at).1;
        let (kind, length) = (number(at), number(at + 8));
        let data = &packet[at + 10..at + 10 + length];
        match kind {
            1 => records.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).unwrap()).to_string()),
            28 => records.push(Ipv6Addr::from(<[u8; 16]>::try_from(data).unwrap()).to_string()),
            12 => records.push(name(at + 10).0),
            41 => assert_eq!(record, number(6), "the OPT record is behind the answers"),
            other => panic!("a record of type {other}"),
        }
        at += 10 + length;
    }
    assert_eq!(at, packet.len(), "nothing behind the last record");
    (packet[3] & 15, packet[2] & 2 != 0, records)
}

struct World {
    zones: Zones,
    view: View,
}

impl World {
    fn new(networks: &[&str], links: &[(&str, &str)], upstreams: Upstreams, ndots: bool) -> Self {
        let zones = Zones::default();
        let of = |(alias, name): &(&str, &str)| ((*alias).to_owned(), (*name).to_owned());
        let links: Vec<_> = links.iter().map(of).collect();
        let seen = networks.iter().map(|network| zones.zone(network)).collect();
        let view = View::new(seen, &links, upstreams, ndots);
        Self { zones, view }
    }

    fn set(&self, network: &str, endpoint: &str, names: &[&str], v4: &str, v6: &str) {
        let names = EndpointNames {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            network_name: format!("{network}-Name"),
            v4: v4.parse().ok(),
            v6: v6.parse().ok(),
        };
        self.zones.set(network, endpoint, names);
    }

    fn packet(&self, packet: &[u8]) -> (Outcome, Vec<u8>) {
        let mut out = Vec::new();
        let outcome = self.view.answer(packet, None, &mut Scratch::default(), &mut out);
        (outcome, out)
    }

    /// The code and the records, or `None` if resolvers are to be asked.
    fn ask(&self, name: &str, kind: u16) -> Option<(u8, Vec<String>)> {
        let (outcome, out) = self.packet(&question(name, kind, None));
        (outcome == Outcome::Answered).then(|| {
            let (code, truncated, records) = read(&out);
            assert!(!truncated);
            (code, records)
        })
    }
}

fn no_upstream() -> Upstreams {
    let nowhere = std::fs::File::open("/dev/null").unwrap();
    Upstreams::inside(&[], std::sync::Arc::new(nowhere.into()))
}

fn ok(records: &[&str]) -> Option<(u8, Vec<String>)> {
    Some((0, records.iter().map(|record| (*record).to_owned()).collect()))
}

#[test]
fn names_of_the_networks() {
    let links = [("db", "Web"), ("gone", "nobody")];
    let world = World::new(&["one", "two"], &links, no_upstream(), false);
    world.set("one", "e1", &["Web", "0123456789ab", "www.example.com"], "10.0.0.2", "fd00::2");
    world.set("two", "e2", &["other", "web"], "10.1.0.2", "");
    world.set("three", "e3", &["hidden"], "10.2.0.2", "");
    for name in ["web", "WEB", "wEb.", "0123456789ab", "web.one-name", "web.ONE-NAME", "db"] {
        assert_eq!(world.ask(name, wire::A), ok(&["10.0.0.2"]), "{name}");
        assert_eq!(world.ask(name, wire::AAAA), ok(&["fd00::2"]), "{name}");
        assert_eq!(world.ask(name, wire::ANY), ok(&["10.0.0.2", "fd00::2"]), "{name}");
    }
    // Known, without an address of that family; and what only a network's name tells apart.
    assert_eq!(world.ask("other", wire::AAAA), ok(&[]));
    assert_eq!(world.ask("web.two-name", wire::A), ok(&["10.1.0.2"]));
    for kind in [MX, SRV] {
        assert_eq!(world.ask("web", kind), ok(&[]));
    }
    assert_eq!(world.ask("_http._tcp.web", SRV), ok(&[]));
    assert_eq!(world.ask("web", TXT), ok(&[]));
    // Others are asked: an alias may be a domain elsewhere, too.
    for (name, kind) in [
        ("www.example.com", TXT),
        ("hidden", wire::A),
        ("gone", wire::A),
        ("web.three-name", wire::A),
        ("one-name", wire::A),
        ("", 2),
        ("_http._tcp.example.org", SRV),
    ] {
        assert_eq!(world.ask(name, kind), None, "{name}");
    }
}

#[test]
fn addresses_have_names() {
    let world = World::new(&["one"], &[], no_upstream(), false);
    let long = "x".repeat(64);
    world.set("one", "e1", &["Web", "short"], "10.0.0.2", "fd00::2");
    world.set("one", "e2", &[&long, "fits"], "10.0.0.3", "");
    assert_eq!(world.ask("2.0.0.10.in-addr.arpa", wire::PTR), ok(&["Web.one-Name."]));
    assert_eq!(world.ask("3.0.0.10.IN-ADDR.arpa", wire::PTR), ok(&["fits.one-Name."]));
    let v6 = format!("2{}.0.0.d.f.ip6.arpa", ".0".repeat(27));
    assert_eq!(world.ask(&v6, wire::PTR), ok(&["Web.one-Name."]));
    for name in ["4.0.0.10.in-addr.arpa", "0.0.10.in-addr.arpa", "02.0.0.10.in-addr.arpa", "web"] {
        assert_eq!(world.ask(name, wire::PTR), None, "{name}");
    }
}

#[test]
fn everybody_of_an_alias_comes_first_in_turn() {
    let world = World::new(&["one"], &[], no_upstream(), false);
    for number in 2..5 {
        let (endpoint, v4) = (format!("e{number}"), format!("10.0.0.{number}"));
        world.set("one", &endpoint, &[&endpoint, "all"], &v4, &format!("fd00::{number}"));
    }
    for kind in [wire::A, wire::AAAA] {
        let mut first: Vec<_> = (0..3)
            .map(|_| {
                let (_, records) = world.ask("all", kind).unwrap();
                assert_eq!(records.len(), 3);
                records[0].clone()
            })
            .collect();
        first.sort();
        first.dedup();
        assert_eq!(first.len(), 3, "{first:?}");
    }
    world.zones.unset("one", "e3");
    assert_eq!(world.ask("all", wire::A).unwrap().1.len(), 2);
    assert_eq!(world.ask("e3", wire::A), None);
    // A new address replaces the old one.
    world.set("one", "e2", &["e2"], "10.0.0.9", "");
    assert_eq!(world.ask("all", wire::A), ok(&["10.0.0.4"]));
    assert_eq!(world.ask("e2", wire::A), ok(&["10.0.0.9"]));
    assert_eq!(world.ask("2.0.0.10.in-addr.arpa", wire::PTR), None);
    world.zones.unset("one", "e2");
    world.zones.unset("one", "e4");
    assert_eq!(world.ask("all", wire::A), None);
}

#[test]
fn what_does_not_leave() {
    let closed = World::new(&["one"], &[], Upstreams::Never, false);
    closed.set("one", "e1", &["web.example.com"], "10.0.0.2", "");
    assert_eq!(closed.ask("web.example.com", wire::A), ok(&["10.0.0.2"]));
    assert_eq!(closed.ask("web.example.com", TXT), ok(&[]));
    assert_eq!(closed.ask("example.com", wire::A), Some((wire::SERVER_FAILURE, vec![])));
    assert_eq!(closed.ask("web", TXT), Some((wire::SERVER_FAILURE, vec![])));

    let ndots = World::new(&["one"], &[], no_upstream(), true);
    assert_eq!(ndots.ask("web", wire::A), ok(&[]));
    assert_eq!(ndots.ask("web", wire::AAAA), ok(&[]));
    assert_eq!(ndots.ask("web", MX), None);
    assert_eq!(ndots.ask("web.example.com", wire::A), None);
}

#[test]
fn as_much_as_the_client_can_take() {
    let world = World::new(&["one"], &[], no_upstream(), false);
    for number in 0..200 {
        let endpoint = format!("e{number}");
        world.set("one", &endpoint, &[&endpoint, "all"], &format!("10.0.1.{number}"), "");
    }
    for (edns, limit, count) in
        [(None, 512, 30), (Some(0), 512, 30), (Some(1232), 1232, 75), (Some(65_535), 65_535, 200)]
    {
        let (outcome, out) = world.packet(&question("all", wire::A, edns));
        assert_eq!(outcome, Outcome::Answered);
        let (code, truncated, records) = read(&out);
        assert_eq!((code, records.len()), (0, count), "{edns:?}");
        assert_eq!(truncated, count < 200);
        assert!(out.len() <= limit);
    }
}

#[test]
fn what_is_no_question() {
    let world = World::new(&["one"], &[], no_upstream(), false);
    world.set("one", "e1", &["web"], "10.0.0.2", "");
    let good = question("web", wire::A, Some(1232));
    let change = |at: usize, to: &[u8]| {
        let mut packet = good.clone();
        packet.splice(at..at + to.len(), to.iter().copied());
        packet
    };
    let format = Some(wire::FORMAT_ERROR);
    let mut behind = good.clone();
    behind.push(0);
    let label = |length: usize| "x".repeat(length);
    let longest = [label(63), label(63), label(63), label(61)].join(".");
    let mut too_long = question(&longest, wire::A, None);
    too_long.splice(12..12, [1, b'x']);
    // A record after the question whose name points to itself, or forwards.
    let with_record = |name: &[u8]| {
        let mut packet = question("web", wire::A, None);
        packet[11] = 1;
        packet.extend_from_slice(name);
        packet.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 0, 0, 0]);
        packet
    };
    for (what, packet, code) in [
        ("an answer", change(2, &[0x81]), None),
        ("half a header", good[..11].to_vec(), None),
        ("nothing", vec![], None),
        ("a notification", change(2, &[0x21]), Some(wire::NOT_IMPLEMENTED)),
        ("no question", change(4, &[0, 0]), format),
        ("two questions", change(4, &[0, 2]), format),
        ("an answer within", change(6, &[0, 1]), format),
        ("a pointer as name", change(12, &[0xc0, 12]), format),
        ("a label of an unknown type", change(12, &[0x41]), format),
        ("a label over the end", change(12, &[63]), format),
        ("a record that is not there", change(10, &[0, 2]), format),
        ("a header alone", good[..12].to_vec(), format),
        ("a name without end", good[..15].to_vec(), format),
        ("a question without class", good[..19].to_vec(), format),
        ("something behind", behind, format),
        ("a long name", too_long, format),
        ("a pointer to itself", with_record(&[0xc0, 21]), format),
        ("a pointer forwards", with_record(&[0xc0, 40]), format),
    ] {
        let (outcome, out) = world.packet(&packet);
        match code {
            None => assert_eq!(outcome, Outcome::Ignore, "{what}"),
            Some(code) => {
                assert_eq!(outcome, Outcome::Answered, "{what}");
                assert_eq!(read(&out), (code, false, vec![]), "{what}");
                assert_eq!(out[..2], packet[..2], "{what}");
            }
        }
    }
    assert_eq!(world.packet(&with_record(&[0xc0, 12])).0, Outcome::Answered);
    assert_eq!(world.ask(&longest, wire::A), None);
    // A dot within a label does not make two labels of it.
    let mut odd = question("a.web", wire::A, None);
    odd.splice(12..18, [5, b'a', b'.', b'w', b'e', b'b']);
    assert_eq!(world.packet(&odd).0, Outcome::Ask);
}

#[test]
fn whose_answer() {
    let packet = question("Web.example.com", wire::A, None);
    let query = Query::read(&packet).ok().unwrap();
    let answer = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut answer = query.with_id(77);
        answer[2] |= 0x80;
        change(&mut answer);
        wire::judge(&answer, &query, 77)
    };
    assert_eq!(answer(&|_| {}), Reply::Good);
    assert_eq!(answer(&|a| a[13..16].copy_from_slice(b"wEB")), Reply::Good);
    assert_eq!(answer(&|a| a[3] |= 3), Reply::Good, "there is no such name");
    assert_eq!(answer(&|a| a[3] |= 2), Reply::Failed);
    assert_eq!(answer(&|a| a[3] |= 5), Reply::Failed);
    assert_eq!(answer(&|a| a[2] |= 2), Reply::Truncated);
    assert_eq!(answer(&|a| a[1] = 78), Reply::Foreign);
    assert_eq!(answer(&|a| a[2] &= 0x7f), Reply::Foreign);
    assert_eq!(answer(&|a| a[13] = b'x'), Reply::Foreign);
    assert_eq!(answer(&|a| *a.last_mut().unwrap() = 3), Reply::Foreign);
    assert_eq!(answer(&|a| a.truncate(12)), Reply::Foreign);
    assert_eq!(answer(&|a| a.truncate(3)), Reply::Foreign);
    let refused = |a: &mut Vec<u8>| {
        a.truncate(12);
        a[3] |= 5;
        a[4..6].fill(0);
    };
    assert_eq!(answer(&refused), Reply::Failed);
}

#[test]
fn relayed_as_it_came_or_cut() {
    let packet = question("Web.example.com", wire::A, Some(600));
    let query = Query::read(&packet).ok().unwrap();
    let mut answer = question("web.EXAMPLE.com", wire::A, None);
    answer[..4].copy_from_slice(&[9, 9, 0x81, 3]);
    let relayed = wire::relay(answer.clone(), &query, 600);
    assert_eq!(relayed[..4], [0x12, 0x34, 0x81, 0x83]);
    assert_eq!(relayed[12..29], packet[12..29]);
    answer.resize(601, 0);
    let cut = wire::relay(answer, &query, 600);
    assert_eq!(read(&cut), (3, true, vec![]));
    // A failure without a question.
    let bare = vec![9, 9, 0x81, 5, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(wire::relay(bare, &query, 600)[..4], [0x12, 0x34, 0x81, 0x85]);
}

#[test]
fn names_that_dns_can_say() {
    assert_eq!(wire::encode_name("a.bc.").unwrap(), [1, b'a', 2, b'b', b'c', 0]);
    for name in ["", "a..b", &"x".repeat(64), &vec!["x".repeat(63); 4].join(".")] {
        assert_eq!(wire::encode_name(name), None, "{name}");
    }
}

proptest! {
    #[test]
    fn any_bytes(packet in proptest::collection::vec(any::<u8>(), 0..600)) {
        let world = World::new(&["one"], &[("a", "b")], Upstreams::Never, true);
        world.set("one", "e1", &["b"], "10.0.0.2", "fd00::1");
        let (outcome, out) = world.packet(&packet);
        if outcome == Outcome::Answered {
            read(&out);
        }
    }

    /// Close to what is right.
    #[test]
    fn any_change(at in 0usize..40, to in any::<u8>(), cut in 0usize..60, edns in any::<bool>()) {
        let world = World::new(&["one"], &[], Upstreams::Never, false);
        world.set("one", "e1", &["web.example.com"], "10.0.0.2", "fd00::1");
        let mut packet = question("web.example.com", wire::ANY, edns.then_some(1232));
        if let Some(byte) = packet.get_mut(at) {
            *byte = to;
        }
        packet.truncate(cut.max(1));
        let (outcome, out) = world.packet(&packet);
        if outcome == Outcome::Answered {
            read(&out);
        }
        if let Ok(query) = Query::read(&packet) {
            wire::judge(&packet, &query, 1);
            if packet.len() >= 12 {
                wire::relay(packet.clone(), &query, 512);
            }
        }
    }

    #[test]
    fn reverse_names(address in any::<u128>(), v4 in any::<u32>()) {
        let v6 = Ipv6Addr::from(address);
        let digits: Vec<_> = (0..32).map(|at| format!("{:x}", address >> (4 * at) & 15)).collect();
        let name = format!("{}.ip6.arpa", digits.join("."));
        prop_assert_eq!(wire::reverse(name.as_bytes()), Some(IpAddr::V6(v6)));
        let v4 = Ipv4Addr::from(v4);
        let [a, b, c, d] = v4.octets();
        let name = format!("{d}.{c}.{b}.{a}.in-addr.arpa");
        prop_assert_eq!(wire::reverse(name.as_bytes()), Some(IpAddr::V4(v4)));
    }

    #[test]
    fn any_name(name in "[a-zA-Z0-9_.-]{0,80}") {
        let packet = question(&name, wire::A, None);
        match Query::read(&packet) {
            Ok(query) => {
                let labels: Vec<_> = name.split('.').filter(|label| !label.is_empty()).collect();
                let expected = labels.join(".").to_ascii_lowercase();
                prop_assert_eq!(query.name.bytes(), expected.as_bytes());
                prop_assert!(!query.odd);
            }
            Err(error) => {
                prop_assert_eq!(error, Malformed::Code(wire::FORMAT_ERROR));
                prop_assert!(name.split('.').any(|label| label.len() > 63));
            }
        }
    }
}
