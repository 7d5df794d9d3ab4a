//! The life of networks: joined and left while containers run, kept over the daemon's death and a
//! reboot, refused in Docker's words.

use hoy_e2e::field;
use hoy_e2e::hosts::{HERE, Host, url};
use hoy_testkit::wait_until;

/// Where a container's way out leads, in both families.
fn gateways(host: &Host, name: &str) -> [String; 2] {
    ["ip route", "ip -6 route"].map(|line| {
        let said =
            host.inside(name, &format!("{line} | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'"));
        said.ok().trim().to_owned()
    })
}

/// The gateways of a network.
fn of(host: &Host, network: &str) -> [String; 2] {
    let all = host.docker(&format!(
        "network inspect {network} -f {{{{range .IPAM.Config}}}}{{{{.Gateway}}}},{{{{end}}}}"
    ));
    let mut both: Vec<String> =
        all.split(',').filter(|one| !one.is_empty()).map(str::to_owned).collect();
    both.sort_by_key(|one| one.contains(':'));
    [both[0].clone(), both.get(1).cloned().unwrap_or_default()]
}

/// The way out, and with it published ports, are of the network with the highest priority.
#[test]
fn joined_and_left_while_running() {
    Host::each(|host| {
        for name in ["alpha", "beta", "gamma"] {
            host.docker(&format!("network create --ipv6 {name}"));
        }
        // Several from the beginning.
        host.site(
            "web",
            "--network name=alpha,alias=one --network name=beta,alias=two,gw-priority=1 -p 8080:80",
        );
        let served = |what: &str| {
            for here in HERE {
                let place = format!("{}:8080", url(here));
                wait_until(what, || Host::curl(&host.neighbour, &place).starts_with("web"));
            }
            wait_until(what, || Host::curl(host.daemon.netns(), "[::1]:8080").starts_with("web"));
            wait_until(what, || {
                Host::curl(host.daemon.netns(), "127.0.0.1:8080").starts_with("web")
            });
        };
        assert_eq!(gateways(host, "web"), of(host, "beta"));
        served("by beta");
        for (network, alias) in [("alpha", "one"), ("beta", "two")] {
            let said = host.docker(&format!(
                "run --rm --network {network} busybox wget -q -T 20 -O - http://{alias}/cgi-bin/who"
            ));
            assert!(said.starts_with("web"), "{said}");
        }
        // A higher one comes, goes, and a lower one changes nothing.
        host.docker("network connect --gw-priority 5 --alias three gamma web");
        assert_eq!(gateways(host, "web"), of(host, "gamma"));
        served("by gamma");
        host.idle("peer", "--network gamma");
        assert!(host.get("peer", "three").starts_with("web"));
        host.docker("network disconnect gamma web");
        assert_eq!(gateways(host, "web"), of(host, "beta"));
        served("by beta again");
        assert_eq!(host.inside("peer", "nslookup three").code, Some(1));
        host.docker("network connect --gw-priority -1 gamma web");
        assert_eq!(gateways(host, "web"), of(host, "beta"));
        host.docker("network disconnect beta web");
        assert_eq!(gateways(host, "web"), of(host, "alpha"));
        served("by alpha");
        assert!(
            host.refused("network connect alpha web")
                .contains("endpoint with name web already exists in network alpha")
        );
        assert!(host.refused("network disconnect beta web").contains("is not connected to"));
        // In none at all it runs on, and joins again.
        host.docker("network disconnect gamma web");
        host.docker("network disconnect alpha web");
        assert_eq!(host.inside("web", "ls /sys/class/net").ok(), "lo\n");
        assert_eq!(Host::curl(&host.neighbour, "10.77.0.1:8080"), "");
        host.docker("network connect beta web");
        served("joined again");
        // A new name is found, the old one is not.
        host.idle("other", "--network beta");
        assert!(host.get("other", "web").starts_with("web"));
        host.docker("rename web shop");
        assert!(host.get("other", "shop").starts_with("web"));
        // It is its host name still, and that is a name with Docker, too.
        assert!(host.get("other", "web").starts_with("web"));
        host.docker("rename other another");
        host.inside("shop", "ping -c 1 -W 30 another").ok();
        assert_ne!(host.inside("shop", "nslookup other").code, Some(0));
        // In use, it is not removed; by force of removal of its containers, it is.
        let says = host.refused("network rm beta");
        assert!(
            says.contains("error while removing network: network beta has active endpoints"),
            "{says}"
        );
        assert!(says.contains("name:\"shop\"") && says.contains("name:\"another\""), "{says}");
    });
}

/// The daemon dies: names wait and are answered, addresses stay, networks go on; what was joined
/// is left afterwards as before.
#[test]
fn a_daemon_that_dies() {
    let mut host = Host::start();
    host.docker("network create --ipv6 --subnet 10.63.0.0/24 --subnet fd63::/64 kept");
    host.docker("network create --ipv6 other");
    host.site(
        "web",
        "--network kept --ip 10.63.0.77 --ip6 fd63::77 --network-alias shop -p 8080:80",
    );
    host.idle("peer", "--network kept");
    let before = host.docker("network inspect kept other");
    let addresses = [0, 1].map(|family| host.address("peer", "kept", family));
    for round in 0..3 {
        host.daemon.kill();
        // Connections are made without a daemon, inside and outside.
        for here in HERE {
            assert!(
                Host::answer(&host.neighbour, &format!("{}:8080", url(here))).starts_with("web"),
                "{here}"
            );
        }
        host.daemon.launch();
        for name in ["web", "shop"] {
            assert!(host.get("peer", name).starts_with("web"), "{name} {round}");
        }
        assert_eq!(host.docker("network inspect kept other"), before);
        assert_eq!([0, 1].map(|family| host.address("peer", "kept", family)), addresses);
    }
    // Addresses in use are known.
    assert!(
        host.refused("run --network kept --ip 10.63.0.77 busybox true")
            .contains("Address already in use")
    );
    let fresh = host.docker("run --rm --network kept busybox hostname -i");
    assert!(!fresh.contains(&addresses[0]) && !fresh.contains("10.63.0.77"), "{fresh}");
    host.docker("network connect other peer");
    assert_ne!(host.address("peer", "other", 0), "");
    host.docker("network disconnect kept peer");
    host.nothing("peer", &["10.63.0.77", "fd63::77"]);
    host.docker("network connect --ip 10.63.0.9 kept peer");
    assert!(host.get("peer", "shop").starts_with("web"));
    assert!(host.refused("network rm kept").contains("has active endpoints"));
    host.end();
}

/// After a reboot, when nothing of the kernel's is left, networks are made again with all they had.
#[test]
fn a_reboot() {
    let mut host = Host::start();
    host.docker("network create --ipv6 --subnet 10.64.0.0/24 --subnet fd64::/64 -o com.docker.network.bridge.name=boot0 -o com.docker.network.driver.mtu=1400 again");
    host.docker("network create --ipv6 auto");
    host.site("web", "--network again --ip 10.64.0.77 -p 8080:80");
    host.docker("stop -t 0 web");
    let before = host.docker("network inspect again auto");
    assert_eq!(host.daemon.terminate(), Some(0));
    let links = host.daemon.netns().sh("ip -o link show type bridge | cut -d: -f2");
    assert_eq!(links.lines().count(), 3, "{links}");
    for link in links.split_whitespace() {
        host.daemon.netns().sh(&format!("ip link del {link}"));
    }
    host.daemon.netns().sh("nft flush ruleset");
    host.daemon.launch();
    assert_eq!(host.docker("network inspect again auto"), before);
    let shown = host.daemon.netns().sh("ip addr show boot0");
    assert!(
        shown.contains("mtu 1400")
            && shown.contains("10.64.0.1/24")
            && shown.contains("fd64::1/64"),
        "{shown}"
    );
    host.docker("start web");
    for here in HERE {
        let place = format!("{}:8080", url(here));
        wait_until("it serves", || Host::curl(&host.neighbour, &place).starts_with("web"));
    }
    assert_eq!(host.address("web", "again", 0), "10.64.0.77");
    host.idle("one", "--network auto");
    host.nothing("one", &["10.64.0.77"]);
    // The default bridge comes with its first container.
    host.docker("run --rm busybox true");
    host.end();
}

/// A subnet of four addresses has room for one container beside the gateway.
#[test]
fn pools_that_are_full() {
    let host = Host::start();
    host.docker("network create --subnet 10.65.0.0/30 tiny");
    host.idle("one", "--network tiny");
    assert_eq!(host.address("one", "tiny", 0), "10.65.0.2");
    let says = host.refused("run --name two --network tiny busybox true");
    assert!(
        says.contains("no available IPv4 addresses on this network's address pools: tiny"),
        "{says}"
    );
    host.docker("rm -f one two");
    // It is free at once, again and again.
    for _ in 0..4 {
        assert_eq!(host.docker("run --rm --network tiny busybox hostname -i"), "10.65.0.2");
    }
    // Overlapping, in each of its forms; the host's own routes are avoided by default pools only.
    for subnet in ["10.65.0.0/30", "10.65.0.0/16", "10.65.0.0/31", "10.64.0.0/15"] {
        let says = host.refused(&format!("network create --subnet {subnet} over"));
        assert!(
            says.contains("Pool overlaps with other one on this address space"),
            "{subnet}: {says}"
        );
    }
    host.docker("network create --ipv6 --subnet fd65::/120 --subnet 10.66.0.0/24 six");
    let says = host.refused("network create --ipv6 --subnet fd65::/64 over");
    assert!(says.contains("Pool overlaps with other one on this address space"), "{says}");
    host.daemon
        .netns()
        .sh("ip route add 172.18.0.0/16 dev wire0; ip route add 172.20.0.0/14 dev wire0");
    host.docker("network create avoids");
    let subnet = host.docker("network inspect avoids -f {{(index .IPAM.Config 0).Subnet}}");
    assert!(!subnet.starts_with("172.18.") && !subnet.starts_with("172.20."), "{subnet}");
    // All default pools used up.
    let mut count = 0;
    let says = loop {
        let name = format!("many{count}");
        let output = host.daemon.hoy(&["network", "create", &name]).run();
        if output.code != Some(0) {
            break output.stderr;
        }
        count += 1;
        assert!(count < 64, "no end");
    };
    assert!(says.contains("all predefined address pools have been fully subnetted"), "{says}");
    assert!(count > 10, "{count}");
    host.end();
}

/// What cannot be, in Docker's words, and nothing of it is left.
#[test]
fn refusals() {
    let host = Host::start();
    host.docker("network create --ipv6 --subnet 10.67.0.0/24 --subnet fd67::/64 here");
    host.docker("network create nosubnet");
    host.idle("box", "--network here");
    let before = host.docker("network ls");
    for (line, says) in [
        ("network create here", "network with name here already exists"),
        ("network create --subnet bogus bad", "invalid subnet bogus: invalid CIDR block notation"),
        (
            "network create --subnet 10.68.0.0/33 bad",
            "invalid subnet 10.68.0.0/33: invalid CIDR block notation",
        ),
        (
            "network create --subnet 10.68.0.5/24 bad",
            "invalid subnet 10.68.0.5/24: it should be 10.68.0.0/24",
        ),
        (
            "network create --subnet 10.68.0.0/24 --ip-range 10.69.0.0/25 bad",
            "no matching subnet for range 10.69.0.0/25",
        ),
        (
            "network create --subnet 10.68.0.0/24 --gateway 10.69.0.1 bad",
            "no matching subnet for gateway 10.69.0.1",
        ),
        (
            "network create --subnet 10.68.0.0/24 --subnet 10.69.0.0/24 bad",
            "bridge driver doesn't support multiple subnets",
        ),
        ("network create -d nosuch bad", "plugin \"nosuch\" not found"),
        ("network create -d host bad", "only one instance of \"host\" network is allowed"),
        ("network create -d null bad", "only one instance of \"null\" network is allowed"),
        ("network create host", "operation is not permitted on predefined host network"),
        (
            "network create -o com.docker.network.bridge.name=a/b bad",
            "com.docker.network.bridge.name",
        ),
        (
            "network create -o com.docker.network.driver.mtu=none bad",
            "com.docker.network.driver.mtu",
        ),
        ("network create -bad", "unknown shorthand flag"),
        ("network create .bad", "invalid network name"),
        ("network create -d macvlan -o parent=nosuch0 bad", "nosuch0"),
        ("network create -d ipvlan -o parent=nosuch0 bad", "nosuch0"),
        ("network rm bridge", "bridge is a pre-defined network and cannot be removed"),
        ("network rm nosuch", "network nosuch not found"),
        ("network rm here", "network here has active endpoints"),
        ("network connect nosuch box", "network nosuch not found"),
        ("network connect here nosuch", "No such container: nosuch"),
        ("network connect here box", "endpoint with name box already exists in network here"),
        (
            "network connect host box",
            "container cannot be disconnected from host network or connected to host network",
        ),
        (
            "network connect none box",
            "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        ),
        ("network disconnect nosubnet box", "is not connected to network nosubnet"),
        ("run --network nosuch busybox true", "network nosuch not found"),
        ("run --network here --ip 10.67.0.1 busybox true", "Address already in use"),
        (
            "run --network here --ip 10.67.9.1 busybox true",
            "no configured subnet or ip-range contain the IP address 10.67.9.1",
        ),
        ("run --network here --ip bogus busybox true", "bogus"),
        (
            "run --network here --ip6 fd99::1 busybox true",
            "no configured subnet or ip-range contain the IP address fd99::1",
        ),
        ("run --network nosubnet --ip 172.18.0.9 busybox true", "user configured subnets"),
        (
            "run --ip 172.17.0.9 busybox true",
            "user specified IP address is supported on user defined networks only",
        ),
        (
            "run --network-alias al busybox true",
            "network-scoped aliases are only supported for user-defined networks",
        ),
        ("run --network host --network here busybox true", "conflicting options"),
        ("run --network container:nosuch busybox true", "No such container: nosuch"),
        ("run --network here --mac-address bogus busybox true", "bogus is not a valid mac address"),
    ] {
        let said = host.refused(line);
        assert!(said.contains(says), "{line}: {said}");
    }
    for name in host.docker("ps -aq -f status=created -f status=exited").split_whitespace() {
        host.docker(&format!("rm {name}"));
    }
    assert_eq!(host.docker("network ls"), before);
    // The other way round: nothing of a failed one is in the way of the next.
    host.docker("network create --subnet 10.68.0.0/24 bad");
    assert_eq!(field(&host.daemon, "box", "{{.State.Status}}"), "running");
    host.end();
}
