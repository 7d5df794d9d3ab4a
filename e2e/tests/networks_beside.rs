//! Containers beside their host, on its own wire: macvlan, seen from the host and from a second one.

use hoy_e2e::hosts::{Host, url};
use hoy_testkit::wait_until;

/// The exercise: reachable from other machines of that net, not from its own host; in both
/// families, and as the mode says among each other.
#[test]
fn on_the_hosts_wire() {
    let host = Host::start();
    host.neighbour.sh("ip addr add 10.78.0.2/24 dev wire0; ip addr add fd78::2/64 dev wire0 nodad");
    host.daemon
        .netns()
        .sh("ip addr add 10.78.0.1/24 dev wire0; ip addr add fd78::1/64 dev wire0 nodad");
    for (mode, together) in [("bridge", true), ("private", false)] {
        host.docker(&format!(
            "network create -d macvlan --ipv6 --subnet 10.78.0.0/24 --ip-range 10.78.0.128/25 --gateway 10.78.0.2 \
             --subnet fd78::/64 --ip-range fd78::8000/113 --gateway fd78::2 -o parent=wire0 \
             -o macvlan_mode={mode} lan"
        ));
        host.site("one", "--network lan");
        host.site(
            "two",
            "--network lan --ip 10.78.0.200 --ip6 fd78::200 --mac-address 02:11:22:33:44:77",
        );
        assert!(host.address("one", "lan", 0).starts_with("10.78.0.1"));
        let said = host.inside("two", "cat /sys/class/net/eth0/address; ip route; ip -6 route");
        for part in ["02:11:22:33:44:77", "default via 10.78.0.2", "default via fd78::2"] {
            assert!(said.ok().contains(part), "{said:?}");
        }
        for name in ["one", "two"] {
            for family in [0, 1] {
                let address = host.address(name, "lan", family);
                let place = url(&address);
                wait_until(&place, || Host::curl(&host.neighbour, &place).starts_with(name));
                assert_eq!(Host::curl(host.daemon.netns(), &place), "", "from its own host");
                // And out, by the wire.
                let there = ["10.78.0.2", "fd78::2"][family];
                host.inside(name, &format!("ping -c 1 -W 30 {there}")).ok();
            }
        }
        // Names are known in any mode, the way there is not.
        let said = host.inside("one", "nslookup -type=A two");
        assert!(said.ok().contains("10.78.0.200"), "{said:?}");
        if together {
            for address in ["two", "10.78.0.200", "fd78::200"] {
                assert!(host.get("one", address).starts_with("two"), "{address}");
            }
        } else {
            host.nothing("one", &["two", "10.78.0.200", "fd78::200"]);
        }
        // The parent is one network's.
        let says =
            host.refused("network create -d macvlan --subnet 10.79.0.0/24 -o parent=wire0 again");
        assert!(says.contains("already using parent interface wire0"), "{says}");
        // Beside a bridge: the way out, and names, by what has the priority.
        host.docker("network create --ipv6 front");
        host.docker("network connect --gw-priority 1 front one");
        let said = host.inside("one", "ip route");
        assert!(!said.ok().contains("default via 10.78.0.2"), "{said:?}");
        host.docker("network disconnect front one");
        assert!(host.inside("one", "ip route").ok().contains("default via 10.78.0.2"));
        host.clear();
    }
    host.end();
}

/// Without a way out: containers among themselves, and nobody else.
#[test]
fn internal_beside() {
    let mut host = Host::start();
    host.neighbour.sh("ip addr add 10.78.0.2/24 dev wire0");
    // What passes through takes the whole of its parent, for one container.
    host.docker("network create -d macvlan --subnet 10.78.0.0/24 -o parent=wire0 -o macvlan_mode=passthru lan");
    host.idle("one", "--network lan --ip 10.78.0.10");
    let own = host.inside("one", "cat /sys/class/net/eth0/address");
    assert!(host.daemon.netns().sh("ip -o link show wire0").contains(own.ok().trim()));
    wait_until("it is on the wire", || {
        host.inside("one", "ping -c 1 -W 1 10.78.0.2").code == Some(0)
    });
    host.refused("run --network lan busybox true");
    host.clear();
    host.docker(
        "network create -d macvlan --internal --ipv6 --subnet 10.78.0.0/24 --subnet fd78::/64 -o parent=wire0 lan",
    );
    host.site("one", "--network lan");
    host.site("two", "--network lan");
    let said = host.inside("one", "ip route; ip -6 route");
    assert!(!said.ok().contains("default"), "{said:?}");
    assert!(host.get("one", "two").starts_with("two"));
    assert!(host.get("one", &host.address("two", "lan", 1)).starts_with("two"));
    assert_eq!(Host::curl(host.daemon.netns(), &host.address("two", "lan", 0)), "");
    assert_ne!(host.inside("one", "ping -c 1 -W 1 10.77.0.2").code, Some(0));
    host.clear();

    // Without a parent the network has one of its own, which leads nowhere; it comes again with the
    // daemon, and goes with the network.
    let id = host.docker("network create -d macvlan --subnet 10.79.0.0/24 alone");
    let parent = format!("dm-{}", &id[..12]);
    let there = |host: &Host| host.daemon.netns().sh("ip -o link").contains(&parent);
    assert!(there(&host));
    host.daemon.kill();
    host.daemon.netns().sh(&format!("ip link del {parent}"));
    host.daemon.launch();
    assert!(there(&host));
    host.site("one", "--network alone");
    host.site("two", "--network alone");
    wait_until("they reach each other", || host.get("one", "two").starts_with("two"));
    assert!(!host.inside("one", "ip route").ok().contains("default"));
    assert_ne!(host.inside("one", "ping -c 1 -W 1 10.77.0.2").code, Some(0));
    host.clear();
    assert!(!there(&host));

    // Vepa leaves to the switch what is between containers, and ours turns nothing back. Addresses that
    // the neighbour has not seen yet: it would ask for long where they were.
    host.docker(
        "network create -d macvlan --subnet 10.78.0.0/24 -o parent=wire0 -o macvlan_mode=vepa lan",
    );
    host.site("one", "--network lan --ip 10.78.0.20");
    host.site("two", "--network lan --ip 10.78.0.21");
    for (name, place) in [("one", "10.78.0.20"), ("two", "10.78.0.21")] {
        wait_until(place, || Host::curl(&host.neighbour, place).starts_with(name));
    }
    host.nothing("one", &["10.78.0.21"]);
    host.clear();
    // Who passes all through may come at once behind others.
    host.docker("network create -d macvlan --subnet 10.78.0.0/24 -o parent=wire0 -o macvlan_mode=passthru lan");
    host.idle("one", "--network lan --ip 10.78.0.30");
    host.clear();
    host.end();
}

/// A parent that is gone is named; one that comes back serves again, also after the daemon's death.
#[test]
fn a_parent_that_goes() {
    let mut host = Host::start();
    host.daemon
        .netns()
        .sh("ip link add far0 type veth peer name far1; ip link set far0 up; ip link set far1 up");
    host.docker("network create -d macvlan --subnet 10.79.0.0/24 -o parent=far0 lan");
    host.site("one", "--network lan --ip 10.79.0.9");
    host.daemon.netns().sh("ip addr add 10.79.0.2/24 dev far1");
    wait_until("it serves", || Host::curl(host.daemon.netns(), "10.79.0.9").starts_with("one"));
    host.daemon.kill();
    host.daemon.launch();
    assert!(Host::answer(host.daemon.netns(), "10.79.0.9").starts_with("one"));
    host.docker("stop -t 0 one");
    host.daemon.netns().sh("ip link del far0");
    host.daemon.kill();
    host.daemon.launch();
    let says = host.refused("start one");
    assert!(says.contains("far0"), "{says}");
    host.daemon.netns().sh("ip link add far0 type veth peer name far1; ip link set far0 up; ip link set far1 up; ip addr add 10.79.0.2/24 dev far1");
    host.docker("start one");
    wait_until("it serves", || Host::curl(host.daemon.netns(), "10.79.0.9").starts_with("one"));
    host.docker("rm -f one");
    host.daemon.netns().sh("ip link del far0");
    host.end();
}

/// What this kernel has not is said with its name.
#[test]
fn what_the_kernel_lacks() {
    let host = Host::start();
    let probe = host
        .neighbour
        .run("ip")
        .args(["link", "add", "probe0", "link", "wire0", "type", "ipvlan"])
        .run();
    if probe.code == Some(0) {
        host.neighbour.sh("ip link del probe0");
        host.end();
        return;
    }
    host.docker("network create -d ipvlan --subnet 10.79.0.0/24 -o parent=wire0 lan");
    let says = host.refused("run --name one --network lan busybox true");
    assert!(says.contains("this kernel has no ipvlan"), "{says}");
    host.end();
}
