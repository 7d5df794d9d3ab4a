//! Networks and names: who finds whom, and by which name, with real clients.

use hoy_e2e::field;
use hoy_e2e::hosts::{Host, Resolver, THERE, knows, udp};
use hoy_testkit::{NetNs, alpine_rootfs, debian_nginx_rootfs, wait_until};

/// The exercise: names on a network that was created, none on the default one.
#[test]
fn names_on_created_networks_only() {
    Host::each(|host| {
        host.docker("network create --ipv6 tmp");
        for name in ["left", "right"] {
            host.site(name, "--network tmp");
        }
        for (from, to) in [("left", "right"), ("right", "left")] {
            for family in ["-4", "-6"] {
                host.inside(from, &format!("ping {family} -c 1 -W 30 {to}")).ok();
            }
            assert!(host.get(from, to).starts_with(to));
        }
        // By its id and by the start of it, as Docker's.
        let id = field(&host.daemon, "right", "{{.Id}}");
        host.inside("left", &format!("ping -c 1 -W 30 {}", &id[..12])).ok();
        // What an address is called.
        let address = host.address("right", "tmp", 0);
        let said = host.inside("left", &format!("nslookup {address}"));
        assert!(said.ok().contains("name = right.tmp"), "{said:?}");
        // The default bridge: addresses, no names.
        host.site("one", "-e COLOUR=red --expose 80");
        host.site("two", "");
        let address = host.address("one", "bridge", 0);
        assert!(host.get("two", &address).starts_with("one"));
        assert_ne!(host.inside("two", "ping -c 1 -W 30 one").code, Some(0));
        // But by a link, in the hosts file and in the environment.
        host.idle("three", "--link one:web");
        host.inside("three", "ping -c 1 -W 30 web && ping -c 1 -W 30 one").ok();
        let look = host.inside("three", "cat /etc/hosts; env");
        for part in [
            format!("{address}\tweb"),
            format!("WEB_PORT=tcp://{address}:80"),
            format!("WEB_PORT_80_TCP_ADDR={address}"),
            "WEB_NAME=/three/web".to_owned(),
            "WEB_ENV_COLOUR=red".to_owned(),
        ] {
            assert!(look.ok().contains(&part), "{part}: {}", look.stdout);
        }
        // A link on a network with names is a name for one container alone.
        host.idle("four", "--network tmp --link left:friend");
        host.inside("four", "ping -c 1 -W 30 friend").ok();
        assert_ne!(host.inside("right", "ping -c 1 -W 30 friend").code, Some(0));
        // Who is not running cannot be linked to on the default network.
        host.docker("stop -t 0 one");
        assert!(
            host.refused("run --link one:web busybox true")
                .contains("Cannot link to a non running container")
        );
        // A link follows the other one to another address.
        host.idle("between", "");
        host.docker("start one");
        let now = host.address("one", "bridge", 0);
        assert_ne!(now, address);
        let look = host.inside("three", "cat /etc/hosts");
        assert!(look.ok().contains(&format!("{now}\tweb")), "{}", look.stdout);
        wait_until("it serves", || host.get("three", "web").starts_with("one"));
    });
}

/// Three containers with one alias are found in turn, by every resolver that there is.
#[test]
fn an_alias_of_three() {
    let host = Host::start();
    // Resolvers prefer what shares most bits with their own address: the askers are far from all.
    host.docker("network create --ipv6 --subnet 10.62.0.0/16 --subnet fd62::/64 tmp");
    let far =
        |number: u8| format!("--network tmp --ip 10.62.128.{number} --ip6 fd62::8000:0:0:{number}");
    for name in ["s1", "s2", "s3"] {
        host.site(name, "--network tmp --net-alias search");
    }
    let rootfs = debian_nginx_rootfs().display().to_string();
    host.daemon.docker(&["import", &rootfs, "debian"]).deadline(300).run().ok();
    let rootfs = alpine_rootfs().display().to_string();
    host.daemon.docker(&["import", &rootfs, "alpine"]).run().ok();
    host.idle("glibc", &far(1));
    host.docker(&format!("run -d --name debian {} debian sleep 1000", far(2)));
    host.docker(&format!("run -d --name musl {} alpine sleep 1000", far(3)));
    let all = |family| {
        let mut all: Vec<String> =
            ["s1", "s2", "s3"].map(|name| host.address(name, "tmp", family)).into();
        all.sort_unstable();
        all
    };
    let sorted = |text: &str| {
        let mut found: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
        found.sort_unstable();
        found.dedup();
        found
    };
    for family in [0, 1] {
        let kind = ["A", "AAAA"][family];
        let number = ["4", "6"][family];
        // Each tool sees all three.
        for (from, line) in [
            ("glibc", format!("nslookup -type={kind} search | sed -n 's/^Address: //p'")),
            ("musl", format!("nslookup -type={kind} search | sed -n 's/^Address: //p'")),
            ("debian", format!("getent ahostsv{number} search | cut -d' ' -f1")),
            (
                "musl",
                format!(
                    "for n in 1 2 3 4 5 6; do ping -{number} -c 1 -W 30 search | sed -n 's/.*(\\(.*\\)).*/\\1/p'; done"
                ),
            ),
            (
                "glibc",
                format!(
                    "for n in 1 2 3 4 5 6; do ping -{number} -c 1 -W 30 search | sed -n 's/.*(\\(.*\\)).*/\\1/p'; done"
                ),
            ),
        ] {
            let said = host.inside(from, &line);
            assert_eq!(sorted(said.ok()), all(family), "{from}: {line}: {said:?}");
        }
        // The machine's own, in the network namespace of a container.
        let pid = hoy_e2e::pid(&host.daemon, "glibc").to_string();
        if std::path::Path::new("/usr/bin/dig").exists() {
            for transport in ["+notcp", "+tcp"] {
                let dig = hoy_testkit::Run::new("nsenter")
                    .args([
                        "-n",
                        "-t",
                        &pid,
                        "dig",
                        "@127.0.0.11",
                        "+short",
                        transport,
                        "search",
                        kind,
                    ])
                    .run();
                assert_eq!(sorted(dig.ok()), all(family));
            }
        }
    }
    // Repeated requests go to all of them.
    let said = host.inside(
        "glibc",
        "for n in 1 2 3 4 5 6; do wget -q -T 20 -O - http://search/cgi-bin/who; done",
    );
    let names: Vec<String> = sorted(said.ok()).iter().map(|line| line[..2].to_owned()).collect();
    for name in ["s1", "s2", "s3"] {
        assert!(names.iter().any(|found| found == name), "{said:?}");
    }
    // One that stops is no longer found; one that starts is.
    host.docker("stop -t 0 s2");
    let found = |count: usize| {
        let said = host.inside("glibc", "nslookup -type=A search | sed -n 's/^Address: //p'");
        sorted(said.ok()).len() == count
    };
    assert!(found(2));
    host.docker("start s2");
    assert!(found(3));
    host.end();
}

/// Shared, the host's, and none.
#[test]
fn other_modes() {
    let host = Host::start();
    host.docker("network create --ipv6 tmp");
    host.site("owner", "--network tmp");
    let look = "cat /sys/class/net/eth0/address; ip -o addr; cat /etc/resolv.conf";
    host.idle("guest", "--net container:owner");
    assert_eq!(host.inside("guest", look).ok(), host.inside("owner", look).ok());
    for address in ["127.0.0.1", "owner"] {
        assert!(host.get("guest", address).starts_with("owner"));
    }
    host.inside("guest", "ping -c 1 -W 30 owner && nslookup owner").ok();
    assert!(
        host.refused("network connect bridge guest")
            .contains("container sharing network namespace")
    );
    host.idle("alone", "--net none");
    let said = host
        .inside("alone", "ls /sys/class/net; ip route; ping -c 1 -W 30 ::1 >/dev/null && echo up");
    assert_eq!(said.ok(), "lo\nup\n");
    assert!(host.refused("network connect tmp alone").contains("none"));
    host.idle("all", "--net host");
    let said = host.inside("all", "ls /sys/class/net; hostname");
    assert!(said.ok().contains("wire0"), "{said:?}");
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert!(said.ok().ends_with(&machine), "{said:?}");
    let says = host.refused("network connect tmp all");
    assert!(says.contains("host"), "{says}");
    host.end();
}

/// Every option of an address, and what a container then has.
#[test]
fn addresses_as_asked() {
    let host = Host::start();
    host.docker(
        "network create --subnet 10.61.0.0/16 --ip-range 10.61.5.0/24 --gateway 10.61.5.254 \
         --aux-address router=10.61.5.1 --aux-address printer=10.61.5.0 --subnet fd61::/64 --gateway fd61::fe \
         --ipv6 -o com.docker.network.driver.mtu=1400 -o com.docker.network.container_iface_prefix=net \
         -o com.docker.network.bridge.name=mine0 planned",
    );
    host.idle("first", "--network planned");
    let said = host.inside(
        "first",
        "ip -o addr show net0; ip route; ip -6 route; cat /sys/class/net/net0/mtu",
    );
    let address = host.address("first", "planned", 0);
    assert!(
        address.starts_with("10.61.5.")
            && !["10.61.5.1", "10.61.5.0", "10.61.5.254"].contains(&address.as_str()),
        "{address}"
    );
    assert!(said.ok().contains(&format!("{address}/16")), "{said:?}");
    assert!(said.stdout.contains("default via 10.61.5.254"), "{said:?}");
    assert!(said.stdout.contains("default via fd61::fe"), "{said:?}");
    assert!(said.stdout.ends_with("\n1400\n"), "{said:?}");
    host.inside("first", "ping -c 1 -W 30 10.61.5.254 && ping -c 1 -W 30 fd61::fe").ok();
    assert!(host.daemon.netns().sh("ip -o addr show mine0").contains("10.61.5.254/16"));
    host.docker(
        "run -d --name second --network planned --ip 10.61.200.7 --ip6 fd61::77 \
         --mac-address 02:11:22:33:44:55 --link-local-ip 169.254.7.7 busybox sleep 1000",
    );
    let said = host.inside("second", "ip -o addr show net0; cat /sys/class/net/net0/address");
    for part in ["10.61.200.7/16", "fd61::77/64", "169.254.7.7/", "02:11:22:33:44:55"] {
        assert!(said.ok().contains(part), "{part}: {said:?}");
    }
    for name in ["10.61.200.7", "fd61::77", "second"] {
        host.inside("first", &format!("ping -c 1 -W 30 {name}")).ok();
    }
    // Kept over a stop and a start.
    host.docker("restart -t 0 second");
    assert_eq!(host.address("second", "planned", 0), "10.61.200.7");
    assert_eq!(host.address("second", "planned", 1), "fd61::77");
    assert_eq!(
        field(&host.daemon, "second", "{{.NetworkSettings.Networks.planned.MacAddress}}"),
        "02:11:22:33:44:55"
    );
    // Options of one endpoint.
    host.docker(
        "run -d --name third --network name=planned,ip=10.61.200.8,driver-opt=com.docker.network.endpoint.ifname=lan7,\
         driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1 busybox sleep 1000",
    );
    let said =
        host.inside("third", "cat /proc/sys/net/ipv4/conf/lan7/log_martians; ip -o addr show lan7");
    assert!(said.ok().starts_with("1\n") && said.stdout.contains("10.61.200.8/16"), "{said:?}");
    // In use, and outside.
    let says = host.refused("run --network planned --ip 10.61.200.7 busybox true");
    assert!(says.contains("Address already in use"), "{says}");
    let says = host.refused("run --network planned --ip6 fd61::77 busybox true");
    assert!(says.contains("Address already in use"), "{says}");
    let says = host.refused("run --network planned --ip 10.99.0.1 busybox true");
    assert!(
        says.contains("no configured subnet or ip-range contain the IP address 10.99.0.1"),
        "{says}"
    );
    host.end();
}

/// A server of its own on every address keeps port 53, and finds names.
#[test]
fn a_server_of_names_in_a_container() {
    Host::each(|host| {
        host.docker("network create --ipv6 tmp");
        host.idle("server", "--network tmp -p 5300:53/udp");
        let line = "echo who.test 192.0.2.80 >/etc/dnsd.conf; dnsd -d -i 0.0.0.0";
        host.inside("server", line).ok();
        host.idle("client", "--network tmp");
        let ask = |server: &str, name: &str| {
            host.inside("client", &format!("nslookup -type=A {name} {server}")).stdout
        };
        wait_until("it answers", || ask("server", "who.test").contains("192.0.2.80"));
        // Its own on its loopback, ours on 127.0.0.11, both at port 53.
        let said =
            host.inside("server", "nslookup -type=A who.test 127.0.0.1; nslookup -type=A client");
        assert!(said.stdout.contains("192.0.2.80"), "{said:?}");
        assert!(said.stdout.contains(&host.address("client", "tmp", 0)), "{said:?}");
        let socket = udp(&host.neighbour, &format!("{}:0", THERE[0]));
        wait_until("it answers others", || knows(&socket, "10.77.0.1:5300"));
    });
}

/// What no container is called is asked of the host's resolver, and never for internal networks.
#[test]
fn questions_that_go_out_and_those_that_never_do() {
    Host::each(|host| {
        let resolver = Resolver::start(&host.neighbour, THERE[0].parse().unwrap());
        host.docker("network create --ipv6 open");
        host.docker("network create --ipv6 --internal shut");
        host.idle("out", "--network open");
        host.site("in1", "--network shut");
        host.idle("in2", "--network shut");
        let said = host.inside("out", "nslookup -type=A outside.test");
        assert!(said.ok().contains("192.0.2.53"), "{said:?}");
        assert!(resolver.asked().contains(&"outside.test.".to_owned()));
        let before = resolver.asked().len();
        for family in ["-4", "-6"] {
            host.inside("in2", &format!("ping {family} -c 1 -W 30 in1")).ok();
        }
        let said = host.inside("in2", "nslookup secret.test; nslookup -type=mx secret.test; nslookup 10.1.2.3; ping -c 1 -W 1 secret.test");
        assert_ne!(said.code, Some(0));
        // Nor directly, nor to anywhere.
        host.inside("in2", "nslookup secret.test 10.77.0.2");
        host.inside(
            "in2",
            "ping -c 1 -W 1 10.77.0.2 || ping -c 1 -W 1 fd77::2 || ping -c 1 -W 1 10.77.0.1",
        )
        .fails_with(1);
        assert_eq!(resolver.asked().len(), before, "{:?}", resolver.asked());
        assert!(!host.inside("in2", "ip route; ip -6 route").ok().contains("default"));
        // With a second network that is open it may ask.
        host.docker("network connect open in2");
        let said = host.inside("in2", "nslookup -type=A outside.test");
        assert!(said.ok().contains("192.0.2.53"), "{said:?}");
        drop(resolver);
    });
}

/// A web server from packages, twice, in one network: the exercise with its own image.
#[test]
fn two_web_servers_from_packages() {
    let host = Host::start();
    let rootfs = debian_nginx_rootfs().display().to_string();
    let change = "CMD [\"nginx\",\"-g\",\"daemon off;\"]";
    host.daemon
        .docker(&["import", "-c", change, "-c", "EXPOSE 80", &rootfs, "nginx"])
        .deadline(300)
        .run()
        .ok();
    host.docker("network create --ipv6 tmp");
    for (name, port) in [("web1", 8081), ("web2", 8082)] {
        host.docker(&format!("run -d --name {name} --net tmp -p {port}:80 nginx"));
    }
    host.idle("client", "--net tmp");
    let welcome = |netns: &NetNs, place: &str| {
        let args = ["-s", "-g", "--max-time", "3", place];
        netns.run("curl").args(args).run().stdout.contains("Welcome to nginx")
    };
    for (name, port) in [("web1", 8081), ("web2", 8082)] {
        let line = format!("wget -q -T 20 -O - http://{name}/");
        wait_until("it serves", || {
            host.inside("client", &line).stdout.contains("Welcome to nginx")
        });
        for place in ["127.0.0.1", "[::1]", "10.77.0.1", "[fd77::1]"] {
            wait_until(place, || welcome(host.daemon.netns(), &format!("http://{place}:{port}/")));
        }
        for place in ["10.77.0.1", "[fd77::1]"] {
            wait_until(place, || welcome(&host.neighbour, &format!("http://{place}:{port}/")));
        }
        let said = host.daemon.hoy(&["exec", "web1", "getent", "ahosts", name]).run();
        assert!(said.ok().contains(&host.address(name, "tmp", 0)), "{said:?}");
        assert!(said.ok().contains(&host.address(name, "tmp", 1)), "{said:?}");
    }
    host.end();
}
