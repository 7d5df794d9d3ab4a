//! One engine's host: a namespace that is the machine, one that is outside of it, two containers
//! on a network of their own; and the kernel's pair of interfaces, to compare with.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;

use anyhow::{Context as _, Result};

use super::table::{BRIDGED, TRANSLATED, VETH};
use super::traffic::Server;
use crate::account::Account;
use crate::peer::{Engine, Peer};
use crate::place::Place;

/// Where a server listens inside.
pub const INSIDE: u16 = 7001;
/// Where the first one is published.
const PUBLISHED: u16 = 8080;
/// The machine's address, seen from outside, and the outside's own.
pub const MACHINE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const STRANGER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const NETWORK: &str = "bench";
/// The container of a bridge that is made by hand.
const WEB: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// From where and how.
pub const PATHS: [&str; 4] = [
    "container to container",
    "host to published, address",
    "host to published, loopback",
    "outside to published",
];

/// Where a client is, and whom it calls.
pub struct Path4 {
    pub from: File,
    pub to: SocketAddr,
}

/// Who is asked for a name, in which namespace.
pub struct Resolver {
    pub from: File,
    pub server: SocketAddrV4,
}

/// One that is measured.
pub struct Stand {
    pub name: &'static str,
    pub account: Rc<Account>,
    /// As `PATHS`; of the plain pair only one.
    pub paths: Vec<Path4>,
    pub engine: Option<(Engine, Resolver)>,
    _server: Server,
}

const BRIDGE: &str = "\
    echo 1 >/proc/sys/net/ipv4/ip_forward; ip link add br0 type bridge; \
    ip addr add 203.0.113.1/24 dev br0; ip link set br0 up; \
    for i in 2:web 3:ask; do \
        n=NAME-${i#*:}; ip netns add $n; ip link add v${i%:*} type veth peer name eth0 netns $n; \
        ip link set v${i%:*} master br0 up; \
        nsenter --net=/run/netns/$n sh -ec \"ip addr add 203.0.113.${i%:*}/24 dev eth0; \
            ip link set eth0 up; ip route add default via 203.0.113.1\"; \
    done; \
    nsenter --net=/run/netns/outside-NAME ip route add default via 198.51.100.1";

/// The published port, by all that the kernel needs for it.
const RULE: &str = "\
    echo 1 >/proc/sys/net/ipv4/conf/br0/route_localnet; nft 'table ip one { \
        chain in { type nat hook prerouting priority -100; tcp dport 8080 dnat to 203.0.113.2:7001; }; \
        chain own { type nat hook output priority -100; tcp dport 8080 dnat to 203.0.113.2:7001; }; \
        chain out { type nat hook postrouting priority 100; \
            oifname br0 ip saddr 127.0.0.0/8 masquerade; }; }'";

/// What a container is for others.
struct Container {
    netns: File,
    address: Ipv4Addr,
}

impl Stand {
    /// Two containers that see each other, one of them published.
    pub fn of(peer: &Peer) -> Result<Self> {
        let engine = peer.engine().context("a runtime has no networks")?;
        peer.account.enter()?;
        outside(peer.name)?;
        crate::output(&mut engine.command(["network", "create", NETWORK]))?;
        let published = format!("{PUBLISHED}:{INSIDE}");
        for (name, flags) in [("web", &["-p", &published][..]), ("ask", &[])] {
            crate::output(&mut idle(engine, name, &[&["--network", NETWORK], flags].concat()))?;
        }
        let (web, ask) = (container(engine, "web")?, container(engine, "ask")?);
        let server = Server::start(&web.netns, INSIDE)?;
        let conf = ["exec", "ask", "busybox", "cat", "/etc/resolv.conf"];
        let conf = crate::output(&mut engine.command(conf))?;
        let resolver = nameserver(&conf).context("the container has no nameserver")?;
        let host = || named(&format!("bench-{}", peer.name));
        let to = |address: Ipv4Addr, port| SocketAddr::from((address, port));
        let paths = vec![
            Path4 { from: ask.netns.try_clone()?, to: to(web.address, INSIDE) },
            Path4 { from: host()?, to: to(MACHINE, PUBLISHED) },
            Path4 { from: host()?, to: to(Ipv4Addr::LOCALHOST, PUBLISHED) },
            Path4 { from: stranger(peer.name)?, to: to(MACHINE, PUBLISHED) },
        ];
        let resolver = Resolver { from: ask.netns, server: SocketAddrV4::new(resolver, 53) };
        let account = Rc::clone(&peer.account);
        let engine = Some((engine.clone(), resolver));
        Ok(Self { name: peer.name, account, paths, engine, _server: server })
    }

    /// What an engine makes, made by hand and without a single rule: a bridge with two containers,
    /// routed to the outside. What is left between this and an engine is the engine's.
    pub fn bridged(place: &Place) -> Result<Self> {
        let to = SocketAddr::from((WEB, INSIDE));
        Self::by_hand(place, BRIDGED, "bridge", [to; 4], None)
    }

    /// The same with a published port.
    pub fn translated(place: &Place) -> Result<Self> {
        let [web, machine, own] =
            [(WEB, INSIDE), (MACHINE, PUBLISHED), (Ipv4Addr::LOCALHOST, PUBLISHED)]
                .map(SocketAddr::from);
        Self::by_hand(place, TRANSLATED, "rule", [web, machine, own, machine], Some(RULE))
    }

    fn by_hand(
        place: &Place,
        name: &'static str,
        short: &str,
        to: [SocketAddr; 4],
        rule: Option<&str>,
    ) -> Result<Self> {
        let account = Account::open(place, short)?;
        account.enter()?;
        outside(short)?;
        crate::output(Command::new("sh").args(["-ec", &BRIDGE.replace("NAME", short)]))?;
        if let Some(rule) = rule {
            crate::output(Command::new("sh").args(["-ec", rule]))?;
        }
        let server = Server::start(&named(&format!("{short}-web"))?, INSIDE)?;
        let host = format!("bench-{short}");
        let from = [format!("{short}-ask"), host.clone(), host, format!("outside-{short}")];
        let mut paths = Vec::new();
        for (from, to) in from.iter().zip(to) {
            paths.push(Path4 { from: named(from)?, to });
        }
        Ok(Self { name, account: Rc::new(account), paths, engine: None, _server: server })
    }

    /// Two namespaces with nothing between them.
    pub fn plain(place: &Place) -> Result<Self> {
        let account = Account::open(place, "veth")?;
        account.enter()?;
        outside("veth")?;
        let server = Server::start(&named("bench-veth")?, INSIDE)?;
        let to = SocketAddr::new(IpAddr::V4(MACHINE), INSIDE);
        let paths = vec![Path4 { from: stranger("veth")?, to }];
        Ok(Self { name: VETH, account: Rc::new(account), paths, engine: None, _server: server })
    }
}

/// A detached container that does nothing.
pub fn idle(engine: &Engine, name: &str, flags: &[&str]) -> Command {
    let args = [&["-d", "--name", name], flags, &["busybox", "sleep", "100000"]].concat();
    engine.run(&args)
}

/// The namespace of a running container.
pub fn netns(engine: &Engine, name: &str) -> Result<File> {
    container(engine, name).map(|container| container.netns)
}

fn container(engine: &Engine, name: &str) -> Result<Container> {
    const FORMAT: &str = "{{.State.Pid}}{{range .NetworkSettings.Networks}} {{.IPAddress}}{{end}}";
    let text = crate::output(&mut engine.command(["inspect", "-f", FORMAT, name]))?;
    let mut words = text.split_whitespace();
    let pid: u32 = words.next().unwrap_or_default().parse().context("a container's process")?;
    let address = words.next().unwrap_or_default().parse();
    let address = address.with_context(|| format!("{name}'s address in {text:?}"))?;
    let netns = File::open(format!("/proc/{pid}/ns/net"))?;
    Ok(Container { netns, address })
}

fn nameserver(conf: &str) -> Option<Ipv4Addr> {
    conf.lines().find_map(|line| line.strip_prefix("nameserver ")?.trim().parse().ok())
}

fn named(name: &str) -> Result<File> {
    let path = Path::new("/run/netns").join(name);
    File::open(&path).with_context(|| format!("open {}", path.display()))
}

fn stranger(name: &str) -> Result<File> {
    named(&format!("outside-{name}"))
}

/// Another machine on a wire to this namespace.
fn outside(name: &str) -> Result<()> {
    let there = format!("outside-{name}");
    let line = format!(
        "ip netns add {there}; ip link add out0 type veth peer name out1 netns {there}; \
         ip addr add {MACHINE}/24 dev out0; ip link set out0 up; \
         nsenter --net=/run/netns/{there} sh -ec \
         'ip addr add {STRANGER}/24 dev out1; ip link set out1 up; ip link set lo up'"
    );
    crate::output(Command::new("sh").args(["-ec", &line])).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_nameserver_counts() {
        let conf = "search x\nnameserver 127.0.0.11\nnameserver 192.0.2.1\noptions ndots:0\n";
        assert_eq!(nameserver(conf), Some(Ipv4Addr::new(127, 0, 0, 11)));
        assert_eq!(nameserver("search x\n"), None);
    }
}
