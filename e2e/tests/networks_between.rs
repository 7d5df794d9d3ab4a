//! Between networks and hosts: who must not reach whom, and published ports by every way.

use std::net::{TcpListener, UdpSocket};

use hoy_e2e::field;
use hoy_e2e::hosts::{HERE, Host, THERE, knows, udp, url, within};
use hoy_testkit::wait_until;

/// Two networks and the default one: each for itself, in both directions and families.
#[test]
fn networks_are_apart() {
    Host::each(|host| {
        host.docker("network create --ipv6 red");
        host.docker("network create --ipv6 blue");
        host.docker("network create --ipv6 --internal shut");
        for (name, network) in [("red1", "red"), ("blue1", "blue"), ("shut1", "shut")] {
            host.site(name, &format!("--network {network}"));
        }
        host.site("plain", "");
        let mut places = Vec::new();
        for (name, network) in [("red1", "red"), ("blue1", "blue"), ("shut1", "shut")] {
            for family in [0, 1] {
                places.push((name, host.address(name, network, family)));
            }
        }
        places.push(("plain", host.address("plain", "bridge", 0)));
        for from in ["red1", "blue1", "shut1", "plain"] {
            let others: Vec<&str> = places
                .iter()
                .filter(|(name, _)| *name != from)
                .map(|(_, at)| at.as_str())
                .collect();
            host.nothing(from, &others);
            assert_ne!(
                host.inside(from, "nslookup blue1 | grep -q . && ping -c 1 -W 1 nosuch").code,
                Some(0)
            );
        }
        // A neighbour that routes to the host reaches none of them.
        for (_, address) in &places {
            assert_eq!(Host::curl(&host.neighbour, &url(address)), "", "{address}");
        }
        // The host does, and its containers get out, but for the internal network's.
        for (name, address) in &places {
            assert!(Host::answer(host.daemon.netns(), &url(address)).starts_with(name));
        }
        for (from, out) in [("red1", true), ("blue1", true), ("shut1", false)] {
            for (family, there) in ["-4", "-6"].into_iter().zip(THERE) {
                let wait = if out { 30 } else { 1 };
                let said = host.inside(from, &format!("ping {family} -c 1 -W {wait} {there}"));
                assert_eq!(said.code == Some(0), out, "{from} {there}");
            }
        }
        // Connected to both, one reaches both; disconnected, one no longer.
        host.docker("network connect blue red1");
        assert!(host.get("red1", "blue1").starts_with("blue1"));
        for family in [0, 1] {
            assert!(host.get("red1", &host.address("blue1", "blue", family)).starts_with("blue1"));
        }
        host.docker("network disconnect blue red1");
        host.nothing(
            "red1",
            &[&host.address("blue1", "blue", 0), &host.address("blue1", "blue", 1)],
        );
    });
}

/// A network whose containers do not talk to each other, but to the world.
#[test]
fn apart_within_a_network() {
    Host::each(|host| {
        host.docker("network create --ipv6 -o com.docker.network.bridge.enable_icc=false hush");
        host.site("one", "--network hush");
        host.site("two", "--network hush -p 8080:80");
        let addresses = [0, 1].map(|family| host.address("two", "hush", family));
        host.nothing("one", &[&addresses[0], &addresses[1]]);
        assert_ne!(host.inside("one", "ping -c 1 -W 1 two").code, Some(0));
        for (family, there) in ["-4", "-6"].into_iter().zip(THERE) {
            host.inside("one", &format!("ping {family} -c 1 -W 30 {there}")).ok();
        }
        // What is published is for all.
        for here in HERE {
            assert!(host.get("one", &format!("{}:8080", url(here))).starts_with("two"), "{here}");
            assert!(
                Host::answer(&host.neighbour, &format!("{}:8080", url(here))).starts_with("two")
            );
        }
    });
}

/// Where containers are kept apart a link opens what the other one exposes, to who has the link.
#[test]
fn linked_though_apart() {
    Host::each_with(&["--icc=false", "--ipv6", "--fixed-cidr-v6=fd88::/64"], |host| {
        host.site("web", "--expose 80 --expose 53/udp");
        host.site("ask", "--link web:w --expose 80");
        host.site("other", "--expose 80");
        let at =
            |host: &Host, name: &str| [0, 1].map(|family| host.address(name, "bridge", family));
        let linked = |host: &Host| {
            let (web, ask, other) = (at(host, "web"), at(host, "ask"), at(host, "other"));
            for address in &web {
                assert!(host.get("ask", address).starts_with("web"), "{address}");
                let line = format!("nslookup who.test {address}");
                assert!(host.inside("ask", &line).stdout.contains("192.0.2.80"), "{address}");
            }
            // Much waiting, all at once.
            std::thread::scope(|scope| {
                scope.spawn(|| host.nothing("ask", &[&other[0], &other[1]]));
                scope.spawn(|| host.nothing("web", &[&ask[0], &ask[1], &other[0], &other[1]]));
                scope.spawn(|| host.nothing("other", &[&web[0], &web[1], &ask[0], &ask[1]]));
                let ping = host.inside("ask", &format!("ping -c 1 -W 1 {}", web[0]));
                assert_ne!(ping.code, Some(0), "only what is exposed");
            });
        };
        assert!(host.get("ask", "w").starts_with("web"));
        linked(host);
        // It comes back elsewhere, and somebody else has its address.
        let before = at(host, "web");
        host.docker("stop -t 0 web");
        host.nothing("other", &[&at(host, "ask")[0]]);
        host.site("squatter", "--expose 80");
        host.docker("start web");
        assert_ne!(at(host, "web"), before);
        host.nothing("ask", &[&before[0], &before[1]]);
        host.daemon.kill();
        host.daemon.launch();
        let listens = "grep -q ':0050 .* 0A ' /proc/net/tcp /proc/net/tcp6";
        wait_until("it listens", || host.inside("web", listens).code == Some(0));
        linked(host);
        // It ends while no daemon runs.
        let pid = field(&host.daemon, "ask", "{{.State.Pid}}");
        host.daemon.kill();
        host.daemon.netns().sh(&format!("kill -9 {pid}"));
        host.daemon.launch();
        wait_until("it is known to have ended", || {
            field(&host.daemon, "ask", "{{.State.Status}}") == "exited"
        });
        wait_until("nothing is open any more", || {
            !host.daemon.netns().sh("nft list tables").contains("bridge hoy")
        });
        host.nothing("other", &[&at(host, "web")[0]]);
    });
}

/// A published port: from outside with the client's own address, from the host by every address,
/// from other networks, from its own network and from the container itself.
#[test]
fn a_published_port_by_every_way() {
    Host::each(|host| {
        host.docker("network create --ipv6 front");
        host.docker("network create --ipv6 back");
        host.site("web", "--network front -p 8080:80");
        host.idle("beside", "--network front");
        host.idle("behind", "--network back");
        host.idle("plain", "");
        assert_eq!(host.docker("port web 80"), "0.0.0.0:8080\n[::]:8080");
        for (here, there) in HERE.into_iter().zip(THERE) {
            let place = format!("{}:8080", url(here));
            let said = Host::answer(&host.neighbour, &place);
            assert!(said.starts_with("web") && said.contains(there), "{place}: {said}");
            assert!(Host::answer(host.daemon.netns(), &place).starts_with("web"), "{place}");
            for from in ["web", "beside", "behind"] {
                assert!(host.get(from, &place).starts_with("web"), "{from} {place}");
            }
        }
        assert!(host.get("plain", "10.77.0.1:8080").starts_with("web"));
        for place in ["127.0.0.1:8080", "[::1]:8080", "localhost:8080"] {
            assert!(Host::answer(host.daemon.netns(), place).starts_with("web"), "{place}");
        }
        // The gateway of one's own network is the host, too.
        let gateway = host.docker("network inspect back -f {{(index .IPAM.Config 0).Gateway}}");
        assert!(host.get("behind", &format!("{gateway}:8080")).starts_with("web"));
        // Gone with the container.
        host.docker("rm -f web");
        for here in HERE {
            assert_eq!(Host::curl(&host.neighbour, &format!("{}:8080", url(here))), "");
        }
    });
}

/// What is published on loopback is the host's alone.
#[test]
fn published_on_loopback_only() {
    Host::each(|host| {
        host.docker("network create --ipv6 front");
        host.site("web", "--network front -p 127.0.0.1:8080:80 -p [::1]:8081:80");
        host.idle("beside", "--network front");
        let get = |place: &str| Host::curl(host.daemon.netns(), place);
        wait_until("it serves", || get("127.0.0.1:8080").starts_with("web"));
        assert!(Host::answer(host.daemon.netns(), "[::1]:8081").starts_with("web"));
        assert_eq!(get("10.77.0.1:8080") + &get("[fd77::1]:8081") + &get("127.0.0.1:8081"), "");
        // A neighbour that sends to loopback by way of the host.
        host.neighbour.sh("echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet; \
             ip route add 127.9.0.0/16 via 10.77.0.1; ip addr del 127.0.0.1/8 dev lo; \
             ip route add 127.0.0.0/8 via 10.77.0.1 src 10.77.0.2");
        for place in ["10.77.0.1:8080", "127.0.0.1:8080", "127.9.0.1:8080", "[fd77::1]:8081"] {
            assert_eq!(Host::curl(&host.neighbour, place), "", "{place}");
        }
        host.nothing("beside", &["10.77.0.1:8080", "[fd77::1]:8081"]);
    });
}

/// UDP: a client that goes on sending from one port finds the container that was restarted, and
/// the one that took its place.
#[test]
fn flows_of_udp_follow() {
    Host::each(|host| {
        host.docker("network create --ipv6 front");
        let clients = THERE.map(|there| udp(&host.neighbour, &format!("{}:5000", url(there))));
        let own = ["127.0.0.1", "[::1]"].map(|at| udp(host.daemon.netns(), &format!("{at}:0")));
        let all = |what: &str| {
            for (client, here) in clients.iter().zip(HERE) {
                wait_until(what, || knows(client, &format!("{}:5300", url(here))));
            }
            for (client, at) in own.iter().zip(["127.0.0.1", "[::1]"]) {
                wait_until(what, || knows(client, &format!("{at}:5300")));
            }
        };
        host.site("names", "--network front -p 5300:53/udp");
        all("it answers");
        // Another takes the old address meanwhile.
        host.docker("stop -t 0 names");
        assert!(!knows(&clients[0], "10.77.0.1:5300"));
        host.idle("squatter", "--network front");
        host.docker("start names");
        all("restarted, with another address");
        host.docker("rm -f names");
        host.site("other", "--network front -p 5300:53/udp");
        all("another container");
    });
}

/// Ports of one address, ranges, free ports, and what others have.
#[test]
fn ports_asked_for() {
    let host = Host::start();
    host.docker("network create --ipv6 front");
    host.site("web", "--network front -p 10.77.0.1:81:80 -p [fd77::1]:82:80 -p 8000-8002:80-82 -p 80 -p 9000-9005:80/tcp");
    let get = |place: &str| Host::answer(&host.neighbour, place);
    let none = |place: &str| Host::curl(&host.neighbour, place);
    assert!(get("10.77.0.1:81").starts_with("web"));
    assert!(get("[fd77::1]:82").starts_with("web"));
    assert_eq!(none("[fd77::1]:81") + &none("10.77.0.1:82"), "");
    assert!(get("10.77.0.1:8000").starts_with("web") && get("[fd77::1]:8000").starts_with("web"));
    let ports = host.docker("port web");
    assert!(
        ports.contains("80/tcp -> 10.77.0.1:81") && ports.contains("80/tcp -> [fd77::1]:82"),
        "{ports}"
    );
    assert!(
        ports.contains("82/tcp -> 0.0.0.0:8002") && ports.contains("82/tcp -> [::]:8002"),
        "{ports}"
    );
    let free = ports.lines().filter_map(|line| line.strip_prefix("80/tcp -> 0.0.0.0:"));
    let free: Vec<u16> = free.map(|port| port.parse().unwrap()).collect();
    assert!(free.iter().any(|port| (9000..=9005).contains(port)), "{ports}");
    assert!(free.iter().any(|port| *port >= 32768), "{ports}");
    for port in &free {
        assert!(get(&format!("10.77.0.1:{port}")).starts_with("web"), "{port}");
        assert!(get(&format!("[fd77::1]:{port}")).starts_with("web"), "{port}");
    }
    // Another container has it.
    let says = host.refused("run -p 8001:80 busybox true");
    assert!(says.contains("port is already allocated"), "{says}");
    let says = host.refused("run -p 127.0.0.1:8001:80 busybox true");
    assert!(says.contains("port is already allocated"), "{says}");
    // Another program has it, in one family alone.
    let tcp = |address: &'static str| {
        within(host.daemon.netns(), move || TcpListener::bind(address).unwrap()).join().unwrap()
    };
    let _four = tcp("10.77.0.1:7001");
    let _six = tcp("[::1]:7002");
    let _udp =
        within(host.daemon.netns(), || UdpSocket::bind("0.0.0.0:7003").unwrap()).join().unwrap();
    for (port, named) in [("7001", "7001"), ("7002", "7002"), ("7003:7003/udp", "7003")] {
        let port = if port.contains(':') { port.to_owned() } else { format!("{port}:80") };
        let says = host.refused(&format!("run --name late -p {port} busybox true"));
        assert!(says.contains("address already in use") && says.contains(named), "{says}");
        assert_eq!(field(&host.daemon, "late", "{{.State.Status}}"), "created");
        host.docker("rm late");
    }
    // Of another protocol it is free.
    host.docker("run --rm -p 7003:80/tcp busybox true");
    host.end();
}

/// A container with IPv4 alone is reached by the host's IPv6 addresses, too, as with Docker.
#[test]
fn ports_of_a_container_with_one_family() {
    Host::each(|host| {
        host.docker("network create four");
        host.site("web", "--network four -p 8080:80");
        for place in ["127.0.0.1:8080", "[::1]:8080", "10.77.0.1:8080", "[fd77::1]:8080"] {
            wait_until(place, || Host::curl(host.daemon.netns(), place).starts_with("web"));
        }
        for place in ["10.77.0.1:8080", "[fd77::1]:8080"] {
            wait_until(place, || Host::curl(&host.neighbour, place).starts_with("web"));
        }
        host.docker("network create --ipv6 --ipv4=false six");
        host.site("only6", "--network six -p 8081:80");
        for place in ["[::1]:8081", "[fd77::1]:8081"] {
            wait_until(place, || Host::curl(host.daemon.netns(), place).starts_with("only6"));
        }
        assert!(Host::answer(&host.neighbour, "[fd77::1]:8081").starts_with("only6"));
    });
}
