//! The firewall on the real kernel: several hosts, networks and containers as network namespaces of
//! the test's own, joined by pairs of interfaces; real packets, both families, with and without
//! the kernel's br_netfilter; `nft` says what is installed.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use hoy_netlink::route::{Interface, Route, Veth};
use hoy_netlink::{Socket, SocketKind};
use hoy_network::{BridgeRules, Closed, Firewall, GatewayMode, Masquerade, Publication};
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

/// Long enough for what answers, short enough for what never will.
const PATIENCE: Duration = Duration::from_millis(400);

/// Whom the server saw, asked over a protocol from a namespace.
fn ask(netns: &Netns, protocol: Protocol, address: IpAddr, port: u16) -> Option<IpAddr> {
    netns.run(move || ask_here(protocol, SocketAddr::new(address, port)))
}

fn ask_here(protocol: Protocol, to: SocketAddr) -> Option<IpAddr> {
    let mut text = String::new();
    if protocol == Protocol::Tcp {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.read_to_string(&mut text).ok()?;
    } else {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
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
    for bridge_filter in [false, true] {
        let test = test.clone();
        std::thread::spawn(move || test(&Host::enter(bridge_filter))).join().unwrap();
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
                assert_eq!(asked(&out, 1, 1, 7070), None, "{case}: not that address");
                // From the host to its own addresses.
                assert!(asked(&host.here, OUTSIDE, 1, 8080).is_some(), "{case}");
                assert!(asked(&host.here, 2, 1, 8080).is_some(), "{case}");
                assert!(asked(&host.here, OUTSIDE, 1, 7070).is_some(), "{case}");
                if family == Family::V4 {
                    for port in [8080, 6060] {
                        let seen = ask(&host.here, protocol, ip("127.0.0.1"), port);
                        assert_eq!(seen, told(1, 1), "{case}: {port}");
                    }
                    assert_eq!(asked(&out, OUTSIDE, 1, 6060), None, "{case}");
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
                    assert_eq!(asked(who, network, 2, 80), None, "{case}: into {network}");
                }
                assert_eq!(asked(&n1, 4, 3, 80), None, "{case}: apart");
                assert_eq!(asked(&i1, OUTSIDE, 2, 80), None, "{case}: internal to outside");
                for (network, port) in [(3, 8080), (OUTSIDE, 8080), (OUTSIDE, 7070)] {
                    let seen = asked(&i1, network, 1, port);
                    assert_eq!(seen, None, "{case}: internal to a published port");
                }
            }
        }
        drop(servers);
        firewall.remove().unwrap();
    });
}
