//! A container's network namespace: which endpoint is its way out (pure), and what is done inside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use hoy_types::{IdMaps, PortBinding};
use serde::{Deserialize, Serialize};

use crate::address::Cidr;
use crate::ports::BoundPort;

/// What a container wants of one network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndpointSpec {
    /// The network's id.
    pub network: String,
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
    pub link_local: Vec<IpAddr>,
    pub mac: Option<[u8; 6]>,
    /// Who has the highest is the way out.
    pub priority: i64,
    /// What the interface is called, if not `eth0` and so on.
    pub interface: Option<String>,
    /// Settings of the interface: what follows `net.`, with its name in it, and the value.
    pub sysctls: Vec<(String, String)>,
}

/// The user namespace that owns a network.
#[derive(Clone, Debug)]
pub enum Owner {
    /// A new one with these ids.
    New(IdMaps),
    /// Another container's.
    Given(Arc<OwnedFd>),
}

/// What a container wants of all networks.
#[derive(Clone, Debug, Default)]
pub struct SandboxSpec {
    /// For messages: the container's name.
    pub name: String,
    pub endpoints: Vec<EndpointSpec>,
    pub ports: Vec<PortBinding>,
    /// The user namespace that is to own the network; absent, it is the machine's.
    pub owner: Option<Owner>,
    /// Sockets of the embedded name server are opened.
    pub dns: bool,
}

/// What it got of one network: kept with the container's record while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The network's id and name.
    pub network: String,
    pub network_name: String,
    pub v4: Option<Cidr>,
    pub v6: Option<Cidr>,
    pub link_local: Vec<IpAddr>,
    pub gateway4: Option<Ipv4Addr>,
    pub gateway6: Option<Ipv6Addr>,
    pub mac: String,
    /// What the interface is called in the container.
    pub inside: String,
    /// The host's end; empty where there is none.
    pub interface: String,
    pub priority: i64,
    /// The way out of the container, of each family.
    pub way_out4: bool,
    pub way_out6: bool,
    pub ports: Vec<BoundPort>,
}

impl Endpoint {
    pub fn address4(&self) -> Option<Ipv4Addr> {
        match self.v4?.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }

    pub fn address6(&self) -> Option<Ipv6Addr> {
        match self.v6?.address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        }
    }
}

/// Decides which endpoints are the way out: the highest priority, then the one that has both
/// families, then the first by its network's name.
pub(crate) fn decide_way_out(endpoints: &mut [Endpoint]) {
    let first = |usable: &dyn Fn(&Endpoint) -> bool| {
        let candidates = endpoints.iter().enumerate().filter(|(_, endpoint)| usable(endpoint));
        let best = candidates.min_by_key(|(_, endpoint)| {
            let both = endpoint.gateway4.is_some() && endpoint.gateway6.is_some();
            (std::cmp::Reverse(endpoint.priority), !both, endpoint.network_name.clone())
        });
        best.map(|(index, _)| index)
    };
    let four = first(&|endpoint| endpoint.gateway4.is_some());
    let six = first(&|endpoint| endpoint.gateway6.is_some());
    for (index, endpoint) in endpoints.iter_mut().enumerate() {
        endpoint.way_out4 = four == Some(index);
        endpoint.way_out6 = six == Some(index);
    }
}

/// The name of the next interface: the first number that is free behind the prefix.
pub(crate) fn next_name(prefix: &str, taken: &[Endpoint]) -> String {
    let free = |number: &usize| {
        let name = format!("{prefix}{number}");
        taken.iter().all(|endpoint| endpoint.inside != name)
    };
    // One of the first n + 1 is free.
    let number = (0..=taken.len()).find(free).unwrap_or(taken.len());
    format!("{prefix}{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str, priority: i64, v4: bool, v6: bool) -> Endpoint {
        Endpoint {
            id: String::new(),
            network: name.into(),
            network_name: name.into(),
            v4: None,
            v6: None,
            link_local: Vec::new(),
            gateway4: v4.then_some(Ipv4Addr::LOCALHOST),
            gateway6: v6.then_some(Ipv6Addr::LOCALHOST),
            mac: String::new(),
            inside: String::new(),
            interface: String::new(),
            priority,
            way_out4: true,
            way_out6: true,
            ports: Vec::new(),
        }
    }

    fn ways(mut endpoints: Vec<Endpoint>) -> (Option<String>, Option<String>) {
        decide_way_out(&mut endpoints);
        let name = |found: Option<&Endpoint>| found.map(|endpoint| endpoint.network.clone());
        assert!(endpoints.iter().filter(|e| e.way_out4).count() < 2);
        (
            name(endpoints.iter().find(|endpoint| endpoint.way_out4)),
            name(endpoints.iter().find(|endpoint| endpoint.way_out6)),
        )
    }

    #[test]
    fn the_way_out() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(ways(vec![]), (None, None));
        assert_eq!(ways(vec![endpoint("internal", 9, false, false)]), (None, None));
        let two = || vec![endpoint("b", 0, true, false), endpoint("a", 0, true, false)];
        assert_eq!(ways(two()), (some("a"), None));
        let mut three = two();
        three.push(endpoint("c", 1, true, false));
        assert_eq!(ways(three.clone()), (some("c"), None));
        three.push(endpoint("d", 0, true, true));
        assert_eq!(ways(three), (some("c"), some("d")));
        let mut both = two();
        both.push(endpoint("z", 0, true, true));
        assert_eq!(ways(both), (some("z"), some("z")));
    }

    #[test]
    fn names_of_interfaces() {
        let named = |name: &str| Endpoint { inside: name.into(), ..endpoint("n", 0, true, true) };
        assert_eq!(next_name("eth", &[]), "eth0");
        assert_eq!(next_name("eth", &[named("eth0"), named("eth2")]), "eth1");
        assert_eq!(next_name("net", &[named("eth0")]), "net0");
    }
}
