//! The daemon killed under traffic, under questions, and in the middle of making and removing.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use hoy_e2e::daemon;
use hoy_testkit::{Daemon, KernelCounts, wait_until};
use serde_json::json;

use crate::probe::{self, Echo, Probe};
use crate::{Chance, addresses, neighbour, netns};

#[test]
fn connections_and_names_outlive_the_daemon() {
    let mut daemon = daemon();
    let outside = neighbour(&daemon);
    daemon.docker(&["network", "create", "front"]).run().ok();
    hoy_e2e::idle(&daemon, "web", &["--network", "front", "-p", "8080:80"]);
    hoy_e2e::idle(&daemon, "peer", &["--network", "front", "--network-alias", "other"]);
    let web = netns(&daemon, "web");
    let _server = Echo::start(&web, 80);
    let IpAddr::V4(peer) = addresses(&daemon, "peer", "front")[0] else { panic!("no IPv4") };
    let host = daemon.netns().path();
    // The container has IPv4 only: what comes by IPv6 goes by the helper's sockets.
    let places = [
        ("loopback", host.clone(), "127.0.0.1:8080"),
        ("loopback by IPv6", host, "[::1]:8080"),
        ("outside", outside.path(), "10.77.0.1:8080"),
        ("outside by IPv6", outside.path(), "[fd77::1]:8080"),
    ];
    let mut probes = Vec::new();
    for (what, netns, address) in places {
        let address = address.parse().expect("an address");
        probes.push(Probe::start(what, &netns, probe::client(address)));
        // And one connection through all of it.
        probes.push(Probe::start(what, &netns, move || {
            let mut stream = probe::connect(address);
            move || probe::converse(stream.as_mut().map_err(|error| error.clone())?)
        }));
    }
    let names = ["peer", "other"].map(|name| Probe::start("names", &web, probe::asks(name, peer)));
    probes.iter().chain(&names).for_each(|probe| probe.more(5));
    for _ in 0..3 {
        daemon.kill();
        probes.iter().for_each(|probe| probe.more(20));
        daemon.launch();
        probes.iter().chain(&names).for_each(|probe| probe.more(20));
    }
    probes.into_iter().chain(names).for_each(Probe::finish);
}

/// Bridges of networks that people made: as the kernel has them, the rules, and the documents.
fn bridges(daemon: &Daemon) -> [BTreeSet<String>; 3] {
    let links = daemon.netns().sh("ip -o link show type bridge");
    let links = links.lines().filter_map(|line| line.split(": ").nth(1)).map(str::to_owned);
    let rules = daemon.netns().run("nft").args(["list", "table", "inet", "hoy"]).run().stdout;
    let words = rules.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let known = crate::client(daemon).get("/networks").fetch().expect("list networks");
    let known = known.as_array().expect("a list").iter();
    let known = known.filter(|one| one["Driver"] == "bridge" && one["Name"] != "bridge");
    let ours = |name: &String| name.starts_with("br-");
    [
        links.filter(ours).collect(),
        words.map(str::to_owned).filter(ours).collect(),
        known.map(|one| format!("br-{}", &one["Id"].as_str().expect("an id")[..12])).collect(),
    ]
}

#[test]
fn killed_at_any_step_a_network_is_whole_or_not_there() {
    let mut daemon = daemon();
    // Kills fall before, into and behind what this machine takes for it, as fast as it is by then.
    let started = Instant::now();
    daemon.docker(&["network", "create", "--ipv6", "x"]).run().ok();
    daemon.docker(&["network", "rm", "x"]).run().ok();
    let mut span = usize::try_from(started.elapsed().as_micros()).expect("a short time");
    let before = hoy_e2e::counts(&daemon);
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let mut present = false;
    let (mut acknowledged, mut lost) = (0, 0);
    for round in 0..100 {
        let client = crate::client(&daemon);
        let asked = std::thread::spawn(move || {
            if present {
                client.delete("/networks/x").send().map(drop)
            } else {
                let request = json!({"Name": "x", "EnableIPv6": true});
                client.post("/networks/create").json(&request).send().map(drop)
            }
        });
        std::thread::sleep(Duration::from_micros(chance.below(span) as u64));
        daemon.kill();
        let answer = asked.join().expect("no panic");
        daemon.launch();
        let [links, rules, known] = bridges(&daemon);
        assert_eq!((&links, &rules), (&known, &known), "round {round}");
        let there = !known.is_empty();
        match &answer {
            Ok(()) => {
                assert_eq!(there, !present, "round {round}: an answer that was not true");
                acknowledged += 1;
                span = (span * 9 / 10).max(100);
            }
            Err(error) if error.status().is_some() => panic!("round {round}: {error}"),
            Err(_) => {
                lost += 1;
                span = span * 10 / 9;
            }
        }
        present = there;
    }
    assert!(acknowledged > 0 && lost > 0, "{acknowledged} done, {lost} lost: no test");
    if present {
        daemon.docker(&["network", "rm", "x"]).run().ok();
    }
    let now = KernelCounts::of(&daemon).daemon_descriptors;
    KernelCounts { daemon_descriptors: now, ..before }.wait_for(&daemon);
    wait_until("no bridge is left", || bridges(&daemon).iter().all(BTreeSet::is_empty));
}
