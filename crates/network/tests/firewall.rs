//! The firewall on the real kernel: several hosts, networks and containers as network namespaces of
//! the test's own, joined by pairs of interfaces; real packets, both families, with and without
//! the kernel's br_netfilter; `nft` says what is installed.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hoy_netlink::route::{Interface, Route, Veth};
use hoy_netlink::{Socket, SocketKind};
use hoy_network::foreign::{self, Suspect};
use hoy_network::{
    ACCEPT_MARK, BridgeRules, Closed, Firewall, GatewayMode, Masquerade, Publication, Watcher,
};
use hoy_sys::process;
use hoy_types::Protocol;

/// A network namespace; it lives as long as its descriptor and its threads.
#[derive(Clone)]
struct Netns(Arc<OwnedFd>);

impl Netns {
    fn current() -> Self {
        Self(Arc::new(std::fs::File::open("/proc/thread-self/ns/net").unwrap().into()))
    }

    fn new() -> Self {
        std::thread::spawn(|| {
            process::unshare(process::NEWNET).expect("root");
            // Addresses are used at once.
            write("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
            Self::current()
        })
        .join()
        .unwrap()
    }

    fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let netns = self.clone();
        std::thread::spawn(move || {
            process::setns(netns.0.as_fd(), process::NEWNET).unwrap();
            work()
        })
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.spawn(work).join().unwrap()
    }

    fn sh(&self, line: &str) -> String {
        let line = line.to_owned();
        self.run(move || sh(&line))
    }
}

fn sh(line: &str) -> String {
    let out = Command::new("sh").args(["-ec", line]).output().unwrap();
    assert!(out.status.success(), "{line}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn write(path: &str, value: &str) {
    std::fs::write(path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text}"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// Number 1 is the host's address (the gateway).
fn address(family: Family, network: u8, number: u8) -> IpAddr {
    match family {
        Family::V4 => ip(&format!("10.99.{network}.{number}")),
        Family::V6 => ip(&format!("fd99:{network}::{number}")),
    }
}

const BOTH: [Family; 2] = [Family::V4, Family::V6];

fn prefix(address: IpAddr) -> u8 {
    if address.is_ipv4() { 24 } else { 64 }
}

/// A host with bridges and a neighbour; the calling thread is in it.
struct Host {
    neighbour: Netns,
    here: Netns,
    bridge_filter: bool,
}

/// The network whose containers are kept apart.
const APART: u8 = 4;
/// The network between the host (1) and its neighbour (2).
const OUTSIDE: u8 = 200;

impl Host {
    /// Moves the calling thread into a new host, which forwards. Its neighbour routes everything
    /// to it.
    fn enter(bridge_filter: bool) -> Self {
        let here = Netns::new();
        process::setns(here.0.as_fd(), process::NEWNET).unwrap();
        let on = if bridge_filter { "1" } else { "0" };
        for name in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
            let path = format!("/proc/sys/net/bridge/{name}");
            if std::fs::exists(&path).unwrap() {
                write(&path, on);
            }
        }
        Socket::open(SocketKind::Route).unwrap().set_up(1).unwrap();
        write("/proc/sys/net/ipv4/ip_forward", "1");
        write("/proc/sys/net/ipv6/conf/all/forwarding", "1");
        let host = Self { neighbour: Netns::new(), here, bridge_filter };
        host.link("out", &host.neighbour, OUTSIDE);
        host
    }

    /// Joins another host by a pair of interfaces with the same name on both sides.
    fn link(&self, name: &str, other: &Netns, network: u8) {
        let holder = other.spawn(|| {
            let mut child = Command::new("sleep").arg("60").spawn().unwrap();
            let pid = child.id();
            (pid, move || {
                child.kill().unwrap();
                child.wait().unwrap();
            })
        });
        let (pid, mut end) = holder.join().unwrap();
        sh(&format!("ip link add {name} type veth peer name {name} netns {pid}"));
        end();
        let both = BOTH.map(|family| (address(family, network, 1), address(family, network, 2)));
        configure(name, &both.map(|(here, _)| here), &[]);
        let name = name.to_owned();
        other.run(move || {
            configure(&name, &both.map(|(_, there)| there), &both.map(|(here, _)| here));
        });
    }

    fn bridge(&self, name: &str, network: u8) {
        let mut route = Socket::open(SocketKind::Route).unwrap();
        route.create_bridge(name, [2, 0x99, 0, 0, 0, network], 1500).unwrap();
        configure(name, &BOTH.map(|family| address(family, network, 1)), &[]);
        write(&format!("/proc/sys/net/ipv4/conf/{name}/route_localnet"), "1");
    }

    fn container(&self, bridge: &str, network: u8, number: u8) -> Netns {
        let netns = Netns::new();
        let mut route = Socket::open(SocketKind::Route).unwrap();
        let index = route.link(bridge).unwrap().unwrap().index;
        route
            .create_veth(&Veth {
                name: &format!("v{network}-{number}"),
                bridge: index,
                peer: "eth0",
                peer_mac: [2, 0x42, 0, 0, network, number],
                netns: netns.0.as_fd(),
                mtu: 1500,
                // Where br_netfilter is on, our chains decide within a bridge as well; a port that
                // was isolated then would not even reach published ports of its network.
                isolated: network == APART && !self.bridge_filter,
                hairpin: true,
            })
            .unwrap();
        netns.run(move || {
            Socket::open(SocketKind::Route).unwrap().set_up(1).unwrap();
            configure(
                "eth0",
                &BOTH.map(|family| address(family, network, number)),
                &BOTH.map(|family| address(family, network, 1)),
            );
        });
        netns
    }
}

fn configure(name: &str, addresses: &[IpAddr], gateways: &[IpAddr]) {
    let mut route = Socket::open(SocketKind::Route).unwrap();
    let index = route.link(name).unwrap().unwrap().index;
    let addresses = addresses.iter().map(|address| (*address, prefix(*address))).collect();
    let routes: Vec<Route> = gateways
        .iter()
        .map(|gateway| Route { destination: None, gateway: Some(*gateway), index })
        .collect();
    route.configure(false, &[Interface { index, addresses }], &routes).unwrap();
}

/// Answers on a port, over TCP and UDP, with the address of whoever asks.
struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(netns: &Netns, port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (tcp, udp) = netns.run(move || {
            let tcp = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
            tcp.set_nonblocking(true).unwrap();
            let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
            udp.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            (tcp, udp)
        });
        let (one, two) = (stop.clone(), stop.clone());
        let tcp = std::thread::spawn(move || {
            while !one.load(Ordering::Relaxed) {
                match tcp.accept() {
                    Ok((mut stream, peer)) => {
                        let _ = stream.write_all(peer.ip().to_canonical().to_string().as_bytes());
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(5)),
                }
            }
        });
        let udp = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while !two.load(Ordering::Relaxed) {
                if let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                    let text = peer.ip().to_canonical().to_string();
                    let _ = udp.send_to(text.as_bytes(), peer);
                }
            }
        });
        Self { stop, threads: vec![tcp, udp] }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// For what answers, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);
/// For what never will.
const BRIEF: Duration = Duration::from_millis(300);

/// Whom the server saw, asked over a protocol from a namespace.
fn ask(netns: &Netns, protocol: Protocol, address: IpAddr, port: u16) -> Option<IpAddr> {
    netns.run(move || ask_here(protocol, SocketAddr::new(address, port), PATIENCE))
}

/// The same, where no answer is expected.
fn brief(netns: &Netns, protocol: Protocol, address: IpAddr, port: u16) -> Option<IpAddr> {
    netns.run(move || ask_here(protocol, SocketAddr::new(address, port), BRIEF))
}

fn ask_here(protocol: Protocol, to: SocketAddr, patience: Duration) -> Option<IpAddr> {
    let mut text = String::new();
    if protocol == Protocol::Tcp {
        let mut stream = TcpStream::connect_timeout(&to, patience).ok()?;
        stream.set_read_timeout(Some(patience)).unwrap();
        stream.read_to_string(&mut text).ok()?;
    } else {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        // Not connected: a refusal by a stranger is not an answer.
        socket.connect(to).ok()?;
        socket.send(b"who").ok()?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).ok()?;
        text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    text.parse().ok()
}

fn rules(interface: &str) -> BridgeRules {
    BridgeRules {
        interface: interface.into(),
        icc: true,
        internal: false,
        masquerade4: Masquerade::Yes,
        masquerade6: Masquerade::Yes,
        mode4: GatewayMode::Nat,
        mode6: GatewayMode::Nat,
        trusted: Vec::new(),
    }
}

/// Both protocols of a port.
fn publish(host: IpAddr, port: u16, interface: &str, target: IpAddr, to: u16) -> Vec<Publication> {
    [Protocol::Tcp, Protocol::Udp]
        .map(|protocol| Publication {
            protocol,
            host_ip: host,
            host_port: port,
            target: SocketAddr::new(target, to),
            interface: interface.into(),
            mode: GatewayMode::Nat,
        })
        .to_vec()
}

fn any(family: Family) -> IpAddr {
    ip(if family == Family::V4 { "0.0.0.0" } else { "::" })
}

/// Runs in a host of its own, with br_netfilter and without.
fn on_a_host(test: impl Fn(&Host) + Send + Sync + 'static) {
    let test = Arc::new(test);
    let hosts = [false, true].map(|bridge_filter| {
        let test = test.clone();
        std::thread::spawn(move || test(&Host::enter(bridge_filter)))
    });
    for host in hosts {
        host.join().unwrap();
    }
}

#[test]
fn who_reaches_whom() {
    on_a_host(|host| {
        for (name, network) in [("br-a", 1), ("br-b", 2), ("br-i", 3), ("br-n", APART)] {
            host.bridge(name, network);
        }
        let mut firewall = Firewall::open().unwrap();
        let bridges = vec![
            rules("br-a"),
            rules("br-b"),
            BridgeRules { internal: true, ..rules("br-i") },
            BridgeRules { icc: false, ..rules("br-n") },
        ];
        let mut publications = Vec::new();
        for family in BOTH {
            publications.extend(publish(any(family), 8080, "br-a", address(family, 1, 2), 80));
            publications.extend(publish(any(family), 9090, "br-n", address(family, 4, 3), 80));
            // On one address of the host.
            let one = address(family, OUTSIDE, 1);
            publications.extend(publish(one, 7070, "br-b", address(family, 2, 2), 80));
        }
        publications.extend(publish(ip("127.0.0.1"), 6060, "br-a", address(Family::V4, 1, 2), 80));
        firewall.install(Closed::default(), bridges, publications).unwrap();

        let a1 = host.container("br-a", 1, 2);
        let a2 = host.container("br-a", 1, 3);
        let b1 = host.container("br-b", 2, 2);
        let i1 = host.container("br-i", 3, 2);
        let i2 = host.container("br-i", 3, 3);
        let n1 = host.container("br-n", 4, 2);
        let n2 = host.container("br-n", 4, 3);
        let out = host.neighbour.clone();
        let servers =
            [&a1, &a2, &b1, &i1, &i2, &n1, &n2, &out].map(|netns| Server::start(netns, 80));
        for family in BOTH {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let asked = |who: &Netns, network, number, port| {
                    ask(who, protocol, address(family, network, number), port)
                };
                let brief = |who: &Netns, network, number, port| {
                    brief(who, protocol, address(family, network, number), port)
                };
                let told = |network, number| Some(address(family, network, number));
                let case = format!("{family:?} {protocol:?}");
                // Within a network: as themselves.
                assert_eq!(asked(&a1, 1, 3, 80), told(1, 2), "{case}");
                assert_eq!(asked(&i1, 3, 3, 80), told(3, 2), "{case}");
                // The host reaches all.
                for network in [1, 2, 3, 4] {
                    assert_eq!(asked(&host.here, network, 2, 80), told(network, 1), "{case}");
                }
                // From outside by published ports, as themselves.
                assert_eq!(asked(&out, OUTSIDE, 1, 8080), told(OUTSIDE, 2), "{case}");
                assert_eq!(asked(&out, OUTSIDE, 1, 7070), told(OUTSIDE, 2), "{case}");
                assert_eq!(asked(&out, 1, 1, 8080), told(OUTSIDE, 2), "{case}");
                assert_eq!(brief(&out, 1, 1, 7070), None, "{case}: not that address");
                // From the host to its own addresses.
                assert!(asked(&host.here, OUTSIDE, 1, 8080).is_some(), "{case}");
                assert!(asked(&host.here, 2, 1, 8080).is_some(), "{case}");
                assert!(asked(&host.here, OUTSIDE, 1, 7070).is_some(), "{case}");
                if family == Family::V4 {
                    for port in [8080, 6060] {
                        let seen = ask(&host.here, protocol, ip("127.0.0.1"), port);
                        assert_eq!(seen, told(1, 1), "{case}: {port}");
                    }
                    assert_eq!(brief(&out, OUTSIDE, 1, 6060), None, "{case}");
                }
                // From containers to published ports, of themselves as well.
                for (who, network) in [(&a1, 1), (&a2, 1), (&b1, 2), (&n1, 4), (&n2, 4)] {
                    for port in [8080, 9090] {
                        let seen = asked(who, network, 1, port);
                        assert!(seen.is_some(), "{case}: {network} by its gateway to {port}");
                        let seen = asked(who, OUTSIDE, 1, port);
                        assert!(seen.is_some(), "{case}: {network} by another address to {port}");
                    }
                    assert!(asked(who, OUTSIDE, 1, 7070).is_some(), "{case}: {network}");
                }
                // To outside, as the host.
                assert_eq!(asked(&a1, OUTSIDE, 2, 80), told(OUTSIDE, 1), "{case}");
                // What must not be.
                for (who, network) in [(&b1, 1), (&out, 1), (&out, 3), (&a1, 3), (&i1, 1)] {
                    assert_eq!(brief(who, network, 2, 80), None, "{case}: into {network}");
                }
                assert_eq!(brief(&n1, 4, 3, 80), None, "{case}: apart");
                assert_eq!(brief(&i1, OUTSIDE, 2, 80), None, "{case}: internal to outside");
                for (network, port) in [(3, 8080), (OUTSIDE, 8080), (OUTSIDE, 7070)] {
                    let seen = brief(&i1, network, 1, port);
                    assert_eq!(seen, None, "{case}: internal to a published port");
                }
            }
        }
        drop(servers);
        firewall.remove().unwrap();
    });
}

#[test]
fn as_whom_and_how_directly() {
    on_a_host(|host| {
        for (name, network) in [("br-a", 1), ("br-r", 2), ("br-u", 3), ("br-t", 5)] {
            host.bridge(name, network);
        }
        // A second address of the host, to talk as.
        let other = [ip("10.99.200.77"), ip("fd99:200::77")];
        configure("out", &other, &[]);
        let mut firewall = Firewall::open().unwrap();
        let bridges = vec![
            BridgeRules {
                masquerade4: Masquerade::To(other[0]),
                masquerade6: Masquerade::To(other[1]),
                ..rules("br-a")
            },
            BridgeRules {
                masquerade4: Masquerade::No,
                masquerade6: Masquerade::No,
                mode4: GatewayMode::Routed,
                mode6: GatewayMode::Routed,
                ..rules("br-r")
            },
            BridgeRules {
                mode4: GatewayMode::NatUnprotected,
                mode6: GatewayMode::NatUnprotected,
                ..rules("br-u")
            },
            BridgeRules { trusted: vec!["out".into()], ..rules("br-t") },
        ];
        firewall.install(Closed::default(), bridges, Vec::new()).unwrap();
        let a1 = host.container("br-a", 1, 2);
        let r1 = host.container("br-r", 2, 2);
        let u1 = host.container("br-u", 3, 2);
        let t1 = host.container("br-t", 5, 2);
        let out = host.neighbour.clone();
        let mut servers: Vec<_> =
            [&a1, &r1, &u1, &t1, &out].map(|netns| Server::start(netns, 80)).into();
        servers.push(Server::start(&r1, 81));
        for family in BOTH {
            let mut published = publish(any(family), 9999, "br-r", address(family, 2, 2), 81);
            // Twice the same target: it stays open until both are gone.
            published.extend(publish(any(family), 9998, "br-r", address(family, 2, 2), 81));
            for one in &mut published {
                one.mode = GatewayMode::Routed;
            }
            firewall.publish(&published).unwrap();
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let case = format!("{family:?} {protocol:?}");
                let asked = |who: &Netns, network, number, port| {
                    ask(who, protocol, address(family, network, number), port)
                };
                let brief = |who: &Netns, network, number, port| {
                    brief(who, protocol, address(family, network, number), port)
                };
                let v6 = usize::from(family == Family::V6);
                assert_eq!(asked(&a1, OUTSIDE, 2, 80), Some(other[v6]), "{case}");
                assert_eq!(asked(&r1, OUTSIDE, 2, 80), Some(address(family, 2, 2)), "{case}");
                // As whichever address the kernel prefers of those that the interface has.
                let host = [address(family, OUTSIDE, 1), other[v6]];
                assert!(asked(&u1, OUTSIDE, 2, 80).is_some_and(|seen| host.contains(&seen)));
                // Directly from outside: what is published, everything, everything; nothing.
                let client = Some(address(family, OUTSIDE, 2));
                assert_eq!(asked(&out, 2, 2, 81), client, "{case}");
                assert_eq!(brief(&out, 2, 2, 80), None, "{case}");
                assert_eq!(brief(&out, OUTSIDE, 1, 9999), None, "{case}: no port of the host");
                assert_eq!(asked(&out, 3, 2, 80), client, "{case}");
                assert_eq!(asked(&out, 5, 2, 80), client, "{case}");
                assert_eq!(brief(&out, 1, 2, 80), None, "{case}");
                // But not from our other networks, unless it is published.
                assert_eq!(brief(&a1, 3, 2, 80), None, "{case}");
                assert_eq!(brief(&a1, 5, 2, 80), None, "{case}");
                assert!(asked(&a1, 2, 2, 81).is_some(), "{case}");
            }
            let ping = |to: IpAddr| {
                let line =
                    format!("busybox ping -c1 -W1 {to} >/dev/null 2>&1 && echo yes || echo no");
                out.sh(&line).trim() == "yes"
            };
            assert!(ping(address(family, 2, 2)));
            assert!(!ping(address(family, 1, 2)));
            let target = address(family, 2, 2);
            firewall.withdraw(&published[..2]).unwrap();
            assert!(ask(&out, Protocol::Tcp, target, 81).is_some());
            firewall.withdraw(&published[2..]).unwrap();
            assert_eq!(brief(&out, Protocol::Tcp, target, 81), None);
            // Rules of a network that change take effect at once.
            let before = rules("br-u");
            firewall.add_bridge(before).unwrap();
            assert_eq!(brief(&out, Protocol::Tcp, address(family, 3, 2), 80), None);
            let again = BridgeRules {
                mode4: GatewayMode::NatUnprotected,
                mode6: GatewayMode::NatUnprotected,
                ..rules("br-u")
            };
            firewall.add_bridge(again).unwrap();
            assert!(ask(&out, Protocol::Tcp, address(family, 3, 2), 80).is_some());
        }
        drop(servers);
    });
}

#[test]
fn the_host_does_not_become_a_router() {
    on_a_host(|host| {
        host.bridge("br-a", 1);
        let other = Netns::new();
        host.link("in", &other, 201);
        let a1 = host.container("br-a", 1, 2);
        let out = host.neighbour.clone();
        let _servers = [&a1, &out].map(|netns| Server::start(netns, 80));
        let mut firewall = Firewall::open().unwrap();
        // Somebody else's bridge.
        host.bridge("virbr0", 202);
        let [f1, f2] = [2, 3].map(|number| host.container("virbr0", 202, number));
        let _theirs = Server::start(&f2, 80);
        let through = |family, open: bool| {
            let ask = if open { ask } else { brief };
            ask(&other, Protocol::Tcp, address(family, OUTSIDE, 2), 80)
        };
        firewall.install(Closed::default(), vec![rules("br-a")], Vec::new()).unwrap();
        for (v4, v6) in [(false, false), (true, false), (true, true), (false, true)] {
            firewall.set_closed(Closed { v4, v6 }).unwrap();
            // Neighbours are found anew, by the host and by those that look for it.
            for netns in [&host.here, &host.neighbour, &other] {
                netns.sh("ip -6 neigh flush all; ip neigh flush all");
            }
            assert_eq!(through(Family::V4, !v4).is_some(), !v4);
            assert_eq!(through(Family::V6, !v6).is_some(), !v6);
            for family in BOTH {
                let seen = ask(&a1, Protocol::Tcp, address(family, OUTSIDE, 2), 80);
                assert_eq!(seen, Some(address(family, OUTSIDE, 1)));
                // Within a bridge of others nothing changes; nor for the host.
                let seen = ask(&f1, Protocol::Tcp, address(family, 202, 3), 80);
                assert_eq!(seen, Some(address(family, 202, 2)));
                assert!(ask(&host.here, Protocol::Tcp, address(family, OUTSIDE, 2), 80).is_some());
            }
        }
    });
}

/// Ports that are published on loopback, and the host's own services there, are not reached from
/// outside, although loopback is routed.
#[test]
fn loopback_is_nobody_elses() {
    on_a_host(|host| {
        host.bridge("br-a", 1);
        let a1 = host.container("br-a", 1, 2);
        let _servers = [Server::start(&a1, 80), Server::start(&host.here, 7777)];
        // The neighbour has no loopback, and believes that 127/8 is ours.
        host.neighbour.sh(
            "echo 1 > /proc/sys/net/ipv4/conf/out/route_localnet; ip route add 127.0.0.0/8 via \
             10.99.200.1 dev out src 10.99.200.2",
        );
        write("/proc/sys/net/ipv4/conf/out/route_localnet", "1");
        let ask = |protocol, port| ask(&host.neighbour, protocol, ip("127.0.0.1"), port);
        let brief = |protocol, port| brief(&host.neighbour, protocol, ip("127.0.0.1"), port);
        assert!(ask(Protocol::Tcp, 7777).is_some(), "the test can do it without our rules");
        let mut firewall = Firewall::open().unwrap();
        let ports = publish(ip("127.0.0.1"), 6060, "br-a", address(Family::V4, 1, 2), 80);
        firewall.install(Closed::default(), vec![rules("br-a")], ports).unwrap();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for port in [6060, 7777] {
                assert_eq!(brief(protocol, port), None, "{protocol:?} {port}");
            }
            assert!(ask_here(protocol, "127.0.0.1:6060".parse().unwrap(), PATIENCE).is_some());
        }
    });
}

#[test]
fn people_have_rules_of_their_own() {
    on_a_host(|host| {
        host.bridge("br-a", 1);
        let a1 = host.container("br-a", 1, 2);
        let out = host.neighbour.clone();
        let _servers = [&a1, &out].map(|netns| Server::start(netns, 80));
        let mut firewall = Firewall::open().unwrap();
        firewall.install(Closed::default(), vec![rules("br-a")], Vec::new()).unwrap();
        for family in BOTH {
            let check = |into: bool, from: bool| {
                for (expected, who, to) in
                    [(into, &out, address(family, 1, 2)), (from, &a1, address(family, OUTSIDE, 2))]
                {
                    let ask = if expected { ask } else { brief };
                    assert_eq!(ask(who, Protocol::Tcp, to, 80).is_some(), expected, "{to}");
                }
            };
            check(false, true);
            sh("nft add rule inet hoy-user forward iifname br-a oifname out drop");
            check(false, false);
            sh("nft flush chain inet hoy-user forward");
            sh(&format!(
                "nft add rule inet hoy-user forward iifname out oifname br-a meta mark set mark or \
                 {ACCEPT_MARK}"
            ));
            check(true, true);
            // Nothing of ours changes it.
            firewall.add_bridge(rules("br-b")).unwrap();
            firewall.install(Closed::default(), vec![rules("br-a")], Vec::new()).unwrap();
            assert!(sh("nft list table inet hoy-user").contains("mark set"));
            sh("nft flush chain inet hoy-user forward");
        }
        firewall.remove().unwrap();
        assert_eq!(sh("nft list tables"), "");
    });
}

/// Sends to an isolated container and to a published port every few milliseconds; how many arrived.
struct Traffic {
    stop: Arc<AtomicBool>,
    leaked: Arc<AtomicUsize>,
    published: Arc<AtomicUsize>,
    lost: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Traffic {
    fn start(host: &Host, a1: &Netns) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let [leaked, published, lost] = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
        let mut threads = Vec::new();
        for family in BOTH {
            let target = SocketAddr::new(address(family, 2, 2), 80);
            let (done, count) = (stop.clone(), leaked.clone());
            threads.push(a1.spawn(move || {
                let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let mut buffer = [0; 64];
                while !done.load(Ordering::Relaxed) {
                    // A new connection each time.
                    let socket = UdpSocket::bind(any).unwrap();
                    socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
                    let _ = socket.send_to(b"x", target);
                    if socket.recv(&mut buffer).is_ok() {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }));
            let target = SocketAddr::new(address(family, OUTSIDE, 1), 8080);
            let (done, good, bad) = (stop.clone(), published.clone(), lost.clone());
            threads.push(host.neighbour.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let count = match ask_here(Protocol::Tcp, target, PATIENCE) {
                        Some(_) => &good,
                        None => &bad,
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(10));
                }
            }));
        }
        Self { stop, leaked, published, lost, threads }
    }

    /// Waits until some more connections were served.
    fn go_on(&self) {
        let before = self.published.load(Ordering::Relaxed);
        while self.published.load(Ordering::Relaxed) < before + 10 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }

    fn end(mut self) -> (usize, usize) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        (self.leaked.load(Ordering::Relaxed), self.lost())
    }
}

fn two_networks(host: &Host) -> (Netns, Netns, Vec<Publication>) {
    host.bridge("br-a", 1);
    host.bridge("br-b", 2);
    let a1 = host.container("br-a", 1, 2);
    let b1 = host.container("br-b", 2, 2);
    let ports = BOTH.map(|family| publish(any(family), 8080, "br-b", address(family, 2, 2), 80));
    (a1, b1, ports.concat())
}

/// Whether the kernel lets tables be owned and outlive their owners.
fn kernel_owns(firewall: &Firewall) -> bool {
    firewall.is_owned()
}

#[test]
fn a_flush_changes_nothing_with_the_daemon_and_without() {
    on_a_host(|host| {
        let (a1, b1, ports) = two_networks(host);
        let _server = Server::start(&b1, 80);
        let bridges = vec![rules("br-a"), rules("br-b")];
        let mut firewall = Firewall::open().unwrap();
        firewall.install(Closed::default(), bridges.clone(), ports.clone()).unwrap();
        if !kernel_owns(&firewall) {
            return;
        }
        let firewall = Arc::new(Mutex::new(firewall));
        let theirs = firewall.clone();
        let watcher = Watcher::start(move || theirs.lock().unwrap().repair()).unwrap();
        let traffic = Traffic::start(host, &a1);
        for _ in 0..3 {
            traffic.go_on();
            sh("nft flush ruleset");
        }
        // The daemon dies; somebody keeps its socket.
        let kept = firewall.lock().unwrap().descriptor().try_clone_to_owned().unwrap();
        drop(watcher);
        drop(firewall);
        for _ in 0..3 {
            traffic.go_on();
            sh("nft flush ruleset");
        }
        traffic.go_on();
        let mut stranger = Firewall::open().unwrap();
        let denied = stranger.install(Closed::default(), Vec::new(), Vec::new()).unwrap_err();
        assert!(denied.to_string().contains("another daemon"), "{denied}");
        // The next one takes over.
        let mut firewall = Firewall::open_kept(kept).unwrap();
        firewall.install(Closed::default(), bridges.clone(), ports.clone()).unwrap();
        traffic.go_on();
        sh("nft flush ruleset");
        traffic.go_on();
        assert!(firewall.repair().unwrap(), "people's table is made again");
        assert!(!firewall.repair().unwrap());
        // One that dies while nobody keeps the socket leaves the table to the next one.
        drop(firewall);
        traffic.go_on();
        let mut firewall = Firewall::open().unwrap();
        firewall.install(Closed::default(), bridges, ports).unwrap();
        assert!(firewall.is_owned());
        traffic.go_on();
        assert_eq!(traffic.end(), (0, 0), "leaked, lost");
        assert!(sh("nft list tables").contains("inet hoy-user"));
        let mine = std::process::Command::new("nft")
            .args(["add", "rule", "inet", "hoy", "forward", "accept"])
            .output()
            .unwrap();
        assert!(!mine.status.success(), "nobody else changes the table");
    });
}

#[test]
fn without_an_owner_it_is_put_back() {
    on_a_host(|host| {
        let (a1, b1, ports) = two_networks(host);
        let _server = Server::start(&b1, 80);
        let mut firewall = Firewall::open_without_owner().unwrap();
        firewall
            .install(Closed::default(), vec![rules("br-a"), rules("br-b")], ports.clone())
            .unwrap();
        assert!(!firewall.is_owned());
        let repaired = Arc::new(AtomicUsize::new(0));
        let firewall = Arc::new(Mutex::new(firewall));
        let (theirs, count) = (firewall.clone(), repaired.clone());
        let watcher = Watcher::start(move || {
            let done = theirs.lock().unwrap().repair()?;
            count.fetch_add(usize::from(done), Ordering::Relaxed);
            Ok(done)
        })
        .unwrap();
        let traffic = Traffic::start(host, &a1);
        traffic.go_on();
        let whole = sh("nft list table inet hoy");
        for (number, damage) in [
            "flush ruleset",
            "delete table inet hoy",
            "flush chain inet hoy forward",
            "insert rule inet hoy forward accept",
            "delete element inet hoy bridges { br-a }",
            "flush map inet hoy ports4-any",
            "delete table inet hoy-user",
        ]
        .into_iter()
        .enumerate()
        {
            traffic.go_on();
            sh(&format!("nft '{damage}'"));
            while repaired.load(Ordering::Relaxed) <= number {
                std::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(sh("nft list table inet hoy"), whole, "{damage}");
            assert!(sh("nft list tables").contains("inet hoy-user"), "{damage}");
        }
        // Changes of our own and of other tables are no damage.
        for one in &ports {
            firewall.lock().unwrap().withdraw(std::slice::from_ref(one)).unwrap();
            firewall.lock().unwrap().publish(std::slice::from_ref(one)).unwrap();
        }
        sh("nft 'add table ip other; add chain ip other c'");
        firewall.lock().unwrap().repair().unwrap();
        assert_eq!(repaired.load(Ordering::Relaxed), 7);
        // A change that finds nothing puts everything back.
        drop(watcher);
        sh("nft flush ruleset");
        firewall.lock().unwrap().withdraw(&ports[..1]).unwrap();
        firewall.lock().unwrap().publish(&ports[..1]).unwrap();
        assert_eq!(sh("nft list table inet hoy"), whole);
        traffic.go_on();
        traffic.end();
    });
}

/// How many elements a set has.
fn elements(set: &str) -> usize {
    let mut nft = Socket::open(SocketKind::Netfilter).unwrap();
    nft.nft_count(hoy_netlink::nft::Family::Inet, "hoy", set).unwrap()
}

#[test]
fn twenty_thousand_ports_at_once() {
    on_a_host(|host| {
        host.bridge("br-a", 1);
        let a1 = host.container("br-a", 1, 2);
        let mut firewall = Firewall::open().unwrap();
        firewall.install(Closed::default(), vec![rules("br-a")], Vec::new()).unwrap();
        let rules = || {
            let mut nft = Socket::open(SocketKind::Netfilter).unwrap();
            nft.nft_rules(hoy_netlink::nft::Family::Inet, "hoy").unwrap()
        };
        let before = rules();
        let _server = Server::start(&a1, 39_999);
        for (family, map) in [(Family::V4, "ports4-any"), (Family::V6, "ports6-any")] {
            let publication = |protocol, port| Publication {
                protocol,
                host_ip: any(family),
                host_port: port,
                target: SocketAddr::new(address(family, 1, 2), port),
                interface: "br-a".into(),
                mode: GatewayMode::Nat,
            };
            let all: Vec<_> =
                (20_000..40_000).map(|port| publication(Protocol::Tcp, port)).collect();
            firewall.publish(&all).unwrap();
            assert_eq!(elements(map), 20_000);
            let last = ask(&host.neighbour, Protocol::Tcp, address(family, OUTSIDE, 1), 39_999);
            assert_eq!(last, Some(address(family, OUTSIDE, 2)));
            // All or none: a target that changes, and one that cannot be.
            let mut changed = all[7].clone();
            changed.target.set_port(1);
            firewall.publish(&[changed.clone()]).unwrap();
            assert_eq!(elements(map), 20_000);
            firewall.withdraw(&all[7..8]).unwrap();
            assert_eq!(elements(map), 20_000, "it is another one by now");
            firewall.withdraw(&[changed]).unwrap();
            assert_eq!(elements(map), 19_999);
            firewall.publish(&[publication(Protocol::Sctp, 20_007)]).unwrap();
            assert_eq!(elements(map), 20_000);
        }
        assert_eq!(rules(), before, "not one rule more");
        for (family, map) in [(Family::V4, "ports4-any"), (Family::V6, "ports6-any")] {
            let all: Vec<_> = (20_000..40_000)
                .map(|port| Publication {
                    protocol: Protocol::Tcp,
                    host_ip: any(family),
                    host_port: port,
                    target: SocketAddr::new(address(family, 1, 2), port),
                    interface: "br-a".into(),
                    mode: GatewayMode::Nat,
                })
                .collect();
            firewall.withdraw(&all).unwrap();
            assert_eq!(elements(map), 1);
        }
    });
}

/// What the keeper publishes in userspace is out of reach for internal networks.
#[test]
fn internal_networks_do_not_reach_the_keeper() {
    on_a_host(|host| {
        host.bridge("br-a", 1);
        host.bridge("br-i", 3);
        let a1 = host.container("br-a", 1, 2);
        let i1 = host.container("br-i", 3, 2);
        let mut firewall = Firewall::open().unwrap();
        let bridges = vec![rules("br-a"), BridgeRules { internal: true, ..rules("br-i") }];
        let kept = publish(any(Family::V6), 8080, "br-a", address(Family::V4, 1, 2), 80);
        firewall.install(Closed::default(), bridges, kept.clone()).unwrap();
        // It stands for the keeper.
        let _server = [Server::start(&host.here, 8080), Server::start(&host.here, 8081)];
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let asked = |who, network, port| {
                ask(who, protocol, address(Family::V6, network, 1), port).is_some()
            };
            assert!(asked(&a1, 1, 8080));
            assert_eq!(brief(&i1, protocol, address(Family::V6, 3, 1), 8080), None);
            assert!(asked(&i1, 3, 8081), "a service of the host's own");
        }
        firewall.withdraw(&kept).unwrap();
        assert!(ask(&i1, Protocol::Tcp, address(Family::V6, 3, 1), 8080).is_some());
    });
}

#[test]
fn other_firewalls_are_seen_and_asked_only_on_request() {
    on_a_host(|host| {
        host.bridge("br-a", 1);
        let a1 = host.container("br-a", 1, 2);
        let out = host.neighbour.clone();
        let _servers = [&a1, &out].map(|netns| Server::start(netns, 80));
        let mut firewall = Firewall::open().unwrap();
        let ports =
            BOTH.map(|family| publish(any(family), 8080, "br-a", address(family, 1, 2), 80));
        firewall.install(Closed::default(), vec![rules("br-a")], ports.concat()).unwrap();
        let nft_only = |found: Vec<foreign::Obstacle>| -> Vec<foreign::Obstacle> {
            found.into_iter().filter(|one| one.suspect != Suspect::LegacyIptables).collect()
        };
        let detect = || nft_only(foreign::detect().unwrap());
        assert_eq!(detect(), []);
        let works = |expected: [bool; 2]| {
            for (family, expected) in BOTH.into_iter().zip(expected) {
                let ask = if expected { ask } else { brief };
                let into = ask(&out, Protocol::Tcp, address(family, OUTSIDE, 1), 8080);
                let from = ask(&a1, Protocol::Tcp, address(family, OUTSIDE, 2), 80);
                assert_eq!((into.is_some(), from.is_some()), (expected, expected), "{family:?}");
            }
        };
        works([true, true]);
        let forward = "{ type filter hook forward priority 0; policy drop; }";
        for (rules, suspect, blocked, word) in [
            (
                format!(
                    "add table ip filter; add chain ip filter FORWARD {forward}; add chain ip \
                     filter ufw-before-forward"
                ),
                Suspect::Ufw,
                [false, true],
                "ufw route allow in on br-a",
            ),
            (
                format!(
                    "add table ip6 filter; add chain ip6 filter FORWARD {forward}; add chain ip6 \
                     filter DOCKER-USER"
                ),
                Suspect::Docker,
                [true, false],
                "ip6tables -I DOCKER-USER -i br-a -j ACCEPT",
            ),
            (
                format!("add table ip filter; add chain ip filter FORWARD {forward}"),
                Suspect::Iptables,
                [false, true],
                "iptables -I FORWARD -o br-a -j ACCEPT",
            ),
            (
                format!("add table inet mine; add chain inet mine c {forward}"),
                Suspect::Other,
                [false, false],
                "nft insert rule inet mine c iifname br-a accept",
            ),
            (
                "add table inet firewalld; add chain inet firewalld filter_FORWARD { type filter \
                 hook forward priority 10; policy accept; }; add rule inet firewalld \
                 filter_FORWARD reject with icmpx admin-prohibited"
                    .to_owned(),
                Suspect::Firewalld,
                [false, false],
                "--add-interface=br-a",
            ),
        ] {
            sh(&format!("nft '{rules}'"));
            let found = detect();
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!((found[0].suspect, found[0].allowed.len()), (suspect, 0));
            assert!(found[0].message("br-a").contains(word), "{}", found[0].message("br-a"));
            works(blocked);
            let before = sh("nft list ruleset");
            for _ in 0..2 {
                let refused = foreign::allow(&["br-a".into(), "br-b".into()]).unwrap();
                assert!(refused.is_empty(), "{refused:?}");
                let marked = sh("nft list ruleset").matches("comment \"hoy: ").count();
                assert_eq!(marked, 4);
            }
            works([true, true]);
            assert!(detect()[0].allowed.contains("br-b"));
            foreign::allow(&["br-a".into()]).unwrap();
            assert_eq!(detect()[0].allowed.iter().collect::<Vec<_>>(), ["br-a"]);
            assert!(foreign::take_back().unwrap().is_empty());
            assert_eq!(sh("nft list ruleset"), before, "as it was");
            let (family, table) = (found[0].family, &found[0].table);
            sh(&format!("nft delete table {family} {table}"));
        }
        // By the real iptables, which goes on understanding its own table.
        let iptables = "iptables-nft";
        if Command::new(iptables).arg("--version").output().is_ok() {
            sh(&format!("{iptables} -P FORWARD DROP"));
            assert_eq!(detect()[0].suspect, Suspect::Iptables);
            works([false, true]);
            foreign::allow(&["br-a".into()]).unwrap();
            works([true, true]);
            let listed = sh(&format!("{iptables} -S FORWARD"));
            assert!(listed.contains("-i br-a") && listed.contains("-o br-a"), "{listed}");
            // The policy was changed meanwhile: ours go all the same.
            sh(&format!("{iptables} -P FORWARD ACCEPT"));
            foreign::take_back().unwrap();
            assert_eq!(sh(&format!("{iptables} -S FORWARD")).trim(), "-P FORWARD ACCEPT");
        }
    });
}

/// One socket that never rests: it goes where its port is published now.
#[test]
fn flows_of_udp_follow_their_port() {
    on_a_host(|host| {
        host.bridge("br-a", 1);
        let [a1, a2] = [2, 3].map(|number| host.container("br-a", 1, number));
        let mut firewall = Firewall::open().unwrap();
        firewall.install(Closed::default(), vec![rules("br-a")], Vec::new()).unwrap();
        for family in BOTH {
            let to = SocketAddr::new(address(family, OUTSIDE, 1), 8080);
            let client = host.neighbour.run(move || {
                let own = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                UdpSocket::bind(own).unwrap()
            });
            let asked = |patience| {
                client.set_read_timeout(Some(patience)).unwrap();
                client.send_to(b"x", to).unwrap();
                client.recv_from(&mut [0; 64]).is_ok()
            };
            assert!(!asked(BRIEF));
            for (netns, number) in [(&a1, 2), (&a2, 3)] {
                let server = Server::start(netns, 80);
                let ports = publish(any(family), 8080, "br-a", address(family, 1, number), 80);
                firewall.publish(&ports).unwrap().forget().unwrap();
                assert!(asked(PATIENCE), "{family:?} {number}");
                if number == 2 {
                    drop(server);
                    firewall.withdraw(&ports).unwrap().forget().unwrap();
                    assert!(!asked(BRIEF));
                } else {
                    // The container's address is given to another one: nothing is left of it.
                    firewall.withdraw(&ports).unwrap().forget().unwrap();
                    let mut nft = Socket::open(SocketKind::Netfilter).unwrap();
                    let stale = hoy_netlink::conntrack::Stale::AnsweredBy(address(family, 1, 3));
                    assert_eq!(nft.forget(&[stale]).unwrap(), 0);
                }
            }
        }
    });
}

/// What an independent program reads out of the kernel is what was meant.
#[test]
fn nft_reads_what_was_meant() {
    on_a_host(|_| {
        let mut firewall = Firewall::open().unwrap();
        let bridges = vec![
            BridgeRules { icc: false, trusted: vec!["wg0".into()], ..rules("br-a") },
            BridgeRules {
                internal: true,
                masquerade6: Masquerade::To(ip("fd00::9")),
                ..rules("br-b")
            },
        ];
        let mut ports = Vec::new();
        for (host, target) in [
            ("0.0.0.0", "10.0.0.2"),
            ("127.0.0.1", "10.0.0.2"),
            ("::", "fd00::2"),
            ("fd07::1", "fd00::2"),
            ("::1", "fd00::2"),
        ] {
            ports.extend(publish(ip(host), 80, "br-a", ip(target), 8080));
        }
        firewall.install(Closed { v4: true, v6: false }, bridges, ports).unwrap();
        let squeezed = |what: &str| {
            let text = sh(&format!("nft list {what}"));
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        for (what, texts) in [
            ("map inet hoy ports4", &["127.0.0.1 . tcp . 80 : 10.0.0.2 . 8080"][..]),
            ("map inet hoy ports4-any", &["udp . 80 : 10.0.0.2 . 8080"]),
            ("map inet hoy ports6", &["fd07::1 . tcp . 80 : fd00::2 . 8080"]),
            ("map inet hoy ports6-any", &["udp . 80 : fd00::2 . 8080"]),
            ("set inet hoy kept", &["tcp . 80"]),
            ("set inet hoy bridges", &["\"br-a\"", "\"br-b\""]),
            ("set inet hoy internal", &["elements = { \"br-b\" }"]),
            (
                "map inet hoy within",
                &["\"br-a\" . \"br-a\" : goto apart", "\"br-b\" . \"br-b\" : accept"],
            ),
            ("set inet hoy trusted", &["\"wg0\" . \"br-a\""]),
            ("map inet hoy snat6", &["\"br-b\" : fd00::9"]),
            ("set inet hoy masquerade6", &["elements = { \"br-a\" }"]),
            (
                "chain inet hoy forward",
                &[
                    "iifname . oifname vmap @within iifname @internal drop oifname @internal drop \
                     oifname != @bridges accept ct state established,related accept ct status dnat \
                     accept",
                    "drop }",
                ],
            ),
            ("chain inet hoy strangers", &["meta nfproto ipv4 drop }"]),
        ] {
            let listed = squeezed(what);
            for text in texts {
                assert!(listed.contains(text), "{text}: {listed}");
            }
        }
    });
}
