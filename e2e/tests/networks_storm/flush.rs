//! Other people's hands on the ruleset.

use std::net::SocketAddr;

use hoy_e2e::daemon;
use hoy_testkit::Daemon;

use crate::probe::{Echo, Probe, client, intruder};
use crate::{addresses, neighbour, netns};

fn flush(daemon: &Daemon) {
    daemon.netns().sh("nft flush ruleset");
}

/// Whether the table stands, by the program that reads rulesets.
fn stands(daemon: &Daemon) -> bool {
    daemon.netns().run("nft").args(["list", "table", "inet", "hoy"]).run().code == Some(0)
}

#[test]
fn a_flush_opens_nothing_and_closes_nothing() {
    let mut daemon = daemon();
    let outside = neighbour(&daemon);
    for name in ["one", "two"] {
        daemon.docker(&["network", "create", "--ipv6", name]).run().ok();
    }
    let idle = |name: &str, network: &str, more: &[&str]| {
        hoy_e2e::idle(&daemon, name, &[&["--network", network][..], more].concat());
    };
    idle("in-a", "one", &["-p", "8080:80"]);
    idle("in-b", "two", &[]);
    idle("in-c", "one", &[]);
    let [a, b, c] = ["in-a", "in-b", "in-c"].map(|name| netns(&daemon, name));
    let targets = |name: &str, network: &str| -> Vec<SocketAddr> {
        let all = addresses(&daemon, name, network);
        assert_eq!(all.len(), 2, "{all:?}");
        all.into_iter().map(|address| SocketAddr::new(address, 9)).collect()
    };
    let (to_a, to_b) = (targets("in-a", "one"), targets("in-b", "two"));
    let web = Echo::start(&a, 80);
    let [heard_a, heard_b] = [&a, &b].map(|netns| Echo::start(netns, 9));
    let there = Probe::start("from one to two", &a, intruder(to_b));
    let back = Probe::start("from two to one", &b, intruder(to_a.clone()));
    let served = [
        ("the published port from outside", outside.path(), "10.77.0.1:8080"),
        ("the same by IPv6", outside.path(), "[fd77::1]:8080"),
        ("the published port on loopback", daemon.netns().path(), "127.0.0.1:8080"),
        ("the published port on loopback by IPv6", daemon.netns().path(), "[::1]:8080"),
    ]
    .map(|(what, netns, address)| {
        Probe::start(what, &netns, client(address.parse().expect("an address")))
    });
    let go_on = || served.iter().chain([&there, &back]).for_each(|probe| probe.more(5));
    go_on();
    for _ in 0..5 {
        flush(&daemon);
        go_on();
    }
    let delete = |daemon: &Daemon| {
        let args = ["delete", "table", "inet", "hoy"];
        daemon.netns().run("nft").args(args).run()
    };
    let refused = delete(&daemon);
    assert!(refused.code != Some(0) && refused.stderr.contains("not permitted"), "{refused:?}");
    assert!(stands(&daemon));
    for _ in 0..2 {
        daemon.kill();
        for _ in 0..5 {
            flush(&daemon);
            go_on();
        }
        let refused = delete(&daemon);
        assert!(refused.code != Some(0), "{refused:?}");
        assert!(stands(&daemon));
        daemon.launch();
        // The next daemon owns the table as the one before did.
        flush(&daemon);
        go_on();
        assert!(stands(&daemon) && delete(&daemon).code != Some(0));
    }
    // And it can publish.
    hoy_e2e::idle(&daemon, "late", &["--network", "two", "-p", "8081:80"]);
    let late = Echo::start(&netns(&daemon, "late"), 80);
    for address in ["10.77.0.1:8081", "[fd77::1]:8081"] {
        let probe = Probe::start("a late one", &outside.path(), client(address.parse().unwrap()));
        probe.more(11);
        probe.finish();
    }
    assert!(late.connections() >= 22);
    served.into_iter().for_each(Probe::finish);
    there.finish();
    back.finish();
    assert!(web.connections() > 100);
    for heard in [&heard_a, &heard_b] {
        assert_eq!((heard.datagrams(), heard.connections()), (0, 0), "a leak");
    }
    // The same packets are heard where nothing isolates.
    let friend = Probe::start("from one to one", &c, move || {
        let socket = std::net::UdpSocket::bind("[::]:0").expect("a socket");
        move || socket.send_to(b"hello", to_a[1]).map(drop).map_err(|error| error.to_string())
    });
    friend.more(11);
    friend.finish();
    assert!(heard_a.datagrams() > 5);
}
