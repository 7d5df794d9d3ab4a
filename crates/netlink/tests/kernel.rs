//! Every message against the real kernel, in network namespaces of the test's own; `ip` and `nft`
//! say what became of them.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;
use std::time::Duration;

use hoy_netlink::conntrack::Stale;
use hoy_netlink::nft::{Base, Chain, ChainKind, Expression as E, Family, Hook, Monitor, Policy};
use hoy_netlink::route::{
    Interface, Ipvlan, IpvlanFlag, IpvlanMode, Macvlan, MacvlanMode, Route, Veth,
};
use hoy_netlink::{Socket, SocketKind};
use hoy_sys::process;

fn in_own_namespace(test: impl FnOnce() + Send + 'static) {
    std::thread::spawn(move || {
        process::unshare(process::NEWNET).expect("root");
        Socket::open(SocketKind::Route).unwrap().set_up(1).unwrap();
        test();
    })
    .join()
    .unwrap();
}

fn here() -> OwnedFd {
    std::fs::File::open("/proc/thread-self/ns/net").unwrap().into()
}

/// A namespace that lives as long as its descriptor.
fn new_namespace() -> OwnedFd {
    std::thread::spawn(|| {
        process::unshare(process::NEWNET).unwrap();
        here()
    })
    .join()
    .unwrap()
}

fn inside<T: Send + 'static>(netns: &OwnedFd, work: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = netns.try_clone().unwrap();
    std::thread::spawn(move || {
        process::setns(netns.as_fd(), process::NEWNET).unwrap();
        work()
    })
    .join()
    .unwrap()
}

/// A program in the thread's namespace.
fn run(line: &str) -> String {
    let out = Command::new("sh").args(["-ec", line]).output().unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_namespace_is_configured_for_both_families() {
    in_own_namespace(|| {
        let netns = new_namespace();
        let mut route = Socket::open(SocketKind::Route).unwrap();
        route.create_bridge("br0", [2, 0, 0, 0, 0, 1], 1500).unwrap();
        let bridge = route.link("br0").unwrap().unwrap();
        assert_eq!((bridge.kind.as_deref(), bridge.up), (Some("bridge"), true));
        assert_eq!(route.link("none").unwrap(), None);
        route.add_address(bridge.index, ip("10.1.0.1"), 24).unwrap();
        route.add_address(bridge.index, ip("fd00:1::1"), 64).unwrap();
        route
            .create_veth(&Veth {
                name: "v0",
                bridge: bridge.index,
                peer: "eth1",
                peer_mac: [2, 0x42, 10, 1, 0, 2],
                netns: netns.as_fd(),
                mtu: 1400,
                isolated: true,
                hairpin: false,
            })
            .unwrap();
        let port = run("ip -d link show v0");
        assert!(port.contains("hairpin off") && port.contains("isolated on"), "{port}");
        route.set_bridge_port("v0", true, false).unwrap();
        let port = run("ip -d link show v0");
        assert!(port.contains("hairpin on") && port.contains("isolated off"), "{port}");
        assert_eq!(route.link("v0").unwrap().unwrap().master, Some(bridge.index));
        inside(&netns, || {
            let mut route = Socket::open(SocketKind::Route).unwrap();
            let link = route.link("eth1").unwrap().unwrap();
            assert_eq!((link.mac, link.mtu), (Some([2, 0x42, 10, 1, 0, 2]), 1400));
            route.rename(link.index, "eth7").unwrap();
            let index = link.index;
            let addresses =
                ["10.1.0.2/24", "169.254.7.7/16", "fd00:1::2/64", "fe80::77/64"].map(|text| {
                    let (address, prefix) = text.split_once('/').unwrap();
                    (ip(address), prefix.parse().unwrap())
                });
            let gateway = |text| Route { destination: None, gateway: Some(ip(text)), index };
            let interface = Interface { index, addresses: addresses.to_vec() };
            // The second is not in the interface's networks.
            let routes = [gateway("fd00:1::1"), gateway("10.9.9.9")];
            route.configure(true, &[interface], &routes).unwrap();
            let listed = run("ip -o addr show dev eth7");
            for (address, prefix) in addresses {
                assert!(listed.contains(&format!("{address}/{prefix}")), "{listed}");
            }
            assert!(!listed.contains("tentative fd00"), "{listed}");
            let v4 = run("ip -4 route show default");
            assert!(v4.contains("default via 10.9.9.9 dev eth7 onlink"), "{v4}");
            let v6 = run("ip -6 route show default");
            assert!(v6.contains("via fd00:1::1 dev eth7") && !v6.contains("onlink"), "{v6}");
            route.replace_route(&gateway("10.1.0.1")).unwrap();
            let v4 = run("ip -4 route show default");
            assert_eq!(v4.trim(), "default via 10.1.0.1 dev eth7");
            let more = Route { destination: Some((ip("fd09::"), 48)), gateway: None, index };
            route.add_route(&more).unwrap();
            assert!(route.add_route(&more).unwrap_err().exists());
            assert!(route.routes().unwrap().contains(&more));
            assert!(route.routes().unwrap().contains(&gateway("fd00:1::1")));
            route.remove_route(&more).unwrap();
            assert!(!route.routes().unwrap().contains(&more));
            route.remove_route(&gateway("10.1.0.1")).unwrap();
            assert!(!route.routes().unwrap().contains(&gateway("10.1.0.1")));
            route.remove_address(index, ip("fd00:1::2"), 64).unwrap();
            let gone = route.addresses().unwrap();
            assert!(!gone.iter().any(|a| a.address == ip("fd00:1::2")));
            assert!(gone.iter().any(|a| a.address == ip("10.1.0.2") && a.prefix == 24));
        });
    });
}

#[test]
fn links_on_a_parent() {
    in_own_namespace(|| {
        let netns = new_namespace();
        let mut route = Socket::open(SocketKind::Route).unwrap();
        route.create_dummy("parent").unwrap();
        let parent = route.link("parent").unwrap().unwrap().index;
        for (mode, text) in [
            (MacvlanMode::Private, "private"),
            (MacvlanMode::Vepa, "vepa"),
            (MacvlanMode::Bridge, "bridge"),
        ] {
            let netns = netns.try_clone().unwrap();
            let macvlan = Macvlan {
                parent,
                mode,
                name: "eth0",
                mac: Some([2, 0, 0, 0, 0, 9]),
                mtu: 0,
                netns: netns.as_fd(),
            };
            route.create_macvlan(&macvlan).unwrap();
            inside(&netns, move || {
                let shown = run("ip -d link show eth0");
                assert!(shown.contains(&format!("macvlan mode {text}")), "{shown}");
                let mut route = Socket::open(SocketKind::Route).unwrap();
                let link = route.link("eth0").unwrap().unwrap();
                assert_eq!((link.mac, link.parent), (Some([2, 0, 0, 0, 0, 9]), Some(parent)));
                route.delete_link(link.index).unwrap();
            });
        }
        // Kernels that lack them say so; others make them.
        let ipvlan = Ipvlan {
            parent,
            mode: IpvlanMode::L2,
            flag: IpvlanFlag::Bridge,
            name: "eth0",
            mtu: 0,
            netns: netns.as_fd(),
        };
        for made in [route.create_ipvlan(&ipvlan), route.create_vlan(parent, 7, "parent.7")] {
            if let Err(error) = made {
                assert!(error.is_unsupported(), "{error}");
            }
        }
        route.delete_link(parent).unwrap();
        let left = route.links().unwrap();
        assert_eq!(left.iter().filter(|l| l.name.starts_with("parent")).count(), 0, "{left:?}");
    });
}

/// A message to port 53 goes to a server on another one, and its answer comes from 53, in a
/// namespace that follows no connections.
#[test]
fn ports_are_rewritten_without_state() {
    for address in ["127.0.0.11", "::1"] {
        in_own_namespace(move || {
            let server = UdpSocket::bind((ip(address), 0)).unwrap();
            let port = server.local_addr().unwrap().port();
            let mut nft = Socket::open(SocketKind::Netfilter).unwrap();
            let (family, prefix) =
                if address.contains(':') { (E::Ipv6, 128) } else { (E::Ipv4, 32) };
            let network = ip(address);
            let chain = |name, hook, rules| Chain {
                name,
                base: Some(Base {
                    kind: ChainKind::Filter,
                    hook,
                    priority: -300,
                    policy: Policy::Accept,
                }),
                rules: vec![rules],
            };
            let there = vec![
                family.clone(),
                E::Destination { network, prefix },
                E::Protocol(17),
                E::DestinationPort(53),
                E::SetDestinationPort(port),
            ];
            let back = vec![
                family,
                E::Source { network, prefix },
                E::Protocol(17),
                E::SourcePort(port),
                E::SetSourcePort(53),
            ];
            let mut transaction = nft.nft("rewrite");
            transaction.table(0);
            transaction.chain(&chain("there", Hook::Output, there));
            transaction.chain(&chain("back", Hook::Prerouting, back));
            transaction.commit("rewrite ports").unwrap();
            let listed = run("nft list ruleset");
            assert!(listed.contains("udp dport 53"), "{listed}");
            let client = UdpSocket::bind((network, 0)).unwrap();
            client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            client.connect((network, 53)).unwrap();
            client.send(b"question").unwrap();
            let mut buffer = [0; 64];
            let (length, peer) = server.recv_from(&mut buffer).unwrap();
            server.send_to(&buffer[..length], peer).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), 8);
        });
    }
}

#[test]
fn changes_are_heard_of_and_lists_tell() {
    in_own_namespace(|| {
        let monitor = Monitor::open().unwrap();
        let mut nft = Socket::open(SocketKind::Netfilter).unwrap();
        let before = nft.nft_generation().unwrap();
        run("nft 'add table ip other; add chain ip other FORWARD { type filter hook forward \
             priority 0; policy drop; }; add rule ip other FORWARD ip saddr 1.2.3.4 accept \
             comment \"mine\"; add set ip other s { type ipv4_addr; }; add element ip other s \
             { 1.1.1.1, 2.2.2.2 }'");
        monitor.wait().unwrap();
        assert_ne!(nft.nft_generation().unwrap(), before);
        let chains = nft.nft_chains().unwrap();
        let chain = chains.iter().find(|chain| chain.table == "other").unwrap();
        assert_eq!(
            (chain.family, chain.hook, chain.accepts),
            (Family::Ipv4, Some((2, 0)), Some(false))
        );
        let rules = nft.nft_rules(Family::Ipv4, "other").unwrap();
        assert_eq!(rules[0].comment.as_deref(), Some("mine"));
        assert_eq!(nft.nft_count(Family::Ipv4, "other", "s").unwrap(), 2);
        let mut transaction = nft.nft_of(Family::Ipv4, "other");
        let accept = [E::InterfaceIn { name: "x0".into(), is: true }, E::Accept];
        transaction.insert_rule("FORWARD", &accept, "hoy");
        transaction.commit("insert a rule").unwrap();
        let listed = run("nft list table ip other");
        assert!(listed.contains("iifname \"x0\" accept comment \"hoy\""), "{listed}");
        let ours = nft.nft_rules(Family::Ipv4, "other").unwrap();
        assert_eq!(ours[0].comment.as_deref(), Some("hoy"));
        let mut transaction = nft.nft_of(Family::Ipv4, "other");
        transaction.delete_rule("FORWARD", ours[0].handle);
        transaction.commit("delete a rule").unwrap();
        assert_eq!(nft.nft_rules(Family::Ipv4, "other").unwrap().len(), 1);
        assert!(nft.nft_tables().unwrap().iter().any(|table| table.name == "other"));
    });
}

#[test]
fn connections_are_forgotten() {
    for address in ["127.0.0.1", "::1"] {
        in_own_namespace(move || {
            // Connections are followed where a rule asks for them.
            run("nft 'add table inet follow; add chain inet follow c { type filter hook input \
                 priority 0; }; add rule inet follow c ct state new accept'");
            let mut nft = Socket::open(SocketKind::Netfilter).unwrap();
            let server = UdpSocket::bind((ip(address), 7000)).unwrap();
            let other = UdpSocket::bind((ip(address), 7001)).unwrap();
            let client = UdpSocket::bind((ip(address), 0)).unwrap();
            let say = |text: &[u8]| {
                client.send_to(text, server.local_addr().unwrap()).unwrap();
                client.send_to(text, other.local_addr().unwrap()).unwrap();
            };
            let any = if address.contains(':') { "::" } else { "0.0.0.0" };
            let to = |address, port| Stale::To { protocol: 17, address: ip(address), port };
            say(b"one");
            assert_eq!(nft.forget(&[to(address, 7002)]).unwrap(), 0);
            assert_eq!(nft.forget(&[to(address, 7000)]).unwrap(), 1);
            assert_eq!(nft.forget(&[to(address, 7000)]).unwrap(), 0);
            assert_eq!(nft.forget(&[to(any, 7001)]).unwrap(), 1);
            say(b"two");
            assert_eq!(nft.forget(&[to(any, 7000), to(address, 7001)]).unwrap(), 2);
            say(b"three");
            assert_eq!(nft.forget(&[Stale::AnsweredBy(ip(address))]).unwrap(), 2);
            assert_eq!(nft.forget(&[Stale::AnsweredBy(ip(address))]).unwrap(), 0);
        });
    }
}

/// A container that has the address of one before it, but not its hardware address, is found at
/// once by those who knew the other.
#[test]
fn a_new_owner_of_an_address_is_announced() {
    in_own_namespace(|| {
        let mut route = Socket::open(SocketKind::Route).unwrap();
        route.create_bridge("br0", [2, 0, 0, 0, 0, 1], 1500).unwrap();
        let bridge = route.link("br0").unwrap().unwrap().index;
        let join = |name: &str, last: u8, number: u8| {
            let netns = new_namespace();
            let veth = Veth {
                name,
                bridge,
                peer: "eth0",
                peer_mac: [2, 0, 0, 0, 0, last],
                netns: netns.as_fd(),
                mtu: 1500,
                isolated: false,
                hairpin: true,
            };
            Socket::open(SocketKind::Route).unwrap().create_veth(&veth).unwrap();
            inside(&netns, move || {
                let mut route = Socket::open(SocketKind::Route).unwrap();
                let index = route.link("eth0").unwrap().unwrap().index;
                let addresses = vec![
                    (ip(&format!("10.1.0.{number}")), 24),
                    (ip(&format!("fd00:1::{number}")), 64),
                ];
                route.configure(true, &[Interface { index, addresses }], &[]).unwrap();
            });
            netns
        };
        let known = |netns: &OwnedFd, mac: &'static str| {
            let netns = netns.try_clone().unwrap();
            inside(&netns, move || {
                for to in ["10.1.0.9", "fd00:1::9"] {
                    let socket =
                        UdpSocket::bind((ip(if to.contains(':') { "::" } else { "0.0.0.0" }), 0));
                    let _ = socket.unwrap().send_to(b"x", (ip(to), 9));
                }
                for _ in 0..6000 {
                    let table = run("ip neigh show dev eth0");
                    let found =
                        |to: &str| table.lines().any(|l| l.starts_with(to) && l.contains(mac));
                    if found("10.1.0.9 ") && found("fd00:1::9 ") {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
                panic!("{}", run("ip neigh show"));
            });
        };
        let other = join("v1", 0x11, 1);
        let before = join("v2", 0x22, 9);
        known(&other, "02:00:00:00:00:22");
        drop(before);
        let link = route.link("v2").unwrap();
        if let Some(link) = link {
            // The kernel may have been quicker.
            let _ = route.delete_link(link.index);
        }
        let after = join("v3", 0x33, 9);
        inside(&after, || {
            let mut route = Socket::open(SocketKind::Route).unwrap();
            let link = route.link("eth0").unwrap().unwrap();
            route.announce(&link).unwrap();
        });
        known(&other, "02:00:00:00:00:33");
    });
}
