//! The daemon's settings of networks, and other people's firewalls, by what the kernel then does.

use std::time::Duration;

use hoy_e2e::hosts::{HERE, Host, THERE, udp, url};
use hoy_e2e::{field, give_busybox};
use hoy_testkit::{Daemon, NetNs, wait_until};

/// Every setting of the default bridge at once: what containers get, what is shown, who is
/// reached, in both families.
#[test]
fn the_default_bridge() {
    let host = Host::start_with(
        true,
        &[
            "--bip=10.91.0.1/16",
            "--fixed-cidr=10.91.7.0/24",
            "--ipv6",
            "--bip6=fd91::1/64",
            "--fixed-cidr-v6=fd91::7:0/112",
            "--mtu=1380",
            "--allow-direct-routing",
            "--host-gateway-ip=192.0.2.9",
            "--host-gateway-ip=2001:db8::9",
        ],
    );
    host.site("web", "-p 8080:80 --add-host up:host-gateway");
    let (v4, v6) = (host.address("web", "bridge", 0), host.address("web", "bridge", 1));
    assert!(v4.starts_with("10.91.7.") && v6.starts_with("fd91::7:"), "{v4} {v6}");
    let seen = host.inside("web", "ip addr show eth0; ip route; ip -6 route; cat /etc/hosts");
    for part in [
        &format!("inet {v4}/16"),
        &format!("inet6 {v6}/64"),
        "mtu 1380",
        "default via 10.91.0.1",
        "default via fd91::1",
        "192.0.2.9\tup",
        "2001:db8::9\tup",
    ] {
        assert!(seen.ok().contains(part), "{part}: {}", seen.stdout);
    }
    let bridge = host.daemon.netns().sh("ip addr show hoy0");
    assert!(bridge.contains("10.91.0.1/16") && bridge.contains("fd91::1/64"), "{bridge}");
    // From a neighbour of the host and from a container beside it, out and in.
    for (here, there) in HERE.into_iter().zip(THERE) {
        let answer = Host::answer(&host.neighbour, &format!("{}:8080", url(here)));
        assert!(answer.starts_with("web"), "{here}: {answer}");
        host.inside("web", &format!("ping -c 1 -W 30 {there}")).ok();
    }
    // At its own address as well, as this daemon is told to let them; but only what is published.
    host.site("hidden", "");
    for family in [0, 1] {
        let direct = Host::answer(&host.neighbour, &url(&host.address("web", "bridge", family)));
        assert!(direct.starts_with("web"), "{direct}");
        let hidden = Host::curl(&host.neighbour, &url(&host.address("hidden", "bridge", family)));
        assert_eq!(hidden, "");
    }
    host.idle("other", "");
    for address in [&v4, &v6] {
        assert!(host.get("other", address).starts_with("web"), "{address}");
    }
    let shown = host.docker("network inspect bridge");
    for part in [
        "\"EnableIPv6\": true",
        "\"Subnet\": \"10.91.0.0/16\"",
        "\"IPRange\": \"10.91.7.0/24\"",
        "\"Gateway\": \"10.91.0.1\"",
        "\"Subnet\": \"fd91::/64\"",
        "\"com.docker.network.driver.mtu\": \"1380\"",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    host.docker("rm -f web other hidden");
    host.end();
}

/// Another gateway than the bridge, which is where the packets go.
#[test]
fn another_gateway() {
    let daemon = Daemon::start_with(&[
        "--bip=10.92.0.1/24",
        "--default-gateway=10.92.0.254",
        "--ipv6",
        "--bip6=fd92::1/64",
        "--default-gateway-v6=fd92::fe",
    ]);
    give_busybox(&daemon);
    let routes = daemon.hoy(&["run", "--rm", "busybox", "sh", "-c", "ip route; ip -6 route"]).run();
    for part in ["default via 10.92.0.254", "default via fd92::fe"] {
        assert!(routes.ok().contains(part), "{routes:?}");
    }
    let shown = daemon.docker(&["network", "inspect", "bridge"]).run();
    assert!(shown.ok().contains("\"DefaultGatewayIPv4\": \"10.92.0.254\""), "{shown:?}");
    // Without a bip: the subnet is what is given to containers.
    let daemon = Daemon::start_with(&["--fixed-cidr=10.93.0.0/24", "--ip=::1"]);
    give_busybox(&daemon);
    daemon.hoy(&["run", "-d", "--name", "one", "-p", "80", "busybox", "sleep", "1000"]).run().ok();
    let address = field(&daemon, "one", "{{.NetworkSettings.IPAddress}}");
    assert_eq!(address, "10.93.0.2");
    let ports = daemon.docker(&["port", "one"]).run();
    assert!(ports.ok().contains("[::1]:") && !ports.stdout.contains("0.0.0.0"), "{ports:?}");
}

/// Pools of both families, shown and used; options that new networks have by themselves.
#[test]
fn pools_and_default_options() {
    let daemon = Daemon::start_with(&[
        "--default-address-pool=base=10.94.0.0/23,size=24",
        "--default-address-pool=base=fd94::/63,size=64",
        "--default-network-opt=bridge=com.docker.network.driver.mtu=1333",
        "--userland-proxy=false",
    ]);
    give_busybox(&daemon);
    let pools = daemon.docker(&["info", "-f", "{{json .DefaultAddressPools}}"]).run();
    let wanted = r#"[{"Base":"10.94.0.0/23","Size":24},{"Base":"fd94::/63","Size":64}]"#;
    assert_eq!(pools.ok().trim(), wanted);
    // The default bridge has the first of them.
    daemon.hoy(&["network", "create", "--ipv6", "own"]).run().ok();
    let line = "ip addr show eth0";
    let seen = daemon.hoy(&["run", "--rm", "--network=own", "busybox", "sh", "-c", line]).run();
    for part in ["10.94.1.2/24", "fd94::2/64", "mtu 1333"] {
        assert!(seen.ok().contains(part), "{part}: {seen:?}");
    }
    let full = daemon.docker(&["network", "create", "more"]).run();
    assert!(
        full.stderr.contains("all predefined address pools have been fully subnetted"),
        "{full:?}"
    );
    // What the kernel cannot carry is not published without the helper.
    daemon.hoy(&["run", "-d", "--name", "one", "-p", "80", "busybox", "sleep", "1000"]).run().ok();
    let ports = daemon.docker(&["port", "one"]).run();
    assert!(ports.ok().contains("0.0.0.0:") && !ports.stdout.contains("[::]"), "{ports:?}");
}

/// No default bridge: loopback is all there is, and created networks are as ever.
#[test]
fn no_bridge() {
    let daemon = Daemon::start_with(&["--bridge=none"]);
    give_busybox(&daemon);
    let links = daemon.hoy(&["run", "--rm", "busybox", "ip", "-o", "link"]).run();
    assert_eq!(links.ok().lines().count(), 1, "{links:?}");
    let names = daemon.docker(&["network", "ls", "--format", "{{.Name}}"]).run();
    assert_eq!(names.ok().split_whitespace().collect::<Vec<_>>(), ["host", "none"]);
    daemon.hoy(&["network", "create", "own"]).run().ok();
    daemon
        .hoy(&["run", "--rm", "--network=own", "busybox", "ip", "link", "show", "eth0"])
        .run()
        .ok();
}

/// Forwarding that the daemon turned on stays closed to strangers, unless it is told otherwise.
#[test]
fn strangers() {
    for (arguments, reached) in [(&[][..], false), (&["--ip-forward-no-drop"][..], true)] {
        let host = Host::start_with(true, arguments);
        let far = NetNs::new();
        far.sh("echo 0 >/proc/sys/net/ipv6/conf/default/accept_dad");
        host.daemon.netns().link(&far, "far0", "10.78.0.1/24", "10.78.0.2/24");
        far.sh("ip route add default via 10.78.0.1");
        let there = udp(&far, "10.78.0.2:7");
        if reached {
            there.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        }
        let sent = udp(&host.neighbour, "10.77.0.2:0").send_to(b"x", "10.78.0.2:7");
        assert_eq!(sent.ok(), Some(1));
        assert_eq!(there.recv(&mut [0; 8]).is_ok(), reached, "{arguments:?}");
    }
}

/// Firewalls of others: told with the command that helps; passed where that is asked for; taken
/// back.
#[test]
fn firewalls_of_others() {
    let drop_all = "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP";
    let ufw = "iptables -N ufw-before-forward; ip6tables -N ufw6-before-forward; \
               iptables -P FORWARD DROP; ip6tables -P FORWARD DROP";
    let firewalld = "nft -f - <<'END'\ntable inet firewalld {\n chain filter_FORWARD {\n type \
                     filter hook forward priority filter + 10; policy accept;\n ct state \
                     established,related accept\n reject\n }\n}\nEND";
    let flush = "iptables -F FORWARD; ip6tables -F FORWARD";
    let reload = format!("nft delete table inet firewalld; {firewalld}");
    for (rules, again, command, who) in [
        (drop_all, flush, "iptables -I FORWARD -i", "iptables"),
        (ufw, flush, "ufw route allow in on", "ufw"),
        (firewalld, &*reload, "firewall-cmd --permanent --zone=trusted", "firewalld"),
    ] {
        let mut daemon = Daemon::prepare(&[]);
        let neighbour = NetNs::new();
        daemon.netns().link(&neighbour, "wire0", "10.77.0.1/24", "10.77.0.2/24");
        daemon.netns().sh(rules);
        let before = daemon.netns().sh("nft list ruleset");
        daemon.launch();
        give_busybox(&daemon);
        let shut = ["run", "--rm", "busybox", "ping", "-c", "1", "-W", "1", "10.77.0.2"];
        let out = ["run", "--rm", "busybox", "ping", "-c", "1", "-W", "30", "10.77.0.2"];
        assert_ne!(daemon.hoy(&shut).run().code, Some(0), "{who}");
        let info = daemon.docker(&["info", "-f", "{{json .Warnings}}"]).run();
        assert!(info.ok().contains(command) && info.stdout.contains(who), "{info:?}");
        assert!(daemon.log().contains(command), "{}", daemon.log());
        // Asked to, it lets its own bridges pass.
        daemon.terminate();
        daemon.set_arguments(&["--allow-through-firewall"]);
        daemon.launch();
        daemon.hoy(&out).run().ok();
        daemon.hoy(&["network", "create", "own"]).run().ok();
        let own = ["run", "--rm", "--network=own", "busybox", "ping", "-c1", "-W30", "10.77.0.2"];
        daemon.hoy(&own).run().ok();
        let info = daemon.docker(&["info", "-f", "{{json .Warnings}}"]).run();
        assert!(!info.ok().contains(command), "{info:?}");
        // Whoever loads his rules anew finds ours in them again.
        daemon.netns().sh(again);
        wait_until("what is loaded anew is passed", || {
            daemon.netns().sh("nft list ruleset").contains("hoy: from hoy0")
        });
        daemon.hoy(&out).run().ok();
        // Not asked any more, it takes them back.
        daemon.terminate();
        daemon.set_arguments(&[]);
        daemon.launch();
        // By another number than before: what was let in once is a flow that is known.
        let line = "(true); (true); ping -c 1 -W 1 10.77.0.2 || exit 1; exit 0";
        let other = ["run", "--rm", "busybox", "sh", "-c", line];
        assert_ne!(daemon.hoy(&other).run().code, Some(0), "{who}");
        daemon.terminate();
        daemon.set_arguments(&["--allow-through-firewall"]);
        daemon.launch();
        daemon.hoy(&out).run().ok();
        daemon.hoy(&["system", "stop", "--clean"]).run().ok();
        wait_until("all is as before", || daemon.netns().sh("nft list ruleset") == before);
    }
}

/// What each mode of a gateway lets through, in both families, from another host: by the host's
/// port, to a published and to a hidden port of the container itself.
#[test]
fn gateway_modes() {
    let host = Host::start();
    let modes = [
        ("nat", "", [true, false, false]),
        ("nat-unprotected", "", [true, true, true]),
        ("routed", "", [false, true, false]),
        ("isolated", "--internal", [false; 3]),
    ];
    let (mut asked, mut expected) = (String::new(), Vec::new());
    for (number, (mode, flags, answers)) in modes.into_iter().enumerate() {
        let option = "-o com.docker.network.bridge.gateway_mode_ipv";
        host.docker(&format!(
            "network create {flags} --ipv6 --subnet 10.81.{number}.0/24 --subnet fd81:{number}::/64 \
             {option}4={mode} {option}6={mode} {mode}"
        ));
        host.site(mode, &format!("--network {mode} -p 808{number}:80"));
        host.inside(mode, "httpd -p 81 -h /www").ok();
        for family in [0, 1] {
            let (here, own) = (url(HERE[family]), host.address(mode, mode, family));
            let place = url(&own);
            let targets = [format!("{here}:808{number}"), place.clone(), format!("{place}:81")];
            for (what, target) in targets.iter().enumerate() {
                asked += &format!(
                    "(curl -sgf --max-time 2 http://{target}/cgi-bin/who >/dev/null && \
                     echo {mode} {family} {what}) & "
                );
            }
            let yes = answers.iter().enumerate().filter(|(_, yes)| **yes);
            expected.extend(yes.map(|(what, _)| format!("{mode} {family} {what}")));
        }
    }
    expected.sort();
    wait_until("each lets through what it should", || {
        let answers = host.neighbour.sh(&format!("{asked} wait"));
        let mut answers: Vec<&str> = answers.lines().collect();
        answers.sort_unstable();
        answers == expected
    });
    // The host has no address in an isolated network.
    let says = host.daemon.netns().sh("ip -o addr");
    assert!(
        says.contains("10.81.0.1/24") && !says.contains("10.81.3.") && !says.contains("fd81:3")
    );
    host.end();
}

/// Events of networks, with Docker's attributes, found by their filters.
#[test]
fn events() {
    let daemon = hoy_e2e::daemon();
    daemon.hoy(&["network", "create", "own"]).run().ok();
    daemon
        .hoy(&["run", "-d", "--name", "one", "--network=own", "busybox", "sleep", "1000"])
        .run()
        .ok();
    let listed = daemon.docker(&["ps", "-q", "--filter", "network=own"]).run();
    assert_eq!(listed.ok().lines().count(), 1);
    let listed = daemon.docker(&["ps", "-q", "--filter", "network=bridge"]).run();
    assert_eq!(listed.ok().lines().count(), 0);
    daemon.hoy(&["network", "disconnect", "own", "one"]).run().ok();
    daemon.hoy(&["network", "rm", "own"]).run().ok();
    daemon.hoy(&["network", "prune", "-f"]).run().ok();
    for predefined in ["host", "none"] {
        let network = format!("--network={predefined}");
        daemon.hoy(&["run", "--rm", &network, "busybox", "true"]).run().ok();
    }
    let format = "{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.type}} \
                  {{if .Actor.Attributes.container}}c{{end}}";
    // Docker's client rounds down to the second.
    let past = |filter: &str| {
        let args = ["events", "--since=1", "--until=-1s", "--filter", filter, "--format", format];
        daemon.docker(&args).run().ok().to_owned()
    };
    let own = "create own bridge \nconnect own bridge c\ndisconnect own bridge c\ndestroy own \
               bridge \n";
    assert!(past("network=own").starts_with(own), "{}", past("network=own"));
    let all = past("type=network");
    assert!(all.starts_with(own) && all.contains("prune"), "{all}");
    let predefined = "connect host host c\ndisconnect host host c\nconnect none null c\n\
                      disconnect none null c\n";
    wait_until("those without interfaces tell, too", || past("type=network").ends_with(predefined));
}
