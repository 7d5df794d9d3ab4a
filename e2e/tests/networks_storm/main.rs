//! Networks when everything happens at once: other people's hands on the ruleset, a daemon that is
//! killed, thousands of operations, and no room left.

mod churn;
mod flush;
mod killed;
mod probe;
mod room;

use std::net::IpAddr;

use hoy_client::{Client, Endpoint};
pub use hoy_e2e::Chance;
use hoy_testkit::{Daemon, NetNs};

/// A client of the API, for more requests than processes.
pub fn client(daemon: &Daemon) -> Client {
    Client::new(Endpoint::parse(&daemon.host()).expect("a path"))
}

/// Where a container's network is.
pub fn netns(daemon: &Daemon, container: &str) -> String {
    format!("/proc/{}/ns/net", hoy_e2e::pid(daemon, container))
}

/// A container's addresses in a network: of the first family, and of the second where it has one.
pub fn addresses(daemon: &Daemon, container: &str, network: &str) -> Vec<IpAddr> {
    let one = format!("index .NetworkSettings.Networks {network:?}");
    let template = format!("{{{{({one}).IPAddress}}}} {{{{({one}).GlobalIPv6Address}}}}");
    let text = hoy_e2e::field(daemon, container, &template);
    let parse = |word: &str| word.parse().unwrap_or_else(|_| panic!("{word:?} is no address"));
    text.split_whitespace().map(parse).collect()
}

/// A neighbour of the test host, with addresses of both families: 10.77.0.1 and fd77::1 is the
/// host.
pub fn neighbour(daemon: &Daemon) -> NetNs {
    let outside = NetNs::new();
    daemon.netns().link(&outside, "out0", "10.77.0.1/24", "10.77.0.2/24");
    daemon.netns().sh("ip addr add fd77::1/64 dev out0 nodad");
    outside.sh("ip addr add fd77::2/64 dev out0 nodad");
    outside
}
