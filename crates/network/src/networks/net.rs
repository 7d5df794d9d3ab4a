//! One network and what is given of it. Nothing here asks the kernel.

use std::net::IpAddr;

use crate::NetworkError;
use crate::address::{Cidr, Claim, Pool};
use crate::firewall::GatewayMode;
use crate::spec::{BridgeOptions, Driver, LinkOptions, NetworkSpec};

/// A network and what is given of it.
#[derive(Debug)]
pub(super) struct Net {
    pub spec: NetworkSpec,
    pub kind: Kind,
    pub pools: Vec<Pool>,
    /// The bridge's or the parent's number, once it is there.
    pub link: Option<u32>,
    pub endpoints: usize,
}

#[derive(Debug)]
pub(super) enum Kind {
    Bridge(BridgeOptions),
    Link(LinkOptions),
}

impl Net {
    pub(super) fn new(spec: NetworkSpec) -> Result<Self, NetworkError> {
        let kind = match spec.driver {
            Driver::Bridge => Kind::Bridge(spec.bridge_options()?),
            Driver::Macvlan | Driver::Ipvlan => Kind::Link(spec.link_options()?),
        };
        let pools = spec.pools.iter().map(|pool| {
            let mut aside: Vec<IpAddr> = pool.set_aside.values().copied().collect();
            aside.extend(pool.gateway);
            Pool::new(pool.subnet, pool.range, &aside)
        });
        Ok(Self { pools: pools.collect(), kind, link: None, endpoints: 0, spec })
    }

    pub(super) fn keeps_apart(&self) -> bool {
        matches!(&self.kind, Kind::Bridge(options) if !options.icc)
    }

    pub(super) fn prefix(&self) -> &str {
        match &self.kind {
            Kind::Bridge(options) => &options.prefix,
            Kind::Link(options) => &options.prefix,
        }
    }

    /// Where packets of a container leave the network, if they may.
    pub(super) fn gateway(&self, v4: bool) -> Option<IpAddr> {
        let isolated = |options: &BridgeOptions| {
            let mode = if v4 { options.mode4 } else { options.mode6 };
            mode == GatewayMode::Isolated || (v4 && options.inhibit4)
        };
        if self.spec.internal || matches!(&self.kind, Kind::Link(options) if options.own) {
            return None;
        }
        if let (Kind::Bridge(_), Some(other)) = (&self.kind, self.spec.other_gateway(v4)) {
            return Some(other);
        }
        match &self.kind {
            Kind::Bridge(options) if isolated(options) => match options.inhibit4 {
                // Another host of the network is the gateway.
                true if v4 && options.mode4 != GatewayMode::Isolated => {
                    self.spec.gateway(v4).map(|gateway| gateway.address)
                }
                _ => None,
            },
            _ => self.spec.gateway(v4).map(|gateway| gateway.address),
        }
    }

    pub(super) fn take(
        &mut self,
        v4: bool,
        wanted: Option<IpAddr>,
    ) -> Result<Option<Cidr>, NetworkError> {
        let on = if v4 { self.spec.ipv4 } else { self.spec.ipv6 };
        let mut pools = self.pools.iter_mut().filter(|pool| pool.subnet().is_ipv4() == v4);
        match wanted {
            Some(address) => {
                let claimed = pools
                    .find(|pool| pool.subnet().contains(address))
                    .ok_or(Claim::Outside)
                    .and_then(|pool| pool.claim(address));
                claimed.map(Some).map_err(|why| NetworkError::address(why, address))
            }
            None if !on => Ok(None),
            None => {
                let taken = pools.find_map(Pool::take).map(Some);
                taken.ok_or_else(|| NetworkError::Exhausted {
                    family: if v4 { "IPv4" } else { "IPv6" },
                    network: format!("{} ({})", self.spec.name, self.spec.id),
                })
            }
        }
    }

    pub(super) fn give_back(&mut self, address: IpAddr) {
        if let Some(pool) = self.pools.iter_mut().find(|pool| pool.subnet().contains(address)) {
            pool.give_back(address);
        }
    }
}
