//! No room left: pools, addresses, many networks, a name server that somebody floods.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};

use hoy_e2e::{daemon, field};
use hoy_testkit::{Daemon, KernelCounts};

use crate::probe::{self, Probe};
use crate::{addresses, netns};

fn subnet(daemon: &Daemon, network: &str) -> String {
    let template = "{{(index .IPAM.Config 0).Subnet}}";
    daemon.docker(&["network", "inspect", "-f", template, network]).run().ok().trim().to_owned()
}

#[test]
fn pools_run_out_and_come_back() {
    let daemon = daemon();
    let before = hoy_e2e::counts(&daemon);
    let mut subnets = BTreeSet::from([subnet(&daemon, "bridge")]);
    let names: Vec<String> = (1..31).map(|number| format!("n{number}")).collect();
    for name in &names {
        daemon.docker(&["network", "create", name]).run().ok();
        assert!(subnets.insert(subnet(&daemon, name)), "given twice");
    }
    // Sixteen bits each of 172.17 to 172.31, twenty of 192.168.
    assert_eq!(subnets.len(), 31);
    let full = daemon.docker(&["network", "create", "n31"]).run();
    full.fails_with(1);
    let message =
        "Error response from daemon: all predefined address pools have been fully subnetted";
    assert_eq!(full.stderr.trim(), message);
    let freed = subnet(&daemon, "n7");
    daemon.docker(&["network", "rm", "n7"]).run().ok();
    daemon.docker(&["network", "create", "n7"]).run().ok();
    assert_eq!(subnet(&daemon, "n7"), freed);
    // What is asked for by name needs no pool.
    daemon.docker(&["network", "create", "--subnet", "10.8.0.0/24", "own"]).run().ok();
    daemon.docker(&["network", "rm", "own"]).args(&names).run().ok();
    before.wait_for(&daemon);
    daemon.docker(&["network", "create", "again"]).run().ok();
    assert_eq!(subnet(&daemon, "again"), "172.18.0.0/16");
    daemon.docker(&["network", "rm", "again"]).run().ok();
}

#[test]
fn a_small_network_is_full() {
    let daemon = daemon();
    daemon.docker(&["network", "create", "--subnet", "10.9.0.0/29", "small"]).run().ok();
    let names = ["c1", "c2", "c3", "c4", "c5"];
    let mut given = BTreeSet::new();
    for name in names {
        hoy_e2e::idle(&daemon, name, &["--network", "small"]);
        assert!(given.insert(addresses(&daemon, name, "small")), "given twice");
    }
    let run = ["run", "-d", "--name", "c6", "--network", "small", "busybox", "sleep", "1000"];
    let full = daemon.docker(&run).run();
    full.fails_with(125);
    let id = daemon.docker(&["network", "inspect", "-f", "{{.Id}}", "small"]).run();
    let words = "no available IPv4 addresses on this network's address pools: small";
    assert!(full.stderr.contains(&format!("{words} ({})", id.ok().trim())), "{}", full.stderr);
    assert_eq!(field(&daemon, "c6", "{{.State.Status}}"), "created");
    // One goes, and there is room for one.
    let freed = addresses(&daemon, "c3", "small");
    daemon.docker(&["rm", "-f", "c3"]).run().ok();
    daemon.docker(&["start", "c6"]).run().ok();
    assert_eq!(addresses(&daemon, "c6", "small"), freed);
    // By connecting as by starting.
    hoy_e2e::idle(&daemon, "c7", &[]);
    let full = daemon.docker(&["network", "connect", "small", "c7"]).run();
    full.fails_with(1);
    assert!(full.stderr.contains(words), "{}", full.stderr);
    assert_eq!(field(&daemon, "c7", "{{len .NetworkSettings.Networks}}"), "1");
}

#[test]
fn a_hundred_networks() {
    let mut daemon = daemon();
    let before = hoy_e2e::counts(&daemon);
    hoy_e2e::idle(&daemon, "busy", &[]);
    let names: Vec<String> = (0..100).map(|number| format!("n{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        let subnet = format!("10.9.{number}.0/24");
        daemon.docker(&["network", "create", "--subnet", &subnet, name]).run().ok();
    }
    // In many of them at once, also for the next daemon.
    for name in names.iter().step_by(5) {
        daemon.docker(&["network", "connect", name, "busy"]).run().ok();
    }
    daemon.kill();
    daemon.launch();
    let bridges =
        |daemon: &Daemon| daemon.netns().sh("ip -o link show type bridge").lines().count();
    assert_eq!(bridges(&daemon), 101);
    assert_eq!(field(&daemon, "busy", "{{len .NetworkSettings.Networks}}"), "21");
    let inside = daemon.hoy(&["exec", "busy", "ip", "-o", "-4", "addr"]).run();
    for (number, name) in names.iter().enumerate().step_by(5) {
        let address = format!("10.9.{number}.2");
        assert_eq!(addresses(&daemon, "busy", name), [address.parse::<IpAddr>().unwrap()]);
        assert!(inside.ok().contains(&format!("{address}/24")), "{}", inside.stdout);
    }
    hoy_e2e::idle(&daemon, "last", &["--network", "n95"]);
    daemon.hoy(&["exec", "busy", "ping", "-c", "1", "-W", "30", "last"]).run().ok();
    // The same host is nobody to those of another network.
    hoy_e2e::idle(&daemon, "alone", &["--network", "n96"]);
    let ping = daemon.hoy(&["exec", "alone", "ping", "-c", "1", "-W", "1", "10.9.95.2"]).run();
    assert_eq!(ping.code, Some(1), "{ping:?}");
    daemon.docker(&["rm", "-f", "busy", "last", "alone"]).run().ok();
    daemon.docker(&["network", "rm"]).args(&names).run().ok();
    let now = KernelCounts::of(&daemon).daemon_descriptors;
    KernelCounts { daemon_descriptors: now, ..before }.wait_for(&daemon);
}

#[test]
fn one_containers_flood_of_questions_is_its_own() {
    let daemon = daemon();
    daemon.docker(&["network", "create", "shared"]).run().ok();
    for name in ["rude", "calm", "asked"] {
        hoy_e2e::idle(&daemon, name, &["--network", "shared"]);
    }
    let IpAddr::V4(address) = addresses(&daemon, "asked", "shared")[0] else { panic!("no IPv4") };
    // Names of here and of elsewhere, and what is no question at all.
    let floods = ["asked", "nowhere.invalid", "broken"].map(|name| {
        Probe::start("flood", &netns(&daemon, "rude"), move || {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            socket.connect("127.0.0.11:53").expect("connect");
            let mut question = probe::question(7, name);
            if name == "broken" {
                question.truncate(17);
            }
            move || {
                for _ in 0..200 {
                    // No room in a queue is what a flood comes to.
                    let _ = socket.send(&question);
                }
                Ok(())
            }
        })
    });
    floods.iter().for_each(|flood| flood.more(5));
    let calm = Probe::start("the calm one", &netns(&daemon, "calm"), probe::asks("asked", address));
    for _ in 0..5 {
        calm.more(20);
    }
    floods.iter().for_each(|flood| flood.more(5));
    calm.finish();
    floods.into_iter().for_each(Probe::finish);
    // The rude one is served again, once it is done.
    let after =
        Probe::start("the rude one", &netns(&daemon, "rude"), probe::asks("asked", address));
    after.more(11);
    after.finish();
}
