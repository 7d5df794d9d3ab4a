//! What a network is: decided here from what somebody asks for and from what there is already.
//! Pure.

mod options;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use self::options::{BridgeOptions, LinkMode, LinkOptions, is_interface_name};
use crate::address::{Cidr, Supply, choose};
use crate::firewall::GatewayMode;

/// What another gateway than the bridge is called among the addresses that are set aside.
pub const OTHER_GATEWAY4: &str = "DefaultGatewayIPv4";
pub const OTHER_GATEWAY6: &str = "DefaultGatewayIPv6";

/// What makes a network. `host` and `none` need nobody to make them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    Bridge,
    Macvlan,
    Ipvlan,
}

impl Driver {
    pub fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
        }
    }
}

/// Everything of a network that outlives the daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// 64 hexadecimal digits.
    pub id: String,
    pub name: String,
    pub driver: Driver,
    pub ipv4: bool,
    pub ipv6: bool,
    /// No way out and none in.
    pub internal: bool,
    pub options: BTreeMap<String, String>,
    pub pools: Vec<PoolSpec>,
    /// The bridge was there before: it is not ours to delete.
    #[serde(default)]
    pub adopted: bool,
}

/// A subnet of a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolSpec {
    pub subnet: Cidr,
    pub range: Option<Cidr>,
    pub gateway: Option<IpAddr>,
    #[serde(default)]
    pub set_aside: BTreeMap<String, IpAddr>,
}

/// A network that somebody wants; `pools` may leave open what the host has room for.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkRequest {
    pub id: String,
    pub name: String,
    pub driver: Driver,
    pub ipv4: bool,
    pub ipv6: bool,
    pub internal: bool,
    pub options: BTreeMap<String, String>,
    pub pools: Vec<PoolRequest>,
}

/// Addresses as somebody wants them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PoolRequest {
    pub subnet: Option<Cidr>,
    pub range: Option<Cidr>,
    pub gateway: Option<IpAddr>,
    pub set_aside: BTreeMap<String, IpAddr>,
}

/// What there is already.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Subnets of other networks: never given twice.
    pub networks: Vec<Cidr>,
    /// Routes and addresses of the host, and its name servers: avoided where nobody asks for them.
    pub host: Vec<Cidr>,
    pub supplies: Vec<Supply>,
    /// Bridges of other networks and who has them: `(interface, network's name)`.
    pub interfaces: Vec<(String, String)>,
    /// Interfaces of the host that are there already.
    pub links: Vec<String>,
}

/// Why a network cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("invalid pool request: Pool overlaps with other one on this address space")]
    Overlap,
    #[error("all predefined address pools have been fully subnetted")]
    NoPool,
    #[error("bridge driver doesn't support multiple subnets")]
    ManySubnets,
    #[error("IPv4 or IPv6 must be enabled")]
    NoFamily,
    #[error("{0}")]
    Gateway(String),
    #[error("failed to allocate gateway (): no available addresses on this pool")]
    NoGateway,
    #[error("invalid value for {name}: {value:?}{hint}")]
    Option { name: String, value: String, hint: &'static str },
    #[error("unknown option {name:?} of the {driver} driver")]
    Unknown { name: String, driver: &'static str },
    #[error(
        "requested macvlan mode '{0}' is not valid, 'bridge' mode is the macvlan driver default \
         (there are bridge, private, vepa and passthru)"
    )]
    MacvlanMode(String),
    #[error("networks have same bridge name: {interface} belongs to network {network}")]
    SameBridge { interface: String, network: String },
    #[error("network {network} is already using parent interface {interface}")]
    SameParent { interface: String, network: String },
}

impl NetworkSpec {
    /// The network that is asked for, with subnets and gateways where none were named.
    pub fn decide(request: NetworkRequest, facts: &Facts) -> Result<Self, SpecError> {
        if !request.ipv4 && !request.ipv6 {
            return Err(SpecError::NoFamily);
        }
        let of = |v4: bool| {
            let wanted = move |pool: &&PoolRequest| {
                // What names nothing at all is IPv4's.
                let named = pool.subnet.is_none_or(|subnet| subnet.is_ipv4());
                named == v4
            };
            request.pools.iter().filter(wanted).cloned().collect::<Vec<_>>()
        };
        let mut pools: Vec<PoolSpec> = Vec::new();
        for (v4, on) in [(true, request.ipv4), (false, request.ipv6)] {
            if !on {
                continue;
            }
            let mut wanted = of(v4);
            if wanted.is_empty() {
                wanted.push(PoolRequest::default());
            }
            if request.driver == Driver::Bridge && wanted.len() > 1 {
                return Err(SpecError::ManySubnets);
            }
            for pool in wanted {
                let pool = decide_pool(&request, pool, v4, &pools, facts)?;
                pools.push(pool);
            }
        }
        let NetworkRequest { id, name, driver, ipv4, ipv6, internal, options, .. } = request;
        let mut spec =
            Self { id, name, driver, ipv4, ipv6, internal, options, pools, adopted: false };
        spec.check(facts)?;
        spec.adopted = facts.links.contains(&spec.interface());
        Ok(spec)
    }

    fn check(&self, facts: &Facts) -> Result<(), SpecError> {
        match self.driver {
            Driver::Bridge => {
                let interface = self.bridge_options()?.interface(&self.id);
                if let Some((_, network)) = facts.interfaces.iter().find(|(i, _)| *i == interface) {
                    return Err(SpecError::SameBridge { interface, network: network.clone() });
                }
            }
            Driver::Macvlan | Driver::Ipvlan => {
                let link = self.link_options()?;
                if let Some((interface, network)) =
                    facts.interfaces.iter().find(|(i, _)| *i == link.parent)
                {
                    return Err(SpecError::SameParent {
                        interface: interface.clone(),
                        network: network.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    pub fn subnets(&self) -> impl Iterator<Item = Cidr> {
        self.pools.iter().map(|pool| pool.subnet)
    }

    /// The gateway's own address of a family, with its prefix.
    pub fn gateway(&self, v4: bool) -> Option<Cidr> {
        let pool = self.pools.iter().find(|pool| pool.subnet.is_ipv4() == v4)?;
        Cidr::new(pool.gateway?, pool.subnet.prefix)
    }

    /// Where containers are sent for what is outside, if not to the bridge: Docker's names of
    /// addresses that are set aside.
    pub fn other_gateway(&self, v4: bool) -> Option<IpAddr> {
        let name = if v4 { OTHER_GATEWAY4 } else { OTHER_GATEWAY6 };
        let mut pools = self.pools.iter().filter(|pool| pool.subnet.is_ipv4() == v4);
        pools.find_map(|pool| pool.set_aside.get(name).copied())
    }

    /// The host's interface that the network takes: the bridge, or the parent.
    pub fn interface(&self) -> String {
        match self.driver {
            Driver::Bridge => {
                self.bridge_options().map(|options| options.interface(&self.id)).unwrap_or_default()
            }
            _ => self.link_options().map(|options| options.parent).unwrap_or_default(),
        }
    }

    pub fn bridge_options(&self) -> Result<BridgeOptions, SpecError> {
        BridgeOptions::parse(&self.options)
    }

    pub fn link_options(&self) -> Result<LinkOptions, SpecError> {
        let mut options = LinkOptions::parse(self.driver, &self.options)?;
        if options.parent.is_empty() {
            // Docker's name for it.
            let kind = if self.driver == Driver::Macvlan { "dm" } else { "di" };
            let id = self.id.get(..12).unwrap_or(&self.id);
            (options.parent, options.own) = (format!("{kind}-{id}"), true);
        }
        Ok(options)
    }
}

fn decide_pool(
    request: &NetworkRequest,
    wanted: PoolRequest,
    v4: bool,
    before: &[PoolSpec],
    facts: &Facts,
) -> Result<PoolSpec, SpecError> {
    let taken = || facts.networks.iter().copied().chain(before.iter().map(|pool| pool.subnet));
    let subnet = match wanted.subnet {
        // Two networks on two physical ones may well have the same addresses; bridges on one host
        // cannot.
        Some(subnet) if taken().any(|other| other.overlaps(&subnet)) => {
            return Err(SpecError::Overlap);
        }
        Some(subnet) => subnet.network(),
        None => {
            let all: Vec<Cidr> = taken().chain(facts.host.iter().copied()).collect();
            choose(&facts.supplies, v4, &all).ok_or(SpecError::NoPool)?
        }
    };
    let gateway = match wanted.gateway {
        Some(gateway) => Some(gateway),
        None if has_no_gateway(request, v4)? => None,
        None => {
            let found = gateway_of(&subnet, wanted.range, &wanted.set_aside);
            Some(found.ok_or(SpecError::NoGateway)?)
        }
    };
    for name in [OTHER_GATEWAY4, OTHER_GATEWAY6] {
        if let Some(other) = wanted.set_aside.get(name).filter(|other| !subnet.contains(**other)) {
            return Err(SpecError::Gateway(format!(
                "invalid gateway {other}: it is not in the subnet {subnet}"
            )));
        }
    }
    if let Some(gateway) = gateway {
        let own = subnet.own_address() == Some(gateway);
        if own && request.driver == Driver::Bridge {
            return Err(SpecError::Gateway(format!(
                "invalid gateway {gateway}: it is the subnet's own address"
            )));
        }
    }
    Ok(PoolSpec { subnet, range: wanted.range, gateway, set_aside: wanted.set_aside })
}

/// An interface beside the host's has none unless it is named: there the router decides. Neither
/// has a bridge that the host keeps away from.
fn has_no_gateway(request: &NetworkRequest, v4: bool) -> Result<bool, SpecError> {
    if request.driver != Driver::Bridge {
        return Ok(request.internal);
    }
    let options = BridgeOptions::parse(&request.options)?;
    Ok((if v4 { options.mode4 } else { options.mode6 }) == GatewayMode::Isolated)
}

/// The first address that nobody set aside, in the range if there is one.
fn gateway_of(
    subnet: &Cidr,
    range: Option<Cidr>,
    set_aside: &BTreeMap<String, IpAddr>,
) -> Option<IpAddr> {
    let base = range.unwrap_or(*subnet);
    let free = |address: &IpAddr| {
        base.contains(*address)
            && subnet.own_address() != Some(*address)
            && subnet.broadcast() != Some(*address)
            && !set_aside.values().any(|other| other == address)
    };
    // Beyond the last one it begins again, with what was looked at before.
    (0..=1 + set_aside.len() as u128).map(|place| base.host(place)).find(free)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::docker_supply;

    fn request(pools: Vec<PoolRequest>) -> NetworkRequest {
        NetworkRequest {
            id: "0123456789abcdef".repeat(4),
            name: "n".into(),
            driver: Driver::Bridge,
            ipv4: true,
            ipv6: false,
            internal: false,
            options: BTreeMap::new(),
            pools,
        }
    }

    fn facts(networks: &[&str]) -> Facts {
        Facts {
            networks: networks.iter().map(|text| text.parse().unwrap()).collect(),
            supplies: docker_supply(),
            ..Facts::default()
        }
    }

    fn pool(subnet: &str) -> PoolRequest {
        PoolRequest { subnet: Some(subnet.parse().unwrap()), ..PoolRequest::default() }
    }

    #[test]
    fn what_is_left_open_is_decided() {
        let spec = NetworkSpec::decide(request(vec![]), &facts(&["172.17.0.0/16"])).unwrap();
        assert_eq!(spec.pools[0].subnet.to_string(), "172.18.0.0/16");
        assert_eq!(spec.pools[0].gateway, Some("172.18.0.1".parse().unwrap()));
        assert_eq!(spec.interface(), "br-0123456789ab");
        let spec = NetworkSpec::decide(request(vec![pool("10.1.0.0/16")]), &facts(&[])).unwrap();
        assert_eq!(spec.gateway(true).unwrap().to_string(), "10.1.0.1/16");
        let mut set_aside = pool("10.1.0.0/16");
        set_aside.set_aside.insert("router".into(), "10.1.0.1".parse().unwrap());
        let spec = NetworkSpec::decide(request(vec![set_aside.clone()]), &facts(&[])).unwrap();
        assert_eq!(spec.gateway(true).unwrap().to_string(), "10.1.0.2/16");
        set_aside.range = Some("10.1.5.0/24".parse().unwrap());
        let spec = NetworkSpec::decide(request(vec![set_aside]), &facts(&[])).unwrap();
        assert_eq!(spec.gateway(true).unwrap().to_string(), "10.1.5.0/16");
    }

    /// As Docker has it: IPv4 leaves nothing out of the smallest subnets, IPv6 always the first
    /// address.
    #[test]
    fn the_smallest_subnets() {
        let decide = |subnet: &str, mode: &str| {
            let mut small = request(vec![pool(subnet)]);
            small.ipv6 = subnet.contains(':');
            small.ipv4 = !small.ipv6;
            for family in ["ipv4", "ipv6"] {
                let name = format!("com.docker.network.bridge.gateway_mode_{family}");
                small.options.insert(name, mode.into());
            }
            small.internal = mode == "isolated";
            let spec = NetworkSpec::decide(small, &facts(&[]))?;
            Ok(spec.pools[0].gateway.map(|gateway| gateway.to_string()))
        };
        let some = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(decide("10.1.0.4/30", "nat"), some("10.1.0.5"));
        assert_eq!(decide("10.1.0.4/31", "nat"), some("10.1.0.4"));
        assert_eq!(decide("10.1.0.4/32", "nat"), some("10.1.0.4"));
        assert_eq!(decide("fd00::4/126", "nat"), some("fd00::5"));
        assert_eq!(decide("fd00::4/127", "nat"), some("fd00::5"));
        assert_eq!(decide("fd00::4/128", "nat"), Err(SpecError::NoGateway));
        assert_eq!(decide("10.1.0.4/31", "isolated"), Ok(None));
        assert_eq!(decide("fd00::4/127", "isolated"), Ok(None));
    }

    #[test]
    fn what_cannot_be() {
        let decide = |request, facts: &Facts| NetworkSpec::decide(request, facts).unwrap_err();
        assert_eq!(
            decide(request(vec![pool("10.1.0.0/16")]), &facts(&["10.1.4.0/24"])),
            SpecError::Overlap
        );
        let full = facts(&["172.16.0.0/12", "192.168.0.0/16"]);
        assert_eq!(decide(request(vec![]), &full), SpecError::NoPool);
        let two = vec![pool("10.1.0.0/16"), pool("10.2.0.0/16")];
        assert_eq!(decide(request(two.clone()), &facts(&[])), SpecError::ManySubnets);
        let mut macvlan = request(two);
        macvlan.driver = Driver::Macvlan;
        macvlan.options.insert("parent".into(), "eth1".into());
        assert_eq!(NetworkSpec::decide(macvlan, &facts(&[])).unwrap().pools.len(), 2);
        for (name, value) in [
            ("com.docker.network.bridge.enable_icc", "maybe"),
            ("com.docker.network.bridge.name", "more-than-fifteen"),
            ("com.docker.network.driver.mtu", "3"),
            ("com.docker.network.bridge.gateway_mode_ipv4", "natted"),
            ("com.docker.network.bridge.colour", "red"),
        ] {
            let mut bad = request(vec![]);
            bad.options.insert(name.into(), value.into());
            assert!(NetworkSpec::decide(bad, &facts(&[])).is_err(), "{name}");
        }
    }

    #[test]
    fn a_parent_of_its_own() {
        for (driver, name) in
            [(Driver::Macvlan, "dm-0123456789ab"), (Driver::Ipvlan, "di-0123456789ab")]
        {
            let mut alone = request(vec![]);
            alone.driver = driver;
            let spec = NetworkSpec::decide(alone.clone(), &facts(&[])).unwrap();
            assert_eq!((spec.interface().as_str(), spec.adopted), (name, false));
            assert!(spec.link_options().unwrap().own);
            alone.options.insert("parent".into(), "eth1".into());
            let spec = NetworkSpec::decide(alone, &facts(&[])).unwrap();
            assert_eq!(spec.interface(), "eth1");
            assert!(!spec.link_options().unwrap().own);
        }
    }

    #[test]
    fn sub_interfaces() {
        let options = |parent: &str| {
            let all = BTreeMap::from([("parent".to_owned(), parent.to_owned())]);
            LinkOptions::parse(Driver::Macvlan, &all).unwrap()
        };
        assert_eq!(options("eth0.50").vlan(), Some(("eth0", 50)));
        assert_eq!(options("eth0").vlan(), None);
        assert_eq!(options("eth0.5000").vlan(), None);
    }
}
